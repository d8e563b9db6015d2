"""Noise has the distribution it claims, and a calibrated sigma keeps its promise.

Draws come from the operating system, so bounds on samples are set 6.5 deviations out: each fails by chance less than
once in a billion runs.
"""

import itertools
import math
import statistics

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from dp_accounting.pld import PLDAccountant

from federation.core.errors import BudgetError, Reason
from federation.overlap.answers import interval
from federation.privacy.composition import epsilon_of
from federation.privacy.noise import MAX_VALUE, calibrate_sigma, discrete_gaussian, gaussian_event

DRAWS = 10_000
DEVIATIONS = 6.5
DELTA = 1e-6


@pytest.mark.parametrize("sigma", [0.7, 10.0, 1e6])
def test_noise_has_the_mean_and_variance_of_a_gaussian(sigma: float) -> None:
    noise = discrete_gaussian([0] * DRAWS, sigma)
    assert all(type(value) is int for value in noise)
    assert abs(statistics.fmean(noise)) < DEVIATIONS * sigma / math.sqrt(DRAWS)
    # From sigma 0.7 on, the discrete variance is sigma^2 within 1 %; a sample's has deviation sqrt(2 / draws).
    error = statistics.pvariance(noise, 0) / sigma**2 - 1
    assert abs(error) < 0.01 + (DEVIATIONS + 1) * math.sqrt(2 / DRAWS)


def test_small_noise_has_the_exact_probabilities() -> None:
    sigma = 0.7
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-20, 21)]
    noise = discrete_gaussian([0] * DRAWS, sigma)
    for value in (-1, 0, 1):
        share = weights[value + 20] / sum(weights)
        assert abs(noise.count(value) / DRAWS - share) < DEVIATIONS * math.sqrt(share * (1 - share) / DRAWS)


def test_noise_is_added_to_each_value_independently() -> None:
    values = list(range(0, 1000 * DRAWS, 1000))
    noise = [noisy - value for noisy, value in zip(discrete_gaussian(values, 10.0), values, strict=True)]
    assert max(map(abs, noise)) < 10.0 * 9  # a deviation of 9 in 10,000 draws: below 1e-14
    correlation = statistics.fmean(a * b for a, b in itertools.pairwise(noise)) / 100
    assert abs(correlation) < DEVIATIONS / math.sqrt(DRAWS - 1)


def test_nothing_to_noise_is_fine() -> None:
    assert discrete_gaussian([], 1.0) == []


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 2.0**60])
def test_a_sigma_that_gives_no_privacy_is_refused(sigma: float) -> None:
    for refused in (lambda: discrete_gaussian([1], sigma), lambda: gaussian_event(sigma, 1.0)):
        with pytest.raises(BudgetError) as caught:
            refused()
        assert caught.value.reason == Reason.BAD_COST


def test_a_value_that_could_saturate_is_refused() -> None:
    with pytest.raises(BudgetError):
        discrete_gaussian([MAX_VALUE + 1], 1.0)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("sensitivity", [1.0, math.sqrt(2), 3.0])
def test_a_calibrated_sigma_keeps_its_promise_and_wastes_little(epsilon: float, sensitivity: float) -> None:
    sigma = calibrate_sigma(epsilon, DELTA, sensitivity)
    ours = epsilon_of([gaussian_event(sigma, sensitivity)], DELTA)
    assert epsilon * (1 - 1e-6) < ours <= epsilon
    exact = get_epsilon_gaussian(sigma / sensitivity, DELTA)  # analytic, for the continuous Gaussian
    assert 0.9 * epsilon < exact <= epsilon
    smaller = epsilon_of([gaussian_event(sigma * 0.999, sensitivity)], DELTA)
    assert smaller > epsilon


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_privacy_loss_distributions_agree(epsilon: float) -> None:
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(calibrate_sigma(epsilon, DELTA, 1.0)))
    assert 0.9 * epsilon < accountant.get_epsilon(DELTA) <= epsilon


@pytest.mark.parametrize(
    ("epsilon", "delta", "sensitivity"),
    [
        *((epsilon, DELTA, 1.0) for epsilon in (0.0, -1.0, math.inf, math.nan)),
        *((1.0, delta, 1.0) for delta in (0.0, 1.0, math.nan)),
        *((1.0, DELTA, sensitivity) for sensitivity in (0.0, -1.0, math.inf, math.nan)),
    ],
)
def test_a_promise_without_meaning_is_refused(epsilon: float, delta: float, sensitivity: float) -> None:
    with pytest.raises(BudgetError):
        calibrate_sigma(epsilon, delta, sensitivity)


def test_an_interval_covers_as_often_as_it_says() -> None:
    sigma, cells, truth = 5.0, 4, 1000
    noise = discrete_gaussian([0] * (DRAWS * cells), sigma)
    covered = 0
    for draw in range(DRAWS):
        low, high = interval(truth + sum(noise[draw * cells : (draw + 1) * cells]), sigma, cells, 0.9)
        covered += low <= truth <= high
    share = covered / DRAWS
    slack = DEVIATIONS * math.sqrt(0.9 * 0.1 / DRAWS)
    assert 0.9 - slack < share < 0.9 + slack + 0.04  # the ends are rounded outwards by up to one each: 0.1 deviations


@pytest.mark.parametrize("truth", [0, 5, 12, 20, 30, 45])
def test_intervals_of_what_reached_a_threshold_hold_as_often_as_they_say(truth: int) -> None:
    sigma, cells, threshold = 6.0, 4, 20
    rng = np.random.default_rng(truth)
    drawn = [round(x) for x in truth + rng.normal(0, sigma * 2, 40_000)]
    shown = [x for x in drawn if x >= threshold][:4_000]
    held = {cut: np.mean([cut_holds(x, truth, sigma, cells, cut) for x in shown]) for cut in (None, threshold)}
    assert held[threshold] > 0.95 - 4 * (0.05 * 0.95 / len(shown)) ** 0.5
    if truth <= 5:
        assert held[None] < 0.85


def cut_holds(drawn: int, truth: int, sigma: float, cells: int, cut: int | None) -> bool:
    low, high = interval(drawn, sigma, cells, shown_from=cut)
    return low <= truth <= high


def test_an_interval_begins_at_nought_at_the_threshold_and_is_the_plain_one_far_above() -> None:
    assert interval(20, 6.0, shown_from=20) == (0, 32)
    assert interval(80, 6.0, shown_from=20) == interval(80, 6.0)
    assert interval(-3, 6.0, shown_from=-5) == (0, interval(-3, 6.0)[1])
    lows = [interval(drawn, 6.0, shown_from=20)[0] for drawn in range(20, 90)]
    assert lows == sorted(lows)
    low, high = interval(10**9, 6.0, shown_from=10**9 - 1)
    assert 0 < low < 10**9 - 12 < high


def test_an_interval_never_reaches_below_zero_people() -> None:
    assert interval(-50, 3.0) == (0, 0)
    assert interval(2, 3.0) == (0, 8)
