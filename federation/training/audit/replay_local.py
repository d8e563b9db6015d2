"""A run under local noise, played through in one process with canaries, by ``dpsgd.train_round`` as partners run it.

The adversary is the gateway: it sees every partner's update of every round, knows every row that is no canary and the
noisy sizes, but not who was sampled into which step. A second adversary sees the final model alone. Nothing is charged
and nothing leaves the process.

Crafted canaries are rows that no customer has: one feature a thousand times too large, or none, and a label that lets
the error never vanish; clipping leaves a gradient of the full norm along one place. They exist for logistic regression,
whose gradient is the row times its error.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from federation.core.errors import DataError, Reason
from federation.training.audit.bounds import Doubles
from federation.training.audit.canaries import Crafted, canary_rows, row_scores, toss
from federation.training.audit.replay import Seen, choose, join, loss, one
from federation.training.dpsgd import train_round
from federation.training.draws import RandomBytes
from federation.training.features import Floats
from federation.training.learner import Rows
from federation.training.models import LOGISTIC_REGRESSION, Weights, initial
from federation.training.plan import Plan, Settings

LENGTH = 1000.0
"""Of a crafted canary's feature; the constant term then has a thousandth of the gradient."""
LABEL = -1.0
"""Of a crafted canary: its error is between 1 and 2, whatever the model says."""


class Train(Protocol):
    """What a partner does in a round; ``train_round``."""

    def __call__(
        self,
        kind: str,
        weights: Weights,
        rows: tuple[Floats, Floats],
        *,
        settings: Settings,
        size: float,
        random_bytes: RandomBytes,
    ) -> Weights:
        """How the weights moved."""
        ...


def replay_crafted_local(
    plan: Plan, size: float, *, train: Train = train_round, random_bytes: RandomBytes = os.urandom
) -> Seen:
    """Plays a run of crafted canaries alone: other rows would only hide them behind who was sampled.

    Args:
        plan: Of the run, with local noise and logistic regression.
        size: The noisy number of rows that each partner divides by.
        train: What partners do.
        random_bytes: A cryptographic source, for the coins and the run.

    Raises:
        DataError: BAD_FIELD for another model.
    """
    if plan.kind != LOGISTIC_REGRESSION:
        raise DataError(Reason.BAD_FIELD, item=f"no crafted canaries for model {plan.kind[:48]!r}")
    canaries = crafted_canaries(plan)
    included = toss(canaries.count, random_bytes)
    nobody = Rows(np.zeros((0, plan.width), dtype=np.float32), np.zeros(0, dtype=np.float32))

    def of_round(number: int) -> Rows:
        if number > canaries.rounds:
            return nobody
        return _crafted_rows(plan, *(each[included] for each in canaries.of_round(number)))

    seen, _ = _play(plan, [nobody] * len(plan.partners), size, of_round, train=train, random_bytes=random_bytes)
    length = plan.settings.clipping_norm * _draws(plan) * len(plan.partners)
    return Seen(canaries.scores([values / length for values in seen]), included)


def crafted_canaries(plan: Plan) -> Crafted:
    """The crafted canaries that fit in one run: along every weight and the constant term."""
    return Crafted(plan.width + 1, plan.rounds)


def replay_rows_local(
    plan: Plan,
    rows: Sequence[Rows],
    count: int,
    *,
    train: Train = train_round,
    random_bytes: RandomBytes = os.urandom,
) -> tuple[Seen, Seen]:
    """Plays a run with canary rows among every partner's rows; see ``replay.replay_rows``.

    From the updates, a canary is looked for by what it alone would make of a round's model.

    Args:
        plan: Of the run, with local noise.
        rows: One for each partner of the plan.
        count: Of canaries.
        train: What partners do.
        random_bytes: A cryptographic source, for canaries, coins and the run.
    """
    canaries = canary_rows(plan, count, random_bytes)
    included = toss(count, random_bytes)
    inside, size = choose(canaries, included), float(np.mean([len(own.y) for own in rows]))
    parts: list[Doubles] = []

    def of_round(number: int) -> Rows:
        return inside

    def look(weights: Weights) -> None:
        quiet = replace(plan.settings, noise_multiplier=0.0, sampling_rate=1.0)
        alone = [
            _gradients(
                train_round(plan.kind, weights, (own.x, own.y), settings=quiet, size=1.0, random_bytes=random_bytes),
                quiet,
            )
            for own in (one(canaries, index) for index in range(count))
        ]
        parts.append(len(rows) * plan.settings.sampling_rate * np.stack(alone))

    seen, final = _play(plan, rows, size, of_round, train=train, random_bytes=random_bytes, look=look)
    noise = plan.settings.noise_multiplier * plan.settings.clipping_norm * np.sqrt(plan.settings.steps * len(rows))
    of_updates = row_scores(np.concatenate(parts, axis=1), np.concatenate(seen), float(noise))
    reference = initial(plan.kind, plan.width)
    for _ in range(plan.rounds):
        reference = _moved(reference, [_quiet(plan, reference, own, size, random_bytes) for own in rows])
    of_model = loss(plan.kind, reference, canaries) - loss(plan.kind, final, canaries)
    return Seen(of_updates, included), Seen(of_model, included)


def _play(
    plan: Plan,
    rows: Sequence[Rows],
    size: float,
    canaries_of: Callable[[int], Rows],
    *,
    train: Train,
    random_bytes: RandomBytes,
    look: Callable[[Weights], None] = lambda weights: None,
) -> tuple[list[Doubles], Weights]:
    """Plays the rounds: what all updates of each tell beyond the known rows, and the final model.

    What is told is the sum of all partners' clipped gradients over the round's steps, float64 (width of the model,).
    """
    weights, seen = initial(plan.kind, plan.width), []
    for number in range(1, plan.rounds + 1):
        look(weights)
        extra = canaries_of(number)
        updates, told = [], np.zeros(sum(array.size for array in weights.values()))
        for own in rows:
            whole = join(own, extra)
            update = train(
                plan.kind,
                weights,
                (whole.x, whole.y),
                settings=plan.settings,
                size=size,
                random_bytes=random_bytes,
            )
            known = _gradients(_quiet(plan, weights, own, size, random_bytes), plan.settings) * size
            told += _gradients(update, plan.settings) * size * plan.settings.sampling_rate
            told -= known * plan.settings.sampling_rate
            updates.append(update)
        seen.append(told)
        weights = _moved(weights, updates)
    return seen, weights


def _quiet(plan: Plan, weights: Weights, own: Rows, size: float, random_bytes: RandomBytes) -> Weights:
    """What a partner's rows alone make of a model in a round, on average: all in every step, no noise."""
    quiet = replace(plan.settings, noise_multiplier=0.0, sampling_rate=1.0)
    return train_round(plan.kind, weights, (own.x, own.y), settings=quiet, size=size, random_bytes=random_bytes)


def _gradients(update: Weights, settings: Settings) -> Doubles:
    """An update as the gradients that made it, per row of an expected step: float64 (width of the model,)."""
    return np.concatenate([-update[name].astype(np.float64).reshape(-1) for name in _order(update)]) / (
        settings.learning_rate
    )


def _order(weights: Weights) -> list[str]:
    """Weights first, then the constant term."""
    return sorted(weights, reverse=True)


def _moved(weights: Weights, updates: Sequence[Weights]) -> Weights:
    """The model plus the mean update, as ``strategy.AllOrNothing`` makes it."""
    mean = {name: np.mean([update[name] for update in updates], axis=0) for name in weights}
    return {name: (array + mean[name]).astype(np.float32) for name, array in weights.items()}


def _draws(plan: Plan) -> float:
    """In how many steps of a round a row is, on average."""
    return plan.settings.steps * plan.settings.sampling_rate


def _crafted_rows(plan: Plan, places: np.ndarray, signs: np.ndarray) -> Rows:
    """Rows with a gradient along one place each, constant term included, and a sign."""
    x = np.zeros((len(places), plan.width), dtype=np.float32)
    feature = places < plan.width
    x[feature, places[feature]] = LENGTH * signs[feature]
    # The constant term's sign can only be that of the error.
    y = np.where(feature | (signs > 0), LABEL, 1 - LABEL)
    return Rows(x, y.astype(np.float32))
