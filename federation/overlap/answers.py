"""Intervals for numbers of a released table.

A number of a released table is a sum of k cells, each with independent discrete Gaussian noise of the released sigma.
So its error is sqrt(k) sigma in standard deviation, and the interval below holds the exact number with at least its
stated coverage up to the normal approximation, which errs by less than the rounding outwards gives (Canonne, Kamath,
Steinke 2020, arXiv:2004.00010, Proposition 25). It says nothing about people who are in no file: it is about the noise.
"""

import math
from statistics import NormalDist

COVERAGE = 0.95


def half_width(sigma: float, cells: int = 1, coverage: float = COVERAGE) -> float:
    """Half the interval's width: the error that a sum of cells stays within, with that probability.

    Args:
        sigma: Of one cell, above 0.
        cells: How many were added.
        coverage: Between 0 and 1, both exclusive.
    """
    return NormalDist().inv_cdf(0.5 + coverage / 2) * math.sqrt(cells) * sigma


def interval(count: int, sigma: float, cells: int = 1, coverage: float = COVERAGE) -> tuple[int, int]:
    """The interval, rounded outwards and never below 0, around a noisy sum of cells.

    Args:
        count: The noisy sum, as drawn.
        sigma: Of one cell.
        cells: How many were added.
        coverage: Between 0 and 1, both exclusive.
    """
    half = half_width(sigma, cells, coverage)
    return max(0, math.floor(count - half)), max(0, math.ceil(count + half))
