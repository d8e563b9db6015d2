"""The steps themselves: sampling is Poisson, noise is Gaussian of the right size, clipping bounds one customer."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from federation.training.dpsgd import train_round
from federation.training.draws import poisson_sample, standard_gaussians
from federation.training.models import initial
from federation.training.plan import Settings

KIND = "logistic_regression"


def fixed_bytes(seed: str) -> Callable[[int], bytes]:
    """The same bytes every time: SHAKE-256 in counter mode."""
    calls = iter(range(10**9))
    return lambda count: hashlib.shake_256(f"{seed}:{next(calls)}".encode()).digest(count)


def rows(count: int, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    x = np.zeros((count, width), dtype=np.float32)
    x[np.arange(count), np.arange(count) % width] = 1
    return x, (np.arange(count) % width == 0).astype(np.float32)


def test_sample_sizes_are_binomial_and_rows_independent() -> None:
    source, count, rate, draws = fixed_bytes("poisson"), 50, 0.1, 4000
    taken = np.zeros((draws, count), dtype=bool)
    for draw in range(draws):
        taken[draw, poisson_sample(count, rate, source)] = True
    sizes = taken.sum(axis=1)
    bins = np.arange(1, 11)  # 0..1, 2, ..., 9, 10 and more: every expected count is above 5
    expected = np.diff(np.concatenate(([0], stats.binom.cdf(bins, count, rate), [1]))) * draws
    observed = np.bincount(np.clip(np.searchsorted(bins, sizes), 0, len(bins)), minlength=len(bins) + 1)
    assert stats.chisquare(observed, expected).pvalue > 0.001
    assert np.abs(taken.mean(axis=0) - rate).max() < 0.025  # every row alike: five standard errors
    together = np.corrcoef(taken[:, 0], taken[:, 1])[0, 1]
    assert abs(together) < 0.06


def test_sampling_rate_one_takes_everybody() -> None:
    assert poisson_sample(100, 1.0, fixed_bytes("all")).tolist() == list(range(100))


def test_noise_is_standard_normal() -> None:
    draws = standard_gaussians(50_000, fixed_bytes("noise"))
    assert stats.kstest(draws, "norm").pvalue > 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02
    assert np.isfinite(standard_gaussians(10, lambda count: b"\0" * count)).all()
    assert np.isfinite(standard_gaussians(10, lambda count: b"\xff" * count)).all()


def test_update_is_the_noise_that_was_paid_for() -> None:
    x, y = rows(0)
    settings = Settings(steps=1, sampling_rate=0.5, clipping_norm=2.0, noise_multiplier=3.0, learning_rate=1.0)
    source = fixed_bytes("update")
    moved = [
        train_round(KIND, initial(KIND, 5), (x, y), settings=settings, size=1000, random_bytes=source)
        for _ in range(400)
    ]
    values = np.concatenate([np.concatenate([update["weight"][0], update["bias"]]) for update in moved])
    # no row was sampled: an empty step still adds noise of multiplier x norm over the expected batch
    assert values.std() == pytest.approx(3.0 * 2.0 / 500, rel=0.05)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))


def test_one_customer_moves_a_noiseless_step_by_no_more_than_the_clipping_norm() -> None:
    settings = Settings(steps=1, sampling_rate=1.0, clipping_norm=0.25, noise_multiplier=0.0, learning_rate=1.0)
    x, y = rows(40)

    def move(count: int) -> np.ndarray:
        update = train_round(
            KIND, initial(KIND, 5), (x[:count], y[:count]), settings=settings, size=1.0, random_bytes=fixed_bytes("one")
        )
        return np.concatenate([update["weight"][0], update["bias"]])

    for count in range(1, 40):
        assert np.linalg.norm(move(count) - move(count - 1)) <= 0.25 + 1e-5


def test_noiseless_round_is_gradient_descent() -> None:
    x, y = rows(200)
    settings = Settings(steps=30, sampling_rate=1.0, clipping_norm=100.0, noise_multiplier=0.0, learning_rate=0.5)
    update = train_round(KIND, initial(KIND, 5), (x, y), settings=settings, size=200, random_bytes=fixed_bytes("gd"))
    weight, bias = np.zeros(5), 0.0
    for _ in range(30):
        error = 1 / (1 + np.exp(-(x @ weight + bias))) - y
        weight, bias = weight - 0.5 * (x.T @ error) / 200, bias - 0.5 * error.mean()
    assert np.allclose(update["weight"][0], weight, atol=1e-5)
    assert update["bias"][0] == pytest.approx(bias, abs=1e-5)
