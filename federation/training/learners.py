"""Which learner a kind of model has: everything a secure sum may be asked to sum."""

from federation.core.errors import DataError, Reason
from federation.training.counts import CountsLearner
from federation.training.features import Feature
from federation.training.gradient import GradientLearner
from federation.training.learner import Learner
from federation.training.models import LINEAR_DISCRIMINANT, LOGISTIC_REGRESSION


def build_learner(
    kind: str,
    features: tuple[Feature, ...],
    *,
    rounds: int,
    clipping_norm: float,
    learning_rate: float,
    momentum: float,
) -> Learner:
    """The learner of a model kind, at its beginning.

    Args:
        kind: Model kind.
        features: In the schema's order.
        rounds: At least 1.
        clipping_norm: Of a row's gradient; for logistic regression, like the rest.
        learning_rate: Of the gateway's steps.
        momentum: Of the gateway's steps.

    Raises:
        DataError: BAD_FIELD for a kind that is not learned from sums.
    """
    if kind == LINEAR_DISCRIMINANT:
        return CountsLearner(features, rounds=rounds)
    if kind != LOGISTIC_REGRESSION:
        raise DataError(Reason.BAD_FIELD, item=f"model {kind[:48]!r} has no secure sum")
    return GradientLearner(
        sum(len(feature.places) + 2 for feature in features),
        rounds=rounds,
        clipping_norm=clipping_norm,
        learning_rate=learning_rate,
        momentum=momentum,
    )
