"""The audit of a run: what is claimed beside what can be measured, one finding for each kind of canary and adversary.

All findings together hold with the stated confidence: a run that is as private as it claims is found guilty with a
chance of at most one minus it. That nothing is found is no proof; a bound far below its claim says how much this audit
could have missed. What it cannot see at this size: noise that is a tenth too small, or batches that are shuffled where
independent samples are claimed.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.training.accounting import tight_epsilon
from federation.training.audit.bounds import Bound, best_of, lower_bounds
from federation.training.audit.canaries import canary_rows
from federation.training.audit.replay import (
    ALL_PARTNERS,
    ONE_PARTNER,
    Part,
    Seen,
    crafted_canaries,
    longest_row,
    noisy_part,
    replay_crafted,
    replay_rows,
)
from federation.training.draws import RandomBytes
from federation.training.learner import Rows
from federation.training.models import LOGISTIC_REGRESSION
from federation.training.plan import Plan

CRAFTED, ROWS = "crafted", "rows"
EVERY_SUM, EVERY_UPDATE, FINAL_MODEL = "every sum", "every update", "final model"
THREATS = {
    (CRAFTED, EVERY_SUM): "gateway with the silent partners; customers of any shape",
    (CRAFTED, EVERY_UPDATE): "gateway; customers of any shape",
    (ROWS, EVERY_SUM): "gateway with the silent partners; customers within the schema",
    (ROWS, EVERY_UPDATE): "gateway; customers within the schema",
    (ROWS, FINAL_MODEL): "whoever gets the model; customers within the schema",
}
ROWS_AT_ONCE = 64
"""Canary rows in one run: more would hide each other in as many places as a model has."""
PROBED_ROWS = 32
ACCOUNT_SLACK = 2e-3
"""The account is computed within a thousandth, and cards round to four places."""
LONGEST = 1.0


@dataclass(frozen=True)
class Claim:
    """What a run is said to cost; where it is said in two ways, the smaller."""

    person: float
    """Epsilon of a customer of every partner."""
    customer: float
    """Epsilon of a customer of one partner."""
    delta: float


@dataclass(frozen=True)
class Effort:
    """How much is tried."""

    crafted: int = 3_000
    """Crafted canaries, at least, over as many runs as that takes."""
    rows: int = 192
    """Canary rows, at least."""
    confidence: float = 0.95


@dataclass(frozen=True)
class Finding:
    """One experiment's outcome."""

    canaries: str
    view: str
    unit: str
    count: int
    runs: int
    claimed: float
    bounds: tuple[Bound, ...]

    @property
    def best(self) -> Bound:
        """The largest lower bound."""
        return best_of(self.bounds)

    @property
    def holds(self) -> bool:
        """Whether the claim stands."""
        return self.best.epsilon <= self.claimed

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "canaries": self.canaries,
            "view": self.view,
            "unit": self.unit,
            "threat": THREATS[self.canaries, self.view],
            "count": self.count,
            "runs": self.runs,
            "claimed_epsilon": self.claimed,
            "epsilon_at_least": round(self.best.epsilon, 4),
            "bound": self.best.name,
            "bounds": {
                bound.name: {"epsilon": round(bound.epsilon, 4), "guesses": bound.guesses, "right": bound.right}
                for bound in self.bounds
            },
            "holds": self.holds,
        }


@dataclass(frozen=True)
class Audit:
    """All findings about a run."""

    plan: Plan
    claim: Claim
    account: Claim
    """What the plan's own noise costs."""
    confidence: float
    longest: float | None
    """Longest part of a sum that one row made, where 1 is allowed; None under local noise."""
    findings: tuple[Finding, ...]

    @property
    def account_holds(self) -> bool:
        """Whether the claim is not below what the noise costs."""
        pairs = ((self.claim.person, self.account.person), (self.claim.customer, self.account.customer))
        return all(cost <= claimed + ACCOUNT_SLACK for claimed, cost in pairs)

    @property
    def clipping_holds(self) -> bool:
        """Whether no row was longer than allowed."""
        return self.longest is None or self.longest <= LONGEST

    @property
    def holds(self) -> bool:
        """Whether nothing is at odds with the claim."""
        return self.account_holds and self.clipping_holds and all(finding.holds for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "run_id": self.plan.run_id,
            "model": self.plan.kind,
            "rounds": self.plan.rounds,
            "trust": "local" if self.plan.noise is None else "secure_sum",
            "delta": self.claim.delta,
            "claimed": {"person": self.claim.person, "customer": self.claim.customer},
            "account": {
                "person": round(self.account.person, 4),
                "customer": round(self.account.customer, 4),
                "holds": self.account_holds,
            },
            "clipping": {"longest_row": self.longest, "allowed": LONGEST, "holds": self.clipping_holds},
            "confidence": self.confidence,
            "findings": [finding.to_json() for finding in self.findings],
            "holds": self.holds,
        }


def account_of(plan: Plan, attempts: int) -> Claim:
    """What so many attempts of a plan cost, by the tightest account there is: the smallest claim that may be made."""
    person = tight_epsilon([plan.person_event(attempts)], plan.delta)
    return Claim(person, tight_epsilon(plan.customer_events(attempts), plan.delta), plan.delta)


def synthetic_rows(plan: Plan, count: int, random_bytes: RandomBytes = os.urandom) -> list[Rows]:
    """Rows of nobody for every partner of a plan: each feature any of its places, either label."""
    return [canary_rows(plan, count, random_bytes) for _ in plan.partners]


def audit_run(
    plan: Plan,
    rows: Sequence[Rows],
    claim: Claim,
    effort: Effort,
    *,
    attempts: int,
    part: Part = noisy_part,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Audit:
    """Plays a run as often as the effort takes, with canaries, and compares.

    Args:
        plan: Of the run.
        rows: That the canaries are put among, one set for each partner of the plan.
        claim: What the run is said to cost.
        effort: How much to try.
        attempts: Sums or updates that the claim is for.
        part: What partners of a secure sum send that add noise; another than the real one is for tests of the audit.
        on_progress: Called with steps done, steps in all, and what is next.

    Raises:
        TrainingError: RUN_FAILED where there are too few rows for the noise.
    """
    experiments = _summed(plan, rows, part) if plan.noise is not None else _local(plan, rows)
    runs = [-(-(effort.rows if found.canaries == ROWS else effort.crafted) // found.at_once) for found in experiments]
    names = [name for found in experiments for name in found.views]
    each = 1 - (1 - effort.confidence) / len(names)
    findings, done = [], 0
    for experiment, count in zip(experiments, runs, strict=True):
        seen: list[tuple[Seen, ...]] = []
        for _ in range(count):
            on_progress(done, sum(runs), f"{experiment.canaries} canaries, {experiment.unit}")
            seen.append(experiment.play())
            done += 1
        for place, view in enumerate(experiment.views):
            scores = np.concatenate([of_run[place].scores for of_run in seen])
            included = np.concatenate([of_run[place].included for of_run in seen])
            bounds = lower_bounds(
                scores,
                included,
                claim.delta,
                each,
                # A sample's trade-off curve is not a Gaussian's.
                gaussian=plan.noise is not None or plan.settings.sampling_rate == 1,
                independent=experiment.canaries == CRAFTED,
            )
            claimed = claim.person if experiment.unit == ALL_PARTNERS else claim.customer
            findings.append(Finding(experiment.canaries, view, experiment.unit, len(scores), count, claimed, bounds))
    on_progress(done, sum(runs), "")
    longest = None if plan.noise is None else longest_row(plan, rows, canary_rows(plan, PROBED_ROWS, os.urandom))
    return Audit(plan, claim, account_of(plan, attempts), effort.confidence, longest, tuple(findings))


@dataclass(frozen=True)
class _Experiment:
    canaries: str
    unit: str
    views: tuple[str, ...]
    at_once: int
    """Canaries in one run."""
    play: Callable[[], tuple[Seen, ...]]


def _summed(plan: Plan, rows: Sequence[Rows], part: Part) -> list[_Experiment]:
    at_once = crafted_canaries(plan).count

    def crafted(unit: str) -> _Experiment:
        return _Experiment(CRAFTED, unit, (EVERY_SUM,), at_once, lambda: (replay_crafted(plan, rows, unit, part=part),))

    views = (EVERY_SUM, FINAL_MODEL)
    of_rows = _Experiment(
        ROWS, ALL_PARTNERS, views, ROWS_AT_ONCE, lambda: replay_rows(plan, rows, ROWS_AT_ONCE, part=part)
    )
    return [crafted(ALL_PARTNERS), crafted(ONE_PARTNER), of_rows]


def _local(plan: Plan, rows: Sequence[Rows]) -> list[_Experiment]:
    from federation.training.audit import replay_local as local  # noqa: PLC0415  torch, which sums do not need

    views = (EVERY_UPDATE, FINAL_MODEL)
    of_rows = _Experiment(
        ROWS, ALL_PARTNERS, views, ROWS_AT_ONCE, lambda: local.replay_rows_local(plan, rows, ROWS_AT_ONCE)
    )
    if plan.kind != LOGISTIC_REGRESSION:
        return [of_rows]
    at_once, size = local.crafted_canaries(plan).count, float(np.mean([len(own.y) for own in rows]))
    crafted = _Experiment(
        CRAFTED, ALL_PARTNERS, (EVERY_UPDATE,), at_once, lambda: (local.replay_crafted_local(plan, size),)
    )
    return [crafted, of_rows]
