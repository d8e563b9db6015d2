"""The partner's consent file as columns: some forty bytes for each statement, by purpose, on disk where they are many.

A register has a row for every customer and purpose, and most rows say one of few things at one of many times. So what
is said (all but the times) is kept once, and a statement is a number, two times and a digest of the customer's id, in
columns; a fact is made when somebody asks for it. Of several statements of one person for one purpose the newest
stands, of two equally old ones the stricter, else the last. A file that changed is parsed where its lines are new
(``lines``).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray

from federation.client.digests import DIGEST, IN_PROCESS, Sorted, Table, alike, find, numbered
from federation.client.files.columns import Column, ColumnStore, parts
from federation.client.files.derived import Derived, Different
from federation.client.files.lines import Reading, scan_lines
from federation.consent.statements import FIELDS, FLAGS, STATUSES, microseconds
from federation.core.clock import from_text
from federation.core.errors import DataError, Reason
from federation.policy.facts import ConsentFact

Numbers = NDArray[np.int32]
Times = NDArray[np.int64]
UNREADABLE = np.iinfo(np.int64).min
"""Stands for a time that nobody can read: it denies."""
STATES = 9
"""Classes of one kind of statement: each of its times can be unreadable, or on one or the other side of a moment."""
FEW_UNREADABLE, MAX_UNREADABLE_SHARE = 20, 0.05
"""Of rows with a time that cannot be read: a few are their people's bad luck, a larger share is a wrong export."""
ROWS_TOLD = 20
_CACHED = 10_000
FIRST_ROW = 2
"""The header is row 1, as a spreadsheet counts."""
_log = structlog.get_logger()
_TIMES = ("given_at", "expires_at")
_SAID = tuple(name for name in FIELDS if name not in {"customer_id", *_TIMES})
_USUAL_TIME = r"^(19|2\d)\d\d-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{6})?\+00:00$"
_ZONE_CHARS = len("+00:00")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Rows:
    """Statements in the order of the file."""

    customers: Table
    kind: Numbers
    given: Times
    until: Times


class Statements:
    """What stands in the file for one purpose. Safe to share between threads."""

    def __init__(self, rows: Rows, kinds: Sequence[ConsentFact], store: ColumnStore, *, one_each: bool = False) -> None:
        self._rows, self._kinds, self._store = rows if one_each else _standing(rows, kinds, store), kinds, store

    def __len__(self) -> int:
        return len(self._rows.kind)

    @property
    def most_classes(self) -> int:
        """Every class has a lower number."""
        return len(self._kinds) * STATES

    def get(self, customer: str) -> ConsentFact | None:
        """One customer's statement, None where there is none."""
        return self.of([customer]).get(customer)

    def of(self, customers: Sequence[str]) -> dict[str, ConsentFact]:
        """The statements of some customers; whoever has none is left out."""
        places = self._sorted.find(IN_PROCESS.of(pa.array(customers, pa.string()))).tolist()
        return {who: self.fact(place) for who, place in zip(customers, places, strict=True) if place >= 0}

    def with_others(self, others: "Statements") -> "Statements":
        """These and others: of two of one customer that are as old and as strict the other one stands."""
        if not len(self) or not len(others):
            return self if len(self) else others
        mine, theirs, first = self._rows, others._rows, np.int32(len(self._kinds))
        rows = Rows(
            self._store.joined([mine.customers, theirs.customers]),
            self._store.joined([mine.kind, *(first + theirs.kind[part] for part in parts(len(others)))]),
            self._store.joined([mine.given, theirs.given]),
            self._store.joined([mine.until, theirs.until]),
        )
        return Statements(rows, [*self._kinds, *others._kinds], self._store)

    def positions(self, customers: Table) -> Numbers:
        """Where the statement of each customer is, by digest in this process; -1 where there is none."""
        return np.asarray(find(customers, self._rows.customers), np.int32)

    @functools.cached_property
    def _sorted(self) -> Sorted:
        return Sorted(self._rows.customers, self._store)

    def fact(self, position: int) -> ConsentFact:
        """The statement at a position."""
        rows = self._rows
        return _fact(self._kinds[rows.kind[position]], int(rows.given[position]), int(rows.until[position]))

    def classes(self, positions: Numbers, at: datetime) -> Numbers:
        """A number for the statement at each position, the same for all that differ in nothing but what a time is.

        Two times that cannot be read, or are on the same side of ``at``, are the same. -1 for position -1.
        """
        moment, rows = microseconds(at), self._rows
        if not len(self):
            return positions.copy()
        kind, given, until = (column.take(positions, mode="clip") for column in (rows.kind, rows.given, rows.until))
        number = kind * np.int32(STATES)
        # Negations of how a policy compares: given in the future, and no longer valid.
        number += np.where(given == UNREADABLE, 0, np.where(given > moment, 3, 6)).astype(np.int32)
        number += np.where(until == UNREADABLE, 0, np.where(until <= moment, 1, 2)).astype(np.int32)
        number[positions < 0] = -1
        return number

    def next_change(self, at: datetime) -> datetime | None:
        """The first moment after ``at`` at which a statement changes its class by time alone."""
        moment, rows = microseconds(at), self._rows
        some = (times[part] for part in parts(len(self)) for times in (rows.given, rows.until))
        later = [int(times[times > moment].min()) for times in some if (times > moment).any()]
        return _time(min(later)) if later else None


class Register:
    """The consent file. Not for several threads.

    Args:
        path: The file.
        store: Where its columns are.
    """

    def __init__(self, path: Path, store: ColumnStore) -> None:
        self._numbers: dict[tuple[str, ...], int] = {}
        self._kinds: list[ConsentFact] = []
        self._purposes: dict[str, int] = {}
        self._different: dict[int, Different] = {}  # by purpose
        self._name = path.name
        encoded = frozenset({*_SAID, *_TIMES})

        def look(before: Reading | None, whole: bool) -> Reading:
            lines = None if whole else scan_lines(path, store, before.lines if before is not None else None)
            return Reading(path, FIELDS, lines, before, encoded=encoded)

        self._store, self._derived = store, Derived(look, self._derive, store)

    def read(self) -> dict[str, Statements]:
        """What stands in it now, by purpose.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW, also where too many times cannot be read.
        """
        different, self._different = self._different, {}  # kept only once all were asked about this look
        look = self._derived.read()
        purpose, *columns, unreadable = look.columns
        self._check_times(unreadable)
        found = {}
        for name, number in self._purposes.items():
            mine = purpose == number
            rows, was = Rows(*columns), look.was
            if not mine.all():
                rows, was = Rows(*self._store.chosen(columns, mine)), was[mine] if was is not None else None
            one_each = different.setdefault(number, Different())(rows.customers, was)
            if len(rows.customers):
                found[name] = Statements(rows, self._kinds, self._store, one_each=one_each)
        self._different = different
        return found

    def _derive(self, batch: pa.RecordBatch) -> tuple[list[Column], list[Column]]:
        combination, first = _combinations([batch[name] for name in _SAID])
        kind_of, purpose_of = np.empty(len(first), np.int32), np.empty(len(first), np.int32)
        for number, row in enumerate(first.tolist()):
            purpose, *said = (batch[name][row].as_py() for name in _SAID)
            purpose_of[number] = self._purposes.setdefault(purpose, len(self._purposes))
            if tuple(said) not in self._numbers:
                self._numbers[tuple(said)] = len(self._kinds)
                self._kinds.append(_kind(*said))
            kind_of[number] = self._numbers[tuple(said)]
        times = [read_times(batch[name]) for name in _TIMES]
        unreadable = np.zeros(len(batch), np.uint8)
        for number, name in enumerate(_TIMES):
            empty = np.asarray(pc.equal(batch[name].dictionary, ""), dtype=bool)[np.asarray(batch[name].indices)]
            unreadable |= ((times[number] == UNREADABLE) & ~empty).astype(np.uint8) << number
        columns = [purpose_of[combination], IN_PROCESS.of(batch["customer_id"]), kind_of[combination], *times]
        return [*columns, unreadable], []

    def _check_times(self, unreadable: NDArray[np.uint8]) -> None:
        """Warns of rows with a time that cannot be read, which deny; raises DataError (BROKEN_ROW) for too many."""
        rows = np.flatnonzero(unreadable)
        if not len(rows):
            return
        if len(rows) > max(FEW_UNREADABLE, MAX_UNREADABLE_SHARE * len(unreadable)):
            column = _TIMES[0] if unreadable[rows[0]] & 1 else _TIMES[1]
            many = f"so it is in {len(rows):,} of {len(unreadable):,} rows"
            item = f"{self._name}, row {rows[0] + FIRST_ROW}, column {column}: no time that can be read; {many}"
            fix = "Export times with date and zone, as 2026-08-15T00:00:00+02:00."
            raise DataError(Reason.BROKEN_ROW, item=item, fix=fix)
        told = (rows[:ROWS_TOLD] + FIRST_ROW).tolist()
        _log.warning("consent_times_unreadable", file=self._name, count=len(rows), rows=told)


def _combinations(columns: list[pa.DictionaryArray]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """A number for each row's combination of values, and the first row of each, in the order of the numbers."""
    number, first = np.zeros(len(columns[0]), np.int64), np.zeros(1, np.int64)
    for column in columns:
        if len(column.dictionary) == 1:
            continue
        # Dense again after each column, so that the product stays below the square of the rows.
        mixed = number * len(column.dictionary) + np.asarray(column.indices, dtype=np.int64)
        _, first, number = np.unique(mixed, return_index=True, return_inverse=True)
    return number, first


def _kind(status: str, recipients: str, separate: str, cross_border: str, jurisdiction: str) -> ConsentFact:
    return ConsentFact(
        status=status if status in STATUSES else None,
        recipients=frozenset(recipients.split()),
        separate=FLAGS.get(separate.strip().lower()),
        cross_border=FLAGS.get(cross_border.strip().lower()),
        jurisdiction=jurisdiction.strip() or None,
    )


def read_times(column: pa.DictionaryArray) -> Times:
    """Microseconds since 1970 of each row, or UNREADABLE."""
    texts = column.dictionary
    usual = pc.match_substring_regex(texts, _USUAL_TIME)
    values = np.full(len(texts), UNREADABLE, np.int64)
    plain = np.asarray(usual, dtype=bool)
    try:
        days = pc.utf8_slice_codeunits(texts.filter(usual), 0, -_ZONE_CHARS).cast(pa.timestamp("us"))
        values[plain] = np.asarray(days.cast(pa.int64()))
    except pa.ArrowInvalid:  # the 30th of February
        plain[:] = False
    for number in np.flatnonzero(~plain).tolist():
        values[number] = _read_time(texts[number].as_py())
    times: Times = values[np.asarray(column.indices)]
    return times


def _read_time(text: str) -> int:
    try:
        return microseconds(from_text(text))
    except DataError:
        return UNREADABLE


@functools.lru_cache(_CACHED)  # many say the same at the same time
def _fact(kind: ConsentFact, given: int, until: int) -> ConsentFact:
    return replace(kind, given_at=_time(given), expires_at=_time(until))


def _time(value: int) -> datetime | None:
    return None if value == UNREADABLE else _EPOCH + timedelta(microseconds=value)


def _standing(rows: Rows, kinds: Sequence[ConsentFact], store: ColumnStore) -> Rows:
    """One statement for each customer: the newest, of equally old ones the stricter, of equal ones the last."""
    are_strict = np.array([kind.status != "given" for kind in kinds])
    stands = np.zeros(len(rows.kind), bool)
    for [some] in alike(rows.customers):
        strict, when = are_strict[rows.kind[some]], rows.given[some]
        # An unreadable time counts against consent.
        when = np.where((when == UNREADABLE) & strict, np.iinfo(np.int64).max, when)
        who = numbered(rows.customers[some])
        order = np.lexsort((some, strict, when, who))
        stands[some[order[np.append(np.diff(who[order]) != 0, True)[: len(some)]]]] = True
    return Rows(*store.chosen((rows.customers, rows.kind, rows.given, rows.until), stands))


NOBODY = Rows(np.empty(0, DIGEST), np.empty(0, np.int32), *[np.empty(0, np.int64)] * 2)
NOTHING = Statements(NOBODY, [], ColumnStore(), one_each=True)
"""Of a purpose that the file does not know."""
