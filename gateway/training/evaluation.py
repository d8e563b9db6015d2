"""How good a finished model is, on rows of people who are in no partner's file: numpy only.

The model is private already and the set is public, so nothing here costs budget. The set must hold no partner's
customers; who configures it vouches for that.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.core.errors import ConfigError, DataError, Reason
from federation.training.features import FeatureSchema, read_labels
from federation.training.models import Weights, predict

MAX_ROWS = 1_000_000
ROC_POINTS = 101
PARTS = 10
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PublicSet:
    """Labelled rows that are nobody's customers."""

    columns: dict[str, list[str]]

    def measure(
        self, kind: str, weights: Weights, schema: FeatureSchema, features: Sequence[str], label: str
    ) -> dict[str, Any]:
        """All metrics of a model, ready for JSON.

        Raises:
            DataError: MISSING_COLUMN, or BAD_FIELD where the labels are all the same.
        """
        y, labelled = read_labels(self.columns, label)
        scores = predict(kind, weights, schema.encode(self.columns, features))
        return measure_scores(scores[labelled], y[labelled].astype(np.float64))


def load_public_set(path: Path) -> PublicSet:
    """Reads a CSV file with a header.

    Raises:
        ConfigError: MISSING_FILE.
        DataError: BROKEN_ROW, TOO_LARGE.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows: list[list[str]] = []
            for row in reader:
                if len(row) != len(header):
                    raise DataError(Reason.BROKEN_ROW, item=f"{path.name}, line {reader.line_num}")
                rows.append(row)
                if len(rows) > MAX_ROWS:
                    raise DataError(Reason.TOO_LARGE, item=path.name)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(path), detail=type(exc).__name__) from exc
    return PublicSet({name: [row[index] for row in rows] for index, name in enumerate(header)})


def area_under_curve(scores: Doubles, labels: Doubles) -> float:
    """Chance that a positive is ranked above a negative, ties counting half: the Mann-Whitney statistic."""
    _, codes, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[codes.reshape(-1)]
    positives = float(labels.sum())
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives)))


def measure_scores(scores: Doubles, labels: Doubles) -> dict[str, Any]:
    """AUC with its standard error, log loss, ROC, lift and calibration.

    Args:
        scores: float64 (n,), probabilities.
        labels: float64 (n,), 0 or 1, both present.

    Raises:
        DataError: BAD_FIELD where one kind of label is missing.

    Source: Hanley and McNeil 1982 for the standard error of the AUC.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise DataError(Reason.BAD_FIELD, item="evaluation set: labels are all the same")
    auc = area_under_curve(scores, labels)
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc * auc) + (negatives - 1) * (q2 - auc * auc)
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    order = np.argsort(-scores, kind="stable")
    ranked, ordered = labels[order], scores[order]
    true_rate = np.concatenate(([0.0], np.cumsum(ranked) / positives))
    false_rate = np.concatenate(([0.0], np.cumsum(1 - ranked) / negatives))
    grid = np.linspace(0, 1, ROC_POINTS)
    edges = [round(len(ranked) * part / PARTS) for part in range(PARTS + 1)]
    parts = [slice(low, high) for low, high in pairwise(edges) if high > low]
    curve = zip(grid.tolist(), np.interp(grid, false_rate, true_rate).tolist(), strict=True)
    return {
        "rows": len(labels),
        "positives": positives,
        "auc": round(auc, 4),
        "auc_standard_error": round(float(np.sqrt(variance / (positives * negatives))), 4),
        "log_loss": round(float(-np.mean(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))), 5),
        "roc": [[round(x, 4), round(y, 4)] for x, y in curve],
        "lift": [round(float(ranked[: part.stop].mean() / labels.mean()), 3) for part in parts],
        "calibration": [[round(float(ordered[p].mean()), 4), round(float(ranked[p].mean()), 4)] for p in parts],
    }
