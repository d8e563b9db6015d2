"""The privacy ledger: every release is paid for, on disk, before it is made.

An entry is *reserved*, then either *committed* (the release was, or may have been, made) or *cancelled* (it cannot
have been). All but cancelled entries count alike, so a crash can waste budget and never create it: a commit of an entry
that was cancelled meanwhile is refused.

A committed entry is *released* once what it paid for is stored and before anybody is told of it. Until then the release
may be made again for the same entry, because nobody saw the first one. From then on it may not: whoever still has to
make it has lost what was stored, and a second draw beside the first would be a second look for the price of one.

What counts now is every entry whose own period overlaps the period of the active policy. An entry's period is that of
the policy under which it was reserved, never the clock's: a clock that jumps cannot move a spend, and a policy that
shifts its period by a day cannot shed one. Limits and delta are those of the active policy; losses are composed again
from the events each time (see ``federation.privacy.composition``), never from stored epsilons.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import structlog
from dp_accounting import DpEvent
from sqlalchemy import Column, Connection, Engine, Index, MetaData, Row, String, Table, insert, select, update

from federation.core.canonical import canonical_json
from federation.core.clock import Clock, to_text
from federation.core.database import reading
from federation.core.errors import BudgetError, Reason
from federation.policy.specs import BudgetSpec
from federation.privacy.composition import describe, epsilon_of, event_from_json, event_to_json, shares_of
from gateway.budget.overview import BudgetEntry, BudgetOverview, BudgetScope, ScopePreview

ALLIANCE = "alliance"
"""The scope that holds everything."""
MAX_TEXT = 400
FREE = "Ask what is stored, which is free"
"""What anybody can do whom the budget refuses."""
RESERVED, COMMITTED, RELEASED, CANCELLED = "reserved", "committed", "released", "cancelled"

_METADATA = MetaData()
_ENTRIES = Table(
    "budget_entries",
    _METADATA,
    Column("entry_id", String(32), primary_key=True),
    Column("key", String(MAX_TEXT), nullable=False),
    Column("period_start", String(10), nullable=False),
    Column("period_end", String(10), nullable=False),
    Column("purpose", String(48), nullable=False),
    Column("what", String(MAX_TEXT), nullable=False),
    Column("event", String, nullable=False),  # canonical JSON
    Column("state", String(9), nullable=False),
    Column("at", String(40), nullable=False),
)
# One live entry a key and period, whatever the code does; a cancelled one leaves its key free.
Index(
    "budget_entries_key",
    _ENTRIES.c.period_start,
    _ENTRIES.c.key,
    unique=True,
    sqlite_where=_ENTRIES.c.state != CANCELLED,
    postgresql_where=_ENTRIES.c.state != CANCELLED,
)
_log = structlog.get_logger()


@dataclass(frozen=True)
class _Asked:
    key: str
    purpose: str
    event: DpEvent
    written: str  # the event as it is stored


class SqlLedger:
    """The ledger in an SQL database.

    Args:
        engine: From ``federation.core.database.open_database``.
        budget: Gives the limits of the active policy.
        clock: Dates the entries.
        random: Gives that many random bytes, for entry ids.
    """

    def __init__(
        self,
        engine: Engine,
        budget: Callable[[], BudgetSpec],
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._engine, self._reading = engine, reading(engine)
        self._budget, self._clock, self._random = budget, clock, random
        self._lock = threading.Lock()
        _METADATA.create_all(engine)

    def reserve(self, *, key: str, purpose: str, what: str, event: DpEvent) -> str:
        """Reserves a cost, durably, and returns the entry's id.

        The same key with the same purpose and event returns the entry there is, also when it was committed: a release
        that is made again after a crash pays once. Whoever uses a key must see to it that what it names is stored with
        its noise, and marked as released before it is shown.

        Args:
            key: Names the release, 1 to 400 characters.
            purpose: As the policy calls it.
            what: For people; 1 to 400 characters, nothing personal.
            event: The loss for one person.

        Raises:
            BudgetError: BUDGET_EXHAUSTED when a limit would be passed, there is none, or now is outside of the
                period; BAD_COST; IDEMPOTENCY_CONFLICT when the key stands for something else; ANSWER_LOST when what it
                stands for was released.
        """
        asked, spec = _read(key, purpose, what, event), self._budget()
        self._work_out(spec, event)
        now = self._clock.now()
        with self._transaction() as connection:
            known = self._find(connection, spec, asked, now.date())
            if known is not None:
                return known
            entry_id = self._random(16).hex()
            connection.execute(
                insert(_ENTRIES),
                {
                    "entry_id": entry_id,
                    "key": key,
                    "period_start": spec.period_start.isoformat(),
                    "period_end": spec.period_end.isoformat(),
                    "purpose": purpose,
                    "what": what,
                    "event": asked.written,
                    "state": RESERVED,
                    "at": to_text(now),
                },
            )
        return entry_id

    def check(self, *, key: str, purpose: str, what: str, event: DpEvent) -> None:
        """Raises what ``reserve`` would raise now; nothing is reserved."""
        asked, spec = _read(key, purpose, what, event), self._budget()
        self._work_out(spec, event)
        with self._transaction() as connection:
            self._find(connection, spec, asked, self._clock.now().date())

    def commit(self, entry_id: str) -> None:
        """The release was made (or may have been). Again is fine.

        Raises:
            BudgetError: BAD_COST for an entry that there is not, or that was cancelled; then nothing may be released.
        """
        with self._transaction() as connection:
            state = _state(connection, entry_id)
            if state == CANCELLED:
                raise BudgetError(Reason.BAD_COST, item=f"budget entry {entry_id} was cancelled")
            if state == RELEASED:
                return
            connection.execute(update(_ENTRIES).where(_ENTRIES.c.entry_id == entry_id).values(state=COMMITTED))

    def mark_released(self, key: str) -> None:
        """What a key names is stored, and about to be shown: it is not made again. Again is fine."""
        live = (_ENTRIES.c.key == key) & (_ENTRIES.c.state != CANCELLED)
        with self._lock, self._reading.begin() as connection:  # most often it is marked, and nothing is to be written
            states = set(connection.scalars(select(_ENTRIES.c.state).where(live)))
        if not states:  # this ledger is not the one that it was paid in; to show what is stored costs nothing more
            _log.warning("budget_entry_missing", key=key)
        elif states != {RELEASED}:
            with self._transaction() as connection:
                connection.execute(update(_ENTRIES).where(live).values(state=RELEASED))

    def cancel(self, entry_id: str) -> None:
        """The release cannot have been made: gives the cost back, unless it was committed (then it stays).

        Raises:
            BudgetError: BAD_COST for an entry that there is not.
        """
        with self._transaction() as connection:
            state = _state(connection, entry_id)
            if state in (COMMITTED, RELEASED):
                _log.warning("budget_cancel_ignored", entry=entry_id)
                return
            connection.execute(update(_ENTRIES).where(_ENTRIES.c.entry_id == entry_id).values(state=CANCELLED))

    def overview(self) -> BudgetOverview:
        """Limits, totals and entries of the active period, by one consistent read."""
        spec = self._budget()
        with self._transaction() as connection:
            rows = _counted(connection, spec)
        scopes = tuple(
            BudgetScope(scope, limit, _spent(rows, scope, spec.delta), spec.delta)
            for scope, limit in ((ALLIANCE, spec.epsilon), *sorted(spec.purposes.items()))
        )
        entries, events = [], [_event(row) for row in rows]
        shares = shares_of(events, spec.delta)
        for row, event, share in zip(rows, events, shares.parts, strict=True):
            cost = epsilon_of([event], spec.delta)
            entries.append(
                BudgetEntry(row.entry_id, row.at, row.purpose, row.what, cost, row.state, describe(event), share)
            )
        return BudgetOverview(
            spec.period_start, spec.period_end, scopes, tuple(entries), shares.conversion, shares.order
        )

    def preview(self, purpose: str, event: DpEvent) -> tuple[ScopePreview, ...]:
        """What a spend would leave in every scope that it counts in; nothing is reserved.

        A purpose without a limit shows as one of 0. Outside of the period every scope shows a limit of 0.

        Raises:
            BudgetError: BAD_COST.
        """
        spec = self._budget()
        event_to_json(event)
        with self._transaction() as connection:
            rows = _counted(connection, spec)
        today = spec.period_start <= self._clock.now().date() < spec.period_end
        found = []
        for scope, limit in ((ALLIANCE, spec.epsilon), (purpose, spec.purposes.get(purpose, 0.0))):
            before = [_event(row) for row in rows if scope in (ALLIANCE, row.purpose)]
            spent, after = epsilon_of(before, spec.delta), epsilon_of([*before, event], spec.delta)
            found.append(ScopePreview(scope, limit if today else 0.0, spent, after))
        return tuple(found)

    def _work_out(self, spec: BudgetSpec, event: DpEvent) -> None:
        """Works out the curves that are to be composed, and keeps them.

        A new event's curve can take a tenth of a second, and after a restart all are new: here the database's other
        writers do not wait for it.
        """
        with self._transaction() as connection:
            known = _counted(connection, spec)
        epsilon_of([*map(_event, known), event], spec.delta)

    def _find(self, connection: Connection, spec: BudgetSpec, asked: _Asked, today: date) -> str | None:
        """The entry of a key, or None where there is none and a new one fits. Raises BudgetError, see ``reserve``."""
        rows = _counted(connection, spec)
        for row in rows:
            if row.key == asked.key:
                if (row.purpose, row.event) != (asked.purpose, asked.written):
                    raise BudgetError(Reason.IDEMPOTENCY_CONFLICT, item=f"budget entry for {row.what}")
                if row.state == RELEASED:
                    raise BudgetError(Reason.ANSWER_LOST, item=str(row.what))
                return str(row.entry_id)
        if not spec.period_start <= today < spec.period_end:
            period = f"{spec.period_start} to {spec.period_end}"
            item, fix = (
                f"today is outside of the budget's period {period}",
                f"{FREE}, or have compliance agree on a period.",
            )
            raise BudgetError(Reason.BUDGET_EXHAUSTED, item=item, fix=fix)
        self._check(spec, rows, asked.purpose, asked.event)
        return None

    def _check(self, spec: BudgetSpec, rows: Sequence[Row[Any]], purpose: str, event: DpEvent) -> None:
        limit = spec.purposes.get(purpose)
        if limit is None:
            fix = "Have compliance give it a limit in budget.yaml."
            raise BudgetError(Reason.BUDGET_EXHAUSTED, item=f"purpose {purpose[:48]} has no budget", fix=fix)
        for scope, allowed in ((f"purpose {purpose}", limit), (ALLIANCE, spec.epsilon)):
            counted = [_event(row) for row in rows if scope == ALLIANCE or row.purpose == purpose]
            total = epsilon_of([*counted, event], spec.delta)
            if not total <= allowed:
                item = f"{scope}: epsilon would be {total:.4g}, limit {allowed:.4g} at delta {spec.delta:g}"
                later = f"wait for the next period, this one ends on {spec.period_end}"
                fix = f"{FREE}; {later}; or have compliance raise it."
                raise BudgetError(Reason.BUDGET_EXHAUSTED, item=item, fix=fix)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """One at a time in this process; the database keeps other processes out."""
        with self._lock, self._engine.begin() as connection:
            yield connection


def _counted(connection: Connection, spec: BudgetSpec) -> Sequence[Row[Any]]:
    """Live entries whose period overlaps the given one, oldest first (ISO dates order as text)."""
    wanted = select(_ENTRIES).where(
        _ENTRIES.c.state != CANCELLED,
        _ENTRIES.c.period_start < spec.period_end.isoformat(),
        _ENTRIES.c.period_end > spec.period_start.isoformat(),
    )
    return connection.execute(wanted.order_by(_ENTRIES.c.at, _ENTRIES.c.entry_id)).all()


def _spent(rows: Sequence[Row[Any]], scope: str, delta: float) -> float:
    return epsilon_of([_event(row) for row in rows if scope in (ALLIANCE, row.purpose)], delta)


def _read(key: str, purpose: str, what: str, event: DpEvent) -> _Asked:
    """Raises BudgetError (BAD_COST)."""
    if not (0 < len(key) <= MAX_TEXT and 0 < len(what) <= MAX_TEXT):
        raise BudgetError(Reason.BAD_COST, item="key or description of a cost")
    return _Asked(key, purpose, event, canonical_json(event_to_json(event)).decode())


def _event(row: Row[Any]) -> DpEvent:
    return event_from_json(json.loads(row.event))


def _state(connection: Connection, entry_id: str) -> str:
    state: str | None = connection.scalar(select(_ENTRIES.c.state).where(_ENTRIES.c.entry_id == entry_id))
    if state is None:
        raise BudgetError(Reason.BAD_COST, item="unknown budget entry")
    return state
