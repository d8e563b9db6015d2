"""What a decision is about, and what it says. Plain values; the gates build ``Facts`` and obey a ``Decision``.

A consent's times name a person to whoever has the register that they come from: hardly two people of a partner agreed
in the same second. A decision asks no more of them than whether they had come by its own time. So the gateway decides
on ``Facts.undated``, and the audit log holds these two answers in place of the times.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from federation.core.clock import from_text, to_text
from federation.core.errors import DataError, Reason
from federation.core.ids import PolicyVersion
from federation.policy.vocabulary import plain_term

MAX_TEXT = 64
"""Characters of one text in facts that come from outside; every term of the vocabularies is shorter."""
MAX_LIST = 64
MAX_COUNT = 10**12
"""Largest count in facts; there are fewer people."""
BEFORE, AFTER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
"""Stand for a time that is not told: it had come by the time of the decision, or had not."""


def is_time(at: object) -> bool:
    """Whether a value is a time with a zone; anything else counts as missing."""
    return isinstance(at, datetime) and at.tzinfo is not None


@dataclass(frozen=True, slots=True)
class ConsentFact:
    """The state of one person's consent for one purpose at one partner. A missing field is ``None`` and denies."""

    status: str | None = None  # a short name of vocabulary.CONSENT_STATUS
    recipients: frozenset[str] | None = None
    given_at: datetime | None = None
    expires_at: datetime | None = None
    separate: bool | None = None
    cross_border: bool | None = None
    jurisdiction: str | None = None

    def undated(self, at: datetime | None) -> "ConsentFact":
        """The same to a decision at a time, and no more of its own times than whether they had come by then."""
        times = (self.given_at, self.expires_at)
        given_at, expires_at = (None if known is None else BEFORE if known else AFTER for known in _come(times, at))
        return replace(self, given_at=given_at, expires_at=expires_at)


@dataclass(frozen=True, slots=True)
class TransferCounts:
    """People whose data the origin has sent out of the subject's region this year, this request's person included.

    Counted over all recipients and purposes together, so that nothing is gained by splitting a transfer.
    """

    year: int | None = None  # as the law of the region counts years
    people: int | None = None  # distinct people
    sensitive: int | None = None  # of them, people whose sensitive data was sent


@dataclass(frozen=True, slots=True)
class Facts:
    """One request that something may leave one party for another. A missing field is ``None`` and denies where used."""

    purpose: str | None  # "overlap_statistics", "model_training", "offer_sharing"
    data_category: str | None  # a term of vocabulary.DATA_CATEGORIES, for example "offer"
    origin: str | None  # the party whose data it is
    recipient: str | None  # a party; "gateway" for what an agent sends up; the caller's party for aggregates
    at: datetime | None
    channel: str | None = None
    subject_region: str | None = None  # ISO 3166-1 alpha-2; None for aggregates
    consent: ConsentFact | None = None  # at the origin, for the purpose
    recipient_consent: ConsentFact | None = None  # at the recipient, for the purpose
    fields: frozenset[str] = frozenset()  # attribute names that it carries
    sensitive_consent: ConsentFact | None = None  # at the origin, separately for sensitive fields of the purpose
    objected: bool | None = None  # whether the person refuses automated marketing, at either end that is known
    transfer_counts: TransferCounts | None = None  # only where the policy counts transfers

    def undated(self) -> "Facts":
        """The same request, which is decided alike, without the times of consents; see the module."""
        names = ("consent", "recipient_consent", "sensitive_consent")
        consents = {name: getattr(self, name) for name in names}
        return replace(self, **{name: fact and fact.undated(self.at) for name, fact in consents.items()})

    def to_json(self) -> dict[str, Any]:
        """As it goes to the audit log: everything that decided.

        It names nobody and holds no time of a consent. It is not anonymous: with a partner's own record of what it
        proposed when, a reader of the log finds whom a decision was about.
        """

        def plain(value: Any) -> Any:
            if isinstance(value, datetime):
                return to_text(value)
            if isinstance(value, frozenset):
                return sorted(value)
            if isinstance(value, ConsentFact):
                told = {name: plain(getattr(value, name)) for name in ConsentFact.__slots__ if name not in _FLAGS}
                return told | dict(
                    zip(_FLAGS.values(), _come((value.given_at, value.expires_at), self.at), strict=True)
                )
            if isinstance(value, TransferCounts):
                return {name: getattr(value, name) for name in TransferCounts.__slots__}
            return value

        return {name: plain(getattr(self, name)) for name in Facts.__slots__}


_FLAGS = {"given_at": "given_by_now", "expires_at": "ended_by_now"}
"""What the log holds of a consent's times."""


def _come(times: Iterable[datetime | None], at: datetime | None) -> list[bool | None]:
    """Whether each had come by a time; None for one that is missing. Without a time to decide at, nothing has."""
    return [(at is not None and is_time(at) and t <= at) if t is not None and is_time(t) else None for t in times]


@dataclass(frozen=True, slots=True)
class Given:
    """One reason of a decision. Its text holds the value that decided; in the log, no time of a consent."""

    rule: str  # rule id, or "default"
    code: str  # stable word for what decided, for example "consent_withdrawn"
    text: str  # one plain sentence, with the value that decided
    legal_ref: str = ""

    def to_json(self) -> dict[str, str]:
        """As it goes to the audit log."""
        return {"rule": self.rule, "code": self.code, "text": self.text, "legal_ref": self.legal_ref}


@dataclass(frozen=True, slots=True)
class Obligations:
    """Duties that come with a permit. Whoever cannot carry one out must refuse."""

    mask: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # field name -> mask name
    min_k: int | None = None  # smallest noisy count that may be shown, in people
    cap: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # field name -> largest value


@dataclass(frozen=True, slots=True)
class Decision:
    """Permit or deny, every reason, the duties, and the policy version that said so."""

    permitted: bool
    reasons: tuple[Given, ...]
    obligations: Obligations
    version: PolicyVersion


def facts_from_json(value: Any) -> Facts:
    """Reads what ``Facts.to_json`` wrote, or a person did. A key that is absent is missing input, as if it were null.

    A consent has times (as people write it, and as the log held it once) or says whether they had come.

    Raises:
        DataError: BAD_FIELD for an unknown key, a value of the wrong type or a time that is told twice; BAD_TIME.
    """
    found = _mapping(value, Facts.__slots__, "facts")

    def text(name: str) -> str | None:
        return _text(found.get(name), f"facts.{name}")

    return Facts(
        purpose=text("purpose"),
        data_category=text("data_category"),
        origin=text("origin"),
        recipient=text("recipient"),
        at=_time(found.get("at"), "facts.at"),
        channel=text("channel"),
        subject_region=text("subject_region"),
        consent=_consent(found.get("consent"), "facts.consent"),
        recipient_consent=_consent(found.get("recipient_consent"), "facts.recipient_consent"),
        fields=_texts(found.get("fields"), "facts.fields") or frozenset(),
        sensitive_consent=_consent(found.get("sensitive_consent"), "facts.sensitive_consent"),
        objected=_flag(found.get("objected"), "facts.objected"),
        transfer_counts=_counts(found.get("transfer_counts"), "facts.transfer_counts"),
    )


def _counts(value: Any, item: str) -> TransferCounts | None:
    if value is None:
        return None
    found = _mapping(value, TransferCounts.__slots__, item)
    return TransferCounts(**{name: _count(found.get(name), f"{item}.{name}") for name in TransferCounts.__slots__})


def _count(value: Any, item: str) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT):
        raise DataError(Reason.BAD_FIELD, item=item)
    return value


def _consent(value: Any, item: str) -> ConsentFact | None:
    if value is None:
        return None
    found = _mapping(value, (*ConsentFact.__slots__, *_FLAGS.values()), item)

    def time(name: str) -> datetime | None:
        at, come = _time(found.get(name), f"{item}.{name}"), _flag(found.get(_FLAGS[name]), f"{item}.{_FLAGS[name]}")
        if at is not None and come is not None:
            raise DataError(Reason.BAD_FIELD, item=f"{item}: both {name} and {_FLAGS[name]}")
        return at if come is None else BEFORE if come else AFTER

    return ConsentFact(
        status=None if (status := _text(found.get("status"), f"{item}.status")) is None else plain_term(status),
        recipients=_texts(found.get("recipients"), f"{item}.recipients"),
        given_at=time("given_at"),
        expires_at=time("expires_at"),
        separate=_flag(found.get("separate"), f"{item}.separate"),
        cross_border=_flag(found.get("cross_border"), f"{item}.cross_border"),
        jurisdiction=_text(found.get("jurisdiction"), f"{item}.jurisdiction"),
    )


def _mapping(value: Any, known: tuple[str, ...], item: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(Reason.BAD_FIELD, item=item)
    if unknown := set(value) - set(known):
        raise DataError(Reason.BAD_FIELD, item=f"{item}: unknown key {min(map(str, unknown))[:MAX_TEXT]!r}")
    return value


def _text(value: Any, item: str) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable()):
        raise DataError(Reason.BAD_FIELD, item=item)
    return value


def _texts(value: Any, item: str) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise DataError(Reason.BAD_FIELD, item=item)
    texts = frozenset(_text(entry, item) for entry in value)
    if None in texts:
        raise DataError(Reason.BAD_FIELD, item=item)
    return frozenset(text for text in texts if text is not None)


def _time(value: Any, item: str) -> datetime | None:
    text = _text(value, item)
    return None if text is None else from_text(text, item=item)


def _flag(value: Any, item: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise DataError(Reason.BAD_FIELD, item=item)
    return value
