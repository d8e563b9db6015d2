"""What the partner's customers agreed to: the partner's consent file, what was imported, and durable local changes.

File and imports are the partner's registers; a change made here (``record``, ``withdraw``) is on disk before the call
returns and in force for every decision that starts afterwards, in this and every other process of the partner. For one
person and purpose the newest statement wins; of two equally old ones the stricter. Unreadable values become ``None``,
which no policy accepts, and so does a "given" for a purpose whose records are incomplete.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from sqlalchemy import Boolean, Column, Connection, Engine, Integer, MetaData, String, Table, func, select

from federation.client.consent.imported import ImportedConsents, from_row, to_row
from federation.client.consent.layers import EARLIEST, Overlaid, States, newer, newest, standing, stated
from federation.client.consent.register import NOTHING, Numbers, Register, Statements
from federation.client.digests import IN_PROCESS, find
from federation.client.digests import Table as Digests
from federation.client.files.columns import ColumnStore
from federation.client.files.tables import FileStamp, stamp
from federation.consent.statements import STATUSES
from federation.core.clock import Clock
from federation.core.errors import OfferError, Reason
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact

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


@dataclass(frozen=True)
class Standing:
    """The states of some customers' consents for one purpose, by place among these customers."""

    classes: Callable[[slice], Numbers]
    """Of the customers in a part: the same for all whom a policy cannot tell apart at the time that was asked for; -1
    where nothing is on file."""
    fact: Callable[[int], ConsentFact | None]
    next_change: datetime | None
    """When time alone puts somebody into another class."""


class ConsentBook:
    """The current state of every consent. Safe to share between threads and processes.

    Args:
        path: The partner's consent file (CSV).
        engine: The partner's durable state.
        clock: Tells the time of local changes.
        complete: Whether records for a purpose have what the partner declares once for all (``ConsentTerms.covers``).
        store: Where columns of the file are kept.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        clock: Clock,
        complete: Callable[[str], bool] = lambda _purpose: True,
        store: ColumnStore | None = None,
    ) -> None:
        self._path, self._engine, self._clock, self._complete = path, engine, clock, complete
        self._imported = ImportedConsents(engine)
        self._imported_changes = -1
        self._registers: dict[str, Statements] = {}  # file and imports, by purpose, as they are asked for
        self._lock = threading.Lock()
        self._stamp: FileStamp | None = None
        self._store = store or ColumnStore()
        self._register = Register(path, self._store)
        self._file: dict[str, Statements] = {}  # by purpose
        self._overlay = _Overlay(0, {})
        metadata.create_all(engine)

    def lookup(self, customer_id: CustomerId, purpose: str) -> ConsentFact | None:
        """The state of one consent, or None where nothing is on file. Raises DataError for an unusable file."""
        return self.states_of([customer_id], purpose).get(customer_id)

    def states_of(self, ids: Sequence[CustomerId], purpose: str) -> dict[CustomerId, ConsentFact]:
        """The states of some customers for one purpose, as of now. Raises DataError for an unusable file."""
        with self._lock:
            self._read_file()
            self._read_changes()
            base, overlay, now = self._file.get(purpose, NOTHING).of(ids), self._overlay.facts, self._clock.now()
        imported = self._imported.find(ids, purpose)
        found = {}
        for i in ids:
            fact = standing(newest(base.get(i), imported.get(i)), overlay.get((i, purpose)), now)
            if fact is not None:
                found[i] = self._judge(fact, purpose)
        return found

    def revision(self) -> tuple[object, ...]:
        """Equal as long as no process of the partner wrote or read anything new. Raises DataError as ``standing``."""
        with self._lock:
            self._read_file()
            self._read_changes()
            return self._stamp, self._overlay.last, self._imported.changes()

    def standing(self, digests: Digests, purpose: str, at: datetime) -> Standing:
        """The states of customers' consents for one purpose, for decisions at a time.

        Args:
            digests: Of their ids, in this process, each once.
            purpose: For example "overlap_statistics".
            at: Now.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
        """
        base, layer = self._layers(purpose)
        positions = self._store.joined([base.positions(digests)])
        changed, numbers = dict[int, ConsentFact](), dict[ConsentFact, int]()
        if layer is not None:
            local = layer.of(list(layer.local))
            rows = find(IN_PROCESS.of(pa.array(list(local), pa.string())), digests)
            changed = {row: fact for row, fact in zip(rows.tolist(), local.values(), strict=True) if row >= 0}
        others = np.array(sorted(changed), np.int64)
        alike = (changed[row].undated(at) for row in others.tolist())
        theirs = np.array([numbers.setdefault(fact, base.most_classes + len(numbers)) for fact in alike], np.int32)

        def classes_of(part: slice) -> Numbers:
            classes = base.classes(positions[part], at)
            start, stop, _ = part.indices(len(positions))
            mine = slice(*np.searchsorted(others, (start, stop)))
            classes[others[mine] - start] = theirs[mine]
            return classes

        def fact_of(row: int) -> ConsentFact | None:
            if row in changed or positions[row] < 0:
                return changed.get(row)
            return self._judge(base.fact(positions[row]), purpose)

        times = [base.next_change(at), *(layer.times() if layer is not None else ())]
        return Standing(
            classes_of, fact_of, min((time for time in times if time is not None and time > at), default=None)
        )

    def recorded(self, purposes: Collection[str]) -> list[CustomerId]:
        """Customers of whom something was recorded here for one of some purposes, each once."""
        with self._lock:
            self._read_changes()
            return list(dict.fromkeys(CustomerId(who) for who, about in self._overlay.facts if about in purposes))

    def for_purpose(self, purpose: str) -> States:
        """All states for one purpose as of now; they do not follow later changes.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
        """
        base, layer = self._layers(purpose)
        return base if layer is None else layer

    def _layers(self, purpose: str) -> tuple[Statements, Overlaid | None]:
        """The registers' statements for a purpose, and what stands instead of them, where anything does."""
        with self._lock:
            self._read_file()
            self._read_changes()
            base, overlay, now = self._read_registers(purpose), self._overlay.facts, self._clock.now()
        local = {customer: fact for (customer, about), fact in overlay.items() if about == purpose}
        if not local and self._complete(purpose):
            return base, None  # the registers alone, as they were read: training and overlap ask for every customer
        return base, Overlaid(base, local, now, lambda fact: self._judge(fact, purpose))

    def purposes_of(self, customer_id: CustomerId) -> dict[str, ConsentFact]:
        """Every consent of one person, by purpose. Raises DataError for an unusable file."""
        with self._lock:
            self._read_file()
            self._read_changes()
            known = {*self._file, *(purpose for _, purpose in self._overlay.facts)}
        known |= set(self._imported.of_person(customer_id))
        found = {purpose: self.lookup(customer_id, purpose) for purpose in sorted(known)}
        return {purpose: fact for purpose, fact in found.items() if fact is not None}

    def history_of(self, customer_id: CustomerId, purpose: str) -> tuple[list[ConsentFact], str]:
        """What is on file that one person said about a purpose, oldest first, and the register's record id or "".

        The last one stands. Raises DataError for an unusable file.
        """
        with self._lock:
            self._read_file()
            base, now = self._file.get(purpose, NOTHING).get(customer_id), self._clock.now()
        imported, record_id = self._imported.of_person(customer_id).get(purpose, (None, ""))
        mine = changes.c.customer_id == customer_id, changes.c.purpose == purpose
        with self._engine.begin() as connection:
            rows = connection.execute(select(changes).where(*mine).order_by(changes.c.change)).mappings().all()
        said = {fact: None for fact in (base, imported, *map(from_row, rows)) if fact is not None}
        local = None
        for fact in map(from_row, rows):
            local = local if newer(local, fact) else fact
        last = standing(newest(base, imported), local, now)
        order = sorted(said, key=lambda fact: (fact is last or fact == last, stated(fact), fact.status != "given"))
        return order, record_id

    def record(self, customer_id: CustomerId, purpose: str, fact: ConsentFact) -> ConsentFact:
        """Records a statement that the customer makes now; returns it with its time.

        Raises:
            OfferError: BAD_FIELD for a status that does not exist, and where an end that is dated later stands.
            DataError: for an unusable file.
        """
        if fact.status not in STATUSES:
            raise OfferError(Reason.BAD_FIELD, item="status")
        new, before = replace(fact, given_at=self._clock.now()), self.lookup(customer_id, purpose)
        if before is not None and before.status in STATUSES - {"given"} and newer(before, new):
            item = "an end of this consent that is dated after now, or has no time, stands against it"
            raise OfferError(Reason.BAD_FIELD, item=item, fix="Mend its time in the register, or wait until then.")
        with self._engine.begin() as connection:
            self._insert(connection, customer_id, purpose, new)
        return new

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
        at = max(self._clock.now(), before.given_at or EARLIEST)
        with self._engine.begin() as connection:
            self._insert(connection, customer_id, purpose, replace(before, status="withdrawn", given_at=at))
            if also is not None:
                also(connection, at)
        return at

    def _insert(self, connection: Connection, customer_id: CustomerId, purpose: str, fact: ConsentFact) -> None:
        connection.execute(changes.insert().values(customer_id=customer_id, purpose=purpose, **to_row(fact)))

    def _read_file(self) -> None:
        """Reads the consent file again if it changed. Needs the lock."""
        now = stamp(self._path)
        if now == self._stamp:
            return
        self._file, self._stamp, self._registers = self._register.read(), now, {}

    def _read_registers(self, purpose: str) -> Statements:
        """What file and imports say for a purpose; read again where either changed. Needs the lock."""
        now = self._imported.changes()
        if now != self._imported_changes:
            self._registers, self._imported_changes = {}, now
        if purpose not in self._registers:
            imported = self._imported.statements(purpose, self._store)
            self._registers[purpose] = self._file.get(purpose, NOTHING).with_others(imported)
        return self._registers[purpose]

    def _judge(self, fact: ConsentFact, purpose: str) -> ConsentFact:
        """A "given" counts only where the record behind it is complete; an end always does."""
        return replace(fact, status=None) if fact.status == "given" and not self._complete(purpose) else fact

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
            fact = from_row(row)
            if not newer(facts.get(key), fact):
                facts[key] = fact
        self._overlay = _Overlay(last, facts)
