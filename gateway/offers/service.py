"""The offer desk: takes proposals, decides each through the release path, and hands out each recipient's inbox.

What a proposer is told, and why no more. Every answer to the proposer is a function of its own message, its own people
and consents, and the policy: a bad product, a handle it never registered, its own missing or ended consent, a denial
on its own side (decided as if the recipient had the best possible consent). Whether the person is the recipient's
customer, that customer's consent, and how many offers other partners made are never told: else proposing an offer for
everyone would read out the recipient's customer list. The receipt says "accepted"; the decision is in the audit log,
for compliance. For the same reason a proposal is decided *after* its receipt is filed: how long the decision takes
tells nothing. ``serve`` decides at once, and ``pull`` first decides what is waiting for the caller's inbox, not what
the caller proposed: it would wait longer for what is permitted. Nor may a proposer see how much the audit log grew.

Order for one offer: decision, audit intent, masked into the inbox but not visible, audit outcome, visible. A crash in
between decides it again: the log then shows an intent without an outcome, and the inbox has the offer once.
When it is handed out, expiry, consent and policy are asked again.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from federation.core.clock import Clock
from federation.core.errors import OfferError, PolicyError, Reason
from federation.core.identity import Role
from federation.core.ids import Handle, PartyId
from federation.offers.eligibility import barriers
from federation.offers.offer import RULE, Offer, violations
from federation.policy.facts import Facts, Given
from federation.policy.mask import apply_obligations, recipient_key
from gateway.consent.store import ConsentStore
from gateway.identity.caller import Caller
from gateway.offers.book import Delivery, OfferBook, Proposal, Receipt
from gateway.offers.facts import FactFinder, Route, Switchboard, Terms
from gateway.policy.transfers import TransferStore
from gateway.release import AuditLog, Exit, Released, ReleasePath

KIND = "offer"
CHUNK = 100
"""Proposals between two commits of what was concluded; a crash decides at most this many again."""
RETRY_S = 1.0
KEEP_CLOSED_DAYS = 90
"""A closed offer is deleted that long after it expired, and never while it still counts for a cooling-off period."""
PURGE_EVERY_S = 3600.0
_WITHDRAWN = Given(RULE, "consent_withdrawn", "The consent was withdrawn during the decision.")
_log = structlog.get_logger()


class OfferDesk:
    """See the module. Safe to call from several threads, and from several processes with a common ``turn``.

    Args:
        book: Proposals and inboxes.
        consents: Consent states, in the same database.
        transfers: Counts people whose data leaves a region; in the same database.
        switchboard: Who is the same person.
        terms: The active policy version.
        release: The one path by which anything leaves.
        audit: For refusals that are not the policy's.
        mask_key: Secret of the gateway, at least 32 bytes, for pseudonym masks.
        clock: Tells the time.
        turn: Held while a chunk is decided; ``FileTurn`` where several processes share the state.
    """

    def __init__(
        self,
        *,
        book: OfferBook,
        consents: ConsentStore,
        transfers: TransferStore,
        switchboard: Switchboard,
        terms: Callable[[], Terms],
        release: ReleasePath,
        audit: AuditLog,
        mask_key: bytes,
        clock: Clock,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self._book, self._switchboard, self._terms = book, switchboard, terms
        self._release, self._audit, self._mask_key, self._clock = release, audit, mask_key, clock
        self._facts, self._transfers = FactFinder(consents, transfers), transfers
        self._turn, self._wake = turn or threading.Lock(), threading.Event()

    def propose(self, caller: Caller, offers: Sequence[Offer]) -> list[Receipt]:
        """Takes proposals; see the module for what the receipts say.

        Raises:
            OfferError: IDEMPOTENCY_CONFLICT; then none of them is taken.
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

    def decide_waiting(self, recipient: PartyId | None = None) -> int:
        """Decides every proposal that waits, for one recipient or for all; returns how many.

        Raises:
            AuditError: the log cannot be written; what is undecided goes on waiting.
            OfferError: UNAVAILABLE where another process hangs while it decides.
        """
        count = 0
        while self._book.waiting(1, recipient):
            with self._turn:
                # Asked again: another process may have decided them while this one waited for its turn.
                waiting = self._book.waiting(CHUNK, recipient)
                queued: list[int] = []
                refused: list[int] = []
                try:
                    for proposal in waiting:
                        (queued if self._decide(proposal) else refused).append(proposal.number)
                finally:
                    self._book.conclude(queued, refused)
                count += len(waiting)
        return count

    def serve(self, stop: threading.Event) -> None:
        """Decides proposals as they come, until told to stop; runs in a thread of the gateway."""
        purge_at = time.monotonic()
        while not stop.is_set():
            self._wake.clear()
            try:
                self.decide_waiting()
                if time.monotonic() >= purge_at:
                    self.purge()
                    purge_at = time.monotonic() + PURGE_EVERY_S
            except Exception as exc:
                # Whatever it was, the proposals go on waiting and the thread must live to decide them later.
                _log.error("offers_wait", exc_info=exc)
            self._wake.wait(RETRY_S)

    def purge(self) -> int:
        """Deletes what was closed long ago, which frees its ids again; returns how many offers."""
        keep = timedelta(days=max(KEEP_CLOSED_DAYS, self._terms().offers.cooling_off_days))
        return self._book.purge(self._clock.now() - keep)

    def pull(self, caller: Caller, limit: int) -> list[Delivery]:
        """The caller's unacknowledged offers, oldest first: the same again until they are acknowledged.

        Raises:
            AuditError: a refusal could not be logged; nothing is handed out.
        """
        self.decide_waiting(caller.party)
        at, terms = self._clock.now(), self._terms()
        ready: list[Delivery] = []
        after = 0
        while len(ready) < limit and (batch := self._book.inbox(caller.party, limit - len(ready), after)):
            after = batch[-1].number
            checked = [(delivery, self._check_again(delivery, terms, at)) for delivery in batch]
            ready += [kept for _, kept in checked if kept is not None]
            self._book.remove([delivery.number for delivery, kept in checked if kept is None])
        still = self._book.hand_out([delivery.number for delivery in ready], at)
        return [replace(d, delivered_at=d.delivered_at or at) for d in ready if d.number in still]

    def acknowledge(self, caller: Caller, delivery_ids: Sequence[str]) -> int:
        """Notes that offers arrived; returns how many of the ids are the caller's and acknowledged by now."""
        return self._book.acknowledge(caller.party, delivery_ids)

    def _judge_own_side(self, caller: Caller, offer: Offer, terms: Terms, at: datetime) -> Receipt:
        """The receipt, after a refusal is in the log."""
        reasons = violations(offer, caller.party, terms.offers, at)
        facts = self._facts.own_side(_route(caller.party, offer), at, terms)
        if self._switchboard.person(caller.party, offer.handle) is None:
            # Nothing is known of the person then; what the policy would miss says no more.
            text = "This handle is not on the switchboard; it comes there with the next index, given consent."
            reasons += (Given(RULE, "unknown_handle", text),)
        elif not (decision := terms.decide(facts)).permitted:
            reasons += decision.reasons
        if reasons:
            self._refuse(caller.party, _subject(caller.party, offer), reasons, facts, terms)
        return Receipt(offer.offer_id, reasons)

    def _decide(self, proposal: Proposal) -> bool:
        """Whether the offer is in the inbox now; either way the decision is in the log."""
        at, terms = self._clock.now(), self._terms()
        caller, offer = proposal.caller, proposal.offer
        route = _route(caller.party, offer)
        found, reasons = self._find(proposal, terms, at)
        there, person = (found.handle, found.person) if found else (None, ())
        facts = self._facts.full(route, there, at, terms)
        if reasons or there is None:
            # Without a handle there, the recipient's consent is missing for that reason alone.
            decision = terms.decide(facts)
            also = () if decision.permitted or there is None else decision.reasons
            self._refuse(caller.party, _subject(caller.party, offer), reasons + also, facts, terms)
            return False
        key = recipient_key(self._mask_key, route.recipient)

        def put(released: Released) -> Mapping[str, str] | tuple[Given, ...]:
            decision = released.decisions[0]
            attributes = apply_obligations(offer.attributes, decision.obligations, key)
            export, counts = terms.export(facts), facts.transfer_counts
            if export is not None and (
                counts is None or not self._transfers.count(route.origin, route.handle, export, counts)
            ):
                # Another transfer was counted since: this one goes on waiting and is decided on the new number.
                raise OfferError(Reason.UNAVAILABLE, item="the count of transfers changed during the decision")
            held = self._book.hold(
                proposal.number,
                there,
                attributes,
                person,
                lambda prior: barriers(offer.product, prior, terms.offers, at),
            )
            return decision.obligations.mask if held.done else held.barriers or (_WITHDRAWN,)

        def digest(masks: Mapping[str, str] | tuple[Given, ...]) -> dict[str, Any]:
            if isinstance(masks, tuple):
                return {"what": "nothing", "reasons": [given.to_json() for given in masks]}
            masked = [{"field": name, "mask": masks[name]} for name in sorted(offer.attributes)]
            return {"what": KIND, **_subject(caller.party, offer), "masked": masked, "policy": terms.version}

        leaving = Exit(KIND, _subject(caller.party, offer), [facts], terms=terms)
        try:
            done = self._release.release(caller, leaving, put, digest)
            return not isinstance(done, tuple)
        except PolicyError as exc:
            if exc.reason is not Reason.POLICY_DENIED:  # a denial is in the log already
                failed = (Given(RULE, exc.reason.lower(), exc.public),)
                self._refuse(caller.party, _subject(caller.party, offer), failed, facts, terms)
            return False

    def _find(self, proposal: Proposal, terms: Terms, at: datetime) -> tuple["_Person | None", tuple[Given, ...]]:
        """The person the offer is for, and what stands against the offer beside the policy."""
        caller, offer = proposal.caller, proposal.offer
        if offer.expires_at <= at:
            return None, (Given(RULE, "offer_expired", "The offer has expired."),)
        token = self._switchboard.person(caller.party, offer.handle)
        if token is None:
            return None, (Given(RULE, "unknown_handle", "The person is not on the switchboard any more."),)
        known = {PartyId(party): self._switchboard.handle_at(token, PartyId(party)) for party in terms.partners}
        there = known.get(PartyId(offer.recipient))
        if there is None:
            return None, (Given(RULE, "not_at_recipient", "The person is no customer there who agreed to offers."),)
        handles = tuple((party, handle) for party, handle in known.items() if handle is not None)
        person = (*handles, (caller.party, offer.handle))
        prior = self._book.address(proposal.number, there, person)
        return _Person(there, person), barriers(offer.product, prior, terms.offers, at)

    def _check_again(self, delivery: Delivery, terms: Terms, at: datetime) -> Delivery | None:
        """The offer as it may be handed out now, or None after its refusal is in the log."""
        route = Route(
            delivery.origin, delivery.origin_handle, delivery.recipient, delivery.channel, delivery.attributes
        )
        facts = self._facts.full(route, delivery.handle, at, terms)
        reasons: tuple[Given, ...] = ()
        if delivery.expires_at <= at:
            reasons = (Given(RULE, "offer_expired", "The offer has expired."),)
        decision = terms.decide(facts)
        if not decision.permitted:
            reasons += decision.reasons
        if not reasons:
            try:
                key = recipient_key(self._mask_key, delivery.recipient)
                # Masks are idempotent, so this changes nothing unless the policy became stricter meanwhile.
                return replace(delivery, attributes=apply_obligations(delivery.attributes, decision.obligations, key))
            except PolicyError as exc:
                reasons = (Given(RULE, exc.reason.lower(), exc.public),)
        self._refuse(delivery.origin, _subject(delivery.origin, delivery), reasons, facts, terms)
        return None

    def _refuse(
        self, origin: PartyId, subject: Mapping[str, Any], reasons: Sequence[Given], facts: Facts, terms: Terms
    ) -> None:
        """Logs a refusal that the release path did not log, in the same form."""
        given = [given.to_json() for given in reasons]
        body = {"what": KIND, "caller": origin, "role": str(Role.PARTNER), "subject": dict(subject)}
        entry = {**body, "facts": [facts.to_json()], "reasons": given, "policy": [terms.version]}
        self._audit.append("refused", entry)


@dataclass(frozen=True)
class _Person:
    """Whom an offer is for."""

    handle: Handle  # at the recipient
    person: tuple[tuple[PartyId, Handle], ...]  # at all parties that are known


def _route(origin: PartyId, offer: Offer) -> Route:
    return Route(origin, offer.handle, PartyId(offer.recipient), offer.channel, offer.attributes)


def _subject(origin: PartyId, offer: Offer | Delivery) -> dict[str, Any]:
    """What the log says an offer was: nothing of the person."""
    names = "recipient", "product", "channel", "score_band"
    return {"from": origin, **{name: getattr(offer, name) for name in names}}
