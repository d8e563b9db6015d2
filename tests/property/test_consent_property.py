"""In whatever order statements arrive, the newest stands, and a withdrawal yields only to a newer "given"."""

from datetime import timedelta

from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from federation.core.clock import FixedClock
from federation.core.database import open_database
from gateway.consent.sql import SqlConsentStore
from gateway.consent.store import ConsentRecord, stated_at, supersedes
from tests.conftest import NOW
from tests.kits.offers import BANK, given, handle, record

PURPOSE = "offer_sharing"
statements = st.lists(
    st.tuples(st.sampled_from(["given", "withdrawn", "refused"]), st.integers(-3, 3)), min_size=1, max_size=8
)


def statement(status: str, day: int) -> ConsentRecord:
    return record(BANK, 1, given(status=status, given_at=NOW + timedelta(days=day)))


@draw(statements, st.data())
def test_the_order_of_arrival_does_not_matter(drawn: list[tuple[str, int]], data: st.DataObject) -> None:
    def standing(order: list[tuple[str, int]]) -> str | None:
        stands = None
        for status, day in order:
            new = statement(status, day)
            stands = new if supersedes(new, stands) else stands
        assert stands is not None
        return "given" if stands.fact.status == "given" else "ended"

    newest = max(day for _, day in drawn)
    expected = "given" if all(status == "given" for status, day in drawn if day == newest) else "ended"
    assert standing(drawn) == standing(data.draw(st.permutations(drawn))) == expected


@settings(max_examples=40, deadline=None)
@draw(st.lists(st.one_of(st.just("withdraw"), st.tuples(st.booleans(), st.integers(-3, 3))), max_size=10))
def test_after_a_withdrawal_only_a_newer_given_counts(steps: list[str | tuple[bool, int]]) -> None:
    clock = FixedClock(NOW)
    store = SqlConsentStore(open_database(None), clock, lambda *_: 0)
    ended = None
    for step in steps:
        clock.at += timedelta(hours=1)
        if isinstance(step, str):
            ended = store.withdraw(BANK, handle(BANK, 1), PURPOSE).at
        else:
            store.record(BANK, [statement("given" if step[0] else "refused", step[1])])
        found = store.get(BANK, handle(BANK, 1), PURPOSE)
        if ended is not None and found is not None and found.fact.status == "given":
            assert found.stated_at > ended


def test_a_missing_time_counts_against_consent() -> None:
    assert stated_at(given(given_at=None), NOW).year == 1
    assert stated_at(given(status="withdrawn", given_at=None), NOW) == NOW
