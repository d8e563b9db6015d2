"""What the noisy histograms of the judging rounds say: AUC, share of takers, calibration, with intervals, by group.

Everything here is post-processing of released sums. Each count is the true one plus independent Gaussian noise of known
size. All intervals are 95 % and of the delta method: the true counts are taken as Poisson, which for rates and ranks is
the customers' own sampling error, and the noise is added to their variance. What the noise drowns is said to be too few
instead of shown. A threshold looks at noisy counts only.

Limits: an AUC from bins counts two people in the same bin as a tie; with ten bins that lowers everyone's by less than a
hundredth, and a group's by more where its scores crowd into few bins. What a bin's customers were expected to do is the
middle of public scores in that bin, not their own mean. A group is shown where its noisy counts are clear of the noise;
of groups near that bound, those are shown whose noise happened to be high.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.training.judging import Doubles, Judging
from federation.training.measures import Interval, Z, logit_interval, normal_interval

ENOUGH_SIGMAS = 5.0
"""A noisy count is divided by only where it is this many standard deviations above zero."""
NEGATIVE, POSITIVE = 0, 1


@dataclass(frozen=True)
class Cells:
    """Noisy counts of one group."""

    counts: Doubles
    """float64 (bins, 2)."""
    sigma: float
    """Standard deviation of the noise in each."""

    @property
    def variances(self) -> Doubles:
        """Of the counts as estimates of what was to be expected: float64 (bins, 2)."""
        return np.maximum(self.counts, 0.0) + self.sigma**2

    def total(self, label: int | None = None) -> float:
        """Rows, or rows of one label."""
        return float(self.counts.sum() if label is None else self.counts[:, label].sum())

    @property
    def enough(self) -> bool:
        """Whether both labels are clear of the noise."""
        least = ENOUGH_SIGMAS * self.sigma * math.sqrt(len(self.counts))
        return min(self.total(NEGATIVE), self.total(POSITIVE)) > max(least, ENOUGH_SIGMAS)

    def rows(self) -> Interval:
        """How many there are; only the noise makes this uncertain."""
        reach = Z * self.sigma * math.sqrt(self.counts.size)
        return Interval(self.total(), max(0.0, self.total() - reach), self.total() + reach)

    def auc(self) -> Interval:
        """Chance that a taker is in a higher bin than another, ties counting half."""
        bins = len(self.counts)
        wins = np.tri(bins, k=-1) + 0.5 * np.eye(bins)  # [taker's bin, other's bin]
        takers, others = self.counts[:, POSITIVE], self.counts[:, NEGATIVE]
        pairs = takers.sum() * others.sum()
        value = float(takers @ wins @ others / pairs)
        centred = wins - value
        by_taker, by_other = centred @ others, takers @ centred
        of_takers, of_others = self.variances[:, POSITIVE], self.variances[:, NEGATIVE]
        variance = float(of_takers @ by_taker**2 + of_others @ by_other**2) / pairs**2
        return logit_interval(value, variance)

    def positive_rate(self) -> Interval:
        """Share of takers."""
        rows, rate = self.total(), self.total(POSITIVE) / self.total()
        slopes = np.array([-rate, 1 - rate]) / rows
        return logit_interval(rate, float((self.variances * slopes**2).sum()))

    def selected_rate(self) -> Interval:
        """Share of rows in the highest bin."""
        rows, rate = self.total(), float(self.counts[-1].sum()) / self.total()
        slopes = np.full(len(self.counts), -rate / rows)
        slopes[-1] += 1 / rows
        return normal_interval(rate, float((self.variances.sum(axis=1) * slopes**2).sum()))

    def calibration_ratio(self, expected: Doubles) -> Interval:
        """Takers over what the scores led to expect; ``expected`` is the score of each bin, float64 (bins,)."""
        hoped = float(self.counts.sum(axis=1) @ expected)
        if hoped <= 0:
            return Interval(math.nan, 0.0, math.inf)
        ratio = self.total(POSITIVE) / hoped
        slopes = np.stack([-ratio * expected, 1 - ratio * expected], axis=1) / hoped
        return normal_interval(ratio, float((self.variances * slopes**2).sum()), high=math.inf)

    def calibration(self, expected: Doubles) -> list[list[float]]:
        """Score, share of takers, low, high of each bin that is clear of the noise."""
        shown = []
        for counts, variances, score in zip(self.counts, self.variances, expected, strict=True):
            rows = float(counts.sum())
            if rows <= max(ENOUGH_SIGMAS * self.sigma * math.sqrt(2), ENOUGH_SIGMAS):
                continue
            rate = float(counts[POSITIVE]) / rows
            slopes = np.array([-rate, 1 - rate]) / rows
            around = normal_interval(rate, float((variances * slopes**2).sum()))
            value = min(max(rate, 0.0), 1.0)
            shown.append([round(float(score), 4), round(value, 4), round(around.low, 4), round(around.high, 4)])
        return shown


def bin_scores(edges: Doubles, public_scores: Doubles | None = None) -> Doubles:
    """The score that stands for each bin: the mean of public scores in it, else its middle: float64 (bins,)."""
    outer = np.concatenate(([0.0], edges, [1.0]))
    middles = (outer[:-1] + outer[1:]) / 2
    if public_scores is None:
        return np.asarray(middles, dtype=np.float64)
    place = np.searchsorted(edges, public_scores, side="right")
    rows = np.bincount(place, minlength=len(middles))
    sums = np.bincount(place, weights=public_scores, minlength=len(middles))
    return np.where(rows > 0, sums / np.maximum(rows, 1), middles)


def everyone(tables: list[Doubles], sigma: float) -> Cells:
    """All rows: each grouping gives them once; the sums are weighted by how little noise is in them.

    The groupings' noises are independent, so the best mean weighs each by one over its number of groups.
    """
    weights = np.array([1 / len(table) for table in tables])
    counts = sum(weight * table.sum(axis=0) for weight, table in zip(weights, tables, strict=True)) / weights.sum()
    return Cells(np.asarray(counts, dtype=np.float64), sigma / math.sqrt(float(weights.sum())))


def read_judged(
    judging: Judging, counts: Doubles, sigma: float, edges: Doubles, public_scores: Doubles | None = None
) -> dict[str, Any]:
    """All metrics, ready for JSON.

    Args:
        judging: What was measured.
        counts: Noisy counts of customers, float64 (width,).
        sigma: Standard deviation of the noise in each.
        edges: Of the bins of scores, float64 (bins - 1,).
        public_scores: The model's scores of public rows, to say what a bin stands for.
    """
    tables, expected = judging.split(counts), bin_scores(edges, public_scores)
    by = {}
    for grouping, table in zip(judging.groupings, tables, strict=True):
        groups = [(name, Cells(table[place], sigma)) for place, name in enumerate(grouping.places)]
        by[grouping.column] = [{"group": name, **_measure(cells, expected)} for name, cells in groups]
    return {
        "rounds": judging.rounds,
        "score_edges": [round(float(edge), 5) for edge in edges],
        "noise_per_cell": round(sigma, 2),
        "everyone": _measure(everyone(tables, sigma), expected),
        "by": by,
    }


def _measure(cells: Cells, expected: Doubles) -> dict[str, Any]:
    rows = {"rows": [round(value) for value in cells.rows().to_json(0)]}
    if not cells.enough:
        return {**rows, "too_few": True}
    ratio = cells.calibration_ratio(expected)
    return {
        **rows,
        "positive_rate": cells.positive_rate().to_json(),
        "selected_rate": cells.selected_rate().to_json(),
        "auc": cells.auc().to_json(),
        "calibration_ratio": ratio.to_json(3) if math.isfinite(ratio.value) else None,
        "calibration": cells.calibration(expected),
    }
