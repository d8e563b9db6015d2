"""The steps themselves: sampling is Poisson, noise is Gaussian of the right size, clipping bounds one customer."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from federation.training.dpsgd import SecureOptimizer, train_round
from federation.training.draws import poisson_sample, standard_gaussians
from federation.training.models import PERCEPTRON, Weights, initial, predict
from federation.training.networks import build_network
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


def flat(update: Weights) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in update.values()])


@pytest.mark.parametrize("kind", [KIND, PERCEPTRON])
def test_one_customer_moves_a_noiseless_step_by_no_more_than_the_clipping_norm(kind: str) -> None:
    settings = Settings(steps=1, sampling_rate=1.0, clipping_norm=0.25, noise_multiplier=0.0, learning_rate=1.0)
    x, y = rows(40)

    def move(count: int) -> np.ndarray:
        update = train_round(
            kind, initial(kind, 5), (x[:count], y[:count]), settings=settings, size=1.0, random_bytes=fixed_bytes("one")
        )
        return flat(update)

    for count in range(1, 40):
        assert np.linalg.norm(move(count) - move(count - 1)) <= 0.25 + 1e-5


def test_one_customer_among_many_moves_their_sum_by_no_more_than_the_clipping_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sums: list[np.ndarray] = []
    add_noise = SecureOptimizer.add_noise

    def watched(self: SecureOptimizer) -> None:
        sums.append(np.concatenate([each.summed_grad.numpy().astype(np.float64).reshape(-1) for each in self.params]))
        add_noise(self)

    monkeypatch.setattr(SecureOptimizer, "add_noise", watched)
    count, norm = 393_292, 0.3427066743205173  # in float32 they are 1.0106 norms apart
    x, y = np.zeros((count, 81), dtype=np.float32), np.zeros(count, dtype=np.float32)
    x[:, :11] = 1 / np.sqrt(11)
    settings = Settings(steps=1, sampling_rate=1.0, clipping_norm=norm, noise_multiplier=1.0, learning_rate=1.0)
    for rows_of in ((x, y), (x[1:], y[1:])):
        train_round(KIND, initial(KIND, 81), rows_of, settings=settings, size=1.0, random_bytes=fixed_bytes("many"))
    assert 0.99 * norm < np.linalg.norm(sums[0] - sums[1]) <= norm


@pytest.mark.parametrize("kind", [KIND, PERCEPTRON])
def test_no_model_that_the_gateway_sends_makes_an_update_that_is_no_number(kind: str) -> None:
    """It would be one with certain rows only, whatever the noise."""
    rng = np.random.default_rng(6)
    x, y = rows(40)
    settings = Settings(steps=2, sampling_rate=1.0, clipping_norm=1.0, noise_multiplier=1.0, learning_rate=1.0)
    largest = np.finfo(np.float32).max
    for _ in range(20):
        sent = {n: largest * rng.choice(np.float32([-1, 1]), array.shape) for n, array in initial(kind, 5).items()}
        update = train_round(kind, sent, (x, y), settings=settings, size=40, random_bytes=fixed_bytes("sent"))
        assert np.isfinite(flat(update)).all()


@pytest.mark.parametrize("norm", [0.05, 0.5, 100.0])
def test_ghost_clipping_is_clipping_of_each_row_by_itself(norm: float) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 2, 60).astype(np.float32)
    settings = Settings(steps=1, sampling_rate=1.0, clipping_norm=norm, noise_multiplier=0.0, learning_rate=1.0)
    network = build_network(PERCEPTRON, initial(PERCEPTRON, 5))
    total = np.zeros(sum(array.size for array in initial(PERCEPTRON, 5).values()))
    for row, label in zip(torch.from_numpy(x), torch.from_numpy(y), strict=True):
        network.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(row[None])[0, 0], label).backward()
        gradient = np.concatenate([each.grad.numpy().reshape(-1) for each in network.parameters()])  # type: ignore[union-attr]
        total += gradient * min(1.0, norm / np.linalg.norm(gradient))
    update = train_round(
        PERCEPTRON, initial(PERCEPTRON, 5), (x, y), settings=settings, size=60, random_bytes=fixed_bytes("ghost")
    )
    assert np.allclose(flat(update), -total / 60, rtol=1e-3, atol=1e-6)


def test_perceptron_learns_what_no_line_can_and_numpy_scores_it_as_torch_does() -> None:
    rng = np.random.default_rng(5)
    corner = rng.integers(0, 2, (2000, 2))
    x = np.concatenate([corner, 1 - corner], axis=1).astype(np.float32)
    y = (corner[:, 0] ^ corner[:, 1]).astype(np.float32)
    settings = Settings(steps=300, sampling_rate=0.5, clipping_norm=1.0, noise_multiplier=1.0, learning_rate=1.0)
    start = initial(PERCEPTRON, 4)
    update = train_round(PERCEPTRON, start, (x, y), settings=settings, size=2000, random_bytes=fixed_bytes("xor"))
    weights = {name: start[name] + update[name] for name in start}
    found = predict(PERCEPTRON, weights, x)
    assert ((found > 0.5) == (y == 1)).all()
    logits = build_network(PERCEPTRON, weights)(torch.from_numpy(x))[:, 0]
    assert np.allclose(found, torch.sigmoid(logits).detach().numpy(), atol=1e-5)


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
