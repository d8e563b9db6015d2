"""A consent record after ISO/IEC TS 27560:2023, with the states of W3C DPV.

Guarantees that a ``Record`` has every mandatory field: what is missing is an error that names it, never a default. It
names the person by the partner's own customer id and therefore stays at the partner, and with the person.
Source: ISO/IEC TS 27560:2023, clause 6; W3C DPV guide "Consent records and receipts" (2024).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from federation.consent.terms import ConsentTerms, Controller, Country, Line, Notice, Part, PurposeTerms
from federation.core.canonical import digest_hex
from federation.core.clock import to_text
from federation.core.errors import DataError, Reason
from federation.policy.facts import ConsentFact

SCHEMA: Final = "ISO/IEC TS 27560:2023"
GIVEN: Final = "dpv:ConsentGiven"
WITHDRAWN: Final = "dpv:ConsentWithdrawn"
REFUSED: Final = "dpv:ConsentRefused"
EXPIRED: Final = "dpv:ConsentExpired"
UNKNOWN: Final = "dpv:ConsentUnknown"
State = Literal[
    "dpv:ConsentGiven", "dpv:ConsentWithdrawn", "dpv:ConsentRefused", "dpv:ConsentExpired", "dpv:ConsentUnknown"
]
_STATES: dict[str | None, State] = {"given": GIVEN, "withdrawn": WITHDRAWN, "refused": REFUSED}
Stamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT")]
PRINCIPAL: Final = "pii_principal"
CONTROLLER: Final = "pii_controller"


class Event(Part):
    """Something that was said or that time did."""

    state: State
    at: Stamp
    valid_from: Stamp | None = None
    valid_until: Stamp | None = None
    actor: Literal["pii_principal", "pii_controller"]


class Processing(Part):
    """What was agreed to, for one purpose."""

    purpose: Line
    purpose_type: Line
    description: Line
    legal_basis: Line
    personal_data_categories: Annotated[tuple[Line, ...], Field(min_length=1)]
    recipients: tuple[Line, ...]
    jurisdiction: Line
    storage_locations: Annotated[tuple[Country, ...], Field(min_length=1)]
    processing_locations: Annotated[tuple[Country, ...], Field(min_length=1)]
    retention_days: Annotated[int, Field(gt=0)]
    collection_method: Line
    withdrawal_method: Line
    separate_consent: bool
    cross_border_consent: bool


class Record(Part):
    """One person's consent for one purpose at one controller."""

    schema_version: Literal["ISO/IEC TS 27560:2023"] = SCHEMA
    record_id: Line
    pii_principal_id: Line
    pii_controller: Controller
    privacy_notice: Notice
    purposes: Annotated[tuple[Processing, ...], Field(min_length=1)]
    events: Annotated[tuple[Event, ...], Field(min_length=1)]
    """Oldest first; the last one stands."""

    @property
    def state(self) -> State:
        """What stands."""
        return self.events[-1].state


def state_of(fact: ConsentFact, at: datetime) -> State:
    """The DPV state of a consent at a time; what cannot be read is unknown."""
    if fact.status == "given" and fact.expires_at is not None and at >= fact.expires_at:
        return EXPIRED
    state = _STATES.get(fact.status)
    return UNKNOWN if state is None else state


def build_record(
    customer_id: str,
    statements: Sequence[ConsentFact],
    *,
    purpose: PurposeTerms,
    terms: ConsentTerms | None,
    at: datetime,
    record_id: str = "",
) -> Record:
    """Makes the record of one person and purpose.

    Args:
        customer_id: The partner's own.
        statements: What the person said, oldest first; the last one stands and must be complete.
        purpose: As the policy declares it.
        terms: What the partner declares for all records.
        at: When; what has expired by then says so.
        record_id: As the register has it; empty for one made from person, purpose and first statement.

    Raises:
        DataError: BAD_FIELD naming every mandatory field that is missing.
    """
    missing = _missing(statements, purpose, terms)
    if missing or terms is None:
        raise DataError(Reason.BAD_FIELD, item="consent record without " + ", ".join(missing))
    last = statements[-1]
    events = [_event(statement) for statement in statements]
    if state_of(last, at) == EXPIRED and last.expires_at is not None:
        events.append(Event(state=EXPIRED, at=to_text(last.expires_at), actor=CONTROLLER))
    law = last.jurisdiction or ""
    processing = Processing(
        purpose=purpose.id,
        purpose_type=purpose.dpv,
        description=purpose.description,
        legal_basis=purpose.legal_basis[law],
        personal_data_categories=terms.data_categories[purpose.id],
        recipients=tuple(sorted(last.recipients or ())),
        jurisdiction=law,
        storage_locations=terms.storage_locations,
        processing_locations=terms.processing_locations,
        retention_days=terms.retention_days,
        collection_method=terms.collection_method,
        withdrawal_method=terms.withdrawal_method,
        separate_consent=bool(last.separate),
        cross_border_consent=bool(last.cross_border),
    )
    made_of = [terms.controller.name, customer_id, purpose.id, events[0].at]
    return Record(
        record_id=record_id or digest_hex(made_of)[:32],
        pii_principal_id=customer_id,
        pii_controller=terms.controller,
        privacy_notice=terms.notice,
        purposes=(processing,),
        events=tuple(events),
    )


def _missing(statements: Sequence[ConsentFact], purpose: PurposeTerms, terms: ConsentTerms | None) -> list[str]:
    """Names of mandatory fields that are not there."""
    found = []
    if terms is None:
        found.append("the section `consent` of partner.yaml")
    elif not terms.covers(purpose.id):
        found.append(f"consent.data_categories.{purpose.id}")
    if not statements:
        return [*found, "an event"]
    last = statements[-1]
    needs: dict[str, object] = {"jurisdiction": last.jurisdiction, "time of the statement": last.given_at}
    if last.status == "given":
        needs |= {"expires_at": last.expires_at, "recipients": last.recipients or None, "separate": last.separate}
        needs["cross_border"] = last.cross_border
    if last.status not in _STATES:
        found.append("status")
    found += [name for name, value in needs.items() if value is None]
    if last.jurisdiction is not None and last.jurisdiction not in purpose.legal_basis:
        found.append(f"legal basis of {purpose.id} under {last.jurisdiction}")
    found += ["time of an event" for statement in statements[:-1] if statement.given_at is None][:1]
    return found


def _event(fact: ConsentFact) -> Event:
    at = to_text(fact.given_at) if fact.given_at else ""
    if fact.status != "given":
        return Event(state=_STATES.get(fact.status) or UNKNOWN, at=at, actor=PRINCIPAL)
    until = to_text(fact.expires_at) if fact.expires_at else None
    return Event(state=GIVEN, at=at, valid_from=at, valid_until=until, actor=PRINCIPAL)
