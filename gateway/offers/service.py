"""The offer desk: takes proposals, decides each through the release path, and hands out each recipient's inbox.

What a proposer is told, and why no more. Every answer to the proposer is a function of its own message, its own people
and consents, and the policy: a bad product, a handle it never registered, its own missing or ended consent, a denial
on its own side (decided as if the recipient had the best possible consent). Whether the person is the recipient's
customer, that customer's consent, and how many offers other partners made are never told: else proposing an offer for
everyone would read out the recipient's customer list. The receipt says "accepted"; the decision is in the audit log,
for compliance. For the same reason a proposal is decided *after* its receipt is filed: how long the decision takes
tells nothing. ``serve`` decides at once, and ``pull`` first decides what is waiting for the caller's inbox, not what
the caller proposed: it would wait longer for what is permitted. Nor may a proposer see how much the audit log grew.

Everything is asked three times: when an offer is proposed (the proposer's own side), when it is decided, and each time
it is handed out; each time under the policy version in force then, offer rules and policy alike.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from federation.core.clock import Clock
from federation.core.ids import PartyId
from federation.offers.offer import RULE, Offer, violations
from federation.policy.facts import Given
from gateway.consent.store import ConsentStore
from gateway.identity.caller import Caller, CheckStanding
from gateway.offers.book import Delivery, OfferBook, Proposal, Receipt
from gateway.offers.decider import Decider, route_of
from gateway.offers.entries import log_refusal, subject
from gateway.offers.facts import FactFinder, Switchboard, Terms
from gateway.offers.handout import HandOut, Refused
from gateway.offers.turn import Turns
from gateway.policy.transfers import TransferStore
from gateway.release import AuditLog, ReleasePath

CHUNK = 100
"""Proposals between two commits of what was concluded; a crash decides at most this many again."""
CHUNKS_PER_PULL = 5
MAX_REFUSED_PER_PULL = 1_000
"""Offers of an inbox that one call looks at beyond what it may hand out; each of them is one log entry."""
RETRY_S = 1.0
KEEP_CLOSED_DAYS = 90
"""A closed offer is deleted that long after it expired, and never while it still counts for a cooling-off period."""
KEEP_REJECTED_DAYS = 7
"""A rejected offer is deleted that long after it was proposed: it is kept for the same answer to a repetition only."""
PURGE_EVERY_S = 3600.0
_log = structlog.get_logger()


class OfferDesk:
    """See the module. Safe to call from several threads, and from several processes with common ``turns``.

    Args:
        book: Proposals and inboxes.
        consents: Consent states, in the same database.
        transfers: Counts people whose data leaves a region; in the same database.
        switchboard: Who is the same person.
        terms: The active policy version.
        check_standing: Says whether a proposer was struck off since.
        release: The one path by which anything leaves.
        audit: For refusals that are not the policy's.
        mask_key: Secret of the gateway, at least 32 bytes, for pseudonym masks.
        clock: Tells the time.
        turns: Held while a chunk is decided; of ``FileTurn`` where several processes share the state.
    """

    def __init__(
        self,
        *,
        book: OfferBook,
        consents: ConsentStore,
        transfers: TransferStore,
        switchboard: Switchboard,
        terms: Callable[[], Terms],
        check_standing: CheckStanding,
        release: ReleasePath,
        audit: AuditLog,
        mask_key: bytes,
        clock: Clock,
        turns: Turns | None = None,
    ) -> None:
        self._book, self._switchboard, self._terms = book, switchboard, terms
        self._audit, self._clock, self._facts = audit, clock, FactFinder(consents, transfers)
        self._decider = Decider(book, self._facts, switchboard, check_standing, release, audit, mask_key)
        self._hand_out = HandOut(self._facts, switchboard, check_standing, audit, mask_key)
        self._turns, self._wake = turns or Turns(lambda _: threading.Lock()), threading.Event()

    def propose(self, caller: Caller, offers: Sequence[Offer]) -> list[Receipt]:
        """Takes proposals; see the module for what the receipts say.

        Raises:
            OfferError: IDEMPOTENCY_CONFLICT, TOO_MANY_OFFERS; then none of them is taken.
            AuditError: a refusal could not be logged; then none of them is taken.
        """
        at, terms = self._clock.now(), self._terms()
        known = self._book.receipts(caller.party, offers)
        answers = []
        for offer in {offer.offer_id: offer for offer in offers}.values():
            receipt = known.get(offer.offer_id)
            if receipt is None:
                receipt = self._judge_own_side(caller, offer, terms, at)
            answers.append((offer, receipt))
        filed = {receipt.offer_id: receipt for receipt in self._book.file(caller, answers)}
        self._wake.set()
        return [filed[offer.offer_id] for offer in offers]

    def decide_waiting(self, recipient: PartyId | None = None, most: int | None = None) -> int:
        """Decides proposals that wait, for one recipient or for all in turns.

        Args:
            recipient: For whom; None for all.
            most: Begins nothing more after so many; None goes on until nothing waits.

        Returns:
            How many were decided.

        Raises:
            AuditError: the log cannot be written; what is undecided goes on waiting.
            OfferError: UNAVAILABLE where another process hangs while it decides.
        """
        count = 0
        while recipients := self._book.recipients() if recipient is None else [recipient]:
            before = count
            for one in recipients:
                if most is None or count < most:
                    count += self._decide_some(one)
            if count == before or (most is not None and count >= most):
                break
        return count

    def _decide_some(self, recipient: PartyId) -> int:
        """Decides at most a chunk for one recipient; 0 where nothing waits."""
        if not self._book.waiting(1, recipient):
            return 0
        with self._turns.of(recipient):
            # Asked again: another process may have decided them while this one waited for its turn.
            waiting = self._book.waiting(CHUNK, recipient)
            queued: list[int] = []
            refused: list[int] = []
            try:
                for proposal in waiting:
                    (queued if self._decide(proposal) else refused).append(proposal.number)
            finally:
                self._book.conclude(queued, refused)
            return len(waiting)

    def serve(self, stop: threading.Event) -> None:
        """Decides proposals as they come, until told to stop; runs in a thread of the gateway.

        Each recipient's are decided in a thread of their own, so that none waits for another's.
        """
        purge_at, workers = time.monotonic(), dict[PartyId, tuple[threading.Thread, threading.Event]]()
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    for recipient in self._book.recipients():
                        if recipient not in workers:
                            wake = threading.Event()
                            thread = threading.Thread(target=self._serve, args=(recipient, wake, stop))
                            workers[recipient] = thread, wake
                            thread.start()
                        workers[recipient][1].set()
                    if time.monotonic() >= purge_at:
                        self.purge()
                        purge_at = time.monotonic() + PURGE_EVERY_S
                except Exception as exc:
                    # Whatever it was, the proposals go on waiting and the thread must live to see to them later.
                    _log.error("offers_wait", exc_info=exc)
                self._wake.wait(RETRY_S)
        finally:
            for thread, wake in workers.values():
                wake.set()
                thread.join()

    def _serve(self, recipient: PartyId, wake: threading.Event, stop: threading.Event) -> None:
        while not stop.is_set():
            wake.clear()
            try:
                while not stop.is_set() and self._decide_some(recipient):
                    pass
            except Exception as exc:
                _log.error("offers_wait", recipient=recipient, exc_info=exc)  # as above
            wake.wait(RETRY_S)

    def purge(self) -> int:
        """Deletes what was closed long ago, which frees its ids again; returns how many offers."""
        keep = timedelta(days=max(KEEP_CLOSED_DAYS, self._terms().offers.cooling_off_days))
        now = self._clock.now()
        return self._book.purge(now - keep, now - timedelta(days=KEEP_REJECTED_DAYS))

    def pull(self, caller: Caller, limit: int) -> list[Delivery]:
        """The caller's unacknowledged offers, oldest first: the same again until they are acknowledged.

        What waits is decided first, as far as one call may go: a few chunks, of every proposer in turn, and no more
        once there is something to hand out. ``serve`` decides the rest meanwhile.

        Raises:
            AuditError: a refusal could not be logged; nothing is handed out.
            OfferError: UNAVAILABLE where another process hangs while it decides.
        """
        for _ in range(CHUNKS_PER_PULL):
            decided = self._decide_some(caller.party)
            if (found := self._ready(caller.party, limit)) or not decided:
                return found
        return []

    def _ready(self, recipient: PartyId, limit: int) -> list[Delivery]:
        """What may be handed out of the inbox now; what may not any more is taken out of it."""
        at, terms = self._clock.now(), self._terms()
        ready: list[Delivery] = []
        after, looked_at = 0, 0
        while len(ready) < limit and looked_at < limit + MAX_REFUSED_PER_PULL:
            batch = self._book.inbox(recipient, limit - len(ready), after)
            if not batch:
                break
            after, looked_at = batch[-1].number, looked_at + len(batch)
            checked = [(delivery, self._hand_out.check(delivery, terms, at)) for delivery in batch]
            ready += [kept for _, kept in checked if isinstance(kept, Delivery)]
            self._book.remove([delivery.number for delivery, kept in checked if kept is Refused.FOR_GOOD])
        still = self._book.hand_out([delivery.number for delivery in ready], at)
        return [replace(d, delivered_at=d.delivered_at or at) for d in ready if d.number in still]

    def acknowledge(self, caller: Caller, delivery_ids: Sequence[str]) -> int:
        """Notes that offers arrived; returns how many of the ids are the caller's and acknowledged by now."""
        return self._book.acknowledge(caller.party, delivery_ids)

    def _judge_own_side(self, caller: Caller, offer: Offer, terms: Terms, at: datetime) -> Receipt:
        """The receipt, after a refusal is in the log."""
        facts = self._facts.own_side(route_of(caller.party, offer), at, terms)
        decision = terms.decide(facts)
        reasons = violations(offer, caller.party, terms.offers, at, proposed_at=at, masks=decision.obligations.mask)
        if not self._switchboard.handles(caller.party, offer.handle, 1):
            # Nothing is known of the person then; what the policy would miss says no more.
            text = "This handle is not on the switchboard; it comes there with the next index, given consent."
            reasons += (Given(RULE, "unknown_handle", text),)
        elif not decision.permitted:
            reasons += decision.reasons
        if reasons:
            log_refusal(self._audit, subject(caller.party, offer), reasons, facts, terms)
        return Receipt(offer.offer_id, reasons)

    def _decide(self, proposal: Proposal) -> bool:
        """Under the version in force now, from its first question to its last."""
        return self._decider.decide(proposal, self._terms(), self._clock.now())
