"""What every driver of the ledger promises. Costs are counted in units: an event of ``units(n)`` loses n times one."""

import math
import os
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from dp_accounting import DpEvent, GaussianDpEvent, NoOpDpEvent
from sqlalchemy import Engine

from federation.core.canonical import canonical_json
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import BudgetError, Reason
from federation.policy.specs import BudgetSpec
from federation.privacy.composition import epsilon_of, event_to_json
from gateway.budget.ledger import ALLIANCE, SqlLedger

DELTA = 1e-6
MULTIPLIER = 20.0
STATISTICS, TRAINING = "overlap_statistics", "model_training"


def units(count: float) -> DpEvent:
    """Renyi loss grows with the inverse square of the noise, so this is that many times ``units(1)``."""
    return GaussianDpEvent(MULTIPLIER / math.sqrt(count))


def limit(count: float) -> float:
    return epsilon_of([units(count)], DELTA)


def spec(
    alliance: float, start: date = date(2026, 1, 1), end: date = date(2027, 1, 1), **purposes: float
) -> BudgetSpec:
    limits = {purpose: limit(count) for purpose, count in purposes.items()}
    return BudgetSpec(period_start=start, period_end=end, delta=DELTA, epsilon=limit(alliance), purposes=limits)


class Book:
    """A ledger whose policy and clock a test sets, and which can be opened again."""

    def __init__(self, open_engine: Callable[[], Engine], clock: FixedClock) -> None:
        self._open_engine, self.clock = open_engine, clock
        self.spec = spec(5.5, **{STATISTICS: 3.5, TRAINING: 4.5})
        self.reopen()

    def reopen(self) -> None:
        self.ledger = SqlLedger(self._open_engine(), lambda: self.spec, self.clock)

    def reserve(self, key: str, count: float = 1, purpose: str = STATISTICS) -> str:
        return self.ledger.reserve(key=key, purpose=purpose, what=f"cube {key}", event=units(count))

    def spent(self, scope: str = ALLIANCE) -> float:
        """In units."""
        found = {s.scope: s.epsilon_spent for s in self.ledger.overview().scopes}
        return next((n / 2 for n in range(40) if math.isclose(found[scope], limit(n / 2) if n else 0.0)), -1.0)


@pytest.fixture(params=["memory", "file"])
def book(request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock) -> Book:
    if request.param == "file":
        return Book(lambda: open_database(tmp_path / "state" / "gateway.db"), clock)
    engine = open_database(None)
    return Book(lambda: engine, clock)


def refusal(call: Callable[[], object]) -> BudgetError:
    with pytest.raises(BudgetError) as caught:
        call()
    return caught.value


def test_a_spend_is_counted_from_its_reservation(book: Book) -> None:
    assert book.spent() == 0
    entry = book.reserve("a")
    assert (book.spent(), book.spent(STATISTICS), book.spent(TRAINING)) == (1, 1, 0)
    book.ledger.commit(entry)
    book.ledger.commit(entry)
    book.reserve("b", 2, TRAINING)
    assert (book.spent(), book.spent(STATISTICS), book.spent(TRAINING)) == (3, 1, 2)


def test_a_purpose_stops_at_its_limit(book: Book) -> None:
    for key in "abc":
        book.reserve(key)
    error = refusal(lambda: book.reserve("d"))
    assert error.reason == Reason.BUDGET_EXHAUSTED
    assert error.item.startswith(f"purpose {STATISTICS}: epsilon would be {limit(4):.4g}, limit {limit(3.5):.4g}")
    assert f"this one ends on {book.spec.period_end}" in error.fix
    book.reserve("small", 0.5)
    assert book.spent(STATISTICS) == 3.5


def test_the_alliance_stops_at_its_limit_whatever_the_purpose(book: Book) -> None:
    book.reserve("a", 3)
    book.reserve("b", 2, TRAINING)
    error = refusal(lambda: book.reserve("c", 1, TRAINING))
    assert (error.reason, error.item.split(":")[0]) == (Reason.BUDGET_EXHAUSTED, ALLIANCE)
    assert book.spent() == 5


def test_a_purpose_without_a_limit_has_nothing_to_spend(book: Book) -> None:
    error = refusal(lambda: book.reserve("a", 0.5, "offer_sharing"))
    assert (error.reason, error.item) == (Reason.BUDGET_EXHAUSTED, "purpose offer_sharing has no budget")


def test_the_same_release_pays_once(book: Book) -> None:
    entry = book.reserve("a", 3)
    assert book.reserve("a", 3) == entry
    book.ledger.commit(entry)
    assert book.reserve("a", 3) == entry
    book.reopen()
    assert book.reserve("a", 3) == entry
    assert book.spent() == 3


def test_a_key_stands_for_one_cost(book: Book) -> None:
    book.reserve("a")
    assert refusal(lambda: book.reserve("a", 2)).reason == Reason.IDEMPOTENCY_CONFLICT
    assert refusal(lambda: book.reserve("a", 1, TRAINING)).reason == Reason.IDEMPOTENCY_CONFLICT
    assert book.spent() == 1


def test_a_cancelled_reservation_gives_back_and_frees_its_key(book: Book) -> None:
    first = book.reserve("a", 3)
    book.ledger.cancel(first)
    book.ledger.cancel(first)
    assert book.spent() == 0
    second = book.reserve("a", 2)
    assert second != first
    book.ledger.cancel(first)
    assert book.spent() == 2


def test_a_cancelled_reservation_cannot_be_committed(book: Book) -> None:
    entry = book.reserve("a")
    book.ledger.cancel(entry)
    assert refusal(lambda: book.ledger.commit(entry)).reason == Reason.BAD_COST
    assert book.spent() == 0


def test_a_committed_spend_cannot_be_taken_back(book: Book) -> None:
    entry = book.reserve("a")
    book.ledger.commit(entry)
    book.ledger.cancel(entry)
    assert book.spent() == 1


def test_an_unknown_entry_is_an_error(book: Book) -> None:
    assert refusal(lambda: book.ledger.commit("none")).reason == Reason.BAD_COST
    assert refusal(lambda: book.ledger.cancel("none")).reason == Reason.BAD_COST


@pytest.mark.parametrize("event", [NoOpDpEvent(), GaussianDpEvent(0.0)])
def test_a_cost_without_meaning_is_refused(book: Book, event: DpEvent) -> None:
    error = refusal(lambda: book.ledger.reserve(key="a", purpose=STATISTICS, what="x", event=event))
    assert error.reason == Reason.BAD_COST
    assert book.spent() == 0


@pytest.mark.parametrize(("key", "what"), [("", "x"), ("k", ""), ("k" * 401, "x"), ("k", "x" * 401)])
def test_a_spend_without_a_name_is_refused(book: Book, key: str, what: str) -> None:
    error = refusal(lambda: book.ledger.reserve(key=key, purpose=STATISTICS, what=what, event=units(1)))
    assert error.reason == Reason.BAD_COST


@pytest.mark.parametrize("at", [datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)])
def test_outside_of_the_period_nothing_can_be_spent(book: Book, at: datetime) -> None:
    book.clock.at = at
    assert refusal(lambda: book.reserve("a")).reason == Reason.BUDGET_EXHAUSTED


def test_a_clock_that_goes_back_sheds_no_spend(book: Book) -> None:
    book.reserve("a", 3)
    for at in (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, tzinfo=UTC)):
        book.clock.at = at
        assert refusal(lambda: book.reserve("b")).reason == Reason.BUDGET_EXHAUSTED


def test_the_next_period_starts_empty_and_a_repeated_release_pays_again(book: Book) -> None:
    entry = book.reserve("a", 3)
    book.spec = spec(5.5, date(2027, 1, 1), date(2028, 1, 1), **{STATISTICS: 3.5})
    book.clock.at = datetime(2027, 1, 1, tzinfo=UTC)
    assert book.spent() == 0
    assert book.reserve("a", 3) != entry
    assert book.spent() == 3


def test_a_period_that_is_shifted_by_a_day_keeps_what_was_spent(book: Book) -> None:
    entry = book.reserve("a", 3)
    book.spec = spec(5.5, date(2026, 1, 2), date(2027, 1, 2), **{STATISTICS: 3.5})
    assert book.spent() == 3
    assert refusal(lambda: book.reserve("b")).reason == Reason.BUDGET_EXHAUSTED
    assert book.reserve("a", 3) == entry


def test_a_lowered_limit_holds_at_once(book: Book) -> None:
    book.reserve("a", 2)
    book.spec = spec(5.5, **{STATISTICS: 1.5})
    assert refusal(lambda: book.reserve("b", 0.5)).reason == Reason.BUDGET_EXHAUSTED
    scopes = {scope.scope: scope for scope in book.ledger.overview().scopes}
    assert scopes[STATISTICS].epsilon_spent > scopes[STATISTICS].epsilon_limit


def test_the_overview_names_every_spend(book: Book) -> None:
    book.ledger.commit(book.reserve("a", 2))
    book.reserve("b", 1, TRAINING)
    book.ledger.cancel(book.reserve("c", 0.5))
    overview = book.ledger.overview()
    assert (overview.period_start, overview.period_end) == (date(2026, 1, 1), date(2027, 1, 1))
    assert [scope.scope for scope in overview.scopes] == [ALLIANCE, TRAINING, STATISTICS]
    found = sorted((e.what, e.purpose, e.state, e.mechanism) for e in overview.entries)
    assert found == [
        ("cube a", STATISTICS, "committed", "Gaussian, noise multiplier 14.14"),
        ("cube b", TRAINING, "reserved", "Gaussian, noise multiplier 20"),
    ]
    assert sum(e.epsilon for e in overview.entries) == pytest.approx(limit(2) + limit(1))


def test_what_was_released_is_not_paid_for_by_its_entry_again(book: Book) -> None:
    entry = book.reserve("a", 2)
    book.ledger.commit(entry)
    assert book.reserve("a", 2) == entry  # stored or not, nobody saw it
    book.ledger.mark_released("a")
    book.ledger.mark_released("a")
    book.reopen()
    error = refusal(lambda: book.reserve("a", 2))
    assert (error.reason, error.item) == (Reason.ANSWER_LOST, "cube a")
    assert refusal(lambda: book.reserve("a", 1)).reason == Reason.IDEMPOTENCY_CONFLICT
    book.ledger.commit(entry)  # by a process that reserved before another one marked
    book.ledger.cancel(entry)
    assert refusal(lambda: book.reserve("a", 2)).reason == Reason.ANSWER_LOST
    assert [e.state for e in book.ledger.overview().entries] == ["released"]
    assert book.spent() == 2


def test_a_mark_is_of_a_key_and_needs_no_entry(book: Book) -> None:
    cancelled = book.reserve("a")
    book.ledger.cancel(cancelled)
    book.ledger.mark_released("a")
    book.ledger.mark_released("nothing")
    other = book.reserve("b")
    assert (book.reserve("a") != cancelled, book.reserve("b")) == (True, other)


def test_in_a_new_period_what_was_released_may_be_paid_for_again(book: Book) -> None:
    book.reserve("a", 3)
    book.ledger.mark_released("a")
    book.spec = spec(5.5, date(2027, 1, 1), date(2028, 1, 1), **{STATISTICS: 3.5})
    book.clock.at = datetime(2027, 1, 1, tzinfo=UTC)
    book.reserve("a", 3)
    book.ledger.mark_released("a")
    assert refusal(lambda: book.reserve("a", 3)).reason == Reason.ANSWER_LOST


def test_a_database_of_before_there_were_marks_opens(tmp_path: Path, clock: FixedClock) -> None:
    """The mark is one more state: nothing about the file changes, and no entry in it was marked."""
    event = canonical_json(event_to_json(units(2))).decode()
    with sqlite3.connect(tmp_path / "old.db") as db:
        db.execute(
            "CREATE TABLE budget_entries (entry_id VARCHAR(32) NOT NULL PRIMARY KEY, key VARCHAR(400) NOT NULL, "
            "period_start VARCHAR(10) NOT NULL, period_end VARCHAR(10) NOT NULL, purpose VARCHAR(48) NOT NULL, "
            "what VARCHAR(400) NOT NULL, event VARCHAR NOT NULL, state VARCHAR(9) NOT NULL, at VARCHAR(40) NOT NULL)"
        )
        row = ("1", "a", "2026-01-01", "2027-01-01", STATISTICS, "cube a", event, "committed", "2026-10-01")
        db.execute("INSERT INTO budget_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    book = Book(lambda: open_database(tmp_path / "old.db"), clock)
    assert (book.spent(), book.reserve("a", 2)) == (2, "1")
    book.ledger.mark_released("a")
    assert refusal(lambda: book.reserve("a", 2)).reason == Reason.ANSWER_LOST


def test_threads_that_race_never_overspend(book: Book) -> None:
    won: list[str] = []
    lost: list[Reason] = []
    barrier = threading.Barrier(6)

    def race(thread: int) -> None:
        barrier.wait()
        for turn in range(3):
            try:
                won.append(book.reserve(f"{thread}-{turn}"))
            except BudgetError as error:
                lost.append(error.reason)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), lost) == (3, [Reason.BUDGET_EXHAUSTED] * 15)
    assert book.spent() == 3


def in_child(work: Callable[[], None]) -> int:
    """Runs it in a process of its own, which ends without any clean-up; returns the child's id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_processes_that_race_never_overspend(tmp_path: Path, clock: FixedClock) -> None:
    book = Book(lambda: open_database(tmp_path / "gateway.db"), clock)

    def race() -> None:
        book.reopen()
        for turn in range(3):
            try:
                book.reserve(f"{os.getpid()}-{turn}")
            except BudgetError as error:
                assert error.reason == Reason.BUDGET_EXHAUSTED  # noqa: PT017 - the child has no pytest

    children = [in_child(race) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert book.spent() == 3


def test_a_kill_between_reserve_and_commit_wastes_and_never_creates(tmp_path: Path, clock: FixedClock) -> None:
    book = Book(lambda: open_database(tmp_path / "gateway.db"), clock)

    def die() -> None:
        book.reopen()
        book.reserve("a", 2)
        os._exit(0)

    assert os.waitpid(in_child(die), 0)[1] == 0
    book.reopen()
    assert book.spent() == 2
    assert refusal(lambda: book.reserve("b", 2)).reason == Reason.BUDGET_EXHAUSTED
    book.ledger.commit(book.reserve("a", 2))  # the release is made again, and pays nothing more
    assert book.spent() == 2


def test_a_preview_is_what_the_spend_then_leaves(book: Book) -> None:
    book.reserve("a", 2)
    seen = book.ledger.preview(STATISTICS, units(1))
    assert [scope.scope for scope in seen] == [ALLIANCE, STATISTICS]
    assert all(scope.fits for scope in seen)
    assert book.spent() == 2
    book.reserve("b", 1)
    assert seen[0].epsilon_after == book.ledger.overview().scopes[0].epsilon_spent
    assert not book.ledger.preview(STATISTICS, units(1))[1].fits
    assert not book.ledger.preview("offer_sharing", units(1))[1].fits
    book.clock.at = datetime(2027, 1, 1, tzinfo=UTC)
    assert not any(scope.fits for scope in book.ledger.preview(STATISTICS, units(0.1)))


def test_a_check_says_what_a_spend_would_and_reserves_nothing(book: Book) -> None:
    def check(key: str, count: float = 1, purpose: str = STATISTICS, what: str = "cube") -> None:
        book.ledger.check(key=key, purpose=purpose, what=what, event=units(count))

    check("a", 3)
    assert book.ledger.overview().entries == ()
    book.reserve("a", 3)
    check("a", 3)
    for wrong, reason in (
        (("b",), Reason.BUDGET_EXHAUSTED),
        (("a", 2), Reason.IDEMPOTENCY_CONFLICT),
        (("", 1), Reason.BAD_COST),
        (("c", 1, "offer_sharing"), Reason.BUDGET_EXHAUSTED),
    ):
        assert refusal(lambda wrong=wrong: check(*wrong)).reason == reason  # type: ignore[misc]
    book.ledger.mark_released("a")
    assert refusal(lambda: check("a", 3)).reason == Reason.ANSWER_LOST


def test_the_overview_explains_every_part_of_the_total(book: Book) -> None:
    book.reserve("a", 2)
    book.reserve("b", 1, TRAINING)
    overview = book.ledger.overview()
    parts = sum(entry.share for entry in overview.entries)
    assert parts + overview.conversion == pytest.approx(overview.scopes[0].epsilon_spent)
    large, small = (entry.share for entry in sorted(overview.entries, key=lambda entry: entry.what))
    assert large == pytest.approx(2 * small)
