"""Asks everything again when an offer is handed out, under the version in force then, and counts whose data goes.

An offer out of a region whose transfers are counted was counted when it was decided. Where that was last year, or the
policy counts such transfers only since, it is counted before it goes; see ``gateway.policy.transfers``.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from federation.core.errors import PolicyError
from federation.offers.offer import PURPOSE, RULE, Offer, violations
from federation.policy.facts import Given
from federation.policy.mask import apply_obligations, recipient_key
from gateway.identity.caller import CheckStanding
from gateway.offers.book import Delivery
from gateway.offers.entries import log_refusal, subject
from gateway.offers.facts import MAX_HANDLES, FactFinder, Route, StaleCountError, Switchboard, Terms
from gateway.offers.standing import revocation
from gateway.release import AuditLog

TRIES = 5
"""How often one offer is asked about anew, where other transfers are counted meanwhile."""


class Refused(Enum):
    """Why an offer is not handed out."""

    FOR_GOOD = "the refusal is in the log"
    FOR_NOW = "the count of transfers went on changing"


@dataclass(frozen=True)
class HandOut:
    """What stands between an inbox and its owner; for the parts, see ``OfferDesk``."""

    facts: FactFinder
    switchboard: Switchboard
    check_standing: CheckStanding
    audit: AuditLog
    mask_key: bytes

    def check(self, delivery: Delivery, terms: Terms, at: datetime) -> "Delivery | Refused":
        """The offer as it may be handed out now; what is refused for good is in the log. Raises AuditError."""
        for _ in range(TRIES):
            with suppress(StaleCountError):
                return self._check(delivery, terms, at)
        return Refused.FOR_NOW

    def _check(self, delivery: Delivery, terms: Terms, at: datetime) -> "Delivery | Refused":
        route = Route(
            delivery.origin, delivery.origin_handle, delivery.recipient, delivery.channel, delivery.attributes
        )
        person = self.switchboard.handles(delivery.origin, delivery.origin_handle, MAX_HANDLES + 1)
        facts = self.facts.full(route, delivery.handle, person, at, terms)
        offer = _as_proposed(delivery)
        reasons = revocation(self.check_standing, delivery.proposer)
        reasons += violations(offer, delivery.origin, terms.offers, at, delivery.proposed_at, masked=True)
        if (delivery.recipient, delivery.handle) not in person or len(person) > MAX_HANDLES:
            # Erased at either end, or not the same person any more as the index knows it now.
            reasons += (Given(RULE, "not_the_same_person", "The switchboard does not join the two handles any more."),)
        decision = terms.decide(facts)
        if not decision.permitted:
            reasons += decision.reasons
        if not reasons:
            try:
                key = recipient_key(self.mask_key, delivery.recipient)
                # Masks are idempotent, so this changes nothing unless the policy became stricter meanwhile.
                attributes = apply_obligations(delivery.attributes, decision.obligations, key)
            except PolicyError as exc:
                reasons = (Given(RULE, exc.reason.lower(), exc.public),)
            else:
                if not self.facts.is_counted(route, facts, terms):  # decided last year, or before it was to be counted
                    self.facts.count(route, facts, terms)
                return replace(delivery, attributes=attributes)
        log_refusal(self.audit, subject(delivery.origin, delivery), reasons, facts, terms)
        return Refused.FOR_GOOD


def _as_proposed(delivery: Delivery) -> Offer:
    return Offer(
        offer_id=delivery.delivery_id,
        handle=delivery.origin_handle,
        product=delivery.product,
        recipient=delivery.recipient,
        channel=delivery.channel,
        score_band=delivery.score_band,
        purpose=PURPOSE,  # others are refused when they are proposed, and again when they are decided
        benefit=delivery.benefit,
        attributes=delivery.attributes,
        expires_at=delivery.expires_at,
    )
