"""Counts are counted exactly, fitted sensibly, and refused where no rows could have given them."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from federation.core.errors import Reason, TrainingError
from federation.training.counts import CountsLearner
from federation.training.discriminant import blocks_of
from federation.training.features import MARKETING_V1, Banded, Categorical, Flag
from federation.training.joint_noise import FINE_BITS
from federation.training.learner import Rows
from federation.training.models import LINEAR_DISCRIMINANT, initial, predict

FEATURES = (Banded("age", (20, 40, 60)), Categorical("job", ("one", "two", "three")), Flag("loan"))
WIDTH = blocks_of(FEATURES)[-1].stop
UNIT = 2.0**FINE_BITS


def draw(count: int, seed: int = 1) -> Rows:
    """Rows whose label goes with age and job, and whose loan goes with the job."""
    rng = np.random.default_rng(seed)
    age, job = rng.integers(0, 4, count), rng.integers(0, 3, count)
    loan = (rng.random(count) < np.array([0.1, 0.5, 0.9])[job]).astype(int)
    x = np.zeros((count, WIDTH), np.float32)
    for block, place in zip(blocks_of(FEATURES), (age, job, loan), strict=True):
        x[np.arange(count), block.start + place] = 1 / math.sqrt(3)
    chance = 1 / (1 + np.exp(3 - 0.8 * age - 1.0 * (job == 0)))
    return Rows(x, (rng.random(count) < chance).astype(np.float32))


def learner(rounds: int = 1) -> CountsLearner:
    made = CountsLearner(FEATURES, rounds=rounds)
    made.begin(initial(LINEAR_DISCRIMINANT, WIDTH))
    return made


def test_sums_are_the_counts() -> None:
    rows, made = draw(700), learner()
    counts = made._read(made.sums(1, {}, rows) / UNIT, 1e-6)
    z = (rows.x > 0).astype(float)
    assert np.allclose(counts.positives, z[rows.y == 1].sum(axis=0))
    assert np.allclose(counts.negatives, z[rows.y == 0].sum(axis=0))
    square = z.T @ z
    for block in blocks_of(FEATURES):
        square[block, block] = 0
    assert np.allclose(counts.pairs, square)
    assert counts.totals(blocks_of(FEATURES))[:2] == pytest.approx((rows.y.sum(), 700 - rows.y.sum()))


@pytest.mark.parametrize("features", [FEATURES, FEATURES[:1], MARKETING_V1.features])
def test_every_row_has_the_same_norm_of_at_most_one(features: tuple) -> None:  # type: ignore[type-arg]
    made = CountsLearner(features, rounds=1)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, blocks_of(features)[-1].stop)).astype(np.float32) * 1e6  # whatever a file holds
    x[0], x[1] = 0, np.nan
    for index in range(len(x)):
        alone = made.sums(1, {}, Rows(x[[index]], np.array([index % 2], np.float32)))
        square = sum(int(value) ** 2 for value in alone)
        assert (0.999 * UNIT) ** 2 <= square <= UNIT**2


def test_without_noise_the_order_is_that_of_a_logistic_regression_and_the_chances_fit() -> None:
    rows, test, made = draw(40_000), draw(5_000, seed=2), learner()
    made.step(1, made.sums(1, {}, rows) / UNIT, 1e-3)
    found = predict(LINEAR_DISCRIMINANT, made.model(), test.x)
    expected = LogisticRegression(C=100).fit(rows.x, rows.y).decision_function(test.x)
    assert stats.spearmanr(found, expected).statistic > 0.97
    for part in np.array_split(np.argsort(found), 5):
        assert abs(found[part].mean() - test.y[part].mean()) < 0.08


def test_noise_makes_weights_small_not_wild() -> None:
    rows, made = draw(2_000), learner()
    exact = made.sums(1, {}, rows) / UNIT
    sizes = []
    for sigma in (1e-3, 10.0, 30.0):
        made.begin(initial(LINEAR_DISCRIMINANT, WIDTH))
        made.step(1, exact, sigma)
        weight = made.model()["weight"][0]
        assert np.isfinite(weight).all()
        sizes.append(np.abs(weight).max())
    assert sizes[0] > sizes[1] > sizes[2]


def test_mean_of_rounds_has_the_noise_of_one_that_spends_it_all() -> None:
    rows, made = draw(2_000), learner(rounds=25)
    exact = made.sums(1, {}, rows) / UNIT
    rng = np.random.default_rng(1)
    for number in range(1, 26):
        made.step(number, exact + rng.normal(size=len(exact)) * 50, 50.0)
    assert np.std(made._mean - exact) == pytest.approx(10.0, rel=0.15)
    counts = made._counts()
    assert counts.pair_sigma * made._pair_unit / UNIT == pytest.approx(10.0)


def test_partners_are_told_nothing_and_take_nothing() -> None:
    made = learner()
    assert made.told(1) == {}
    with pytest.raises(TrainingError) as caught:
        made.check_told(1, initial(LINEAR_DISCRIMINANT, WIDTH), item="gateway")
    assert caught.value.reason == Reason.BAD_UPDATE


@pytest.mark.parametrize("poison", ["less than nobody", "one place too full", "pairs of nobody", "infinite", "swapped"])
def test_sum_that_no_rows_can_give_is_refused(poison: str) -> None:
    rows, made, sigma = draw(5_000), learner(), 5.0
    total = made.sums(1, {}, rows) / UNIT
    made.step(1, total + np.random.default_rng(1).normal(size=len(total)) * sigma, sigma)  # an honest one is fine
    made.begin(initial(LINEAR_DISCRIMINANT, WIDTH))
    match poison:
        case "less than nobody":
            total[3] = -1000
        case "one place too full":
            total[1] += 3000
        case "pairs of nobody":
            total[2 * WIDTH :] = 0
        case "infinite":
            total[0] = np.inf
        case "swapped":
            total = total[::-1].copy()
    with pytest.raises(TrainingError) as caught:
        made.step(1, total, sigma)
    assert caught.value.reason == Reason.BAD_UPDATE


def test_too_few_customers_for_the_noise_end_the_run_after_the_last_round() -> None:
    rows, made = draw(40), learner(rounds=2)
    total = made.sums(1, {}, rows) / UNIT
    made.step(1, total, 20.0)
    assert np.isfinite(made.model()["weight"]).all()
    with pytest.raises(TrainingError, match="too few customers"):
        made.step(2, total, 20.0)
