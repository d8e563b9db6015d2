"""Makes a noisy table whole: no negative numbers, and parts that add up, within it and with tables published before.

The estimate is the point nearest to the noisy cells, in least squares, among tables whose cells are at least zero and
whose margins equal what is already published; what no published margin covers keeps its own noisy total. Then it is
rounded to whole numbers without changing any of those sums.

Privacy: the input is noisy cells and published numbers, no exact count, so the output is post-processing and costs
nothing (Dwork, Roth 2014, Proposition 2.1). Use: estimates are correlated and their error is no longer normal, so
intervals are computed from the noisy cells, which are kept beside them.

A published number never changes; so a later table is fitted to earlier ones, not the other way round. A margin that is
much less precise than the new table's own would make it worse, and margins of three or more crossing tables may admit
no whole, non-negative solution; such a margin is left out, and so is what comes after a few that cross each other. The
answer says with which tables it agrees.

Sources: projection on a simplex: Duchi et al. 2008, Figure 1; several at once: Dykstra's alternating projections
(Boyle, Dykstra 1986), which converges to the nearest point of the intersection; rounding with one family of disjoint
groups: largest remainder; with several: a 0-1 programme (HiGHS), whose relaxation is whole for two families (a network
flow).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from federation.overlap.questions import Cell, Question, parts, shared
from gateway.overlap.answers import Stored

MAX_SWEEPS = 500
TOLERANCE = 0.01  # people; far under what rounding moves
MAX_PROGRAMME_CELLS = 20_000
PROGRAMME_TIME_S = 5.0
MAX_FAMILIES, MAX_TRIED = 4, 8
"""Margins that cross each other and are kept at once; that are tried at all. Each takes seconds in a large table, while
every other question waits."""
MAX_VARIANCE_RATIO = 4.0
"""A published margin whose variance is more times the new table's own would make the new one worse: not kept."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Margin:
    """Disjoint groups of cells, each with the sum that is published for it."""

    groups: tuple[int, ...]  # for each cell the number of its group, or -1 where it is in none
    totals: tuple[int, ...]  # for each group, at least 0


@dataclass(frozen=True)
class Fit:
    """The estimate, and which margins it keeps."""

    estimates: tuple[int, ...]
    kept: tuple[bool, ...]


@dataclass(frozen=True)
class _Family:
    groups: Ints  # -1 where a cell is in none
    totals: Floats


def fit(noisy: Sequence[int], margins: Sequence[Margin] = ()) -> Fit:
    """The nearest whole, non-negative table that has these margins.

    Args:
        noisy: Cells with noise; at least one.
        margins: In the order of their publication. One that cannot be kept together with those before it is left out.
    """
    cells = np.asarray(noisy, dtype=np.float64)
    best = _solve(cells, [])
    if best is None:
        raise AssertionError("a table without margins has a solution")
    chosen: list[_Family] = []
    kept, tried = [], 0
    for margin in margins:
        family = _Family(np.asarray(margin.groups, dtype=np.int64), np.asarray(margin.totals, dtype=np.float64))
        if any(_refines(other, family) for other in chosen):
            kept.append(bool(np.array_equal(_made(best.astype(np.float64), family), family.totals)))
            continue
        crossing = [other for other in chosen if not _refines(family, other)]
        coarser = [other for other in chosen if _refines(family, other)]
        found = None
        if len(crossing) < MAX_FAMILIES and tried < MAX_TRIED and all(_agree(family, other) for other in coarser):
            found = _solve(cells, [*crossing, family])
            tried += bool(crossing)
        kept.append(found is not None)
        if found is not None:
            best, chosen = found, [*crossing, family]
    return Fit(tuple(int(value) for value in best), tuple(kept))


def margins_of(
    question: Question, cells: Sequence[Cell], sigma: float, before: Sequence[Stored]
) -> tuple[list[str], list[Margin]]:
    """What earlier tables of the epoch say about sums of the new one's cells, where that is precise enough."""
    names, margins = [], []
    for one in before:
        common = shared(question, one.answer.question)
        if common is None:
            continue
        mine, theirs = parts(question, cells, common), parts(one.answer.question, one.answer.cells, common)
        own = sum(map(len, mine.values())) * sigma**2
        if sum(map(len, theirs.values())) * one.answer.sigma**2 > MAX_VARIANCE_RATIO * own:
            continue
        groups = [-1] * len(cells)
        for number, some in enumerate(mine.values()):
            for at in some:
                groups[at] = number
        totals = [sum(one.answer.estimates[at] for at in theirs[cell]) for cell in mine]
        names.append(one.name)
        margins.append(Margin(tuple(groups), tuple(totals)))
    return names, margins


def _refines(fine: _Family, coarse: _Family) -> bool:
    """Whether every group of ``coarse`` is a union of groups of ``fine``."""
    if np.any((fine.groups < 0) & (coarse.groups >= 0)):
        return False
    pairs = np.unique(np.stack([fine.groups, coarse.groups]), axis=1)
    return bool(pairs.shape[1] == len(np.unique(fine.groups)))


def _agree(fine: _Family, coarse: _Family) -> bool:
    """Whether a family gives the unions of its groups the same sums as a coarser one."""
    pairs = np.unique(np.stack([fine.groups, coarse.groups]), axis=1)
    pairs = pairs[:, pairs[1] >= 0]
    made = np.zeros(len(coarse.totals))
    np.add.at(made, pairs[1], fine.totals[pairs[0]])
    return bool(np.array_equal(made, coarse.totals))


def _solve(cells: Floats, margins: Sequence[_Family]) -> Ints | None:
    """Whole numbers, or None where the margins cannot all be kept."""
    families = _with_rest(cells, margins)
    if len(families) == 1:
        [family] = families
        return _largest_remainder(_project(cells, family), family)
    if len(cells) > MAX_PROGRAMME_CELLS:
        return None
    estimate, moved = cells, [np.zeros(len(cells)) for _ in families]
    for _ in range(MAX_SWEEPS):
        for at, family in enumerate(families):
            shifted = estimate + moved[at]
            estimate = _project(shifted, family)
            moved[at] = shifted - estimate
        if all(np.max(np.abs(_made(estimate, family) - family.totals)) < TOLERANCE for family in families):
            return _programme(estimate, families)
    return None


def _with_rest(cells: Floats, margins: Sequence[_Family]) -> list[_Family]:
    """Cells that no margin covers are one more group, which keeps its own noisy total."""
    first, *others = margins or [_Family(np.full(len(cells), -1), np.zeros(0))]
    rest = np.all([family.groups < 0 for family in (first, *others)], axis=0)
    if rest.any():
        total = max(0.0, float(np.sum(cells[rest])))
        first = _Family(np.where(rest, len(first.totals), first.groups), np.append(first.totals, total))
    return [first, *others]


def _made(estimate: Floats, family: _Family) -> Floats:
    inside = family.groups >= 0
    made = np.bincount(family.groups[inside], weights=estimate[inside], minlength=len(family.totals))
    return made.astype(np.float64)


def _project(cells: Floats, family: _Family) -> Floats:
    """Projects each group on its simplex (at least zero, with the group's total), and other cells on zero or more."""
    order = np.lexsort((-cells, family.groups))
    order = order[family.groups[order] >= 0]
    groups, values = family.groups[order], cells[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    sizes = np.diff(np.r_[starts, len(groups)])
    before = np.repeat(np.r_[0.0, np.cumsum(values)][starts], sizes)
    rank = np.arange(len(groups)) - np.repeat(starts, sizes) + 1
    level = (np.cumsum(values) - before - family.totals[groups]) / rank
    # The last rank whose value is above its level; the first where the total is zero.
    last = np.maximum.reduceat(np.where((values > level) | (rank == 1), rank, 0), starts)
    shift = np.repeat(level[starts + last - 1], sizes)
    result = np.maximum(cells, 0.0)
    result[order] = np.maximum(values - shift, 0.0)
    return result


def _largest_remainder(estimate: Floats, family: _Family) -> Ints:
    """Rounds each group so that it keeps its total; every cell is in a group."""
    # Sums of floats may end just under a whole number; a cell at 6.9999999 is a 7.
    low = np.floor(estimate + 1e-6).astype(np.int64)
    short = np.rint(family.totals).astype(np.int64) - np.bincount(family.groups, low, len(family.totals)).astype(int)
    # All cells of a group lost the same to its negative ones, so nearly all remainders are equal. Who gets the ones
    # that are left is drawn: by place, the first region would get all, and its sum be off by more than noise is. The
    # seed is fixed, so equal numbers give equal tables.
    drawn = np.random.default_rng(len(estimate)).random(len(estimate))
    order = np.lexsort((drawn, np.round(low - estimate, 6), family.groups))
    groups = family.groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    low[order] += rank < short[groups]
    return low


def _programme(estimate: Floats, families: Sequence[_Family]) -> Ints | None:
    """Rounds every cell up or down so that all groups keep their totals, moving as little as possible."""
    low = np.floor(estimate - 2 * TOLERANCE).clip(0)
    cells = np.arange(len(estimate))
    # Between two whole neighbours the squared distance is linear: one more costs 1 - 2 (estimate - low), and one more
    # after that, which only a cell at a whole number may need, costs 2 on top.
    steps = np.concatenate((cells, cells[np.ceil(estimate + 2 * TOLERANCE) - low > 1]))
    cost = 1 - 2 * (estimate - low)[steps]
    cost[len(cells) :] += 2
    rows = []
    for family in families:
        groups = family.groups[steps]
        inside = np.flatnonzero(groups >= 0)
        rows.append(csr_array((np.ones(len(inside)), (groups[inside], inside)), shape=(len(family.totals), len(steps))))
    totals = np.concatenate([np.rint(family.totals) - _made(low, family) for family in families])
    found = milp(
        cost,
        constraints=LinearConstraint(vstack(rows), totals, totals),
        bounds=Bounds(0, 1),
        integrality=np.ones(len(steps)),
        options={"time_limit": PROGRAMME_TIME_S},
    )
    if found.x is None:
        return None
    return (low + np.bincount(steps, np.rint(found.x), len(cells))).astype(np.int64)
