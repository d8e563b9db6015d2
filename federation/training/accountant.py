"""The partner's own account of what training has cost its customers: over all rounds, runs and restarts, on disk.

Every cost is written, and synced, before the noise it pays for is drawn; a crash can waste budget, never create it. A
cost that would pass the partner's limit is refused before a row is touched, whatever the gateway asks. Entries are
never changed or removed. The account is an upper bound: it takes every customer to have been in every run.
"""

import json
import threading
from collections.abc import Callable
from typing import Protocol

from dp_accounting import DpEvent
from sqlalchemy import Column, Connection, Engine, Float, Integer, MetaData, String, Table, select

from federation.core.clock import Clock, to_text
from federation.core.errors import BudgetError, Reason
from federation.privacy.composition import event_from_json, event_to_json
from federation.training.accounting import total_epsilon

_metadata = MetaData()
_charges = Table(
    "training_charges",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False),
    Column("what", String, nullable=False),
    Column("event", String, nullable=False),
    Column("epsilon_after", Float, nullable=False),
    Column("at", String, nullable=False),
)


class CustomerLimits(Protocol):
    """The partner's limits, as in its configuration."""

    @property
    def epsilon_per_customer(self) -> float:
        """Over all runs ever."""
        ...

    @property
    def delta(self) -> float:
        """At which epsilon is stated."""
        ...

    @property
    def max_epsilon_per_run(self) -> float:
        """Of one run."""
        ...


class CustomerAccountant:
    """Counts what one partner's customers have paid. Safe to share between threads and processes.

    Args:
        engine: From ``open_database``.
        limits: What the partner allows.
        clock: Dates the entries.
    """

    def __init__(self, engine: Engine, limits: CustomerLimits, clock: Clock) -> None:
        self._engine, self._limits, self._clock = engine, limits, clock
        self._lock = threading.Lock()
        _metadata.create_all(engine)

    def check(self, run_id: str, events: tuple[DpEvent, ...]) -> None:
        """Raises BudgetError (BUDGET_EXHAUSTED) if the events, as a part of a run, would pass a limit."""
        with self._engine.begin() as connection:
            self._after(connection, run_id, events)

    def charge(
        self, run_id: str, what: str, event: DpEvent, allow: Callable[[frozenset[str]], None] = lambda _: None
    ) -> float:
        """Writes a cost; it is on disk when this returns, and only then may the noise be drawn.

        Args:
            run_id: Of the run.
            what: For example the round's message id; the same name twice is paid twice.
            event: The cost.
            allow: Gets the names of everything that the run was charged for before, and raises where this is too much;
                nobody else charges meanwhile.

        Returns:
            Epsilon of everything so far, this included.

        Raises:
            BudgetError: BUDGET_EXHAUSTED, and nothing is written; neither is where ``allow`` raises.
        """
        with self._lock, self._engine.begin() as connection:
            allow(_names(connection, run_id))
            after = self._after(connection, run_id, (event,))
            row = {"run_id": run_id, "what": what, "event": json.dumps(event_to_json(event)), "epsilon_after": after}
            connection.execute(_charges.insert().values(**row, at=to_text(self._clock.now())))
            return after

    def charged(self, run_id: str) -> frozenset[str]:
        """Names of everything that a run was charged for."""
        with self._engine.begin() as connection:
            return _names(connection, run_id)

    def spent(self, run_id: str | None = None) -> float:
        """Epsilon so far, at the limits' delta: of everything, or of one run."""
        with self._engine.begin() as connection:
            return total_epsilon(_read(connection, run_id), self._limits.delta)

    def _after(self, connection: Connection, run_id: str, events: tuple[DpEvent, ...]) -> float:
        """Epsilon of everything with the events added. Raises BudgetError (BUDGET_EXHAUSTED)."""
        limits = self._limits
        of_run = total_epsilon((*_read(connection, run_id), *events), limits.delta)
        of_all = total_epsilon((*_read(connection, None), *events), limits.delta)
        for name, value, limit in (
            ("max_epsilon_per_run", of_run, limits.max_epsilon_per_run),
            ("epsilon_per_customer", of_all, limits.epsilon_per_customer),
        ):
            if value > limit:
                raise BudgetError(
                    Reason.BUDGET_EXHAUSTED, item=f"partner's limit {name} {limit:g}, would be {value:.3g}"
                )
        return of_all


def _names(connection: Connection, run_id: str) -> frozenset[str]:
    return frozenset(connection.scalars(select(_charges.c.what).where(_charges.c.run_id == run_id)))


def _read(connection: Connection, run_id: str | None) -> tuple[DpEvent, ...]:
    """The events paid so far, of all runs or of one."""
    query = select(_charges.c.event).order_by(_charges.c.id)
    if run_id is not None:
        query = query.where(_charges.c.run_id == run_id)
    return tuple(event_from_json(json.loads(text)) for text in connection.scalars(query))
