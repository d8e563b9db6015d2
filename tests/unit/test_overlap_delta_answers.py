"""Answers around a delta: a stored one stays, a later table does not agree with one of other people."""

import pytest

from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId
from federation.policy.specs import CubeSpec
from gateway.overlap.answers import SqlAnswerStore
from tests.kits.questions import Asking, Exact, person

VENN = CubeSpec(name="venn", partners=("bank", "airline"), epsilon=1.0, min_count=0)
TIERS = CubeSpec(name="tiers", partners=("bank", "airline"), by=("bank.tier",), epsilon=1.0, min_count=0)


def test_a_table_agrees_with_earlier_ones_of_the_same_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking([person(bank="high")] * 50 + [person(airline="active")] * 30, VENN, TIERS, noise=Exact())
    first = asking.cube("venn")
    asking.index.people = [person(bank="high")] * 20
    monkeypatch.setattr(asking.index, "generation", lambda _epoch: 1)
    later = asking.cube("tiers")
    assert list(later.agrees_with) == []
    assert {cell.count for cell in later.cells} == {0, 20}
    assert asking.cube("venn").cells == first.cells
    reopened = SqlAnswerStore(asking.store._engine)
    assert [one.answer.generation for one in reopened.released(EpochId("e1"))] == [0, 1]


def test_without_a_confirmation_nothing_is_drawn_or_paid_and_what_is_stored_is_given() -> None:
    asking = Asking([person(bank="high")] * 50, VENN, TIERS, noise=(noise := Exact()))
    stored = asking.cube("venn")
    asked: list[tuple[str, tuple[str, ...]]] = []

    def refuse(epoch: str, partners: tuple[str, ...]) -> None:
        asked.append((epoch, partners))
        raise OverlapError(Reason.WITHDRAWALS_UNCONFIRMED, item="partner bank: not connected")

    asking.tables._confirm = refuse  # type: ignore[assignment]
    spent, draws, entries = asking.spent, noise.draws, len(asking.log.entries)
    for ask in (lambda: asking.cube("tiers"), lambda: asking.ask("bank", by=["bank.value"])):
        with pytest.raises(OverlapError) as caught:
            ask()
        assert caught.value.reason is Reason.WITHDRAWALS_UNCONFIRMED
    assert asked == [("e1", ("bank", "airline")), ("e1", ("bank",))]
    assert (asking.spent, noise.draws, len(asking.log.entries)) == (spent, draws, entries)
    assert asking.cube("venn").cells == stored.cells
    assert asking.ask("bank").read_from == "venn"
