"""How well scores rank and how true they are, with intervals: numpy only, on whatever labelled rows the caller may use.

All intervals are 95 %. Intervals of an AUC and of differences of AUCs are DeLong's, which takes into account that two
models were judged on the same rows; they are made on the logit scale for a single AUC, so that they stay within 0 and
1. Shares have Wilson's interval.

Source: DeLong, DeLong, Clarke-Pearson 1988 (covariance of AUCs); Sun and Xu 2014, "Fast Implementation of DeLong's
Algorithm"; Wilson 1927; Pepe 2003, section 5.2 (the logit scale).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason

Z = 1.959964
"""Standard normal quantile of a 95 % interval."""
ROC_POINTS = 101
PARTS = 10
MIN_GROUP = 20
"""A group with fewer rows, or fewer of either label than a quarter of it, is too small to be judged alone."""
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self, digits: int = 4) -> list[float]:
        """Value, low, high."""
        return [round(self.value, digits), round(self.low, digits), round(self.high, digits)]


@dataclass(frozen=True)
class Difference:
    """Two models on the same rows."""

    first: Interval
    second: Interval
    difference: Interval
    """Second minus first."""
    p_value: float
    """Chance of a difference at least as large if both were equally good."""


def normal_interval(value: float, variance: float, low: float = 0.0, high: float = 1.0) -> Interval:
    """An interval from a normal approximation, cut to what is possible."""
    reach = Z * math.sqrt(max(variance, 0.0))
    return Interval(value, max(low, value - reach), min(high, value + reach))


def logit_interval(value: float, variance: float) -> Interval:
    """An interval of a share or an AUC, made on the logit scale; the plain one at 0 and 1."""
    if not 0 < value < 1:
        return normal_interval(min(max(value, 0.0), 1.0), variance)
    middle, reach = math.log(value / (1 - value)), Z * math.sqrt(max(variance, 0.0)) / (value * (1 - value))
    return Interval(value, _expit(middle - reach), _expit(middle + reach))


def wilson_interval(hits: float, rows: float) -> Interval:
    """Wilson's interval of a share; ``rows`` above 0."""
    share, square = hits / rows, Z * Z
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    reach = Z / (1 + square / rows) * math.sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def auc_covariance(scores: Sequence[Doubles], labels: Doubles) -> tuple[Doubles, Doubles]:
    """AUCs of several models on the same rows, and their covariance.

    Args:
        scores: float64 (n,) each.
        labels: float64 (n,), 0 or 1, at least two of each.

    Returns:
        float64 (k,), float64 (k, k).
    """
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    above, below = np.empty((len(scores), m)), np.empty((len(scores), n))
    for place, one in enumerate(scores):
        ranks = _midranks(one)
        above[place] = (ranks[positive] - _midranks(one[positive])) / n
        below[place] = 1 - (ranks[~positive] - _midranks(one[~positive])) / m
    cov = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n
    return above.mean(axis=1), cov


def auc_interval(scores: Doubles, labels: Doubles) -> Interval:
    """An AUC with its interval; both labels at least twice."""
    values, cov = auc_covariance([scores], labels)
    return logit_interval(float(values[0]), float(cov[0, 0]))


def compare(first: Doubles, second: Doubles, labels: Doubles) -> Difference:
    """Two models' scores of the same rows.

    Args:
        first: float64 (n,).
        second: float64 (n,).
        labels: float64 (n,), 0 or 1.

    Raises:
        DataError: BAD_FIELD with fewer than two of a label.
    """
    need_both(labels)
    values, cov = auc_covariance([first, second], labels)
    variance = float(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    gap = float(values[1] - values[0])
    p_value = 1.0 if variance <= 0 else math.erfc(abs(gap) / math.sqrt(2 * variance))
    return Difference(
        logit_interval(float(values[0]), float(cov[0, 0])),
        logit_interval(float(values[1]), float(cov[1, 1])),
        normal_interval(gap, variance, -1.0, 1.0),
        p_value,
    )


def log_losses(scores: Doubles, labels: Doubles) -> Doubles:
    """The log loss of each row: float64 (n,)."""
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    return np.asarray(-(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)), dtype=np.float64)


def measure_scores(scores: Doubles, labels: Doubles) -> dict[str, Any]:
    """AUC, log loss, ROC, lift and calibration, ready for JSON.

    Args:
        scores: float64 (n,), probabilities.
        labels: float64 (n,), 0 or 1, each at least twice.

    Raises:
        DataError: BAD_FIELD where there are fewer than two of a label.
    """
    need_both(labels)
    positives = int(labels.sum())
    values, cov = auc_covariance([scores], labels)
    losses = log_losses(scores, labels)
    order = np.argsort(-scores, kind="stable")
    ranked, ordered = labels[order], scores[order]
    # Only the last of equal scores is a point of the curve: those who tie are taken together.
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true_rate = np.concatenate(([0.0], np.cumsum(ranked)[ends] / positives))
    false_rate = np.concatenate(([0.0], np.cumsum(1 - ranked)[ends] / (len(labels) - positives)))
    grid = np.linspace(0, 1, ROC_POINTS)
    edges = [round(len(ranked) * part / PARTS) for part in range(PARTS + 1)]
    parts = [slice(low, high) for low, high in pairwise(edges) if high > low]
    curve = zip(grid.tolist(), np.interp(grid, false_rate, true_rate).tolist(), strict=True)
    return {
        "rows": len(labels),
        "positives": positives,
        "auc": round(float(values[0]), 4),
        "auc_interval": logit_interval(float(values[0]), float(cov[0, 0])).to_json()[1:],
        "auc_standard_error": round(math.sqrt(float(cov[0, 0])), 4),
        "log_loss": round(float(losses.mean()), 5),
        "log_loss_interval": normal_interval(
            float(losses.mean()), float(losses.var()) / len(losses), high=math.inf
        ).to_json(5)[1:],
        "roc": [[round(x, 4), round(y, 4)] for x, y in curve],
        "lift": [round(float(ranked[: part.stop].mean() / labels.mean()), 3) for part in parts],
        "calibration": [
            [
                round(float(ordered[part].mean()), 4),
                *wilson_interval(float(ranked[part].sum()), part.stop - part.start).to_json(),
            ]
            for part in parts
        ],
    }


def measure_group(scores: Doubles, labels: Doubles, selected: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """A group of rows by itself: its share of positives, of selected, its AUC, and positives over what was expected.

    Args:
        scores: float64 (n,), probabilities.
        labels: float64 (n,), 0 or 1.
        selected: bool (n,): who is among the best scored of everyone.

    Returns:
        None where the group is too small to be judged alone.
    """
    rows, positives = len(labels), int(labels.sum())
    if rows < MIN_GROUP or min(positives, rows - positives) < MIN_GROUP // 4:
        return None
    expected = float(scores.sum())
    # The scores are given. With equal chances independent labels vary most, so the interval is rather too wide.
    ratio_variance = positives * (1 - positives / rows) / expected**2
    return {
        "rows": rows,
        "positive_rate": wilson_interval(positives, rows).to_json(),
        "selected_rate": wilson_interval(float(selected.sum()), rows).to_json(),
        "auc": auc_interval(scores, labels).to_json(),
        "calibration_ratio": normal_interval(positives / expected, ratio_variance, high=math.inf).to_json(3),
    }


def _midranks(values: Doubles) -> Doubles:
    """Ranks from 1 on, equal values sharing the mean of theirs."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[codes.reshape(-1)], dtype=np.float64)


def need_both(labels: Doubles) -> None:
    """Raises DataError (BAD_FIELD) with fewer than two of a label."""
    positives = int(labels.sum())
    if positives < 2 or len(labels) - positives < 2:
        raise DataError(Reason.BAD_FIELD, item="labels are all the same")


def _expit(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))
