"""Noise in shares: what it costs agrees with the library, whoever leaves theirs out; and no sum wraps."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy import stats

from federation.core.errors import BudgetError, DataError, Reason, TrainingError
from federation.privacy.composition import epsilon_of
from federation.training.accounting import calibrate_sums
from federation.training.gradient import BIAS_SCALE, GradientLearner
from federation.training.joint_noise import FINE_BITS, TAIL, JointNoise, best_scale_bits, sum_multiplier
from federation.training.learner import Rows
from federation.training.models import initial
from federation.training.plan import read_plan
from federation.v1 import training_pb2 as pb
from tests.kits.training import PARTNERS

DELTA = 1e-6
NOISE = JointNoise(parties=3, collusion=1, width=88, touched=88, scale_bits=10, noise_multiplier=21.0)


@pytest.mark.parametrize(("multiplier", "attempts"), [(42.0, 80), (21.0, 80), (8.0, 10), (4.5, 1)])
def test_epsilon_agrees_with_dp_accounting(multiplier: float, attempts: int) -> None:
    noise = JointNoise(3, 1, 88, 88, 10, multiplier)
    ours = epsilon_of([noise.person_event(attempts)], DELTA)
    event = SelfComposedDpEvent(GaussianDpEvent(multiplier), attempts)
    assert ours == pytest.approx(RdpAccountant().compose(event).get_epsilon(DELTA), rel=0.02)
    tight = PLDAccountant().compose(event).get_epsilon(DELTA)
    assert tight <= ours <= 1.12 * tight  # Renyi DP is an upper bound, by which the whole ledger counts


@pytest.mark.parametrize("collusion", [0, 1, 2])
def test_promise_needs_only_the_shares_of_the_honest(collusion: int) -> None:
    noise = JointNoise(3, collusion, 88, 88, 10, 21.0)
    honest = 3 - collusion
    left = math.sqrt(honest) * noise.share_sigma / noise.person_sensitivity
    assert left == pytest.approx(21.0)
    assert sum_multiplier(noise.share_sigma, honest, noise.person_sensitivity, 88) == pytest.approx(21.0)


def test_person_pays_for_all_partners_and_much_less_than_their_sum() -> None:
    person, customer = (epsilon_of([event], DELTA) for event in (NOISE.person_event(80), NOISE.customer_event(80)))
    assert customer < person < 3.5 * customer
    assert NOISE.person_sensitivity == pytest.approx(3 * NOISE.customer_sensitivity)
    # the grid adds under two hundredths to what clipping alone allows
    assert NOISE.customer_sensitivity / 2**10 < 1.01


def test_small_shares_pay_for_not_being_gaussian() -> None:
    # at sigma 1/2 the sum of discrete Gaussians is far from one: the bound must say so
    assert sum_multiplier(0.5, 2, 1.0, 10) < 0.8 * math.sqrt(2) * 0.5
    assert sum_multiplier(16.0, 2, 1.0, 10**6) == pytest.approx(math.sqrt(2) * 16.0, rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_calibrated_noise_keeps_the_promise_and_is_not_wasteful(epsilon: float) -> None:
    multiplier = calibrate_sums(epsilon, DELTA, 82)
    assert epsilon_of([JointNoise(3, 1, 88, 88, 10, multiplier).person_event(82)], DELTA) <= epsilon * (1 + 1e-9)
    assert epsilon_of([JointNoise(3, 1, 88, 88, 10, multiplier * 0.99).person_event(82)], DELTA) > epsilon


def test_epsilon_that_no_noise_can_give_is_refused() -> None:
    with pytest.raises(BudgetError) as caught:
        calibrate_sums(1e-9, 1e-300, 82)
    assert caught.value.reason == Reason.BAD_COST


def test_share_is_the_discrete_gaussian_that_was_stated() -> None:
    noise = JointNoise(3, 1, 20_000, 20_000, 3, 2.0)
    share = noise.draw_share()
    assert share.dtype == np.int64
    assert (
        stats.kstest((share + np.random.default_rng(1).random(len(share)) - 0.5) / noise.share_sigma, "norm").pvalue
        > 1e-4
    )
    assert not np.array_equal(share, noise.draw_share())


@pytest.mark.parametrize("parties", [3, 7, 64])
def test_sum_of_whatever_partners_hold_does_not_wrap(parties: int) -> None:
    noise = JointNoise(parties, 1, 4, 4, best_scale_bits(parties, 250_000), 10.0)
    huge = np.array([2**62, -(2**62), 2**62, 0])
    worst = parties * (np.abs(noise.encode(huge)).max() + math.floor(TAIL * noise.share_sigma))
    assert worst < 2**31
    # as many rows as declared fit whole, though all point the same way
    rows = np.array([250_000 * 2**FINE_BITS, 0, 0, 0])
    assert noise.encode(rows)[0] == rows[0] >> (FINE_BITS - noise.scale_bits)


def test_a_vector_whose_masks_do_not_cancel_is_refused_and_the_longest_honest_one_is_not() -> None:
    noise = JointNoise(3, 1, 88, 88, best_scale_bits(3, 250_000), 10.0)
    masked = np.random.default_rng(3).integers(-(2**31), 2**31, 88)
    with pytest.raises(TrainingError, match="beyond what their limits allow"):
        noise.read(masked)
    rows = np.zeros(88, dtype=np.int64)
    rows[5] = 250_000 * 2**FINE_BITS
    total = 3 * noise.encode(rows) + sum(noise.draw_share() for _ in range(3))
    assert noise.read(total)[5] == pytest.approx(750_000, rel=1e-3)


def test_summed_gradient_is_the_gradient_and_the_count() -> None:
    rng = np.random.default_rng(2)
    x = np.zeros((500, 5), np.float32)
    x[np.arange(500), rng.integers(0, 5, 500)] = 1
    y = (rng.random(500) < 0.3).astype(np.float32)
    weights = initial("logistic_regression", 5)
    weights["weight"] += 0.3
    learner = GradientLearner(5, rounds=1, clipping_norm=10.0, learning_rate=1.0, momentum=0.0)
    gradient, count = learner.read(learner.sums(1, weights, Rows(x, y)) / 2.0**FINE_BITS)
    errors = 1 / (1 + np.exp(-0.3 * np.ones(500))) - y
    assert np.allclose(gradient[:-1], x.T @ errors, atol=1e-4)
    assert gradient[-1] == pytest.approx(BIAS_SCALE * errors.sum(), abs=1e-4)
    assert count == pytest.approx(500, abs=1e-4)
    learner = GradientLearner(5, rounds=1, clipping_norm=0.01, learning_rate=1.0, momentum=0.0)
    clipped, _ = learner.read(learner.sums(1, weights, Rows(x, y)) / 2.0**FINE_BITS)
    assert np.linalg.norm(clipped) <= 500 * 0.01


def proposal(**changes: object) -> pb.TrainingProposal:
    fields: dict[str, object] = {
        "run_id": "run-1",
        "purpose": "model_training",
        "model": "logistic_regression",
        "feature_schema": "marketing-v1",
        "features": ["age", "loan"],
        "label": "accepted_offer",
        "rounds": 8,
        "steps_per_round": 1,
        "sampling_rate": 1.0,
        "clipping_norm": 0.35,
        "noise_multiplier": 8.0,
        "learning_rate": 20.0,
        "epsilon": 2.0,
        "delta": DELTA,
        "partners": list(PARTNERS),
        "trust": pb.TRUST_SECURE_SUM,
        "collusion": 1,
        "scale_bits": 11,
        "spare_attempts": 2,
        "momentum": 0.5,
    }
    return pb.TrainingProposal(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"partners": ["bank", "insurer"]}, Reason.TOO_FEW_PARTNERS),
        ({"trust": pb.TRUST_UNSPECIFIED}, Reason.BAD_FIELD),
        ({"collusion": 3}, Reason.BAD_FIELD),
        ({"scale_bits": 21}, Reason.BAD_FIELD),
        ({"scale_bits": 0, "noise_multiplier": 0.1}, Reason.BAD_FIELD),  # coarser than its noise
        ({"noise_multiplier": 1e4, "scale_bits": 20}, Reason.BAD_FIELD),  # the noise alone would wrap
        ({"steps_per_round": 2}, Reason.BAD_FIELD),
        ({"sampling_rate": 0.5}, Reason.BAD_FIELD),
        ({"momentum": 1.0}, Reason.BAD_FIELD),
        ({"spare_attempts": 10**6}, Reason.BAD_FIELD),
    ],
)
def test_sum_that_cannot_keep_the_promise_is_no_plan(changes: dict[str, object], reason: Reason) -> None:
    read_plan(proposal())
    with pytest.raises((DataError, TrainingError)) as caught:
        read_plan(proposal(**changes))
    assert caught.value.reason == reason
