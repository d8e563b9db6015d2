"""Asks everything again when an offer is handed out, under the policy version that is in force then."""

from dataclasses import dataclass, replace
from datetime import datetime

from federation.core.errors import PolicyError
from federation.offers.offer import PURPOSE, RULE, Offer, violations
from federation.policy.facts import Given
from federation.policy.mask import apply_obligations, recipient_key
from gateway.offers.book import Delivery
from gateway.offers.entries import log_refusal, subject
from gateway.offers.facts import MAX_HANDLES, FactFinder, Route, Switchboard, Terms
from gateway.offers.standing import CheckLive, revocation
from gateway.release import AuditLog


@dataclass(frozen=True)
class HandOut:
    """What stands between an inbox and its owner; for the parts, see ``OfferDesk``."""

    facts: FactFinder
    switchboard: Switchboard
    check_live: CheckLive
    audit: AuditLog
    mask_key: bytes

    def check(self, delivery: Delivery, terms: Terms, at: datetime) -> Delivery | None:
        """The offer as it may be handed out now, or None after its refusal is in the log. Raises AuditError."""
        route = Route(
            delivery.origin, delivery.origin_handle, delivery.recipient, delivery.channel, delivery.attributes
        )
        person = self.switchboard.handles(delivery.origin, delivery.origin_handle, MAX_HANDLES + 1)
        facts = self.facts.full(route, delivery.handle, person, at, terms)
        offer = _as_proposed(delivery)
        reasons = revocation(self.check_live, delivery.proposer)
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
                return replace(delivery, attributes=apply_obligations(delivery.attributes, decision.obligations, key))
            except PolicyError as exc:
                reasons = (Given(RULE, exc.reason.lower(), exc.public),)
        log_refusal(self.audit, subject(delivery.origin, delivery), reasons, facts, terms)
        return None


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
