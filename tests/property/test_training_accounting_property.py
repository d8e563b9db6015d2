"""Numbers agree with two libraries, and the bound for sums of discrete Gaussians holds where it can be computed."""

import math
import warnings

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from opacus.accountants import PRVAccountant

from federation.privacy.composition import epsilon_of
from federation.training.accounting import Steps, calibrate_steps, calibrate_sums, person_event, tight_epsilon
from federation.training.joint_noise import sum_multiplier

DELTA = 1e-6


def opacus_epsilon(noise: float, rate: float, steps: int) -> float:
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(DELTA, eps_error=0.001))


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(20.9, 1.0, 46), (9.1, 1.0, 46), (5.4, 0.1, 400), (2.0, 0.05, 300), (1.1, 0.01, 1000)],
)
def test_tight_epsilon_agrees_with_opacus_and_the_ledger_is_never_below(noise: float, rate: float, steps: int) -> None:
    event = Steps(noise, rate, steps).event()
    tight, judge = tight_epsilon([event], DELTA), opacus_epsilon(noise, rate, steps)
    assert tight == pytest.approx(judge, rel=0.02)
    # Our own number: an upper bound whatever the judge's error, and at most a seventh above.
    assert max(tight, judge - 0.001) <= epsilon_of([event], DELTA) <= 1.15 * tight


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 3.0])
def test_calibrated_runs_keep_their_epsilon_by_the_tight_number_too(epsilon: float) -> None:
    sums = SelfComposedDpEvent(GaussianDpEvent(calibrate_sums(epsilon, DELTA, 46)), 46)
    assert 0.85 * epsilon < tight_epsilon([sums], DELTA) <= epsilon
    steps = person_event(Steps(calibrate_steps(epsilon, DELTA, 0.1, 100, 3), 0.1, 100), 3)
    assert 0.85 * epsilon < tight_epsilon([steps], DELTA) <= epsilon


def test_tight_epsilon_of_one_gaussian_is_the_analytic_one() -> None:
    """Balle and Wang 2018, arXiv:1805.06083: delta of a Gaussian at epsilon, in closed form."""
    epsilon, noise = tight_epsilon([GaussianDpEvent(4.0)], DELTA), 4.0

    def below(value: float) -> float:
        return 0.5 * math.erfc(-value / math.sqrt(2))

    low, high = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
    assert below(low) - math.exp(epsilon) * below(high) == pytest.approx(DELTA, rel=0.02)


def sum_of_shares(sigma: float, shares: int) -> np.ndarray:
    """Probabilities of a sum of independent discrete Gaussians around zero, by convolution."""
    reach = math.ceil(40 * sigma) + 1
    one = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    one /= one.sum()
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    return total


def exact_divergence(sigma: float, shares: int, shift: int, order: float) -> float:
    """Renyi divergence of the sum from itself moved by ``shift``, place by place, over the order."""
    before = sum_of_shares(sigma, shares)
    p, q = before[:-shift], before[shift:]
    both = (p > 1e-290) & (q > 1e-290)  # the rest is below every digit of the sum
    logs = order * np.log(p[both]) + (1 - order) * np.log(q[both])
    return float(logs.max() + math.log(float(np.exp(logs - logs.max()).sum()))) / (order - 1) / order


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("shares", [2, 3, 5])
@pytest.mark.parametrize("shift", [1, 3])
def test_bound_for_sums_of_discrete_gaussians_is_above_the_exact_divergence(
    sigma: float, shares: int, shift: int
) -> None:
    """Kairouz, Liu, Steinke 2021, Proposition 14: rho-zCDP, so at most rho times the order at every order."""
    rho = 1 / (2 * sum_multiplier(sigma, shares, shift, 1) ** 2)
    for order in (1.1, 1.5, 2.0, 4.0, 8.0):
        assert exact_divergence(sigma, shares, shift, order) <= rho * (1 + 1e-6)


def test_sum_of_narrow_discrete_gaussians_is_no_discrete_gaussian() -> None:
    """Why the bound has its extra term: without it, it would be wrong for narrow shares."""
    exact = exact_divergence(0.5, 2, 1, 4.0)
    assert exact > 1.02 / (2 * 2 * 0.5**2)
    assert exact <= 1 / (2 * sum_multiplier(0.5, 2, 1.0, 1) ** 2)
