"""From what somebody asked for to a complete proposal, within what the policy allows."""

from collections.abc import Sequence
from dataclasses import dataclass

from federation.core.errors import DataError, PolicyError, Reason, TrainingError
from federation.core.nearest import unknown
from federation.policy.specs import JudgingSpec, TrainingSpec
from federation.training.accounting import calibrate_steps, calibrate_sums
from federation.training.joint_noise import best_scale_bits
from federation.training.judging import REGION, Grouping, Judging, write_judging
from federation.training.plan import PURPOSE, Plan
from federation.v1 import training_pb2 as pb

MAX_TOLD = 96
"""Of what somebody asked for no more letters are told back."""
TRUSTS = {"secure_sum": pb.TRUST_SECURE_SUM, "local": pb.TRUST_LOCAL}


@dataclass(frozen=True)
class TrainingRules:
    """What the active policy says of training."""

    spec: TrainingSpec
    delta: float
    """The budget's."""
    partners: tuple[str, ...]
    """All partners of the agreement."""
    regions: tuple[str, ...] = ()
    """Of residence, that the policy knows."""


def complete(asked: pb.TrainingProposal, rules: TrainingRules, connected: frozenset[str]) -> pb.TrainingProposal:
    """Fills in the policy's defaults and the noise that the epsilon needs; the run's id stays empty.

    Args:
        asked: Zero or empty fields take the default. No partners: those of the agreement that are connected.
        rules: What the policy says.
        connected: Partners whose agent is there.

    Raises:
        DataError: BAD_FIELD where the proposal is outside of what the policy allows, or sets what is derived.
        TrainingError: PARTNER_UNAVAILABLE naming who is missing, TOO_FEW_PARTNERS.
        BudgetError: BAD_COST where no noise gives that epsilon.
    """
    spec = rules.spec
    filled = pb.TrainingProposal(
        purpose=asked.purpose or PURPOSE,
        model=asked.model or spec.models[0],
        feature_schema=asked.feature_schema or spec.feature_schema,
        features=list(asked.features) or list(spec.features),
        label=asked.label or spec.label,
        rounds=asked.rounds or spec.rounds,
        steps_per_round=asked.steps_per_round or spec.steps_per_round,
        sampling_rate=asked.sampling_rate or spec.sampling_rate,
        clipping_norm=asked.clipping_norm or spec.clipping_norm,
        learning_rate=asked.learning_rate or spec.learning_rate,
        epsilon=asked.epsilon or spec.epsilon,
        delta=asked.delta or rules.delta,
        trust=TRUSTS[spec.trust],
        momentum=asked.momentum or spec.momentum,
    )
    if filled.trust == pb.TRUST_SECURE_SUM:
        filled.collusion, filled.spare_attempts = spec.collusion, spec.spare_attempts
        if spec.judging is not None:
            filled.judging.CopyFrom(_judging(spec.judging, rules.regions))
    allowed = {
        "run_id": not asked.run_id,
        "noise_multiplier": not asked.noise_multiplier,
        "trust": asked.trust in {pb.TRUST_UNSPECIFIED, filled.trust},
        "collusion, scale_bits or spare_attempts": not (asked.collusion or asked.scale_bits or asked.spare_attempts),
        "purpose": filled.purpose == PURPOSE,
        "model": filled.model in spec.models,
        "features": set(filled.features) <= set(spec.features),
        "feature_schema": filled.feature_schema == spec.feature_schema,
        "label": filled.label == spec.label,
        "rounds": filled.rounds <= spec.max_rounds,
        "judging": not asked.HasField("judging"),
        "steps_per_round": filled.steps_per_round <= 1000,
        "sampling_rate": 1e-6 <= filled.sampling_rate <= 1,
        "epsilon": 0 < filled.epsilon <= spec.max_epsilon,
        "delta": 0 < filled.delta <= rules.delta,
    }
    strange = ", ".join(feature for feature in filled.features if feature not in spec.features)
    told = {  # what the policy allows is no secret among the parties
        "model": f'model "{filled.model[:MAX_TOLD]}"; allowed: {", ".join(spec.models)}',
        "features": f'features "{strange[:MAX_TOLD]}"; allowed: {", ".join(spec.features)}',
        "rounds": f"rounds, at most {spec.max_rounds}",
        "epsilon": f"epsilon, at most {spec.max_epsilon:g}",
    }
    wrong = [told.get(name, name) for name, fine in allowed.items() if not fine]
    if wrong:
        raise DataError(Reason.BAD_FIELD, item=f"proposal: {', '.join(wrong)}")
    filled.rounds += filled.judging.rounds
    filled.partners.extend(_choose(asked.partners, rules, connected))
    if filled.trust == pb.TRUST_SECURE_SUM:
        # Spare attempts are paid for in advance: trying a round again never passes the epsilon that was agreed.
        attempts = filled.rounds + filled.spare_attempts
        filled.noise_multiplier = calibrate_sums(filled.epsilon, filled.delta, attempts)
        filled.scale_bits = best_scale_bits(len(filled.partners), spec.max_rows_per_partner)
    else:
        steps, rate = filled.rounds * filled.steps_per_round, filled.sampling_rate
        filled.noise_multiplier = calibrate_steps(filled.epsilon, filled.delta, rate, steps, len(filled.partners))
    return filled


def _judging(spec: JudgingSpec, regions: Sequence[str]) -> pb.Judging:
    """What the last rounds measure. Groups are in a fixed order, so that equal policies make equal proposals."""
    by_region = [Grouping(REGION, tuple(sorted(regions)))] if spec.by_region and regions else []
    bands = [Grouping.banded(column, edges) for column, edges in sorted(spec.bands.items())]
    return write_judging(Judging((*by_region, *bands), spec.bins, spec.rounds))


def check_plan(plan: Plan, rules: TrainingRules) -> None:
    """Whether a run that was proposed under another policy is still within this one.

    Raises:
        PolicyError: POLICY_DENIED, naming what is not.
    """
    spec = rules.spec
    allowed = {
        "epsilon": plan.epsilon <= spec.max_epsilon,
        "delta": plan.delta <= rules.delta,
        "judging": plan.judging is None or plan.judging.columns <= _judged_by(spec.judging),
        "rounds": plan.learning_rounds <= spec.max_rounds,
        "model": plan.kind in spec.models,
        "features": set(plan.features) <= set(spec.features),
        "label": plan.label == spec.label,
        "trust": (plan.noise is not None) == (spec.trust == "secure_sum"),
        "collusion": plan.noise is None or plan.noise.collusion >= spec.collusion,
        "partners": set(plan.partners) <= set(rules.partners) and len(plan.partners) >= spec.min_partners,
    }
    wrong = [name for name, fine in allowed.items() if not fine]
    if wrong:
        raise PolicyError(Reason.POLICY_DENIED, item=f"run {plan.run_id}: {', '.join(wrong)} of the policy in force")


def _judged_by(spec: JudgingSpec | None) -> set[str]:
    """Columns that customers may be grouped by."""
    return set() if spec is None else {*spec.bands, *([REGION] if spec.by_region else [])}


def _choose(asked: Sequence[str], rules: TrainingRules, connected: frozenset[str]) -> list[str]:
    """The partners of the run. Raises DataError, TrainingError."""
    if strangers := ", ".join(sorted(set(asked) - set(rules.partners))):
        item = f"proposal: {unknown('partner', strangers[:MAX_TOLD], rules.partners)}"
        raise DataError(Reason.BAD_FIELD, item=item)
    if len(set(asked)) != len(asked):
        raise DataError(Reason.BAD_FIELD, item="proposal: a partner twice")
    fewest = rules.spec.min_partners
    if len(rules.partners) < fewest or (asked and len(asked) < fewest):
        raise TrainingError(Reason.TOO_FEW_PARTNERS, item=f"at least {fewest}")
    wanted = list(asked) or list(rules.partners)
    missing = [party for party in wanted if party not in connected]
    there = [party for party in wanted if party in connected]
    if (asked and missing) or len(there) < fewest:
        raise TrainingError(Reason.PARTNER_UNAVAILABLE, item=", ".join(missing))
    return there
