"""How good a model is on the partners' own customers, measured under differential privacy in the last rounds of a run.

In a judging round every partner sorts its customers by group, by bin of the finished model's score and by label, and
adds up one histogram per grouping (region, age band). The histograms of a partner are one vector, which goes into the
same masked and noisy sum as a gradient, so the gateway sees noisy totals of all partners and nothing else.

**A row's norm.** A customer is in exactly one cell of each of the G groupings and adds 1/sqrt(G) there, rounded towards
zero on the fine grid: an L2 norm of at most 1, as ``federation.training.learner`` demands of every round. In customers,
the sensitivity is sqrt(G) for a customer of one partner, and up to the number of partners times that for a person.
The groups and the number of bins are public and fixed in the proposal. Where the bins begin is told with the model;
that changes what is measured and not the norm, whatever is told. A customer's cell depends on that customer's row and
on what was told alone: scores are computed row by row.

**What is read** (``federation.training.judged``) is post-processing of the noisy sums.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason, TrainingError
from federation.training.features import Banded, find_places
from federation.training.joint_noise import FINE_BITS, TAIL
from federation.training.learner import Course, Learner, Rows, State
from federation.training.models import Weights, check_weights, score_rows
from federation.training.secure_sum import Integers
from federation.v1 import training_pb2 as pb

EDGES = "score_edges"
"""Name of the bins' edges beside the model's arrays."""
UNKNOWN = "unknown"
MAX_GROUPINGS, MAX_GROUPS, MAX_BINS, MAX_ROUNDS = 8, 32, 50, 100
DEFAULT_LOGITS = (-6.0, 1.0)
"""Without a public set, edges are evenly spaced between these log odds: most offers are taken by few."""
REGION = "region"
"""The grouping by the policy's regions of residence."""
MAX_ROWS = 2**32
Doubles = npt.NDArray[np.float64]
ChooseEdges = Callable[[Weights, int], Doubles]
"""Edges of so many bins for a model, rising within 0 and 1: one fewer than bins."""


@dataclass(frozen=True)
class Grouping:
    """A public partition of all customers by one column; who fits nowhere is "unknown"."""

    column: str
    groups: tuple[str, ...]
    """Without "unknown"."""
    edges: tuple[float, ...] = ()
    """Of the bands of a number; () where the column holds the groups' names."""

    @staticmethod
    def banded(column: str, edges: tuple[float, ...]) -> "Grouping":
        """By bands of a number."""
        return Grouping(column, Banded(column, edges).places, edges)

    @property
    def places(self) -> tuple[str, ...]:
        """All groups, "unknown" last."""
        return (*self.groups, UNKNOWN)

    def place(self, values: Any) -> npt.NDArray[np.int64]:
        """The group of each value of the column: int64 (n,)."""
        if self.edges:
            return np.minimum(find_places(Banded(self.column, self.edges), values), len(self.groups))
        known = {name.casefold(): index for index, name in enumerate(self.groups)}
        words = (str(value).strip().casefold() for value in np.asarray(values).tolist())
        return np.fromiter((known.get(word, len(self.groups)) for word in words), dtype=np.int64)


@dataclass(frozen=True)
class Judging:
    """What the judging rounds of a run measure."""

    groupings: tuple[Grouping, ...]
    bins: int
    rounds: int

    @property
    def width(self) -> int:
        """Places of the vector: group, bin and label of each grouping, one grouping after another."""
        return sum(len(grouping.places) for grouping in self.groupings) * self.bins * 2

    @property
    def columns(self) -> frozenset[str]:
        """Columns that customers are grouped by."""
        return frozenset(grouping.column for grouping in self.groupings)

    def split(self, vector: Doubles) -> list[Doubles]:
        """The vector as one table per grouping: float64 (groups, bins, 2), negatives first."""
        tables, start = [], 0
        for grouping in self.groupings:
            shape = (len(grouping.places), self.bins, 2)
            tables.append(vector[start : start + int(np.prod(shape))].reshape(shape))
            start += int(np.prod(shape))
        return tables


def read_judging(wire: pb.Judging, rounds: int) -> Judging:
    """What a proposal wants to be measured, checked.

    Args:
        wire: Of the contract.
        rounds: Of the whole run.

    Raises:
        DataError: BAD_FIELD.
    """
    groupings = [
        Grouping.banded(each.column, tuple(each.edges)) if each.edges else Grouping(each.column, tuple(each.groups))
        for each in wire.groupings[: MAX_GROUPINGS + 1]
    ]
    names = [grouping.column for grouping in groupings]
    fine = (
        0 < len(names) == len(set(names)) <= MAX_GROUPINGS
        and 0 < wire.rounds < rounds
        and wire.rounds <= MAX_ROUNDS
        and 2 <= wire.bins <= MAX_BINS
        and all(_is_partition(grouping) for grouping in groupings)
        and not any(each.edges and each.groups for each in wire.groupings)
    )
    if not fine:
        raise DataError(Reason.BAD_FIELD, item="proposal: judging")
    return Judging(tuple(groupings), wire.bins, wire.rounds)


def write_judging(judging: Judging) -> pb.Judging:
    """The same as a part of a proposal."""
    groupings = [
        pb.Grouping(column=each.column, groups=() if each.edges else each.groups, edges=each.edges)
        for each in judging.groupings
    ]
    return pb.Judging(rounds=judging.rounds, bins=judging.bins, groupings=groupings)


def _is_partition(grouping: Grouping) -> bool:
    names = [name.casefold() for name in grouping.places]
    rising = all(low < high for low, high in pairwise(grouping.edges)) and all(map(math.isfinite, grouping.edges))
    fitting = all(0 < len(name) <= 48 for name in (*names, grouping.column))
    return rising and fitting and 2 <= len(names) == len(set(names)) <= MAX_GROUPS


def default_edges(model: Weights, bins: int) -> Doubles:
    """Evenly spaced log odds, for any model."""
    return np.asarray(0.5 * (1 + np.tanh(np.linspace(*DEFAULT_LOGITS, bins - 1) / 2)), dtype=np.float64)


def quantile_edges(scores: Doubles, bins: int) -> Doubles:
    """Edges that cut public scores into bins of equal weight, half of it rows and half expected takers.

    Where takers crowd at high scores, rows alone would put half of them into one bin and lose their order.
    """
    ranked = np.sort(scores)
    weight = np.cumsum(1 / len(ranked) + ranked / ranked.sum()) / 2
    places = np.searchsorted(weight, np.arange(1, bins) / bins)
    return np.asarray(ranked[np.minimum(places, len(ranked) - 1)], dtype=np.float64)


class JudgingLearner:
    """Measures a model and leaves it as it is.

    Args:
        kind: Model kind.
        columns: Encoded columns.
        judging: What to measure.
    """

    def __init__(self, kind: str, columns: int, judging: Judging) -> None:
        self.kind, self._columns, self.judging = kind, columns, judging
        self.choose_edges: ChooseEdges = default_edges
        self.begin({})

    @property
    def rounds(self) -> int:
        """How many sums are taken, all of the same."""
        return self.judging.rounds

    def width(self, number: int) -> int:
        """See Learner."""
        return self.judging.width

    def touched(self, number: int) -> int:
        """One cell of each grouping."""
        return len(self.judging.groupings)

    def begin(self, model: Weights) -> None:
        """See Learner."""
        self._model = model
        self._edges = np.zeros(0, dtype=np.float32)
        self._total = np.zeros(self.judging.width)
        self._variance, self._summed = 0.0, 0

    def told(self, number: int) -> Weights:
        """The model, and where the bins begin."""
        if not len(self._edges):
            self._edges = self.choose_edges(self._model, self.judging.bins).astype(np.float32)
        return {**self._model, EDGES: self._edges}

    def check_told(self, number: int, arrays: Mapping[str, npt.NDArray[np.generic]], *, item: str) -> Weights:
        """See Learner."""
        model = {name: array for name, array in arrays.items() if name != EDGES}
        edges = arrays.get(EDGES)
        if edges is None or edges.dtype != np.float32 or edges.shape != (self.judging.bins - 1,):
            raise TrainingError(Reason.BAD_UPDATE, item=f"{item}: bins of scores")
        found = edges.astype(np.float32)
        # Comparisons with NaN are false, so a NaN is refused too.
        if not ((found > 0) & (found < 1)).all() or not (np.diff(found) >= 0).all():
            raise TrainingError(Reason.BAD_UPDATE, item=f"{item}: bins of scores")
        return {**check_weights(model, self.kind, self._columns, item=item), EDGES: found}

    def sums(self, number: int, told: Weights, rows: Rows) -> Integers:
        """One partner's histograms, one after another, in units of 2^-FINE_BITS; see Learner.

        Raises:
            DataError: TOO_LARGE; BAD_FIELD where the rows come without their groups.
        """
        groupings, bins = self.judging.groupings, self.judging.bins
        groups = rows.groups
        if groups is None or groups.shape != (len(rows.x), len(groupings)):
            raise DataError(Reason.BAD_FIELD, item="groups of the rows")
        if len(rows.x) >= MAX_ROWS:
            raise DataError(Reason.TOO_LARGE, item="customers")
        model = {name: array for name, array in told.items() if name != EDGES}
        binned = np.searchsorted(told[EDGES].astype(np.float64), score_rows(self.kind, model, rows.x), side="right")
        inner = binned * 2 + (rows.y == 1)
        tables = [
            np.bincount(groups[:, index] * bins * 2 + inner, minlength=len(grouping.places) * bins * 2)
            for index, grouping in enumerate(groupings)
        ]
        return np.concatenate(tables).astype(np.int64) * self._unit

    def step(self, number: int, total: Doubles, sigma: float) -> None:
        """See Learner."""
        self._check(total, sigma)
        self._total += total
        self._variance += sigma**2
        self._summed += 1

    def model(self) -> Weights:
        """What came in."""
        return self._model

    def counts(self) -> tuple[Doubles, float, Doubles]:
        """The mean of the noisy sums so far, in customers, the noise in each place, and the bins' edges.

        Returns:
            float64 (width,); the standard deviation; float64 (bins - 1,).

        Raises:
            TrainingError: RUN_FAILED before the first sum.
        """
        if not self._summed:
            raise TrainingError(Reason.RUN_FAILED, item="nothing was judged")
        customers = 2.0**FINE_BITS / self._unit / self._summed
        return self._total * customers, float(np.sqrt(self._variance)) * customers, self._edges.astype(np.float64)

    def state(self) -> State:
        """See Learner."""
        summed = {"total": self._total, "summed": np.array([self._variance, self._summed]), "edges": self._edges}
        return {**summed, **{f"model.{name}": array for name, array in self._model.items()}}

    def restore(self, state: State) -> None:
        """See Learner."""
        self._total, self._edges = state["total"].copy(), state["edges"].copy()
        self._variance, summed = state["summed"].tolist()
        self._summed = int(summed)
        self._model = {n.removeprefix("model."): array for n, array in state.items() if n.startswith("model.")}

    def _check(self, total: Doubles, sigma: float) -> None:
        """Raises TrainingError (BAD_UPDATE) for numbers that no rows and no noise of this size can give.

        Counts are not below zero, and all groupings count the same rows of each label: up to ``TAIL`` standard
        deviations of the noise.
        """
        tables = self.judging.split(total)
        found = np.array([table.sum(axis=(0, 1)) for table in tables])  # (groupings, labels)
        spread = TAIL * sigma * np.sqrt(np.array([[table.size / 2] for table in tables]))
        # What is not a number is not below anything.
        if not ((total >= -TAIL * sigma).all() and (np.abs(found - found[0]) <= spread + spread[0]).all()):
            raise TrainingError(Reason.BAD_UPDATE, item="all partners: histograms that do not fit each other")

    @property
    def _unit(self) -> int:
        """What a customer adds in one cell of each grouping, in units of 2^-FINE_BITS."""
        return int(2.0**FINE_BITS / np.sqrt(len(self.judging.groupings)))


def judge_of(learner: Learner) -> JudgingLearner | None:
    """The part of a run's learner that measures, if it has one."""
    if isinstance(learner, Course):
        return next((part for part in learner.parts if isinstance(part, JudgingLearner)), None)
    return None
