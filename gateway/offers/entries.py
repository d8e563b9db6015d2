"""What the audit log says of an offer: names, reasons and facts, nothing of the person."""

from collections.abc import Mapping, Sequence
from typing import Any

from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.offers.offer import Offer
from federation.policy.facts import Facts, Given
from gateway.offers.book import Delivery
from gateway.offers.facts import Terms
from gateway.release import AuditLog

KIND = "offer"
NOTHING = "nothing"
"""What left under an intent where a withdrawal or another offer came in between."""


def subject(origin: PartyId, offer: Offer | Delivery) -> dict[str, Any]:
    """What an offer was."""
    names = "recipient", "product", "channel", "score_band"
    return {"from": origin, **{name: getattr(offer, name) for name in names}}


def log_refusal(
    audit: AuditLog, about: Mapping[str, Any], reasons: Sequence[Given], facts: Facts, terms: Terms
) -> None:
    """Logs a refusal that the release path did not log, in the same form. Raises AuditError."""
    given = [given.to_json() for given in reasons]
    body = {"what": KIND, "caller": about["from"], "role": str(Role.PARTNER), "subject": dict(about)}
    audit.append("refused", {**body, "facts": [facts.to_json()], "reasons": given, "policy": [terms.version]})
