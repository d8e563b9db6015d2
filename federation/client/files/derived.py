"""Columns that follow from the lines of a file, kept as long as the lines are there.

Whoever reads a file derives values from each line alone, and carries over those of lines that were there before. So the
result is what deriving them from the whole file gives, wherever lines were added, taken out, changed or moved.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from federation.client.digests import Table, are_unique, find
from federation.client.files.lines import FileMoved, Places, Reading

Column = Any
"""A ``pa.Array`` or an array of numpy."""
Derive = Callable[[pa.RecordBatch], tuple[Sequence[Column], Sequence[Column]]]
"""Makes columns, a value for each row, and others that are not kept."""
_LONG_RUN = 256
"""Rows that stand together, on average, where copying them together is faster than one by one."""
_NEW = 1 << 40
"""Stands before the places of new rows; no file has as many."""


@dataclass(frozen=True)
class Look:
    """What follows from a file now."""

    columns: tuple[Column, ...]
    """A value for every line."""
    extras: tuple[Column, ...]
    """What is not kept, of the lines that were parsed: all of them where ``whole``."""
    was: Places | None
    """Where each line was in the look before, -1 where it is new; None where all were parsed."""
    rows: Callable[[NDArray[np.intp]], Iterator[pa.RecordBatch]]
    """Parses some lines again, as ``Reading.rows``."""

    @property
    def whole(self) -> bool:
        """Whether all lines were parsed."""
        return self.was is None


class Derived:
    """Columns that follow from the lines of a file, each value of them from one line alone. Not for several threads.

    Args:
        look: Makes a reading after an earlier one; the second argument asks for one of the whole file.
        derive: Makes, from rows, columns of equal length and always of the same types, and some more that are not kept.
        again: Whether lines may be asked for again, by ``Look.rows``.
    """

    def __init__(
        self,
        look: Callable[[Reading | None, bool], Reading],
        derive: Derive,
        *,
        again: bool = False,
    ) -> None:
        self._look, self._derive, self._again = look, derive, again
        self._known: tuple[Reading, tuple[Column, ...]] | None = None

    def read(self) -> Look:
        """The columns as the file is now.

        Raises:
            DataError: as ``tables.read_batches``, and what ``derive`` raises; then nothing is known any more.
        """
        known, self._known = self._known, None
        reading = self._look(known[0] if known is not None else None, False)
        try:
            found = self._found(reading, known[1] if known is not None else ())
        except FileMoved:
            reading = self._look(None, True)
            found = self._found(reading, ())
        self._known = (reading, found.columns) if reading.lines is not None else None
        return found

    def _found(self, reading: Reading, known: tuple[Column, ...]) -> Look:
        parts = [self._derive(batch) for batch in reading.fresh()] or [self._derive(reading.nothing())]
        columns, extras = ([list(column) for column in zip(*some, strict=True)] for some in zip(*parts, strict=True))
        del parts  # each column's parts go when it is joined
        if reading.was is None:
            kept = tuple(joined(columns.pop(0)) for _ in range(len(columns)))
        else:
            kept = tuple(map(Carrying(reading.was), known, columns))
        if not self._again:
            reading.forget_places()
        more = tuple(joined(extras.pop(0)) for _ in range(len(extras)))
        pa.default_memory_pool().release_unused()  # what parsing took, which Arrow would keep
        return Look(kept, more, reading.was, reading.rows)


class Different:
    """Says whether no two of a file's digests are equal; after a look at which that was so, by looking at what is new.

    It must be asked at every look, or at none.
    """

    def __init__(self) -> None:
        self._known = False

    def __call__(self, digests: Table, was: Places | None) -> bool:
        """Whether all differ.

        Args:
            digests: Of the lines of a look, or of some kind of lines of it, always the same.
            was: Of the same lines, as ``Look.was``.
        """
        known, self._known = self._known, False
        if not known or was is None or (np.diff(was[was >= 0]) <= 0).any():  # two lines may be of one that was
            self._known = are_unique(digests)
        else:
            new = digests[was < 0]
            self._known = are_unique(new) and np.count_nonzero(find(digests, new) >= 0) == len(new)
        return self._known


class Carrying:
    """Puts values of rows that were there before and of rows that are new into the order of a file.

    Args:
        was: Where each row was, -1 where it is new.
    """

    def __init__(self, was: Places) -> None:
        self._place = was.astype(np.int64)
        self._new = np.flatnonzero(was < 0)
        self._place[self._new] = np.arange(_NEW, _NEW + len(self._new))
        self._first = np.flatnonzero(np.diff(self._place, prepend=-2) != 1)
        self._one_by_one = len(self._first) * _LONG_RUN > len(was)
        if self._one_by_one:  # rows that are new get any place for now
            self._place[self._new] = 0

    def __call__(self, old: Column, new: Sequence[Column]) -> Column:
        """The values of all rows.

        Args:
            old: Those of the rows before.
            new: Those of the new rows, in parts.
        """
        fresh = joined(new)
        if not len(old):
            return fresh
        if self._one_by_one:
            if isinstance(old, pa.Array):
                place = self._place.copy()
                place[self._new] = len(old) + np.arange(len(self._new))
                return joined([old, fresh]).take(pa.array(place))
            column = old.take(self._place, mode="clip")  # which is faster where no place is checked
            column[self._new] = fresh
            return column
        parts = []
        for start, stop in itertools.pairwise([*self._first.tolist(), len(self._place)]):
            at = int(self._place[start])
            source, at = (old, at) if at < _NEW else (fresh, at - _NEW)
            parts.append(source[at : at + stop - start])
        return joined(parts or [old[:0]])


def joined(parts: Sequence[Column]) -> Column:
    """Parts of a column, one after another; at least one."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], pa.Array):
        return pa.concat_arrays(parts)
    return np.concatenate(parts)
