"""Columns that follow from the lines of a file, kept as long as the lines are there.

Whoever reads a file derives values from each line alone, and carries over those of lines that were there before. So the
result is what deriving them from the whole file gives, wherever lines were added, taken out, changed or moved.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from federation.client.digests import Table, are_unique, find
from federation.client.files.columns import Column, ColumnStore, Places, carried, is_rising
from federation.client.files.lines import FileMoved, Reading

Derive = Callable[[pa.RecordBatch], tuple[Sequence[Column], Sequence[Column]]]
"""Makes columns, a value for each row, and others that are not kept."""


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
        store: Where columns are.
        again: Whether lines may be asked for again, by ``Look.rows``.
    """

    def __init__(
        self,
        look: Callable[[Reading | None, bool], Reading],
        derive: Derive,
        store: ColumnStore,
        *,
        again: bool = False,
    ) -> None:
        self._look, self._derive, self._store, self._again = look, derive, store, again
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
        reading.was = None  # four bytes a line, in memory, that nobody asks the reading for again
        self._known = (reading, found.columns) if reading.lines is not None else None
        return found

    def _found(self, reading: Reading, known: tuple[Column, ...]) -> Look:
        found = map(self._derive, reading.fresh())
        first = next(found, None) or self._derive(reading.nothing())
        made = self._store.together([*columns, *extras] for columns, extras in itertools.chain([first], found))
        columns, extras = made[: len(first[0])], made[len(first[0]) :]
        if (was := reading.was) is not None and len(was) == len(known[0]) and is_rising(was) and (was >= 0).all():
            columns = known
        elif was is not None:
            columns = tuple(self._store.joined(carried(was, *both)) for both in zip(known, columns, strict=True))
        if not self._again:
            reading.forget_places()
        pa.default_memory_pool().release_unused()  # what parsing took, which Arrow would keep
        return Look(columns, extras, reading.was, reading.rows)


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
        if not known or was is None or not is_rising(was):  # two lines may be of one that was
            self._known = are_unique(digests)
        else:
            new = digests[was < 0]
            self._known = are_unique(new) and np.count_nonzero(find(digests, new) >= 0) == len(new)
        return self._known
