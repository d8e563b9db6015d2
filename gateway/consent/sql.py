"""The consent store in SQL."""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    select,
)
from sqlalchemy.dialects.sqlite import insert

from federation.core.clock import Clock, from_text, to_text
from federation.core.database import reading, rows_with
from federation.core.errors import OfferError, Reason
from federation.core.ids import HANDLE_BYTES, Handle, PartyId
from federation.policy.facts import ConsentFact
from gateway.consent.store import ConsentRecord, Ended, supersedes

Ending = Callable[[Connection, PartyId, Sequence[tuple[Handle, str]]], int]
"""Removes the queued offers that needed some consents of a party (by handle and purpose), in the given transaction; how
many. All at once, because everybody's decisions and withdrawals wait for that transaction."""

MAX_STATES_PER_PARTY = 20_000_000
"""Handles are opaque, so the gateway cannot tell an invented one: only their number bounds what a party has it keep."""

metadata = MetaData()
consents = Table(
    "consents",
    metadata,
    Column("party", String, primary_key=True),
    Column("handle", LargeBinary(HANDLE_BYTES), primary_key=True),
    Column("purpose", String, primary_key=True),
    Column("status", String),
    Column("recipients", String),
    Column("given_at", String),
    Column("expires_at", String),
    Column("separate", Boolean),
    Column("cross_border", Boolean),
    Column("jurisdiction", String),
    Column("region", String),
    Column("stated_at", String, nullable=False),
)
_KEY = ("party", "handle", "purpose")
# As text, because a partner's first build brings millions of states: building statements would take most time.
_REPLACE = f"INSERT OR REPLACE INTO consents VALUES ({', '.join('?' * len(consents.columns))})"  # noqa: S608
_counts = Table(
    "consent_counts",
    metadata,
    Column("party", String, primary_key=True),
    Column("states", Integer, nullable=False),  # counted along, because to count millions of rows takes seconds
)


class SqlConsentStore:
    """ConsentStore over a SQL database.

    Args:
        engine: The gateway's database; the offer book must be in the same.
        clock: Dates withdrawals.
        on_end: What else must happen in the transaction that ends a consent.
        max_states: How many states of one party are kept. Endings find room up to twice as many: a partner that is at
            its limit can agree to nothing more, and withdraw all the same.
    """

    def __init__(self, engine: Engine, clock: Clock, on_end: Ending, max_states: int = MAX_STATES_PER_PARTY) -> None:
        self._engine, self._clock, self._on_end, self._max_states = engine, clock, on_end, max_states
        self._recording = threading.Lock()
        metadata.create_all(engine)
        self._reading = reading(engine)

    def record(self, party: PartyId, records: Sequence[ConsentRecord]) -> int:
        """See ConsentStore."""
        newest: dict[tuple[Handle, str], ConsentRecord] = {}
        for record in records:
            key = record.handle, record.purpose
            if supersedes(record, newest.get(key)):
                newest[key] = record
        # One at a time: the database lets whom it likes go first, and three partners at it could keep one out.
        with self._recording, self._engine.begin() as connection:
            known = self._known(connection, party, list(newest))
            stands = [r for key, r in newest.items() if supersedes(r, known.get(key))]
            self._on_end(connection, party, [(r.handle, r.purpose) for r in stands if r.fact.status != "given"])
            self._make_room(connection, party, [r for r in stands if (r.handle, r.purpose) not in known])
            self._write(connection, party, [r for r in stands if known.get((r.handle, r.purpose)) != r])
        return len(stands)

    def withdraw(self, party: PartyId, handle: Handle, purpose: str, said_at: datetime | None = None) -> Ended:
        """See ConsentStore."""
        now = self._clock.now()
        said_at = min(said_at or now, now)
        with self._engine.begin() as connection:
            before = self._known(connection, party, [(handle, purpose)]).get((handle, purpose))
            if before is not None and said_at < before.stated_at <= now:
                # The person agreed again since. What was queued goes all the same: nobody can say which was first.
                return Ended(said_at, self._on_end(connection, party, [(handle, purpose)]))
            # Not before what it ends, so that nothing known can undo it.
            at = max(said_at, before.stated_at) if before else said_at
            fact = replace(before.fact if before else ConsentFact(), status="withdrawn")
            record = ConsentRecord(handle, purpose, fact, before.region if before else None, at)
            self._make_room(connection, party, [] if before else [record])
            self._write(connection, party, [record])
            removed = self._on_end(connection, party, [(handle, purpose)])
        return Ended(at, removed)

    def get(self, party: PartyId, handle: Handle, purpose: str) -> ConsentRecord | None:
        """See ConsentStore."""
        with self._reading.begin() as connection:
            return self._known(connection, party, [(handle, purpose)]).get((handle, purpose))

    def find(
        self, people: Collection[tuple[PartyId, Handle]], purposes: Collection[str]
    ) -> dict[tuple[PartyId, Handle, str], ConsentRecord]:
        """See ConsentStore."""
        keys = [(party, handle, purpose) for party, handle in people for purpose in purposes]
        with self._reading.begin() as connection:
            rows = list(rows_with(connection, consents, _KEY, keys))
        records = ((PartyId(row.party), _from_row(row)) for row in rows)
        return {(party, record.handle, record.purpose): record for party, record in records}

    def all_of(self, party: PartyId, handle: Handle) -> list[ConsentRecord]:
        """See ConsentStore."""
        query = select(consents).where(consents.c.party == party, consents.c.handle == handle)
        with self._reading.begin() as connection:
            return [_from_row(row) for row in connection.execute(query.order_by(consents.c.purpose))]

    def _make_room(self, connection: Connection, party: PartyId, new: Sequence[ConsentRecord]) -> None:
        """Counts states that were not known. Raises OfferError (TOO_MANY_CONSENTS)."""
        if not new:
            return
        count = connection.scalar(select(_counts.c.states).where(_counts.c.party == party))
        if count is None:
            count = connection.scalar(select(func.count()).where(consents.c.party == party)) or 0
        agreed = any(record.fact.status == "given" for record in new)
        if count + len(new) > self._max_states * (1 if agreed else 2):
            raise OfferError(Reason.TOO_MANY_CONSENTS, item=f"{party} has {count:,} of {self._max_states:,}")
        row = {"party": party, "states": count + len(new)}
        connection.execute(insert(_counts).values(**row).on_conflict_do_update(index_elements=["party"], set_=row))

    def _known(
        self, connection: Connection, party: PartyId, keys: Sequence[tuple[Handle, str]]
    ) -> dict[tuple[Handle, str], ConsentRecord]:
        rows = rows_with(connection, consents, _KEY, [(party, *key) for key in keys])
        return {(record.handle, record.purpose): record for record in map(_from_row, rows)}

    def _write(self, connection: Connection, party: PartyId, records: Sequence[ConsentRecord]) -> None:
        if records:
            # In the order of the key, so that each page is read and written once.
            connection.exec_driver_sql(_REPLACE, sorted(_to_row(party, record) for record in records))


def _to_row(party: PartyId, record: ConsentRecord) -> tuple[Any, ...]:
    """In the order of the columns."""
    fact = record.fact
    return (
        party,
        record.handle,
        record.purpose,
        fact.status,
        None if fact.recipients is None else " ".join(sorted(fact.recipients)),
        _text(fact.given_at),
        _text(fact.expires_at),
        fact.separate,
        fact.cross_border,
        fact.jurisdiction,
        record.region,
        _text(record.stated_at),
    )


def _from_row(row: Sequence[Any]) -> ConsentRecord:
    _, handle, purpose, status, recipients, given_at, expires_at, separate, cross_border, law, region, stated = row
    fact = ConsentFact(
        status=status,
        recipients=None if recipients is None else frozenset(recipients.split()),
        given_at=_time(given_at),
        expires_at=_time(expires_at),
        separate=_flag(separate),
        cross_border=_flag(cross_border),
        jurisdiction=law,
    )
    return ConsentRecord(Handle(handle), purpose, fact, region, from_text(stated))


def _flag(value: int | None) -> bool | None:
    """SQLite has no truth values."""
    return None if value is None else bool(value)


def _text(at: datetime | None) -> str | None:
    return None if at is None else to_text(at)


def _time(text: str | None) -> datetime | None:
    return from_text(text) if text else None
