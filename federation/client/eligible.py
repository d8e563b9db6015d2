"""Who may be in a use, by the partner's own policy: decisions about all customers at once.

Rows of which the policy sees the same facts are decided together, with the first of them as the example: the same
region, the same consents but for times that are on the same side of now (see ``OwnPolicy``).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from federation.client.files.columns import Places
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact, Decision, Facts, Given

_NO_REASON = Given("default", "no_reason", "The policy gave no reason.")
_MAX_NUMBER = 1 << 62
Numbers = NDArray[np.int32]


class OwnPolicy(Protocol):
    """The partner's own compiled rules.

    Of a consent's times a decision may depend only on whether each can be read, whether it was given by now and whether
    it ended by now. The rules themselves begin and end at midnight UTC.
    """

    def decide(self, facts: Facts) -> Decision:
        """Permit or deny with reasons; never raises for missing input."""
        ...


@dataclass(frozen=True)
class Eligible:
    """Who may be in a use, and how many may not, by the first reason's code."""

    customers: pa.Array
    """Everybody in the file, by id."""
    rows: Places
    """Places of those who may, rising."""
    refused: dict[str, int]
    reasons: dict[str, Given]
    """One reason in full for each code of ``refused``."""

    @property
    def permitted(self) -> pa.Array:
        """Who may, in the order of the file, as text."""
        return self.customers.take(pa.array(self.rows))

    @property
    def ids(self) -> list[CustomerId]:
        """Who may, in the order of the file."""
        return cast(list[CustomerId], self.permitted.to_pylist())

    def rows_among(self, customers: pa.Array) -> Places:
        """Places of those who may among other customers, rising; the file may have changed meanwhile."""
        if self.customers.equals(customers):
            return self.rows
        found = pc.is_in(customers, value_set=self.permitted)
        return np.flatnonzero(np.asarray(found)).astype(np.int32)


def refuses(objection: ConsentFact | None) -> bool:
    """Whether a person refuses automated marketing, by the person's record for it; without one nobody does."""
    return objection is not None and objection.status != "given"


class Decisions:
    """Decisions about everybody, a part at a time; whoever looks alike to the policy is decided once.

    Args:
        decide: Decides about the person at a place.
    """

    def __init__(self, decide: Callable[[int], Decision]) -> None:
        self._decide = decide
        self._refusals: dict[tuple[int, ...], Given | None] = {}
        self.refused = Counter[str]()
        self.reasons: dict[str, Given] = {}

    def permitted(self, start: int, alike: Sequence[Numbers]) -> Places:
        """The places of those of a part who may.

        Args:
            start: The place of its first.
            alike: A number for each in several respects; whoever has the same ones looks alike.
        """
        group, first = _groups(*alike)
        may, sizes = np.zeros(len(first), bool), np.bincount(group, minlength=len(first)).tolist()
        for number, row in enumerate(first.tolist()):
            about = tuple(int(column[row]) for column in alike)
            if about not in self._refusals:
                decision = self._decide(start + row)
                self._refusals[about] = None if decision.permitted else next(iter(decision.reasons), _NO_REASON)
            reason = self._refusals[about]
            may[number] = reason is None
            if reason is not None:
                self.refused[reason.code] += sizes[number]
                self.reasons.setdefault(reason.code, reason)
        places: Places = (start + np.flatnonzero(may[group])).astype(np.int32)
        return places


def _groups(*columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """A number for every row, from 0, the same for rows that are equal in all columns; and each number's first row.

    Numbers are given out in the order of the rows.
    """
    number, most = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        width = int(column.max(initial=-1)) + 2
        if most * width > _MAX_NUMBER:
            number = _dense(number)
            most = int(number.max(initial=0)) + 1
        if width > 1:  # else nobody has any
            number = number * width + (column + 1)
            most *= width
    number = _dense(number)
    return number, np.flatnonzero(np.diff(np.maximum.accumulate(number), prepend=-1))


def _dense(numbers: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.asarray(pa.array(numbers).dictionary_encode().indices, dtype=np.int64)
