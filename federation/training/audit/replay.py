"""A run with a secure sum, played through in one process with canaries, by the code that partners and gateway run.

What a partner adds up is the plan's learner's; quantisation, box, shares of noise and the sum modulo 2^32 are those of
``joint_noise`` and ``secure_sum``; the step is the learner's. Keys, masks and messages are left out: masks vanish in
the sum, which is all that the adversary is given. Nothing is charged and nothing leaves the process.

The adversary is the gateway with as many silent partners as the promise does without: it sees every round's sum with
the shares of the others' noise, and knows every row that is no canary. A second adversary sees the final model alone.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.core.errors import Reason, TrainingError
from federation.training.audit.bounds import Coins, Doubles
from federation.training.audit.canaries import Crafted, canary_rows, row_scores, toss
from federation.training.draws import RandomBytes
from federation.training.joint_noise import FINE_BITS, JointNoise
from federation.training.learner import Learner, Rows
from federation.training.models import Weights, predict
from federation.training.plan import Plan
from federation.training.secure_sum import Integers, add_masked

Part = Callable[[JointNoise, Integers], Integers]
"""What a partner sends, before masks, for its exact sum."""
QUIET = 1e-6
"""Of the run's noise: what a learner is told of sums that have none, since it may divide by it."""
ALL_PARTNERS = "person"
ONE_PARTNER = "customer"


def noisy_part(noise: JointNoise, exact: Integers) -> Integers:
    """As ``summed_app`` makes it."""
    return noise.encode(exact) + noise.draw_share()


@dataclass(frozen=True)
class Seen:
    """What an adversary made of a run."""

    scores: Doubles
    included: Coins


def replay_crafted(
    plan: Plan, rows: Sequence[Rows], unit: str, *, part: Part = noisy_part, random_bytes: RandomBytes = os.urandom
) -> Seen:
    """Plays a run with crafted canaries in the partners' exact sums.

    Args:
        plan: Of the run, with a secure sum.
        rows: One for each partner of the plan.
        unit: ``ALL_PARTNERS``: a canary is at every partner; ``ONE_PARTNER``: at the first.
        part: What partners send that add noise.
        random_bytes: A cryptographic source, for the coins.

    Raises:
        TrainingError: RUN_FAILED where there are too few rows for the noise.
    """
    learner, canaries = plan.learner(), crafted_canaries(plan)
    included = toss(canaries.count, random_bytes)
    at = _partners_with_canaries(plan, unit)
    seen: list[Doubles] = []
    for number in range(1, plan.rounds + 1):
        told, noise = learner.told(number), plan.noise_of(number)
        exact = [learner.sums(number, told, own) for own in rows]
        # A vector of norm 1 on the fine grid: as long as a row may be.
        added = canaries.added(number, included, noise.width) << np.int64(FINE_BITS)
        total = _sum_up(plan, noise, [own + added * (place < at) for place, own in enumerate(exact)], part)
        known = sum(noise.encode(own) for own in exact)
        seen.append((total - known) / 2.0**noise.scale_bits / at)
        learner.step(number, noise.read(total), noise.sum_sigma)
    return Seen(canaries.scores(seen), included)


def replay_rows(
    plan: Plan, rows: Sequence[Rows], count: int, *, part: Part = noisy_part, random_bytes: RandomBytes = os.urandom
) -> tuple[Seen, Seen]:
    """Plays a run with canary rows among all partners' rows.

    Args:
        plan: Of the run, with a secure sum.
        rows: One for each partner of the plan.
        count: Of canaries.
        part: What partners send that add noise.
        random_bytes: A cryptographic source, for canaries and coins.

    Returns:
        From every sum; from the final model alone, by the loss on each canary compared with that of a model which was
        trained on the other rows without noise.

    Raises:
        TrainingError: RUN_FAILED where there are too few rows for the noise.
    """
    learner = plan.learner()
    canaries = canary_rows(plan, count, random_bytes)
    included = toss(count, random_bytes)
    together = [join(own, choose(canaries, included)) for own in rows]
    parts: list[Doubles] = []
    seen: list[Doubles] = []
    sigmas: list[float] = []
    for number in range(1, plan.rounds + 1):
        told, noise = learner.told(number), plan.noise_of(number)
        total = _sum_up(plan, noise, [learner.sums(number, told, own) for own in together], part)
        known = sum(noise.encode(learner.sums(number, told, own)) for own in rows)
        seen.append((total - known) / 2.0**noise.scale_bits)
        alone = [learner.sums(number, told, one(canaries, index)) for index in range(count)]
        parts.append(len(rows) * np.stack(alone) / 2.0**FINE_BITS)
        sigmas.append(noise.sum_sigma)
        learner.step(number, noise.read(total), noise.sum_sigma)
    of_sums = row_scores(np.concatenate(parts, axis=1), np.concatenate(seen), float(np.mean(sigmas)))
    of_model = loss(plan.kind, _without_noise(plan, rows), canaries) - loss(plan.kind, learner.model(), canaries)
    return Seen(of_sums, included), Seen(of_model, included)


def longest_row(plan: Plan, rows: Sequence[Rows], probes: Rows) -> float:
    """The largest norm of what one of some rows adds to any round's sum, where 1 is allowed.

    Also rows that no customer can have must stay within: features and labels a thousand times too large.

    Args:
        plan: Of the run, with a secure sum; played without noise.
        rows: One for each partner of the plan.
        probes: Rows whose part is measured.
    """
    wild = probes._replace(x=1000 * probes.x, y=1 - 3 * probes.y)
    longest = 0.0

    def probe(learner: Learner, number: int, told: Weights) -> None:
        nonlocal longest
        for own in (probes, wild):
            for index in range(len(own.y)):
                part = learner.sums(number, told, one(own, index)).astype(np.float64)
                longest = max(longest, float(np.linalg.norm(part)) / 2.0**FINE_BITS)

    _without_noise(plan, rows, probe)
    return longest


def loss(kind: str, weights: Weights, rows: Rows) -> Doubles:
    """Log loss of a model on each row: float64 (n,)."""
    chance = np.clip(predict(kind, weights, rows.x), 1e-12, 1 - 1e-12)
    return np.asarray(-np.log(np.where(rows.y == 1, chance, 1 - chance)), dtype=np.float64)


def crafted_canaries(plan: Plan) -> Crafted:
    """The crafted canaries that fit in one run."""
    learner = plan.learner()
    return Crafted(min(learner.width(number) for number in range(1, plan.rounds + 1)), plan.rounds)


def _partners_with_canaries(plan: Plan, unit: str) -> int:
    return len(plan.partners) if unit == ALL_PARTNERS else 1


def _sum_up(plan: Plan, noise: JointNoise, exact: Sequence[Integers], part: Part) -> Integers:
    """The released sum: of noisy parts, and of those of the silent partners, which add none."""
    if len(exact) != len(plan.partners):
        raise TrainingError(Reason.TOO_FEW_PARTNERS, item=f"rows for {len(exact)} of {len(plan.partners)} partners")
    honest = len(exact) - noise.collusion
    sent = [part(noise, own) if place < honest else noise.encode(own) for place, own in enumerate(exact)]
    words = {party: values.astype(np.uint32) for party, values in zip(plan.partners, sent, strict=True)}
    return add_masked(words, plan.partners, noise.width)


def _without_noise(
    plan: Plan,
    rows: Sequence[Rows],
    look: Callable[[Learner, int, Weights], None] = lambda learner, number, told: None,
) -> Weights:
    """The model that the rows give without noise or canaries; ``look`` is called in every round."""
    learner: Learner = plan.learner()
    for number in range(1, plan.rounds + 1):
        told = learner.told(number)
        look(learner, number, told)
        total = sum(learner.sums(number, told, own) for own in rows) / 2.0**FINE_BITS
        learner.step(number, np.asarray(total, dtype=np.float64), QUIET * plan.noise_of(number).sum_sigma)
    return learner.model()


def join(first: Rows, second: Rows) -> Rows:
    """The rows of both; groups where both have them."""
    groups = None
    if first.groups is not None and second.groups is not None:
        groups = np.concatenate([first.groups, second.groups])
    return Rows(np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y]), groups)


def one(rows: Rows, index: int) -> Rows:
    """One of the rows."""
    return choose(rows, np.array([index]))


def choose(rows: Rows, which: npt.NDArray[np.generic]) -> Rows:
    """Some of the rows, by index or mask."""
    return Rows(rows.x[which], rows.y[which], None if rows.groups is None else rows.groups[which])
