"""Totals from a released table: sums of its noisy cells, never noised again, so they cost nothing more.

A cell is an exclusive region (people at exactly these partners, with these labels), so any inclusive question is a sum
of cells. The error of a sum of k cells is sqrt(k) times that of one. Where a cell is suppressed, so is every total that
it is a part of.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from federation.v1 import overlap_pb2 as pb

Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution, which the discrete Gaussian approaches


@dataclass(frozen=True)
class Total:
    """People who are at all of ``members``, and maybe elsewhere: a noisy number with its 95 % interval."""

    members: tuple[str, ...]
    count: int | None  # None where a part is suppressed; then low and high are 0
    low: int
    high: int
    cells: int


def interval(count: int, sigma: float, cells: int = 1) -> tuple[int, int]:
    """The 95 % interval, rounded outwards and never below 0, around a sum of cells with noise of sigma each."""
    half = Z_95 * math.sqrt(cells) * sigma
    return max(0, math.floor(count - half)), max(0, math.ceil(count + half))


def total(members: Iterable[str], cells: Iterable[pb.Cell], sigma: float) -> Total:
    """The people of a table who are at all of ``members``.

    Args:
        members: At least one partner of the table.
        cells: All cells of an answer.
        sigma: Of one cell, as the answer says.
    """
    wanted = tuple(members)
    parts = [cell for cell in cells if set(wanted) <= set(cell.members)]
    if any(cell.suppressed for cell in parts):
        return Total(wanted, None, 0, 0, len(parts))
    count = sum(cell.count for cell in parts)
    return Total(wanted, count, *interval(count, sigma, len(parts)), len(parts))


def inclusive_totals(cells: Iterable[pb.Cell], sigma: float) -> list[Total]:
    """A total for every non-empty set of the table's partners, small sets first.

    Args:
        cells: All cells of an answer.
        sigma: Of one cell, as the answer says.
    """
    parts = list(cells)
    partners = list(dict.fromkeys(party for cell in parts for party in cell.members))
    sizes = range(1, len(partners) + 1)
    return [total(group, parts, sigma) for size in sizes for group in itertools.combinations(partners, size)]
