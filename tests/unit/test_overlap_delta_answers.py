"""Answers around a delta: a stored one stays, a later table does not agree with one of other people."""

import pytest

from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId
from federation.policy.specs import CubeSpec
from gateway.overlap.answers import SqlAnswerStore
from tests.kits.questions import Asking, Exact, person
from tests.kits.refused import refused

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
        assert refused(Reason.WITHDRAWALS_UNCONFIRMED, ask) == "epoch e1"  # and not who
    assert asked == [("e1", ("bank", "airline")), ("e1", ("bank",))]
    assert (asking.spent, noise.draws) == (spent, draws)
    logged = asking.log.entries[entries:]
    assert [(kind, body["reason"], body["item"]) for kind, body in logged] == [
        ("refused", "WITHDRAWALS_UNCONFIRMED", "epoch e1")
    ] * 2
    assert asking.cube("venn").cells == stored.cells
    assert asking.ask("bank").read_from == "venn"


def test_whoever_would_be_refused_anyway_is_refused_before_any_partner_is_asked() -> None:
    """Else the error would tell, for nothing and as often as somebody likes, whether a withdrawal is under way."""
    asking = Asking([person(bank="high")] * 50, VENN)
    asked: list[str] = []
    asking.tables._confirm = lambda epoch, _partners: asked.append(epoch)
    budget = asking.policy.budget
    asking.policy.budget = budget.model_copy(update={"purposes": {"overlap_statistics": 0.1}})
    ways = (lambda: asking.cube("venn"), lambda: asking.ask("bank"))
    for ask in ways:
        refused(Reason.BUDGET_EXHAUSTED, ask)
    asking.policy.budget = budget
    asking.policy.permitted = False
    for ask in ways:
        refused(Reason.POLICY_DENIED, ask)
    asking.policy.permitted = True
    asking.policy.cubes["venn"] = VENN.model_copy(update={"partners": ("bank", "mallory")})
    refused(Reason.QUESTION_MISFIT, ways[0])
    assert asked == []
    assert [kind for kind, _ in asking.log.entries] == ["refused"] * 4
    asking.policy.cubes["venn"] = VENN
    assert asking.cube("venn").spent_now
    assert asked == ["e1"]


def test_a_budget_that_is_gone_while_partners_are_asked_is_not_overspent() -> None:
    asking = Asking([person(bank="high")] * 50, VENN, TIERS, noise=(noise := Exact()))
    limit = asking.policy.budget.model_copy(update={"purposes": {"overlap_statistics": 1.1}})
    asking.policy.budget = limit

    def meanwhile(_epoch: str, partners: tuple[str, ...]) -> None:
        asking.tables._confirm = lambda _epoch, _partners: None
        asking.cube("tiers")

    asking.tables._confirm = meanwhile  # type: ignore[assignment]
    refused(Reason.BUDGET_EXHAUSTED, asking.cube, "venn")
    assert noise.draws == 1
