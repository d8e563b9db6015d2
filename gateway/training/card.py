"""The model card: what a model is, what it cost, how good it is and what it is not, as canonical JSON.

Nothing in it is about a person: settings, epsilons, noisy sums with their intervals, and measures on public rows, of
which groups too small to be judged alone are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from federation.core.canonical import canonical_json
from federation.core.clock import to_text
from federation.privacy.composition import as_stated, epsilon_of
from federation.training.accounting import tight_epsilon
from federation.training.features import MISSING, UNSEEN
from federation.training.judging import Judging
from federation.training.models import weights_digest
from federation.training.plan import PURPOSE, Plan

CARD_VERSION = 2
UNIT = "a person across the alliance, with everything that all partners hold, added or removed"
SUMMED = (
    "Clipped contributions of all rows, summed under pairwise masks; each partner adds a share of discrete Gaussian "
    "noise. The promise holds without the shares of the stated number of colluding partners."
)
LOCAL = "DP-SGD at each partner with Poisson sampling; Gaussian noise is added to every step before it leaves."
LIMITS = (
    "Trained with noise: small groups are learned poorly, and may be served poorly. See the measures by group.",
    "Scores rank customers; calibration shifts where a partner's customers differ from the evaluation set.",
    "The public set is chosen by the gateway's operator, who vouches that nobody's customers are in it.",
    "Measures on the partners' own rows are of rows that were trained on too, and of bins of scores; their noise and "
    "the customers' own variation are in the intervals, the difference between the partners is not.",
    "A reason for a score says how the model comes to it, not what would change the customer's mind.",
    "Epsilon bounds what the model tells about a person; it does not make the model's scores of that person secret.",
    "For the purposes that the policy permits only; never for credit, pricing or employment.",
)


@dataclass(frozen=True)
class Measures:
    """How good a model is; every part may be missing."""

    public: Mapping[str, Any] | None = None
    """On the public evaluation set, by group too."""
    judged: Mapping[str, Any] | None = None
    """On the partners' own rows, under the run's epsilon."""
    losses: Sequence[tuple[int, float]] = field(default_factory=tuple)
    """Log loss on the public set after each round."""
    reference: Sequence[float] | None = None
    """Share of public people in each encoded column: whom reasons for a score compare with."""


def write_card(
    plan: Plan,
    weights: bytes,
    *,
    alliance: str,
    attempts: int,
    policy_version: str,
    trained_at: datetime,
    measures: Measures,
) -> str:
    """The card of a finished model.

    Args:
        plan: Of the run.
        weights: The model file.
        alliance: Whose model it is.
        attempts: Noisy updates or sums that partners were asked for, one a round if nothing was lost.
        policy_version: Under which it was released.
        trained_at: When.
        measures: How good it is.
    """
    summed = plan.noise is not None
    value = {
        "card_version": CARD_VERSION,
        "alliance": alliance,
        "run_id": plan.run_id,
        "purpose": PURPOSE,
        "model": plan.kind,
        "feature_schema": plan.schema.version,
        "features": list(plan.features),
        "bounds": {feature.name: [*feature.places, MISSING, UNSEEN] for feature in plan.schema.select(plan.features)},
        "columns": plan.schema.columns(plan.features),
        "label": plan.label,
        "partners": list(plan.partners),
        "rows": measures.judged["everyone"]["rows"] if measures.judged else None,
        "rounds": plan.rounds,
        "judging": _write_judging(plan.judging, len(plan.partners)) if plan.judging else None,
        "steps_per_round": plan.settings.steps,
        "sampling_rate": plan.settings.sampling_rate,
        "clipping_norm": plan.settings.clipping_norm,
        "noise_multiplier": plan.settings.noise_multiplier,
        "learning_rate": plan.settings.learning_rate,
        "momentum": plan.momentum,
        "trust": "secure_sum" if summed else "local",
        "mechanism": SUMMED if summed else LOCAL,
        "accounting": "Rényi differential privacy, all rounds and attempts composed",
        "unit": UNIT,
        "collusion": 0 if plan.noise is None else plan.noise.collusion,
        "attempts": attempts,
        "epsilon_per_customer": as_stated(epsilon_of(plan.customer_events(attempts), plan.delta)),
        "epsilon_per_person": as_stated(epsilon_of([plan.person_event(attempts)], plan.delta)),
        # By privacy loss distributions, nearly exact; limits and ledgers count by the two above.
        "tight_epsilon_per_customer": as_stated(tight_epsilon(plan.customer_events(attempts), plan.delta)),
        "tight_epsilon_per_person": as_stated(tight_epsilon([plan.person_event(attempts)], plan.delta)),
        "delta": plan.delta,
        "policy_version": policy_version,
        "trained_at": to_text(trained_at),
        "weights_sha256": weights_digest(weights),
        "metrics": dict(measures.public) if measures.public is not None else None,
        "judged": dict(measures.judged) if measures.judged is not None else None,
        "loss_by_round": [[number, round(loss, 5)] for number, loss in measures.losses],
        "reference": list(measures.reference) if measures.reference is not None else None,
        "limits": list(LIMITS),
    }
    return canonical_json(value).decode()


def _write_judging(judging: Judging, partners: int) -> dict[str, Any]:
    """How the partners' own rows were measured, with its sensitivity in words."""
    groupings = len(judging.groupings)
    return {
        "rounds": judging.rounds,
        "bins": judging.bins,
        "groupings": {grouping.column: list(grouping.places) for grouping in judging.groupings},
        "sensitivity": f"A customer is in one cell of each of {groupings} groupings: L2 sqrt({groupings}) for a "
        f"customer of one partner, {partners} times that for a person who is everywhere. The run pays for it.",
    }
