"""Intervals for numbers of a released table.

A number of a released table is a sum of k cells, each with independent discrete Gaussian noise of the released sigma.
So its error is sqrt(k) sigma in standard deviation, and the interval of all such numbers holds the exact number with at
least its stated coverage up to the normal approximation, which errs by less than the rounding outwards gives (Canonne,
Kamath, Steinke 2020, arXiv:2004.00010, Proposition 25). It says nothing about people who are in no file: it is about
the noise.

Numbers that are shown. A number under a threshold is withheld, so a small one is shown only where its noise is large,
and of those that are shown the interval above holds far fewer. The interval of a shown number is therefore conditional
on its having been shown. Let X be the noisy sum, normal around the exact number m, and let it be shown exactly if
X >= c. Then X is a normal that is cut off at c, and the lower end is the m for which so large an X is as rare as half
of what the coverage leaves:

    P(X >= x | X >= c; m) = Q((x - m) / s) / Q((c - m) / s) = (1 - coverage) / 2,   Q the upper tail, s = sqrt(k) sigma.

The ratio grows with m and with c. So the lower end comes down as x comes near c, to 0 at c itself, where a number that
was shown says next to nothing about how small it may be; a c that is too high only brings it lower, which keeps the
promise. The upper end stays that of the plain interval: given that X >= c, it lies under m no more often than without
that. So the pair holds with at least its coverage whatever c is, if the c that is used is not too low; three or more
standard deviations above the threshold it is the plain interval. ``gateway.overlap.figures`` says why its c is not too
low where numbers are made consistent before the threshold is applied.
Source: Fithian, Sun, Taylor 2014, arXiv:1410.2597, the example of the file drawer.
"""

import math
from statistics import NormalDist

COVERAGE = 0.95
_FAR = 25.0
"""Standard deviations from which on the tail's own series is more exact than ``erfc``."""
_STEPS = 50


def half_width(sigma: float, cells: int = 1, coverage: float = COVERAGE) -> float:
    """Half the plain interval's width: the error that a sum of cells stays within, with that probability.

    Args:
        sigma: Of one cell, above 0.
        cells: How many were added.
        coverage: Between 0 and 1, both exclusive.
    """
    return NormalDist().inv_cdf(0.5 + coverage / 2) * math.sqrt(cells) * sigma


def interval(
    count: int, sigma: float, cells: int = 1, coverage: float = COVERAGE, *, shown_from: float | None = None
) -> tuple[int, int]:
    """The interval, rounded outwards and never below 0, around a noisy sum of cells.

    Args:
        count: The noisy sum, as drawn.
        sigma: Of one cell.
        cells: How many were added.
        coverage: Between 0 and 1, both exclusive.
        shown_from: A noisy sum at and above which it is shown for certain, at most ``count``; None where it is shown
            whatever it is.
    """
    half = half_width(sigma, cells, coverage)
    high = max(0, math.ceil(count + half))
    if shown_from is None:
        return max(0, math.floor(count - half)), high
    spread, tail = math.sqrt(cells) * sigma, (1 - coverage) / 2
    above, most = (count - shown_from) / spread, count / spread
    if most <= 0 or _log_ratio(most, above) >= math.log(tail):
        return 0, high
    least = half / spread
    for _ in range(_STEPS):
        reach = (least + most) / 2
        least, most = (reach, most) if _log_ratio(reach, above) >= math.log(tail) else (least, reach)
    return max(0, math.floor(count - most * spread)), high


def _log_ratio(reach: float, above: float) -> float:
    """How rare a noise of ``reach`` is among those from ``above`` less on, as a logarithm; falls with reach."""
    return _log_tail(reach) - _log_tail(reach - above)


def _log_tail(z: float) -> float:
    """Logarithm of the upper tail of the normal distribution."""
    if z < _FAR:
        return math.log(math.erfc(z / math.sqrt(2)) / 2)
    return -z * z / 2 - math.log(z * math.sqrt(2 * math.pi)) + math.log1p(-1 / (z * z))
