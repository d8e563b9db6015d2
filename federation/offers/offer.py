"""What an offer is, and whether it is well formed under the alliance's offer rules.

Everything here is decided from the proposer's own message and the public rules: the proposer may be told all of it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from federation.core.canonical import digest_hex
from federation.core.clock import to_text
from federation.core.ids import Handle
from federation.policy.facts import Given
from federation.policy.mask import PSEUDONYM, is_pseudonym
from federation.policy.scan import identifiers
from federation.policy.specs import OfferSpec

PURPOSE = "offer_sharing"
SCORE_BANDS = MappingProxyType({"top1": 0.01, "top5": 0.05, "top10": 0.10, "top25": 0.25})
"""Band to the share of all scored people that it reaches to, best first."""
MAX_BENEFIT_CHARS = 200
_LINE = re.compile(r"[^\x00-\x1f\x7f\u2028\u2029]+")
RULE = "offer-rules"
"""What stands in the place of a rule id in reasons that the offer rules gave."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One offer about one person, as the proposer states it."""

    offer_id: str
    handle: Handle  # the proposer's
    product: str
    recipient: str
    channel: str
    score_band: str
    purpose: str
    benefit: str
    attributes: Mapping[str, str]
    expires_at: datetime

    def digest(self) -> str:
        """SHA-256 over the content; two offers with one id must have the same."""
        return digest_hex(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON."""
        return {
            "offer_id": self.offer_id,
            "handle": self.handle.hex(),
            "product": self.product,
            "recipient": self.recipient,
            "channel": self.channel,
            "score_band": self.score_band,
            "purpose": self.purpose,
            "benefit": self.benefit,
            "attributes": dict(self.attributes),
            "expires_at": to_text(self.expires_at),
        }


def score_band(rank: int, scored: int) -> str | None:
    """The band of a rank among all scored people.

    Args:
        rank: From 0, the best.
        scored: How many people were scored.

    Returns:
        The narrowest band that holds the rank, or None below the best quarter.
    """
    for band, share in SCORE_BANDS.items():
        if rank < share * scored:
            return band
    return None


def violations(
    offer: Offer,
    origin: str,
    spec: OfferSpec,
    at: datetime,
    proposed_at: datetime,
    *,
    masks: Mapping[str, str] = MappingProxyType({}),
    masked: bool = False,
) -> tuple[Given, ...]:
    """Every way in which an offer breaks the rules of form; empty when it is well formed.

    It is asked when an offer is proposed, decided and handed out, under the rules in force then. That time goes on
    breaks none of them until the offer expires: how long an offer is valid counts from when it was proposed.

    Args:
        offer: What is proposed.
        origin: Who proposes.
        spec: The offer rules in force.
        at: When it is judged.
        proposed_at: When it was proposed.
        masks: Attribute to the mask that the policy puts on it. What looks like a pseudonym counts as no identifier
            only where it gets that mask, which makes another one of it, whatever it was.
        masked: The attributes are as masks left them; what a mask left is not searched for identifiers, because half a
            number may look like one. What passes as it is is searched where masks are applied.
    """
    found: list[Given] = []

    def say(code: str, text: str) -> None:
        found.append(Given(RULE, code, text))

    product = next((p for p in spec.products if p.id == offer.product), None)
    if product is None:
        say("unknown_product", "The product is not in the alliance's list.")
    elif product.owner != offer.recipient:
        say("not_the_recipients_product", f"{product.id} is sold by {product.owner}, not by the recipient.")
    if offer.recipient == origin:
        say("recipient_is_proposer", "An offer goes to another party.")
    if offer.purpose != PURPOSE:
        say("wrong_purpose", f"The purpose of an offer is {PURPOSE}.")
    if offer.channel not in spec.channels:
        say("unknown_channel", f"The channel is not one of: {', '.join(spec.channels)}.")
    if offer.score_band not in SCORE_BANDS:
        say("unknown_score_band", f"The score band is not one of: {', '.join(SCORE_BANDS)}.")
    if extra := sorted(set(offer.attributes) - set(spec.attributes)):
        say("attribute_not_allowed", f"{len(extra)} attributes are not among those that an offer may carry.")
    if problem := benefit_problem(offer.benefit):
        say(*problem)
    for name, held in _identifiers(offer, offer.attributes if masked else {*extra, *_pseudonyms(offer, masks)}):
        say("identifier_in_text", f"The field {name} holds: {', '.join(held)}.")
    if offer.expires_at <= at:
        say("offer_expired", "The offer has expired.")
    elif offer.expires_at > proposed_at + timedelta(days=spec.max_valid_days):
        say("valid_too_long", f"An offer is valid for at most {spec.max_valid_days} days.")
    return tuple(found)


def benefit_problem(benefit: str) -> tuple[str, str] | None:
    """Why a benefit is none: a code and a sentence; None for one that an offer may state."""
    if not benefit.strip():
        return "no_benefit", "An offer states the customer's benefit."
    if len(benefit) > MAX_BENEFIT_CHARS or not _LINE.fullmatch(benefit):
        return "bad_benefit", f"The benefit is one line of at most {MAX_BENEFIT_CHARS} characters."
    return None


def _pseudonyms(offer: Offer, masks: Mapping[str, str]) -> Iterator[str]:
    return (name for name, text in offer.attributes.items() if masks.get(name) == PSEUDONYM and is_pseudonym(text))


def _identifiers(offer: Offer, but: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Fields with an identifier of a person in them, and its kinds; without some attributes."""
    fields = {"benefit": offer.benefit, **{n: text for n, text in offer.attributes.items() if n not in but}}
    return ((name, held) for name, text in fields.items() if (held := identifiers(text)))
