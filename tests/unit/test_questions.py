"""Ad hoc questions: free where something released answers them, else previewed, paid for once, and kept."""

import pytest

from federation.core.errors import Reason
from federation.overlap.questions import Question
from federation.policy.specs import MAX_FLOOR, AdHocSpec, CubeSpec, SumSpec
from federation.privacy.noise import calibrate_sigma
from gateway.overlap import tables
from gateway.overlap.prices import price_list
from gateway.rpc.port import MAX_MESSAGE_BYTES
from tests.kits.questions import Asking, Exact, Log, People, counts, person
from tests.kits.refused import refused

PEOPLE = [
    *[person(bank="basic")] * 40,
    *[person(bank="high")] * 30,
    *[person(bank="high", airline="active")] * 20,
    *[person(bank="basic", airline="silent")] * 10,
    *[person(bank="high", insurer="family", airline="silent")] * 7,
    *[person(insurer="senior")] * 5,
]
CROSS = CubeSpec(
    name="cross", partners=("bank", "airline"), by=("bank.tier", "airline.activity"), epsilon=0.5, min_count=0
)
BY = ["bank.tier", "bank.value", "airline.activity"]
STRATEGIC = {"where": {"bank.tier": "high"}, "by": ["airline.activity"]}


@pytest.fixture
def desk() -> Asking:
    return Asking(PEOPLE, CROSS, noise=Exact())


def test_an_ad_hoc_table_is_what_it_asks(desk: Asking) -> None:
    answer = desk.ask("bank", "airline", **STRATEGIC)
    assert counts(answer.cells) == {
        (("bank",), ()): 30,
        (("bank", "airline"), (("airline.activity", "active"),)): 20,
        (("bank", "airline"), (("airline.activity", "silent"),)): 7,
    }
    assert dict(answer.where) == {"bank.tier": "high"}
    assert {tuple(t.members): t.count for t in answer.totals if not t.labels} == {
        ("bank",): 57,
        ("bank", "airline"): 27,
    }
    assert answer.spent_now
    assert desk.spent == pytest.approx(0.5, rel=1e-6)


def test_what_a_released_cube_answers_is_free_and_the_same(desk: Asking) -> None:
    free = Asking(PEOPLE, CROSS)  # real noise
    cube = free.cube("cross")
    spent, reads = free.spent, free.index.reads
    answer = free.ask("airline", "bank", party="other", **STRATEGIC)
    assert (answer.read_from, answer.spent_now, free.spent) == ("cross", False, spent)
    assert free.index.reads == reads  # no exact count was looked at
    known = {(frozenset(cell.members), *sorted(cell.labels.items())): cell.count for cell in cube.cells}
    for cell in answer.cells:
        labels = {**cell.labels, "bank.tier": "high"}
        assert cell.count == known[(frozenset(cell.members), *sorted(labels.items()))]
    assert free.preview("bank", "airline", **STRATEGIC).read_from == "cross"


def test_spelling_caller_and_price_do_not_change_an_answer() -> None:
    desk = Asking(PEOPLE)
    first = desk.ask("bank", "insurer", "airline", by=["bank.tier", "airline.activity"])
    again = desk.ask("airline", "insurer", "bank", by=["airline.activity", "bank.tier"], epsilon=0.9, party="other")
    key = lambda cell: (sorted(cell.members), sorted(cell.labels.items()))  # noqa: E731
    assert sorted((key(c), c.count, c.low, c.high) for c in first.cells) == sorted(
        (key(c), c.count, c.low, c.high) for c in again.cells
    )
    assert not again.spent_now
    assert (again.epsilon, desk.spent) == (first.epsilon, pytest.approx(0.5, rel=1e-6))


def test_a_part_of_an_ad_hoc_table_is_free(desk: Asking) -> None:
    desk.ask("bank", "insurer", "airline", by=["bank.tier"])
    spent = desk.spent
    venn = desk.ask("bank", "airline")
    assert counts(venn.cells) == {(("bank",), ()): 70, (("airline",), ()): 0, (("bank", "airline"), ()): 37}
    assert not venn.spent_now
    assert venn.read_from.startswith("ad-hoc-")
    high = desk.ask("airline", "bank", where={"bank.tier": "high"})
    assert counts(high.cells) == {(("bank",), ()): 30, (("airline", "bank"), ()): 27}
    assert desk.spent == spent


def test_what_a_cube_withholds_a_question_of_ones_own_does_not_show() -> None:
    cube = CubeSpec(name="venn", partners=("bank", "insurer", "airline"), epsilon=1.0, min_count=80)
    desk = Asking(PEOPLE, cube, ad_hoc=AdHocSpec(min_count=10), noise=Exact())
    desk.cube("venn")

    def shown() -> dict[object, int]:
        answer = desk.ask("bank", "airline")
        assert answer.min_count == desk.preview("bank", "airline").min_count
        return {answer.min_count: sum(not cell.suppressed for cell in answer.cells)}

    assert shown() == {80: 0}  # 70 at the bank alone, 37 at both
    desk.policy.cubes["venn"] = cube.model_copy(update={"min_count": 50})
    assert shown() == {50: 1}
    del desk.policy.cubes["venn"]
    assert shown() == {80: 0}
    desk.policy.ad_hoc = AdHocSpec(min_count=90)
    assert shown() == {90: 0}


def test_a_later_table_never_changes_an_answer() -> None:
    desk = Asking(PEOPLE, CROSS)
    first = desk.ask("bank", "airline")
    desk.cube("cross")
    later = desk.ask("bank", "airline", by=["bank.tier"])
    assert desk.ask("bank", "airline").cells == first.cells
    assert desk.ask("bank", "airline", by=["bank.tier"]).cells == later.cells


def test_a_preview_spends_nothing_and_says_what_the_answer_will_cost(desk: Asking) -> None:
    seen = desk.preview("bank", "airline", epsilon=0.2, **STRATEGIC)
    assert (desk.spent, desk.index.reads, desk.log.entries) == (0, 0, [])
    sigma = calibrate_sigma(0.2, 1e-6, 1.0)
    assert (seen.epsilon, seen.cells, seen.fits, seen.sigma) == (0.2, 3, True, sigma)
    assert seen.expected_error == pytest.approx(1.959964 * sigma)
    assert {scope.scope for scope in seen.scopes} == {"alliance", "overlap_statistics"}
    desk.ask("bank", "airline", epsilon=0.2, **STRATEGIC)
    assert seen.scopes[0].epsilon_after == desk.spent
    desk.cube("cross")
    assert desk.preview("bank", "insurer", epsilon=0.2).scopes[0].epsilon_spent == desk.spent


def test_a_preview_shows_that_the_budget_is_too_small(desk: Asking) -> None:
    budget = desk.policy.budget
    desk.policy.budget = budget.model_copy(update={"purposes": {"overlap_statistics": 0.3}})
    assert not desk.preview("bank", "airline", epsilon=0.5).fits
    refused(Reason.BUDGET_EXHAUSTED, lambda: desk.ask("bank", "airline", epsilon=0.5))
    assert desk.index.reads == 0


def test_a_preview_refuses_what_a_replaced_epoch_does_not_answer() -> None:
    desk = Asking(PEOPLE, CROSS, noise=Exact(), epochs=2)
    assert refused(Reason.EPOCH_REPLACED, lambda: desk.preview("bank", "insurer", epoch="e1")) == "epoch e1"
    desk.cube("cross", epoch="e1")  # the kit lets an old epoch draw: what was stored while it was the newest
    assert desk.preview("bank", "airline", epoch="e1").read_from == "cross"
    assert desk.preview("bank", "insurer", epoch="e2").fits


def test_policy_says_whether_for_what_and_for_how_much() -> None:
    desk = Asking(PEOPLE, CROSS, ad_hoc=AdHocSpec(), noise=Exact())
    refused(Reason.POLICY_DENIED, lambda: desk.ask("bank", "airline"))
    desk.cube("cross")
    assert desk.ask("bank", "airline").read_from == "cross"  # what is out may be read
    desk.policy.ad_hoc = AdHocSpec(allowed=True, max_epsilon=0.2)
    assert "0.2" in refused(Reason.POLICY_DENIED, lambda: desk.ask("bank", "insurer", epsilon=0.3))
    refused(Reason.POLICY_DENIED, lambda: desk.preview("bank", "insurer", epsilon=0.3))
    told = refused(Reason.POLICY_DENIED, lambda: desk.ask("bank", "insurer", purpose="offer_sharing"))
    assert told.endswith("are for overlap_statistics, not for offer_sharing")
    items = [body.get("item", "")[:7] for kind, body in desk.log.entries if kind == "refused"]
    assert items == ["ad hoc ", "epsilon", "epsilon", "ad hoc "]  # each is a decision, so each is in the log
    desk.policy.permitted = False
    refused(Reason.POLICY_DENIED, lambda: desk.ask("bank", "airline"))


def test_a_question_for_next_to_nothing_is_refused() -> None:
    """It would cost no budget, fill the store, and be the epoch's answer to all of its parts."""
    desk = Asking(PEOPLE)
    for ask in (desk.ask, desk.preview):
        told = refused(Reason.POLICY_DENIED, lambda ask=ask: ask("bank", "airline", by=["bank.tier"], epsilon=1e-9))
        assert told == "epsilon 1e-09; one ad hoc question costs at least 0.01"
    assert not desk.store.released("e1")
    desk.policy.ad_hoc = AdHocSpec(allowed=True, default_epsilon=0.005)
    assert desk.ask("bank", "airline").epsilon == 0.005  # what the policy itself names
    refused(Reason.POLICY_DENIED, lambda: desk.ask("bank", "insurer", epsilon=0.004))


def test_after_a_crash_the_question_may_be_asked_for_another_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("overlap_statistics", "campaigns")
    desk = Asking(PEOPLE, ad_hoc=AdHocSpec(allowed=True, purposes=both), noise=Exact())
    desk.policy.budget = desk.policy.budget.model_copy(update={"purposes": dict.fromkeys(both, 2.0)})

    def crash(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "put", crash)
        with pytest.raises(KeyboardInterrupt):
            desk.ask("bank", "airline")
    assert desk.ask("bank", "airline", purpose="campaigns").spent_now
    assert {(entry.purpose, entry.state) for entry in desk.ledger.overview().entries} == {
        ("overlap_statistics", "committed"),
        ("campaigns", "released"),
    }
    assert not desk.ask("bank", "airline").spent_now


def test_a_preview_is_refused_by_the_rules_as_the_question_is_and_says_their_threshold(desk: Asking) -> None:
    desk.policy.min_k = 50
    assert desk.preview("bank", "airline").min_count == 50
    desk.cube("cross")
    assert desk.preview("bank", "airline").min_count == desk.ask("bank", "airline").min_count == 50
    desk.policy.permitted = False
    for partners in (("bank", "airline"), ("bank", "insurer")):  # what is stored, and what would be drawn
        assert (
            refused(Reason.POLICY_DENIED, lambda asked=partners: desk.preview(*asked)) == "forbidden: as the test says"
        )
        assert desk.log.entries[-1][0] == "refused"


@pytest.mark.parametrize(
    ("partners", "rest", "reason"),
    [
        ((), {}, Reason.BAD_FIELD),
        (("bank",), {"by": ["bank.tier"] * 7}, Reason.BAD_FIELD),
        (("bank",), {"epsilon": float("nan")}, Reason.BAD_FIELD),
        (("bank",), {"epsilon": -1.0}, Reason.BAD_FIELD),
        (("bank", "mallory"), {}, Reason.QUESTION_MISFIT),
        (("bank", "bank"), {}, Reason.QUESTION_MISFIT),
        (("bank",), {"by": ["airline.activity"]}, Reason.QUESTION_MISFIT),
        (("bank",), {"where": {"bank.tier": "golden"}}, Reason.QUESTION_MISFIT),
        (("bank",), {"epoch": "e9"}, Reason.UNKNOWN_EPOCH),
    ],
)
def test_what_cannot_be_asked(desk: Asking, partners: tuple[str, ...], rest: dict[str, object], reason: Reason) -> None:
    refused(reason, lambda: desk.ask(*partners, **rest))
    refused(reason, lambda: desk.preview(*partners, **rest))
    assert desk.spent == 0


def test_a_sum_counts_each_band_as_its_number_and_makes_noise_for_the_cap() -> None:
    values = {"low": 100, "high": 900}
    total = SumSpec(column="bank.value", values=values, cap=1000, unit="EUR")
    cube = CubeSpec(name="revenue", partners=("bank", "airline"), sum=total, epsilon=1.0, min_count=20)
    people = [person(bank="basic")] * 25 + [{"bank": {**person(bank="high")["bank"], "value": "high"}}] * 30
    desk = Asking([*people, *[person(airline="active")] * 50], cube, noise=Exact())
    answer = desk.cube("revenue")
    assert counts(answer.cells) == {(("bank",), ()): 25 * 100 + 30 * 900, (("bank", "airline"), ()): 0}
    assert (answer.unit, answer.sensitivity) == ("EUR", 1000)
    assert answer.sigma == pytest.approx(1000 * calibrate_sigma(1.0, 1e-6, 1.0), rel=1e-6)
    assert [cell.suppressed for cell in answer.cells] == [False, True]  # 29,500 is at least 29 people; 0 is not 20
    assert desk.ask("bank", "airline").spent_now  # people are another question than their revenue
    with pytest.raises(ValueError, match="more than the cap"):
        SumSpec(column="bank.value", values=values, cap=500, unit="EUR")


def test_the_gate_sees_which_columns_a_question_uses(desk: Asking) -> None:
    desk.ask("bank", "airline", **STRATEGIC)
    asked = {facts.origin: sorted(facts.fields) for facts in desk.policy.asked}
    assert asked == {"bank": ["bank.tier"], "airline": ["airline.activity"]}


def test_a_fixed_column_is_not_also_split_by() -> None:
    one = Question(("a", "b"), ("a.x", "b.y"), (("a.x", "1"),))
    assert one.digest() == Question(("b", "a"), ("b.y",), (("a.x", "1"),)).digest()


def test_the_price_list_says_what_the_next_release_adds() -> None:
    desk = Asking(PEOPLE, CROSS, CubeSpec(name="dear", partners=("bank", "airline"), epsilon=7.0), log=Log())
    before = {price.what: price for price in price_list(desk.cubes, desk.ledger)}
    assert before["cube cross"].epsilon_more == pytest.approx(0.5, rel=1e-6)
    assert (before["cube cross"].fits, before["cube dear"].fits) == (True, False)
    desk.cube("cross")
    after = {price.what: price for price in price_list(desk.cubes, desk.ledger)}
    assert after["cube cross"].released
    assert 0 < after["cube cross"].epsilon_more < 0.5  # what is added composes
    own = after["a question of your own"]
    assert (own.epsilon, own.released) == (0.5, False)
    assert own.epsilon_more == pytest.approx(after["cube cross"].epsilon_more)
    desk.policy.ad_hoc = AdHocSpec()
    assert "a question of your own" not in {price.what for price in price_list(desk.cubes, desk.ledger)}


@pytest.mark.parametrize(
    ("partners", "rest", "says"),
    [
        (("bank", "mallory"), {}, 'unknown partner "mallory"; known: bank, insurer, airline'),
        (("bank",), {"by": ["bank.teir"]}, 'unknown column "bank.teir"; known: bank.tier, bank.holds_gold, bank.value'),
        (("airline",), {"by": ["activity"]}, 'unknown column "activity"; known: airline.activity'),
        (("bank",), {"by": ["airline.activity"]}, "airline.activity, whose partner airline is not asked for"),
        (("bank",), {"where": {"bank.tier": "golden"}}, 'unknown value of bank.tier "golden"; known: basic, high'),
        (("bank", "bank"), {}, "bank twice"),
    ],
)
def test_what_does_not_fit_is_told_with_what_there_is(
    desk: Asking, partners: tuple[str, ...], rest: dict[str, object], says: str
) -> None:
    told = refused(Reason.QUESTION_MISFIT, lambda: desk.ask(*partners, **rest))
    assert told.endswith(f": {says}")
    assert 'unknown cube "nothing"; known: cross' in refused(Reason.UNKNOWN_CUBE, lambda: desk.cube("nothing"))
    assert "e9; the newest is e1" in refused(Reason.UNKNOWN_EPOCH, lambda: desk.cube("cross", epoch="e9"))


def test_a_table_that_no_message_carries_is_refused_before_it_is_paid() -> None:
    """80,000 cells of six columns: 22 MiB."""
    columns = {
        party: {name: tuple(f"{name}_{at}" for at in range(size)) for name, size in (("first", 7), ("second", 6))}
        for party in ("bank", "insurer", "airline")
    }
    desk = Asking([], index=People([], columns=columns))
    by = [f"{party}.{name}" for party, names in columns.items() for name in names]
    told = refused(Reason.QUESTION_MISFIT, lambda: desk.ask(*columns, by=by))
    assert told.endswith("79,506 cells, too large for one answer")
    assert (desk.spent, desk.index.reads) == (0, 0)
    assert desk.ask(*columns, by=by[:4]).ByteSize() < MAX_MESSAGE_BYTES


@pytest.mark.parametrize("least", [0, MAX_FLOOR])
def test_no_cell_is_larger_on_the_wire_than_it_is_taken_for(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = AdHocSpec(allowed=True, min_count=least)
    sent = Asking(PEOPLE, ad_hoc=rules).ask("bank", "airline", by=BY)
    taken = sum(cell.ByteSize() + 3 for cell in sent.cells)  # 3: the cell's own tag and length
    monkeypatch.setattr(tables, "MAX_ANSWER_BYTES", taken - 1)
    refused(Reason.QUESTION_MISFIT, lambda: Asking(PEOPLE, ad_hoc=rules).ask("bank", "airline", by=BY))
