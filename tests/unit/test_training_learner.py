"""Learners go on from their state as if nothing had happened, alone and one after another."""

from typing import get_args

import numpy as np
import pytest

from federation.core.errors import DataError, Reason, TrainingError
from federation.policy.specs import ModelKind
from federation.training.counts import CountsLearner
from federation.training.features import Categorical, Flag
from federation.training.gradient import GradientLearner
from federation.training.joint_noise import FINE_BITS
from federation.training.learner import Course, Learner, Rows
from federation.training.learners import build_learner
from federation.training.models import KINDS, Weights

FEATURES = (Flag("flag"),)


def rows(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x = np.zeros((count, 6), np.float32)
    x[np.arange(count), rng.integers(0, 6, count)] = 1
    return Rows(x, (rng.random(count) < 0.1 + 0.5 * x[:, 0]).astype(np.float32))


def gradient(rounds: int) -> GradientLearner:
    return GradientLearner(6, rounds=rounds, clipping_norm=0.5, learning_rate=3.0, momentum=0.5)


def go(learner: Learner, data: Rows, first: int = 1) -> Weights:
    for number in range(first, learner.rounds + 1):
        told = learner.check_told(number, learner.told(number), item="test")
        learner.step(number, learner.sums(number, told, data) / 2.0**FINE_BITS, 0.1)
    return learner.model()


def course() -> Course:
    return Course(gradient(4), gradient(2))


def counts() -> CountsLearner:
    return CountsLearner((Categorical("one", ("a", "b", "c", "d")),), rounds=6)


@pytest.mark.parametrize("make", [lambda: gradient(6), counts, course])
@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_learner_goes_on_from_its_state_bit_by_bit(make: object, stop: int) -> None:
    data, learner = rows(500, 1), make()  # type: ignore[operator]
    whole = go(make(), data)  # type: ignore[operator]
    for number in range(1, stop + 1):
        learner.step(number, learner.sums(number, learner.told(number), data) / 2.0**FINE_BITS, 0.1)
    other = make()  # type: ignore[operator]
    other.restore({name: np.array(array.tolist()) for name, array in learner.state().items()})
    for name, array in go(other, data, stop + 1).items():
        assert np.array_equal(array, whole[name])


def test_part_of_a_course_begins_with_the_model_before_it() -> None:
    data, learner, first = rows(500, 1), course(), gradient(4)
    before = go(first, data)
    for number in range(1, 5):
        learner.step(number, learner.sums(number, learner.told(number), data) / 2.0**FINE_BITS, 0.1)
    assert np.array_equal(learner.told(5)["weight"], before["weight"])
    with pytest.raises(ValueError, match="beyond the last"):
        learner.told(7)


def test_too_few_rows_for_the_noise_end_the_run() -> None:
    learner = gradient(4)
    with pytest.raises(TrainingError, match="too few customers"):
        learner.step(1, learner.sums(1, learner.told(1), rows(5, 1)) / 2.0**FINE_BITS, 50.0)


@pytest.mark.parametrize("poison", ["too long", "nobody there", "less than nobody", "no number"])
def test_gradient_that_no_rows_can_give_is_refused(poison: str) -> None:
    learner, sigma = gradient(4), 1.0
    total = learner.sums(1, learner.told(1), rows(5000, 1)) / 2.0**FINE_BITS
    learner.step(1, total + np.random.default_rng(1).normal(size=len(total)) * sigma, sigma)  # an honest one is fine
    match poison:
        case "too long":
            total[0] = 6000
        case "nobody there":
            total[:-1], total[-1] = 2000, 0
        case "less than nobody":
            total[-1] = -500
        case "no number":
            total[2] = np.nan
    with pytest.raises(TrainingError) as caught:
        learner.step(2, total, sigma)
    assert caught.value.reason == Reason.BAD_UPDATE


def test_unknown_kind_has_no_learner() -> None:
    with pytest.raises(DataError):
        build_learner("neural_oracle", FEATURES, rounds=1, clipping_norm=1, learning_rate=1, momentum=0)


def test_policy_knows_the_kinds_there_are() -> None:
    assert set(get_args(ModelKind)) == set(KINDS)
