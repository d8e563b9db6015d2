"""What the partner's customers agreed to: the partner's consent file, overlaid with durable local changes.

The file is the partner's register as exported; a change made here (``record``, ``withdraw``) is on disk before the call
returns and in force for every decision that starts afterwards, in this and every other process of the partner. For one
person and purpose the newest statement wins; of two equally old ones the stricter. Unreadable values become ``None``,
which no policy accepts.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Column, Connection, Engine, Integer, MetaData, String, Table, func, select

from federation.client.tables import FileStamp, read_table, stamp
from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import DataError, OfferError, Reason
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact

STATUSES = frozenset({"given", "withdrawn", "refused"})
COLUMNS = (
    "customer_id",
    "purpose",
    "status",
    "recipients",
    "given_at",
    "expires_at",
    "separate_consent",
    "cross_border_consent",
    "jurisdiction",
)
_FLAGS = {"1": True, "0": False, "true": True, "false": False}
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

metadata = MetaData()
changes = Table(
    "consent_changes",
    metadata,
    Column("change", Integer, primary_key=True, autoincrement=True),
    Column("customer_id", String, nullable=False, index=True),
    Column("purpose", String, nullable=False),
    Column("status", String, nullable=False),
    Column("recipients", String),
    Column("given_at", String),  # for "withdrawn": when it was withdrawn
    Column("expires_at", String),
    Column("separate", Boolean),
    Column("cross_border", Boolean),
    Column("jurisdiction", String),
)


@dataclass(frozen=True)
class _Overlay:
    """The local changes up to one of them, newest last."""

    last: int
    facts: Mapping[tuple[str, str], ConsentFact]


class ConsentBook:
    """The current state of every consent. Safe to share between threads and processes.

    Args:
        path: The partner's consent file (CSV).
        engine: The partner's durable state.
        clock: Tells the time of local changes.
    """

    def __init__(self, path: Path, engine: Engine, clock: Clock) -> None:
        self._path, self._engine, self._clock = path, engine, clock
        self._lock = threading.Lock()
        self._stamp: FileStamp | None = None
        self._file: dict[str, dict[str, ConsentFact]] = {}  # purpose -> customer -> fact
        self._overlay = _Overlay(0, {})
        metadata.create_all(engine)

    def lookup(self, customer_id: CustomerId, purpose: str) -> ConsentFact | None:
        """The state of one consent, or None where nothing is on file. Raises DataError for an unusable file."""
        return self.for_purpose(purpose).get(customer_id)

    def for_purpose(self, purpose: str) -> Mapping[str, ConsentFact]:
        """All states for one purpose, by customer id, as of now; the mapping does not follow later changes.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
        """
        with self._lock:
            self._read_file()
            self._read_changes()
            base = self._file.get(purpose, {})
            overlay, now = self._overlay.facts, self._clock.now()
        local = {customer: fact for (customer, about), fact in overlay.items() if about == purpose}
        return _Overlaid(base, {c: f for c, f in local.items() if not _undoes(base.get(c), f, now)})

    def purposes_of(self, customer_id: CustomerId) -> dict[str, ConsentFact]:
        """Every consent of one person, by purpose. Raises DataError for an unusable file."""
        with self._lock:
            self._read_file()
            self._read_changes()
            known = {*self._file, *(purpose for _, purpose in self._overlay.facts)}
        found = {purpose: self.lookup(customer_id, purpose) for purpose in sorted(known)}
        return {purpose: fact for purpose, fact in found.items() if fact is not None}

    def record(self, customer_id: CustomerId, purpose: str, fact: ConsentFact) -> ConsentFact:
        """Records a statement that the customer makes now; returns it with its time.

        Raises:
            OfferError: BAD_FIELD for a status that does not exist.
        """
        if fact.status not in STATUSES:
            raise OfferError(Reason.BAD_FIELD, item="status")
        stated = replace(fact, given_at=self._clock.now())
        with self._engine.begin() as connection:
            self._insert(connection, customer_id, purpose, stated)
        return stated

    def withdraw(
        self, customer_id: CustomerId, purpose: str, also: Callable[[Connection, datetime], None] | None = None
    ) -> datetime:
        """Ends a consent now; in force everywhere at this partner when it returns.

        Args:
            customer_id: Whose.
            purpose: Which.
            also: Runs in the same transaction, with the time of the withdrawal.
        """
        before = self.lookup(customer_id, purpose) or ConsentFact()
        # Never earlier than what it ends, even where that statement is dated in the future.
        at = max(self._clock.now(), before.given_at or _EARLIEST)
        with self._engine.begin() as connection:
            self._insert(connection, customer_id, purpose, replace(before, status="withdrawn", given_at=at))
            if also is not None:
                also(connection, at)
        return at

    def _insert(self, connection: Connection, customer_id: CustomerId, purpose: str, fact: ConsentFact) -> None:
        connection.execute(changes.insert().values(customer_id=customer_id, purpose=purpose, **_to_row(fact)))

    def _read_file(self) -> None:
        """Reads the consent file again if it changed. Needs the lock."""
        now = stamp(self._path)
        if now == self._stamp:
            return
        table = read_table(self._path, required=COLUMNS, text={"*"})
        facts: dict[str, dict[str, ConsentFact]] = {}
        times: dict[str, datetime | None] = {}
        names: dict[str, frozenset[str]] = {}
        for customer, purpose, *values in zip(*(table[name].tolist() for name in COLUMNS), strict=True):
            fact = _parse(values, times, names)
            bucket = facts.setdefault(purpose, {})
            if not _newer(bucket.get(customer), fact):
                bucket[customer] = fact
        self._file, self._stamp = facts, now

    def _read_changes(self) -> None:
        """Takes in what any process wrote since the last look. Needs the lock."""
        with self._engine.begin() as connection:
            last = connection.scalar(select(func.max(changes.c.change))) or 0
            if last == self._overlay.last:
                return
            new = connection.execute(select(changes).where(changes.c.change > self._overlay.last)).mappings().all()
        facts = dict(self._overlay.facts)
        for row in new:
            key = (row["customer_id"], row["purpose"])
            fact = _from_row(row)
            if not _newer(facts.get(key), fact):
                facts[key] = fact
        self._overlay = _Overlay(last, facts)


class _Overlaid(Mapping[str, ConsentFact]):
    """One mapping before another, without copying either."""

    def __init__(self, base: Mapping[str, ConsentFact], local: Mapping[str, ConsentFact]) -> None:
        self._base, self._local = base, local

    def __getitem__(self, key: str) -> ConsentFact:
        return self._local[key] if key in self._local else self._base[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base.keys() | self._local.keys())

    def __len__(self) -> int:
        return len(self._base.keys() | self._local.keys())


def _time(fact: ConsentFact) -> datetime:
    """When it was stated; an unreadable time counts against consent."""
    return fact.given_at or (_EARLIEST if fact.status == "given" else _LATEST)


def _newer(known: ConsentFact | None, other: ConsentFact) -> bool:
    """Whether ``known`` stands against ``other``: newer, or as old and stricter."""
    if known is None:
        return False
    return (_time(known), known.status != "given") > (_time(other), other.status != "given")


def _undoes(row: ConsentFact | None, local: ConsentFact, now: datetime) -> bool:
    """Whether a row of the file stands against a local change. A "given" dated in the future undoes nothing."""
    if row is None or (row.status == "given" and row.given_at is not None and row.given_at > now):
        return False
    return _newer(row, local)


def _parse(values: list[str], times: dict[str, datetime | None], names: dict[str, frozenset[str]]) -> ConsentFact:
    """One row of the file after customer and purpose; the two caches save reading the same text 50,000 times."""
    status, recipients, given_at, expires_at, separate, cross_border, jurisdiction = values
    for text in (given_at, expires_at):
        if text not in times:
            times[text] = _read_time(text)
    if recipients not in names:
        names[recipients] = frozenset(recipients.split())
    return ConsentFact(
        status=status if status in STATUSES else None,
        recipients=names[recipients],
        given_at=times[given_at],
        expires_at=times[expires_at],
        separate=_FLAGS.get(separate.strip().lower()),
        cross_border=_FLAGS.get(cross_border.strip().lower()),
        jurisdiction=jurisdiction.strip() or None,
    )


def _read_time(text: str) -> datetime | None:
    try:
        return from_text(text)
    except DataError:
        return None  # denies, which is what an unreadable time must do


def _to_row(fact: ConsentFact) -> dict[str, Any]:
    return {
        "status": fact.status,
        "recipients": None if fact.recipients is None else " ".join(sorted(fact.recipients)),
        "given_at": None if fact.given_at is None else to_text(fact.given_at),
        "expires_at": None if fact.expires_at is None else to_text(fact.expires_at),
        "separate": fact.separate,
        "cross_border": fact.cross_border,
        "jurisdiction": fact.jurisdiction,
    }


def _from_row(row: Mapping[Any, Any]) -> ConsentFact:
    return ConsentFact(
        status=row["status"],
        recipients=None if row["recipients"] is None else frozenset(row["recipients"].split()),
        given_at=None if row["given_at"] is None else from_text(row["given_at"]),
        expires_at=None if row["expires_at"] is None else from_text(row["expires_at"]),
        separate=row["separate"],
        cross_border=row["cross_border"],
        jurisdiction=row["jurisdiction"],
    )
