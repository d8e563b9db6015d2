"""Which learner a kind of model has: everything a secure sum may be asked to sum."""

from federation.core.errors import DataError, Reason
from federation.training.gradient import GradientLearner
from federation.training.learner import Learner
from federation.training.models import LOGISTIC_REGRESSION


def build_learner(
    kind: str, columns: int, *, rounds: int, clipping_norm: float, learning_rate: float, momentum: float
) -> Learner:
    """The learner of a model kind, at its beginning.

    Args:
        kind: Model kind.
        columns: Encoded columns.
        rounds: Of the run.
        clipping_norm: Of a row's gradient.
        learning_rate: Of the gateway's steps.
        momentum: Of the gateway's steps.

    Raises:
        DataError: BAD_FIELD for a kind that is not learned from sums.
    """
    if kind != LOGISTIC_REGRESSION:
        raise DataError(Reason.BAD_FIELD, item=f"model {kind[:48]!r} has no secure sum")
    return GradientLearner(
        columns, rounds=rounds, clipping_norm=clipping_norm, learning_rate=learning_rate, momentum=momentum
    )
