"""Measures of scores: against sklearn, by simulation, and what they refuse."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from federation.core.errors import DataError
from federation.training.measures import (
    auc_covariance,
    auc_interval,
    compare,
    log_losses,
    measure_group,
    measure_scores,
    wilson_interval,
)


def draw(rng: np.random.Generator, rows: int, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two models that share much, and labels."""
    truth = rng.normal(-1, 1, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    first = 1 / (1 + np.exp(-(truth + rng.normal(0, 1.0, rows)).round(1)))  # rounded: ties
    second = 1 / (1 + np.exp(-(truth + rng.normal(0, 1.0 / gain, rows)).round(1)))
    return first, second, labels


def test_aucs_are_sklearns_ties_included() -> None:
    first, second, labels = draw(np.random.default_rng(1), 3_000)
    values, cov = auc_covariance([first, second], labels)
    assert values[0] == pytest.approx(roc_auc_score(labels, first), abs=1e-12)
    assert values[1] == pytest.approx(roc_auc_score(labels, second), abs=1e-12)
    assert cov[0, 1] == cov[1, 0]
    assert 0 < cov[0, 1] < min(cov[0, 0], cov[1, 1])


def test_intervals_of_an_auc_and_of_a_difference_hold_what_they_promise() -> None:
    """500 samples: at 95 % fewer than 91 % come out in one of ten thousand repetitions."""
    rng = np.random.default_rng(5)
    first, second, labels = draw(rng, 400_000, gain=1.5)
    true_first, true_gap = roc_auc_score(labels, first), roc_auc_score(labels, second) - roc_auc_score(labels, first)
    inside = {"auc": 0, "difference": 0}
    for _ in range(500):
        one, other, y = draw(rng, 400, gain=1.5)
        alone, both = auc_interval(one, y), compare(one, other, y)
        inside["auc"] += alone.low <= true_first <= alone.high
        inside["difference"] += both.difference.low <= true_gap <= both.difference.high
    assert min(inside.values()) > 455, inside


def test_paired_interval_is_tighter_than_two_apart() -> None:
    first, second, labels = draw(np.random.default_rng(9), 2_000)
    found = compare(first, second, labels)
    paired = found.difference.high - found.difference.low
    apart = np.hypot(found.first.high - found.first.low, found.second.high - found.second.low)
    assert paired < apart
    assert compare(first, first, labels).p_value == 1.0
    assert compare(first, first, labels).difference.value == 0


def test_metrics_have_intervals_around_them() -> None:
    first, _, labels = draw(np.random.default_rng(2), 4_000)
    found = measure_scores(first, labels)
    assert found["auc_interval"][0] < found["auc"] < found["auc_interval"][1]
    assert found["log_loss_interval"][0] < found["log_loss"] < found["log_loss_interval"][1]
    assert found["log_loss"] == pytest.approx(float(log_losses(first, labels).mean()), abs=1e-5)
    assert all(low <= rate <= high for _, rate, low, high in found["calibration"])
    rates = [rate for _, rate in found["roc"]]
    assert (rates[0], rates[-1]) == (0.0, 1.0)
    assert rates == sorted(rates)


def test_curve_does_not_depend_on_the_order_of_equal_scores() -> None:
    labels = np.array([1.0, 0.0] * 50)
    same = np.full(100, 0.3)
    assert measure_scores(same, labels)["roc"][50][1] == pytest.approx(0.5)


def test_small_groups_are_not_judged_alone() -> None:
    first, _, labels = draw(np.random.default_rng(3), 2_000)
    best = first >= np.quantile(first, 0.9)
    found = measure_group(first, labels, best)
    assert found is not None
    assert found["positive_rate"][1] < labels.mean() < found["positive_rate"][2]
    assert found["calibration_ratio"][0] == pytest.approx(labels.sum() / first.sum(), abs=1e-3)
    assert measure_group(first[:19], labels[:19], best[:19]) is None
    assert measure_group(first[:100], np.zeros(100), best[:100]) is None


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(DataError):
        measure_scores(np.array([0.1, 0.2]), np.zeros(2))
    with pytest.raises(DataError):
        compare(np.array([0.1, 0.2]), np.array([0.1, 0.2]), np.ones(2))


def test_wilsons_interval_is_the_published_one() -> None:
    found = wilson_interval(15, 148)  # Newcombe 1998, table I, example (b)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0624, 0.1605)
