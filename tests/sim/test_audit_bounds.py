"""The bounds of the empirical audit: valid on mechanisms whose epsilon is known, and not empty."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import brentq

from federation.core.errors import DataError
from federation.training.audit.bounds import (
    GUESS_SHARES,
    best_of,
    delta_of_mu,
    epsilon_of_mu,
    lower_bounds,
    one_run_epsilon,
    one_run_mu,
    one_run_p_value,
    shift_mu,
)
from federation.training.audit.canaries import Crafted, hadamard, row_scores, toss

DELTA = 1e-6


def flip(rng: np.random.Generator, epsilon: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Randomized response: each coin is told truly with chance e^eps / (1 + e^eps), which is epsilon-DP and no less."""
    coins = rng.random(count) < 0.5
    true = rng.random(count) < 1 / (1 + math.exp(-epsilon))
    return coins, coins == true


def gaussian(rng: np.random.Generator, epsilon: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Coins, and each coin plus noise that makes it (epsilon, DELTA)-DP and no less."""
    coins = rng.random(count) < 0.5
    mu = brentq(lambda mu: delta_of_mu(mu, epsilon) - DELTA, 0.01, 20)
    return coins, mu * coins + rng.standard_normal(count)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_randomized_response_is_bounded_from_below_and_tightly(epsilon: float) -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        coins, told = flip(rng, epsilon, 1000)
        found.append(one_run_epsilon(1000, 1000, int((coins == told).sum()), 0.0, 0.95))
    # 5 % of 300 is 15; more than 26 has a chance below 0.1 %.
    assert sum(bound > epsilon for bound in found) <= 26
    assert np.median(found) > 0.7 * epsilon - 0.05


def test_p_value_is_that_of_guessing_where_nothing_is_told_and_grows_with_delta() -> None:
    # four coins, all right: 1 in 16
    assert one_run_p_value(4, 4, 4, 0.0, 0.0) == pytest.approx(1 / 16)
    # by hand: W is binomial (2, 1/2); P[W >= 2] = 1/4; max(P[W = 1] / 1, P[W < 2] / 2) = 1/2
    assert one_run_p_value(10, 2, 2, 0.0, 0.001) == pytest.approx(0.25 + 2 * 10 * 0.001 * 0.5)
    values = [one_run_p_value(1000, 100, 80, 1.0, delta) for delta in (0, 1e-6, 1e-4, 1e-2)]
    assert values == sorted(values)
    assert values[0] < values[-1] == 1.0
    assert one_run_p_value(10, 0, 0, 1.0, 0.1) == 1.0


def test_delta_weakens_a_bound_and_all_right_guesses_are_finite_evidence() -> None:
    pure, approximate = (one_run_epsilon(1000, 200, 200, delta, 0.95) for delta in (0.0, 1e-5))
    assert pure == pytest.approx(-math.log(0.05 ** (-1 / 200) - 1), abs=1e-6)
    assert 0 < approximate < pure
    assert one_run_epsilon(1000, 200, 100, 0.0, 0.95) == 0
    assert one_run_mu(1000, 200, 100, 0.95) == 0


def test_mechanism_that_fails_with_chance_delta_is_not_accused() -> None:
    """Names every canary's coin with chance delta and else tells nothing: (0, delta)-DP for each."""
    rng, delta, wrong = np.random.default_rng(5), 0.02, 0
    for _ in range(500):
        coins = rng.random(100) < 0.5
        told = coins if rng.random() < delta else rng.random(100) < 0.5
        wrong += one_run_epsilon(100, 100, int((coins == told).sum()), delta, 0.95) > 0
    assert wrong <= 40


@pytest.mark.parametrize("epsilon", [1.0, 2.0, 6.0])
def test_gaussian_mechanism_is_bounded_from_below_by_all_bounds_together(epsilon: float) -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        coins, scores = gaussian(rng, epsilon, 2000)
        found.append(lower_bounds(scores, coins, DELTA, 0.95, gaussian=True, independent=True))
    names = [bound.name for bound in found[0]]
    assert names == ["any_mechanism", "gaussian_curve", "gaussian_noise"]
    # 3 of 60 may be wrong; more than 9 has a chance below 0.1 %.
    assert sum(best_of(bounds).epsilon > epsilon for bounds in found) <= 9
    medians = [float(np.median([bounds[place].epsilon for bounds in found])) for place in range(3)]
    assert medians[2] > 0.3 * epsilon
    if epsilon >= 2:
        assert medians[0] > 0.15 * epsilon
        assert medians == sorted(medians)


@pytest.mark.parametrize("share", GUESS_SHARES)
def test_each_bound_alone_is_wrong_no_more_often_than_it_says(share: float) -> None:
    rng, count, mu = np.random.default_rng(3), 1000, 1.0
    each = int(count * share)
    wrong_curve = wrong_any = 0
    for _ in range(120):
        coins = rng.random(count) < 0.5
        scores = mu * coins + rng.standard_normal(count)
        order = np.argsort(scores)
        right = int(coins[order[-each:]].sum() + (~coins[order[:each]]).sum())
        wrong_curve += one_run_mu(count, 2 * each, right, 0.95) > mu
        wrong_any += one_run_epsilon(count, 2 * each, right, DELTA, 0.95) > epsilon_of_mu(mu, DELTA)
    assert wrong_curve <= 14
    assert wrong_any <= 14


def test_shift_bound_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    for mu in (0.0, 0.5, 3.0):
        wrong = 0
        for _ in range(600):
            coins = rng.random(400) < 0.5
            wrong += shift_mu(mu * coins + rng.standard_normal(400), coins, 0.95) > mu
        # 30 of 600 may be wrong; at mu 0 a bound of 0 is never wrong
        assert 10 <= wrong <= 50


def test_dependent_canaries_do_not_break_the_bound() -> None:
    """One toss decides for all canaries whether they are told by randomized response or not at all: right guesses come
    together. That is epsilon-DP for each canary, and a bound that took canaries for independent would not know."""
    rng, epsilon, found = np.random.default_rng(6), 1.0, []
    for _ in range(300):
        coins, told = flip(rng, epsilon, 500)
        if rng.random() < 0.5:
            told = rng.random(500) < 0.5
        found.append(one_run_epsilon(500, 500, int((coins == told).sum()), 0.0, 0.95))
    assert sum(bound > epsilon for bound in found) <= 26
    assert max(found) > 0.5


def test_epsilon_agrees_with_the_accountant() -> None:
    from dp_accounting import get_epsilon_gaussian

    for mu in (0.1, 0.5, 2.0):
        assert epsilon_of_mu(mu, DELTA) == pytest.approx(get_epsilon_gaussian(1 / mu, DELTA), rel=1e-4, abs=1e-4)
    assert epsilon_of_mu(0.0, DELTA) == 0
    assert delta_of_mu(1e-3, 5.0) == pytest.approx(0, abs=1e-12)


def test_scores_that_are_not_normal_have_no_bound_that_needs_it() -> None:
    coins = np.arange(1000) % 2 == 0
    heavy = np.random.default_rng(7).standard_cauchy(1000)
    for scores in (heavy, coins.astype(float)):
        names = [bound.name for bound in lower_bounds(scores, coins, DELTA, 0.95, gaussian=True, independent=True)]
        assert names == ["any_mechanism", "gaussian_curve"]


@pytest.mark.parametrize("scores", [np.zeros(5), np.full(100, np.nan), np.zeros(99)])
def test_scores_that_say_nothing_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(DataError):
        lower_bounds(
            scores, np.zeros(100 if len(scores) > 5 else 5, dtype=bool), DELTA, 0.95, gaussian=False, independent=False
        )


@pytest.mark.parametrize(
    ("most", "order"), [(1, 1), (2, 2), (3, 2), (8, 8), (13, 12), (20, 20), (40, 40), (47, 44), (100, 96)]
)
def test_hadamard_matrices_are_orthogonal(most: int, order: int) -> None:
    matrix = hadamard(most)
    assert matrix.shape == (order, order)
    assert set(np.unique(matrix)) <= {-1, 1}
    assert (matrix @ matrix.T == order * np.eye(order)).all()


def test_no_matrix_is_smaller_than_half() -> None:
    assert all(len(hadamard(most)) * 2 > most for most in range(1, 200))


def test_crafted_canaries_are_told_apart_without_noise() -> None:
    canaries = Crafted(places=7, rounds=10)
    assert (canaries.count, canaries.rounds) == (7 * 8, 8)
    included = toss(canaries.count, lambda count: bytes(index * 37 % 256 for index in range(count)))
    assert 0 < included.sum() < canaries.count
    seen = [canaries.added(number, included, 9).astype(float) for number in range(1, 11)]
    assert all((values[7:] == 0).all() for values in seen)
    assert not seen[8].any()
    assert canaries.scores(seen) == pytest.approx(included.astype(float))


def test_each_crafted_canary_has_norm_one_in_every_round() -> None:
    canaries = Crafted(places=3, rounds=4)
    for index, number in itertools.product(range(canaries.count), range(1, 5)):
        alone = np.zeros(canaries.count, dtype=bool)
        alone[index] = True
        assert np.linalg.norm(canaries.added(number, alone, 3)) == 1


def test_overlapping_rows_are_told_apart_as_far_as_they_can_be() -> None:
    rng = np.random.default_rng(8)
    parts, coins = rng.standard_normal((20, 200)), rng.random(20) < 0.5
    scores = row_scores(parts, coins @ parts + 0.01 * rng.standard_normal(200), 0.01)
    assert np.abs(scores - coins).max() < 0.05
    assert np.abs(row_scores(parts, coins @ parts, 1e6) - 0.5).max() < 1e-3
