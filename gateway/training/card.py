"""The model card: what a model is, what it cost, how good it is and what it is not, as canonical JSON."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from federation.core.canonical import canonical_json
from federation.core.clock import to_text
from federation.privacy.composition import epsilon_of
from federation.training.models import weights_digest
from federation.training.plan import PURPOSE, Plan

LIMITS = (
    "Trained with noise: small groups are learned poorly, and may be served poorly.",
    "Scores rank customers; calibration shifts where a partner's customers differ from the evaluation set.",
    "For the purposes that the policy permits only; never for credit, pricing or employment.",
)


def write_card(
    plan: Plan,
    weights: bytes,
    *,
    attempts: int,
    policy_version: str,
    trained_at: datetime,
    metrics: Mapping[str, Any] | None,
) -> str:
    """The card of a finished model.

    Args:
        plan: Of the run.
        weights: The model file.
        attempts: Noisy updates or sums that partners were asked for, one a round if nothing was lost.
        policy_version: Under which it was released.
        trained_at: When.
        metrics: On the public evaluation set; None where there is none.
    """
    value = {
        "run_id": plan.run_id,
        "purpose": PURPOSE,
        "model": plan.kind,
        "feature_schema": plan.schema.version,
        "features": list(plan.features),
        "columns": plan.schema.columns(plan.features),
        "label": plan.label,
        "partners": list(plan.partners),
        "rounds": plan.rounds,
        "steps_per_round": plan.settings.steps,
        "sampling_rate": plan.settings.sampling_rate,
        "clipping_norm": plan.settings.clipping_norm,
        "noise_multiplier": plan.settings.noise_multiplier,
        "learning_rate": plan.settings.learning_rate,
        "momentum": plan.momentum,
        "trust": "local" if plan.noise is None else "secure_sum",
        "collusion": 0 if plan.noise is None else plan.noise.collusion,
        "attempts": attempts,
        "epsilon_per_customer": round(epsilon_of(plan.customer_events(attempts), plan.delta), 4),
        "epsilon_per_person": round(epsilon_of([plan.person_event(attempts)], plan.delta), 4),
        "delta": plan.delta,
        "policy_version": policy_version,
        "trained_at": to_text(trained_at),
        "weights_sha256": weights_digest(weights),
        "metrics": dict(metrics) if metrics is not None else None,
        "limits": list(LIMITS),
    }
    return canonical_json(value).decode()
