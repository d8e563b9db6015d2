"""Never overspent, and never paid once for two releases, whatever reserves, commits, marks, cancels, crashes, clock
jumps and policy changes follow one another.

The model counts in whole units and predicts each answer; the ledger must agree exactly. What it has written down is
compared after every crash and at the end: an entry that was committed never goes away, so nothing is missed between.
"""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime

from dp_accounting import GaussianDpEvent
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import BudgetError, Reason
from federation.policy.specs import BudgetSpec
from federation.privacy.composition import epsilon_of
from gateway.budget.ledger import SqlLedger

DELTA = 1e-6
EVENTS = {count: GaussianDpEvent(20 / math.sqrt(count)) for count in (1, 2, 3)}
LIMITS = {count: epsilon_of([GaussianDpEvent(20 / math.sqrt(count + 0.5))], DELTA) for count in range(8)}
# Two halves of a year, and a period that overlaps both.
PERIODS = [
    (date(2026, 1, 1), date(2026, 7, 1)),
    (date(2026, 7, 1), date(2027, 1, 1)),
    (date(2026, 6, 1), date(2026, 12, 1)),
]
DAYS = [date(2025, 1, 1), *(day for period in PERIODS for day in period), date(2026, 6, 15), date(2030, 1, 1)]


@dataclass
class Entry:
    key: str
    purpose: str
    count: int
    period: tuple[date, date]
    state: str = "reserved"


class LedgerMachine(RuleBasedStateMachine):
    ids = Bundle("ids")

    @initialize()
    def begin(self) -> None:
        self.engine = open_database(None)
        self.clock = FixedClock(datetime(2026, 6, 15, tzinfo=UTC))
        self.model: dict[str, Entry] = {}
        self.released: set[str] = set()
        self.change_policy(PERIODS[0], 5, 3, 4)
        self.crash()

    def counted(self) -> list[Entry]:
        start, end = self.period
        return [e for e in self.model.values() if e.state != "cancelled" and e.period[0] < end and e.period[1] > start]

    def answer(self, key: str, purpose: str, count: int) -> str:
        """What the ledger must say: an id, or a reason."""
        for entry in self.counted():
            if entry.key == key:
                if (entry.purpose, entry.count) != (purpose, count):
                    return Reason.IDEMPOTENCY_CONFLICT
                if entry.state == "released":
                    return Reason.ANSWER_LOST
                return next(i for i, e in self.model.items() if e is entry)
        spent = [e.count for e in self.counted()]
        of_purpose = [e.count for e in self.counted() if e.purpose == purpose]
        inside = self.period[0] <= self.clock.at.date() < self.period[1]
        fits = sum(of_purpose) + count <= self.units.get(purpose, -1) and sum(spent) + count <= self.units["alliance"]
        return "new" if inside and fits else Reason.BUDGET_EXHAUSTED

    @rule(target=ids, key=st.sampled_from("abcdefgh"), purpose=st.sampled_from("stx"), count=st.sampled_from([1, 2, 3]))
    def reserve(self, key: str, purpose: str, count: int) -> object:
        expected, looked = self.answer(key, purpose, count), None
        try:
            self.ledger.check(key=key, purpose=purpose, what="cube", event=EVENTS[count])
        except BudgetError as error:
            looked = error.reason
        assert looked == (expected if isinstance(expected, Reason) else None)
        try:
            found = self.ledger.reserve(key=key, purpose=purpose, what="cube", event=EVENTS[count])
        except BudgetError as error:
            assert error.reason == expected  # noqa: PT017 - any answer may be right, but only that of the model
            return multiple()
        if expected == "new":
            assert found not in self.model
            self.model[found] = Entry(key, purpose, count, self.period)
        else:
            assert found == expected
        return found

    @rule(entry_id=ids)
    def commit(self, entry_id: str) -> None:
        try:
            self.ledger.commit(entry_id)
        except BudgetError:
            assert self.model[entry_id].state == "cancelled"
            return
        assert self.model[entry_id].state != "cancelled"
        if self.model[entry_id].state == "reserved":
            self.model[entry_id].state = "committed"
        self.released.add(entry_id)  # only now may noise be drawn

    @rule(entry_id=ids)
    def mark(self, entry_id: str) -> None:
        key = self.model[entry_id].key
        self.ledger.mark_released(key)
        for other, entry in self.model.items():
            if entry.key == key and entry.state != "cancelled":
                entry.state = "released"
                self.released.add(other)

    @rule(entry_id=ids)
    def cancel(self, entry_id: str) -> None:
        self.ledger.cancel(entry_id)
        if self.model[entry_id].state == "reserved":
            self.model[entry_id].state = "cancelled"

    @rule()
    def crash(self) -> None:
        if hasattr(self, "ledger"):
            self.check_what_was_released_is_counted()
        self.ledger = SqlLedger(self.engine, lambda: self.spec, self.clock)

    @rule(day=st.sampled_from(DAYS))
    def jump(self, day: date) -> None:
        self.clock.at = datetime(day.year, day.month, day.day, tzinfo=UTC)

    @rule(
        period=st.sampled_from(PERIODS),
        alliance=st.integers(3, 7),
        statistics=st.integers(0, 7),
        training=st.integers(0, 7),
    )
    def change_policy(self, period: tuple[date, date], alliance: int, statistics: int, training: int) -> None:
        self.period, self.units = period, {"alliance": alliance, "s": statistics, "t": training}
        self.spec = BudgetSpec(
            period_start=period[0],
            period_end=period[1],
            delta=DELTA,
            epsilon=LIMITS[alliance],
            purposes={"s": LIMITS[statistics], "t": LIMITS[training]},
        )

    def check_what_was_released_is_counted(self) -> None:
        overview = self.ledger.overview()
        states = {entry.entry_id: entry.state for entry in overview.entries}
        assert states == {i: e.state for i, e in self.model.items() if e in self.counted()}
        start, end = self.period
        due = {i for i in self.released if self.model[i].period[0] < end and self.model[i].period[1] > start}
        assert due == {i for i, state in states.items() if state in ("committed", "released")}

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.check_what_was_released_is_counted()
            self.engine.dispose()


LedgerMachine.TestCase.settings = settings(max_examples=2_000, stateful_step_count=12, deadline=None, derandomize=True)
TestLedger = LedgerMachine.TestCase
