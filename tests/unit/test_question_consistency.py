"""Tables are whole, add up with what is published, and their intervals hold as often as they say."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.policy.specs import CubeSpec
from gateway.overlap.consistency import Margin, fit
from gateway.release import ReleasePath
from tests.question_kit import Asking, counts, person

RELEASES = 2_000
VENN = CubeSpec(name="venn", partners=("bank", "insurer", "airline"), epsilon=1.0, min_count=0)
TIERS = CubeSpec(name="tiers", partners=("bank", "airline"), by=("bank.tier",), epsilon=1.0, min_count=0)
CROSS = CubeSpec(
    name="cross", partners=("bank", "airline"), by=("bank.tier", "airline.activity"), epsilon=1.0, min_count=0
)
PEOPLE = [
    *[person(bank="basic")] * 60,
    *[person(bank="high", airline="active")] * 15,
    *[person(bank="basic", airline="silent")] * 3,
    *[person(insurer="senior")] * 2,
    *[person(bank="high", insurer="family", airline="silent")] * 1,
]


def sums(values: Sequence[int], groups: Sequence[int], number: int) -> tuple[int, ...]:
    return tuple(sum(v for v, g in zip(values, groups, strict=True) if g == at) for at in range(number))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-60, 400), min_size=1, max_size=60))
def test_a_table_alone_keeps_its_total_and_is_the_nearest_such_table(noisy: list[int]) -> None:
    found = np.array(fit(noisy).estimates)
    total = max(0, sum(noisy))
    assert found.min() >= 0
    assert found.sum() == total
    # Nearest: moving one person between any two cells comes no nearer than rounding allows.
    gap = found - np.array(noisy)
    givers = gap[found > 0]
    if len(givers) and total:
        assert givers.max() - gap.min() <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(2, 5))
def test_margins_of_crossing_tables_are_kept_exactly(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 30, rows * columns).tolist()
    row, column = [at // columns for at in range(len(truth))], [at % columns for at in range(len(truth))]
    margins = [
        Margin(tuple(row), sums(truth, row, rows)),
        Margin(tuple(column), sums(truth, column, columns)),
        Margin((0,) * len(truth), (sum(truth),)),
    ]
    found = fit([int(v) for v in np.rint(truth + rng.normal(0, 12, len(truth)))], margins)
    assert found.kept == (True, True, True)
    assert min(found.estimates) >= 0
    assert sums(found.estimates, row, rows) == margins[0].totals
    assert sums(found.estimates, column, columns) == margins[1].totals


def test_a_margin_that_contradicts_an_earlier_one_is_left_out() -> None:
    found = fit([5, 5, 5, 5], [Margin((0, 0, 1, 1), (10, 10)), Margin((0, 0, 0, 0), (70,))])
    assert (found.kept, found.estimates) == ((True, False), (5, 5, 5, 5))
    again = fit([5, 5, 5, 5], [Margin((0, 0, 0, 0), (70,)), Margin((0, 0, 1, 1), (10, 10))])
    assert again.kept == (True, False)
    assert sum(again.estimates) == 70


def test_cells_outside_of_a_margin_keep_their_own_total() -> None:
    found = fit([9, -3, 50, 40], [Margin((0, 0, -1, -1), (4,))])
    assert (found.kept, found.estimates) == ((True,), (4, 0, 50, 40))


def test_tables_of_an_epoch_add_up_whatever_the_order() -> None:
    """The three cubes share margins; each later one agrees with those before it."""
    for order in (("venn", "tiers", "cross"), ("cross", "venn", "tiers")):
        desk = Asking(PEOPLE, VENN, TIERS, CROSS)
        answers = {name: desk.cube(name) for name in order}
        assert list(answers[order[2]].agrees_with) == list(order[:2])
        tables = {name: counts(answer.cells) for name, answer in answers.items()}
        assert all(count >= 0 for table in tables.values() for count in table.values())

        def at_both(name: str, tables: dict = tables, **label: str) -> int:  # type: ignore[type-arg]
            wanted = {key.replace("_", ".", 1): value for key, value in label.items()}
            return sum(
                count
                for (members, labels), count in tables[name].items()
                if {"bank", "airline"} <= set(members) and wanted.items() <= dict(labels).items()
            )

        assert at_both("venn") == at_both("tiers") == at_both("cross")
        assert at_both("tiers", bank_tier="high") == at_both("cross", bank_tier="high")
        totals = {tuple(t.members): t.count for t in answers["venn"].totals}
        assert totals[("bank",)] == sum(c for (members, _), c in tables["venn"].items() if "bank" in members)


def test_a_coarse_sum_does_not_spoil_a_precise_table() -> None:
    coarse = CROSS.model_copy(update={"epsilon": 0.05})
    desk = Asking(PEOPLE, coarse, VENN)
    desk.cube("cross")
    assert list(desk.cube("venn").agrees_with) == []


class Forgetful:
    """A store that keeps nothing, so that every question is a release of its own."""

    def get(self, name: str, epoch: str, shape: str) -> None:
        return None

    def put(self, name: str, epoch: str, shape: str, make: Any) -> Any:
        return make([]), True

    def released(self, epoch: str) -> list[Any]:
        return []


class Free:
    """A ledger without limits."""

    def reserve(self, **_cost: Any) -> str:
        return "entry"

    def commit(self, entry_id: str) -> None:
        pass

    def cancel(self, entry_id: str) -> None:
        pass


def test_intervals_hold_in_two_thousand_releases() -> None:
    """Atoms, totals and margins; small cells too, where the estimate is made whole and its error is far from normal."""
    exact = Asking(PEOPLE, VENN, CROSS)
    truth_venn = exact.index.exact("e1", VENN.partners, ())
    truth_cross = exact.index.exact("e1", CROSS.partners, CROSS.by)
    covered: dict[str, list[bool]] = {"atom": [], "total": [], "margin": []}
    desk = Asking(PEOPLE, VENN, CROSS)
    desk.tables.store = Forgetful()
    desk.tables._path = ReleasePath(desk.policy, Free(), desk.log)
    for _ in range(RELEASES // 2):
        for cube, truth in ((VENN, truth_venn), (CROSS, truth_cross)):
            answer = desk.cube(cube.name)
            for cell in answer.cells:
                right = truth.get(
                    (tuple(cell.members), tuple((c, cell.labels[c]) for c in cube.by if c in cell.labels)), 0
                )
                covered["atom"].append(cell.low <= right <= cell.high)
                assert cell.low <= cell.count <= cell.high
            for total in answer.totals:
                labels = dict(total.labels)
                right = sum(
                    count
                    for (members, found), count in truth.items()
                    if set(total.members) <= set(members) and labels.items() <= dict(found).items()
                )
                covered["margin" if labels else "total"].append(total.low <= right <= total.high)
    for kind, hits in covered.items():
        # Numbers of one release that share cells are dependent: the slack counts releases, not numbers.
        assert np.mean(hits) > 0.95 - 4 * math.sqrt(0.05 * 0.95 / RELEASES), kind
        assert np.mean(hits) < 0.99, kind
