"""Decides one proposal through the release path, and puts it into the recipient's inbox or not.

Order: decision, audit intent, masked into the inbox but not visible, audit outcome, visible (which the desk does). A
crash in between decides it again: the log then shows an intent without an outcome, and the inbox has the offer once.

How long it takes must not tell whether the person is the recipient's customer, because others can see when decisions
after it are made. What takes time is what is synced to disk, so every decision writes equally often, whatever comes of
it, and refusals write alike to the last file. What is left are some reads, that a permit writes two of five into the
log where a refusal writes one, and decisions that are made anew because a count of transfers changed.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from federation.core.errors import PolicyError, Reason
from federation.core.ids import Handle, PartyId
from federation.offers.eligibility import barriers
from federation.offers.offer import RULE, Offer, violations
from federation.policy.facts import Given
from federation.policy.mask import apply_obligations, recipient_key
from gateway.identity.caller import CheckStanding
from gateway.offers.book import OfferBook, Proposal
from gateway.offers.entries import KIND, NOTHING, log_refusal, subject
from gateway.offers.facts import MAX_HANDLES, FactFinder, People, Route, StaleCountError, Switchboard, Terms
from gateway.offers.standing import revocation
from gateway.release import AuditLog, Exit, Released, ReleasePath

WRITES = 5
"""How often every decision writes: whom it is for, intent, count, hold and outcome; or fewer, and marks."""
TRIES = 5
"""Each recipient's offers are decided at the same time, and all of one proposer's count together."""
_WITHDRAWN = Given(RULE, "consent_withdrawn", "The consent was withdrawn during the decision.")


def route_of(origin: PartyId, offer: Offer) -> Route:
    """The way of a proposed offer."""
    return Route(origin, offer.handle, PartyId(offer.recipient), offer.channel, offer.attributes)


@dataclass(frozen=True)
class Decider:
    """See the module; for the parts, see ``OfferDesk``."""

    book: OfferBook
    facts: FactFinder
    switchboard: Switchboard
    check_standing: CheckStanding
    release: ReleasePath
    audit: AuditLog
    mask_key: bytes

    def decide(self, proposal: Proposal, terms: Terms, at: datetime) -> bool:
        """Whether the offer is in the inbox now, not yet visible; either way the decision is in the log.

        Raises:
            AuditError: the log cannot be written; the proposal goes on waiting.
            OfferError: UNAVAILABLE where other transfers were counted again and again meanwhile; it goes on waiting.
        """
        for _ in range(TRIES - 1):
            with suppress(StaleCountError):
                return self._decide(proposal, terms, at)
        return self._decide(proposal, terms, at)

    def _decide(self, proposal: Proposal, terms: Terms, at: datetime) -> bool:
        caller, offer = proposal.caller, proposal.offer
        route, about = route_of(caller.party, offer), subject(caller.party, offer)
        found, barred = self._find(proposal, terms, at)
        writes = 1  # what ``_find`` noted
        there, person = (found.handle, found.everywhere) if found else (None, ())
        facts = self.facts.full(route, there, person, at, terms)
        decision = terms.decide(facts)
        masks = decision.obligations.mask
        broken = violations(
            offer, caller.party, terms.offers, at, proposal.proposed_at, masks=masks, masked=proposal.held
        )
        reasons = revocation(self.check_standing, caller) + broken + barred
        if reasons or there is None:
            # Without a handle there, the recipient's consent is missing for that reason alone.
            also = () if decision.permitted or there is None else decision.reasons
            log_refusal(self.audit, about, reasons + also, facts, terms)
            self.book.mark(proposal.number, WRITES - writes - 1)
            return False
        key = recipient_key(self.mask_key, route.recipient)

        def put(released: Released) -> Mapping[str, str] | tuple[Given, ...]:
            nonlocal writes
            decision = released.decisions[0]
            attributes = apply_obligations(offer.attributes, decision.obligations, key)
            writes += self.facts.count(route, facts, terms)
            held = self.book.hold(
                proposal.number,
                there,
                attributes,
                person,
                lambda prior: barriers(offer.product, prior, terms.offers, at),
            )
            writes += held.done
            return decision.obligations.mask if held.done else held.barriers or (_WITHDRAWN,)

        def digest(masks: Mapping[str, str] | tuple[Given, ...]) -> dict[str, Any]:
            if isinstance(masks, tuple):
                return {"what": NOTHING, **about, "policy": terms.version, "reasons": [g.to_json() for g in masks]}
            masked = [{"field": name, "mask": masks[name]} for name in sorted(offer.attributes)]
            return {"what": KIND, **about, "masked": masked, "policy": terms.version}

        try:
            done = self.release.release(caller, Exit(KIND, about, [facts], terms=terms), put, digest)
            held, writes = not isinstance(done, tuple), writes + 2  # intent and outcome
        except PolicyError as exc:
            held, writes = False, writes + 1  # the refusal
            if exc.reason is not Reason.POLICY_DENIED:  # a denial is in the log already
                failed = (Given(RULE, exc.reason.lower(), exc.public),)
                log_refusal(self.audit, about, failed, facts, terms)
                writes += 2  # intent and failure
        self.book.mark(proposal.number, WRITES - writes)
        return held

    def _find(self, proposal: Proposal, terms: Terms, at: datetime) -> tuple["_Person | None", tuple[Given, ...]]:
        """The person the offer is for, and what the person's other offers have against it."""
        caller, offer = proposal.caller, proposal.offer
        everywhere = self.switchboard.handles(caller.party, offer.handle, MAX_HANDLES + 1)
        too_many = len(everywhere) > MAX_HANDLES
        there = next((handle for party, handle in everywhere if party == offer.recipient), None)
        prior = self.book.address(proposal.number, None if too_many else there, [] if too_many else everywhere)
        if not everywhere:
            return None, (Given(RULE, "unknown_handle", "The person is not on the switchboard any more."),)
        if too_many:
            return None, (Given(RULE, "too_many_handles", f"The person has more than {MAX_HANDLES} handles."),)
        if there is None:
            return None, (Given(RULE, "not_at_recipient", "The person is no customer there who agreed to offers."),)
        return _Person(there, everywhere), barriers(offer.product, prior, terms.offers, at)


@dataclass(frozen=True)
class _Person:
    """Whom an offer is for."""

    handle: Handle  # at the recipient; of several, always the smallest
    everywhere: People
