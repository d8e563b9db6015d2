"""Local scores: a partner applies a finished model to its own customers. Nothing here leaves the partner."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from federation.training.features import FeatureSchema
from federation.training.models import Weights, predict

BANDS = ((0.01, "top1"), (0.05, "top5"), (0.10, "top10"), (0.25, "top25"))
"""Upper bound of the share of customers ranked above, and the band's name."""
REST = "rest"


def score(
    kind: str, weights: Weights, frame: pd.DataFrame, schema: FeatureSchema, features: Sequence[str]
) -> "pd.Series[float]":
    """Probability of the label for each customer.

    Args:
        kind: Model kind.
        weights: Of the model.
        frame: One row per customer.
        schema: That the model was trained with.
        features: That the model was trained with.

    Returns:
        float64 in [0, 1], on the frame's index.

    Raises:
        DataError: MISSING_COLUMN, or BAD_FIELD where model and features do not fit.
    """
    return pd.Series(predict(kind, weights, schema.encode(frame, features)), index=frame.index, name="score")


def score_bands(scores: "pd.Series[float]") -> "pd.Series[str]":
    """The band of each score by its rank among these customers: "top1" is the best hundredth, "rest" below "top25".

    Equal scores are in one band: the one of the first of them.
    """
    share = (scores.rank(method="min", ascending=False) - 1) / max(len(scores), 1)
    bands = np.full(len(scores), REST, dtype=object)
    for bound, name in reversed(BANDS):
        bands[(share < bound).to_numpy()] = name
    return pd.Series(bands, index=scores.index, name="band")
