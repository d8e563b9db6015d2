"""The sum is exact for any vectors, and one row or person changes what is summed by no more than was stated."""

import os

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from federation.training.counts import CountsLearner
from federation.training.discriminant import blocks_of
from federation.training.features import MARKETING_V1
from federation.training.gradient import GradientLearner
from federation.training.joint_noise import FINE_BITS, JointNoise
from federation.training.learner import Rows
from federation.training.secure_sum import Attempt, RoundKey, add_masked
from tests.kits.training import NOW, identity_of

VALUES = st.integers(-(2**31), 2**31 - 1)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(3, 6), st.integers(1, 40))
def test_sum_is_exact_modulo_two_to_the_thirty_two(data: st.DataObject, parties: int, width: int) -> None:
    names = [f"partner-{number}" for number in range(parties)]
    values = {name: np.array(data.draw(st.lists(VALUES, min_size=width, max_size=width))) for name in names}
    attempt = Attempt("run", "p", 1, data.draw(st.integers(1, 1000)), "m")
    keys = {name: RoundKey(attempt, identity_of(name), os.urandom) for name in names}
    offers = data.draw(st.permutations([key.offer for key in keys.values()]))
    hidden = {name: keys[name].agree(offers, names, NOW).hide(values[name]) for name in names}
    total = add_masked(hidden, names, width)
    exact = sum(values.values())
    assert np.array_equal(total, (exact + 2**31) % 2**32 - 2**31)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 300),
    clip=st.floats(0.01, 10),
    scale_bits=st.integers(0, 20),
    spread=st.floats(0, 100),
)
def test_one_row_changes_a_sum_by_no_more_than_its_norm(
    seed: int, rows: int, clip: float, scale_bits: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype(np.float32) * np.float32(rng.choice([0.01, 1, 100]))
    y = rng.integers(0, 2, rows).astype(np.float32)
    weights = {"weight": (rng.normal(size=(1, 6)) * spread).astype(np.float32), "bias": np.ones(1, np.float32)}
    noise = JointNoise(3, 1, 8, 8, scale_bits, noise_multiplier=5.0)
    assume(noise.box >= 1)  # other plans are refused
    gone = int(rng.integers(rows))
    rest = np.arange(rows) != gone
    learner = GradientLearner(6, rounds=1, clipping_norm=clip, learning_rate=1.0, momentum=0.0)
    whole, without = (learner.sums(1, weights, Rows(x[kept], y[kept])) for kept in (np.ones(rows, dtype=bool), rest))
    # a row's integers depend on the row alone, so the difference is the row's own contribution, exactly
    alone = learner.sums(1, weights, Rows(x[[gone]], y[[gone]]))
    assert np.array_equal(whole - without, alone)
    assert sum(int(value) ** 2 for value in alone) <= (2**FINE_BITS) ** 2
    coarse = noise.encode(whole) - noise.encode(without)
    assert np.linalg.norm(coarse.astype(float)) <= noise.customer_sensitivity
    assert np.abs(noise.encode(whole)).max() <= noise.box


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 200), scale_bits=st.integers(4, 20))
def test_one_row_changes_counts_by_no_more_than_its_norm_and_in_the_places_it_may_touch(
    seed: int, rows: int, scale_bits: int
) -> None:
    rng, learner = np.random.default_rng(seed), CountsLearner(MARKETING_V1.features[:4], rounds=1)
    x = rng.normal(size=(rows, blocks_of(MARKETING_V1.features[:4])[-1].stop)).astype(np.float32)
    y = rng.integers(0, 2, rows).astype(np.float32)
    noise = JointNoise(3, 1, learner.width(1), learner.touched(1), scale_bits, noise_multiplier=2.0)
    rest = np.arange(rows) != int(rng.integers(rows))
    whole, without = learner.sums(1, {}, Rows(x, y)), learner.sums(1, {}, Rows(x[rest], y[rest]))
    assert np.count_nonzero(whole - without) == learner.touched(1)
    assert sum(int(value) ** 2 for value in whole - without) <= (2**FINE_BITS) ** 2
    coarse = noise.encode(whole) - noise.encode(without)
    assert np.linalg.norm(coarse.astype(float)) <= noise.customer_sensitivity
