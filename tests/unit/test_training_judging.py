"""Judging a model on the partners' own rows: what a row adds, and that intervals from noisy histograms hold."""

import math

import numpy as np
import pytest

from federation.core.errors import DataError, TrainingError
from federation.training.joint_noise import FINE_BITS
from federation.training.judged import Cells, bin_scores, everyone, read_judged
from federation.training.judging import (
    EDGES,
    Grouping,
    Judging,
    JudgingLearner,
    default_edges,
    quantile_edges,
)
from federation.training.learner import Rows
from federation.training.measures import auc_interval
from federation.training.models import LOGISTIC_REGRESSION, Weights, score_rows

AGE = Grouping.banded("age", (30, 45, 60))
REGION = Grouping("region", ("CN", "EEA", "SG"))
JUDGING = Judging((REGION, AGE), bins=10, rounds=2)
COLUMNS = 12
UNIT = 2.0**FINE_BITS


def make_model(seed: int = 1) -> Weights:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (1, COLUMNS)).astype(np.float32)
    return {"weight": weight, "bias": np.array([-1.5], dtype=np.float32)}


def make_rows(rows: int, seed: int = 2) -> Rows:
    rng = np.random.default_rng(seed)
    x = np.zeros((rows, COLUMNS), dtype=np.float32)
    x[np.arange(rows), rng.integers(0, COLUMNS, rows)] = 1.0
    y = (rng.random(rows) < score_rows(LOGISTIC_REGRESSION, make_model(), x)).astype(np.float32)
    groups = np.stack([rng.integers(0, len(g.places), rows) for g in JUDGING.groupings], axis=1)
    return Rows(x, y, groups)


def make_learner() -> JudgingLearner:
    learner = JudgingLearner(LOGISTIC_REGRESSION, COLUMNS, JUDGING)
    learner.begin(make_model())
    return learner


def test_groups_are_public_and_everybody_is_in_one() -> None:
    assert AGE.places == ("below 30", "30 to 45", "45 to 60", "from 60", "unknown")
    assert AGE.place(["29", "30", "59.5", "60", "", "old"]).tolist() == [0, 1, 2, 3, 4, 4]
    assert REGION.place(["EEA", " cn ", "US", ""]).tolist() == [1, 0, 3, 3]
    assert JUDGING.width == (4 + 5) * 10 * 2
    assert [table.shape for table in JUDGING.split(np.zeros(JUDGING.width))] == [(4, 10, 2), (5, 10, 2)]


def test_one_row_adds_a_vector_of_norm_at_most_one_whoever_else_is_there() -> None:
    learner, rows = make_learner(), make_rows(200)
    told = learner.told(1)
    whole = learner.sums(1, told, rows)
    for gone in range(0, 200, 7):
        rest = np.delete(np.arange(200), gone)
        assert rows.groups is not None
        without = learner.sums(1, told, Rows(rows.x[rest], rows.y[rest], rows.groups[rest]))
        length = math.sqrt(float(np.square((whole - without).astype(np.float64)).sum())) / UNIT
        assert 0.999 < length <= 1.0
        assert np.count_nonzero(whole - without) == len(JUDGING.groupings)


def test_without_noise_the_counts_are_the_truth() -> None:
    learner, rows = make_learner(), make_rows(5_000)
    for number in (1, 2):
        learner.step(number, learner.sums(number, learner.told(number), rows) / UNIT, 0.25)
    counts, sigma, edges = learner.counts()
    assert sigma == pytest.approx(0.25 * math.sqrt(2) / math.sqrt(2), rel=1e-6)  # two groupings, two rounds
    tables = JUDGING.split(counts)
    assert rows.groups is not None
    for index, table in enumerate(tables):
        per_group = np.bincount(rows.groups[:, index], minlength=len(table))
        np.testing.assert_allclose(table.sum(axis=(1, 2)), per_group, atol=1e-3)
        assert table[:, :, 1].sum() == pytest.approx(rows.y.sum(), abs=1e-3)
    scores = score_rows(LOGISTIC_REGRESSION, make_model(), rows.x)
    binned = np.searchsorted(edges, scores, side="right").astype(np.float64)
    everybody = everyone(tables, 1e-9)
    assert everybody.auc().value == pytest.approx(auc_interval(binned, rows.y.astype(np.float64)).value, abs=1e-4)
    assert everybody.positive_rate().value == pytest.approx(float(rows.y.mean()), abs=1e-4)


@pytest.mark.parametrize("spoil", ["one below zero", "groupings apart", "another partner's mask"])
def test_a_sum_that_no_rows_can_give_is_refused(spoil: str) -> None:
    learner, rows = make_learner(), make_rows(2_000)
    rng, sigma = np.random.default_rng(8), 5.0
    fair = learner.sums(1, learner.told(1), rows) / UNIT + rng.normal(0, sigma, JUDGING.width)
    total = fair.copy()
    match spoil:
        case "one below zero":
            total[3] = -500
        case "groupings apart":
            total[:80] += 40  # region alone
        case _:
            total += rng.uniform(-(2.0**11), 2.0**11, JUDGING.width)
    with pytest.raises(TrainingError, match="all partners"):
        learner.step(1, total, sigma)
    learner.step(1, fair, sigma)
    assert learner.counts()[0].sum() == pytest.approx(2 * 2_000, abs=10 * sigma * math.sqrt(2 * JUDGING.width))


def test_state_goes_on_where_it_was() -> None:
    learner, rows = make_learner(), make_rows(300)
    learner.step(1, learner.sums(1, learner.told(1), rows) / UNIT, 1.0)
    again = JudgingLearner(LOGISTIC_REGRESSION, COLUMNS, JUDGING)
    again.restore(learner.state())
    for one in (learner, again):
        one.step(2, one.sums(2, one.told(2), rows) / UNIT, 1.0)
    assert (learner.counts()[0] == again.counts()[0]).all()
    assert (again.model()["weight"] == learner.model()["weight"]).all()


@pytest.mark.parametrize(
    "edges",
    [
        np.linspace(0.1, 0.9, 9),  # float64
        np.linspace(0.1, 0.9, 8, dtype=np.float32),
        np.linspace(0.9, 0.1, 9, dtype=np.float32),
        np.full(9, np.nan, dtype=np.float32),
        np.linspace(0.0, 0.9, 9, dtype=np.float32),
    ],
)
def test_a_partner_refuses_bins_that_are_none(edges: np.ndarray) -> None:
    learner = make_learner()
    with pytest.raises(TrainingError):
        learner.check_told(1, {**learner.told(1), EDGES: edges}, item="gateway")


def test_rows_without_groups_are_refused_and_nothing_judged_is_said() -> None:
    learner, rows = make_learner(), make_rows(10)
    with pytest.raises(DataError):
        learner.sums(1, learner.told(1), Rows(rows.x, rows.y))
    with pytest.raises(TrainingError):
        learner.counts()


def draw_population(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are true chances, and labels."""
    scores = 1 / (1 + np.exp(-rng.normal(-2, 1, rows)))
    return scores, (rng.random(rows) < scores).astype(np.float64)


def table_of(scores: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    cell = np.searchsorted(edges, scores, side="right") * 2 + (labels == 1)
    return np.bincount(cell, minlength=2 * (len(edges) + 1)).reshape(-1, 2).astype(np.float64)


@pytest.mark.parametrize("sigma", [0.5, 20.0, 60.0])
def test_intervals_hold_what_they_promise_with_the_noise(sigma: float) -> None:
    """400 samples: at 95 % true coverage fewer than 90 % come out in one of a million repetitions."""
    rng = np.random.default_rng(7)
    large_scores, large_labels = draw_population(rng, 2_000_000)
    edges = quantile_edges(large_scores[:20_000], 10)
    truth = Cells(table_of(large_scores, large_labels, edges), 1e-9)
    expected = bin_scores(edges, large_scores)
    hits = {"auc": 0, "positive_rate": 0, "selected_rate": 0, "calibration_ratio": 0}
    repeats = 400
    for _ in range(repeats):
        table = table_of(*draw_population(rng, 12_000), edges)
        cells = Cells(table + rng.normal(0, sigma, table.shape), sigma)
        assert cells.enough
        for name in hits:
            arguments = (expected,) if name == "calibration_ratio" else ()
            found, true = getattr(cells, name)(*arguments), getattr(truth, name)(*arguments).value
            hits[name] += found.low <= true <= found.high
    assert min(hits.values()) > 0.90 * repeats, hits
    assert max(hits.values()) <= repeats


def test_small_groups_are_not_shown_and_large_ones_are() -> None:
    rng = np.random.default_rng(3)
    judging = Judging((REGION,), bins=10, rounds=1)
    scores, labels = draw_population(rng, 20_000)
    edges = default_edges({}, 10)
    counts = np.zeros((4, 10, 2))
    counts[1], counts[2] = table_of(scores, labels, edges), table_of(scores[:100], labels[:100], edges)
    noisy = counts.reshape(-1) + rng.normal(0, 20, counts.size)
    shown = read_judged(judging, noisy, 20.0, edges)
    by = {group["group"]: group for group in shown["by"]["region"]}
    assert by["SG"]["too_few"]
    assert by["unknown"]["too_few"]
    assert "auc" not in by["SG"]
    assert by["EEA"]["auc"][1] < by["EEA"]["auc"][0] < by["EEA"]["auc"][2]
    assert abs(by["EEA"]["rows"][0] - 20_000) < 6 * 20 * math.sqrt(20)
    assert shown["everyone"]["rows"][1] < 20_100 < shown["everyone"]["rows"][2]
    assert all(len(bar) == 4 for bar in by["EEA"]["calibration"])


def test_margins_of_two_groupings_together_have_less_noise() -> None:
    tables = [np.zeros((4, 10, 2)), np.zeros((5, 10, 2))]
    together = everyone(tables, 3.0)
    assert together.sigma == pytest.approx(3.0 * math.sqrt(20 / 9))
    assert together.sigma < 3.0 * math.sqrt(4)


def test_scores_of_a_row_do_not_depend_on_other_rows() -> None:
    rows = make_rows(1_000)
    together = score_rows(LOGISTIC_REGRESSION, make_model(), rows.x)
    for place in (0, 3, 501, 999):
        alone = score_rows(LOGISTIC_REGRESSION, make_model(), rows.x[place : place + 1])
        assert alone[0] == together[place]
