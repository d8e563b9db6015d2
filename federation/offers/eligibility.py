"""Who may get one more offer, counted over all partners together.

Choice overload starts at three open offers, and a person who is asked about the same product again and again is
harassed, whoever asks. Both are counted for the person, not for the partner.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from federation.offers.offer import RULE
from federation.policy.facts import Given
from federation.policy.specs import OfferSpec


@dataclass(frozen=True, slots=True)
class PriorOffer:
    """An offer in some partner's inbox for the person, or handed out to it once."""

    product: str
    queued_at: datetime
    expires_at: datetime

    def is_open(self, at: datetime) -> bool:
        """Whether the person may still be shown it."""
        return at < self.expires_at


def barriers(product: str, prior: Iterable[PriorOffer], spec: OfferSpec, at: datetime) -> tuple[Given, ...]:
    """Why the person may not get an offer of a product now; empty when nothing stands against it.

    Args:
        product: Of the new offer.
        prior: Every earlier offer to the person, of any partner, in any order.
        spec: The offer rules in force.
        at: When.

    Returns:
        Reasons with the codes ``too_many_open_offers`` and ``cooling_off``.
    """
    prior = tuple(prior)
    found: list[Given] = []
    open_now = sum(offer.is_open(at) for offer in prior)
    if open_now >= spec.max_open_per_person:
        text = f"The person has {open_now} open offers; at most {spec.max_open_per_person} are allowed."
        found.append(Given(RULE, "too_many_open_offers", text))
    pause = timedelta(days=spec.cooling_off_days)
    if any(offer.product == product and at < offer.queued_at + pause for offer in prior):
        text = f"The person was offered this product less than {spec.cooling_off_days} days ago."
        found.append(Given(RULE, "cooling_off", text))
    return tuple(found)
