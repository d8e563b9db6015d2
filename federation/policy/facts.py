"""What a decision is about, and what it says. Plain values; the gates build ``Facts`` and obey a ``Decision``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from federation.core.clock import to_text
from federation.core.ids import PolicyVersion


@dataclass(frozen=True, slots=True)
class ConsentFact:
    """The state of one person's consent for one purpose at one partner. A missing field is ``None`` and denies."""

    status: str | None = None  # "given", "withdrawn", "refused"
    recipients: frozenset[str] | None = None
    given_at: datetime | None = None
    expires_at: datetime | None = None
    separate: bool | None = None
    cross_border: bool | None = None
    jurisdiction: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """One request that something may leave one party for another. A missing field is ``None`` and denies where used."""

    purpose: str | None  # "overlap_statistics", "model_training", "offer_sharing"
    data_category: str | None  # "blinded_identifier", "aggregate_statistics", "model_update", "offer"
    origin: str | None  # the party whose data it is
    recipient: str | None  # a party; "gateway" for what an agent sends up; the caller's party for aggregates
    at: datetime | None
    channel: str | None = None
    subject_region: str | None = None  # ISO 3166-1 alpha-2; None for aggregates
    consent: ConsentFact | None = None  # at the origin, for the purpose
    recipient_consent: ConsentFact | None = None  # at the recipient, for the purpose
    fields: frozenset[str] = frozenset()  # attribute names that it carries

    def to_json(self) -> dict[str, Any]:
        """As it goes to the audit log: everything that decided and nothing that names a person."""

        def plain(value: Any) -> Any:
            if isinstance(value, datetime):
                return to_text(value)
            if isinstance(value, frozenset):
                return sorted(value)
            if isinstance(value, ConsentFact):
                return {name: plain(getattr(value, name)) for name in ConsentFact.__slots__}
            return value

        return {name: plain(getattr(self, name)) for name in Facts.__slots__}


@dataclass(frozen=True, slots=True)
class Given:
    """One reason of a decision."""

    rule: str  # rule id, or "default"
    code: str  # stable word for what decided, for example "consent_withdrawn"
    text: str  # one plain sentence, with the value that decided
    legal_ref: str = ""


@dataclass(frozen=True, slots=True)
class Obligations:
    """Duties that come with a permit. Whoever cannot carry one out must refuse."""

    mask: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # field name -> mask name
    min_k: int | None = None  # smallest noisy count that may be shown, in people


@dataclass(frozen=True, slots=True)
class Decision:
    """Permit or deny, every reason, the duties, and the policy version that said so."""

    permitted: bool
    reasons: tuple[Given, ...]
    obligations: Obligations
    version: PolicyVersion
