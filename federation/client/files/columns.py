"""Long columns, with a value for each of a partner's customers or consents, that no process grows with.

A column of more than ``MAX_HELD_BYTES`` goes, as it comes, to a file without a name that only this process can reach,
and is mapped: the kernel holds as much of it as there is room, and the disk the rest. The file goes with the column, or
with the process. Whoever looks at a column does so part by part, so that what is made on the way stays small too.
"""

import itertools
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from federation.core.errors import DataError, Reason

MAX_HELD_BYTES = 1 << 22
PART_ROWS = 1 << 18
_MAX_TEXT_BYTES = (1 << 31) - 1  # a column of texts has offsets of 32 bits
Column = Any
"""A ``pa.Array`` of texts or an array of numpy."""
Places = NDArray[np.int32]


def parts(rows: int, most: int | None = None) -> Iterator[slice]:
    """So many rows in parts of at most so many, by default ``PART_ROWS``; one part at least."""
    size = most or PART_ROWS
    for start in range(0, max(rows, 1), size):
        yield slice(start, min(start + size, rows))


def carried(was: Places, old: Column, new: Column) -> Iterator[Column]:
    """A column, part by part, with the value of another one at ``was``; where that is -1, the next of the new ones."""
    used = 0
    for part in parts(len(was)):
        place = was[part]
        fresh = np.flatnonzero(place < 0)
        mine = new[used : used + len(fresh)]
        used += len(fresh)
        if len(fresh) == len(place):
            yield mine
        elif not len(fresh) and (np.diff(place) == 1).all():
            yield old[int(place[0]) : int(place[-1]) + 1]
        elif isinstance(old, pa.Array):
            known = np.flatnonzero(place >= 0)
            order = np.empty(len(place), np.int32)
            order[known], order[fresh] = np.arange(len(known)), len(known) + np.arange(len(fresh))
            yield pa.concat_arrays([old.take(pa.array(place[known])), mine]).take(pa.array(order))
        else:
            column = old.take(place, mode="clip")  # which is faster where no place is checked
            column[fresh] = mine
            yield column


def is_rising(was: Places) -> bool:
    """Whether all places but -1 rise."""
    last = -1
    for part in parts(len(was)):
        place = was[part]
        place = place[place >= 0]
        if len(place):
            if place[0] <= last or (np.diff(place) <= 0).any():
                return False
            last = int(place[-1])
    return True


def bytes_of(part: NDArray[Any]) -> memoryview:
    """The bytes of a part of a column of numpy."""
    return np.ascontiguousarray(part).view(np.uint8).data if part.nbytes else memoryview(b"")


class ColumnStore:
    """Where columns are kept while somebody holds them. Safe to share between threads.

    Args:
        folder: For the files; by default the system's for temporary ones.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def joined(self, some: Iterable[Column]) -> Column:
        """Parts of a column, one after another; at least one."""
        [column] = self.together([part] for part in some)
        return column

    def together(self, some: Iterable[Sequence[Column]]) -> tuple[Column, ...]:
        """The same for several columns, the parts of which come at the same time.

        Raises:
            DataError: TOO_LARGE for more than two gigabytes of text in one column.
            OSError: the disk is full.
        """
        rest = iter(some)
        first = next(rest)
        with ExitStack() as files:
            sinks = [(_Texts if isinstance(part, pa.Array) else _Numbers)(self._folder, files) for part in first]
            for batch in itertools.chain([first], rest):
                for sink, part in zip(sinks, batch, strict=True):
                    sink.add(part)
            return tuple(sink.column() for sink in sinks)

    def chosen(self, columns: Sequence[Column], mask: NDArray[np.bool_]) -> tuple[Column, ...]:
        """The values of some rows of columns of numpy."""
        return self.together([column[part][mask[part]] for column in columns] for part in parts(len(mask)))


class _Numbers:
    """A column of numpy as it grows; its file is open until ``files`` is closed."""

    def __init__(self, folder: Path | None, files: ExitStack) -> None:
        self._folder, self._files = folder, files
        self._held, self._bytes = list[NDArray[Any]](), 0
        self._dtype: np.dtype[Any] | None = None
        self._file: IO[bytes] | None = None

    def add(self, part: NDArray[Any]) -> None:
        self._dtype = part.dtype
        self._held.append(part)
        self._bytes += part.nbytes
        if self._bytes > MAX_HELD_BYTES:
            self._write()

    def column(self) -> NDArray[Any]:
        if self._file is None:
            return self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        self._write()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), self._bytes, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, self._dtype)

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - the stack closes it
            self._files.push(self._file)
        for part in self._held:
            self._file.write(bytes_of(part))
        self._held = []


class _Texts:
    """A column of texts as it grows: their bytes, where each one ends, and which of them are there."""

    def __init__(self, folder: Path | None, files: ExitStack) -> None:
        self._bytes, self._ends, self._there = (_Numbers(folder, files) for _ in range(3))
        self._ends.add(np.zeros(1, np.int32))
        self._size = self._nulls = 0

    def add(self, part: pa.Array) -> None:
        _, offsets, data = part.buffers()
        ends = np.frombuffer(offsets, np.int32)[part.offset : part.offset + len(part) + 1] if len(part) else _NONE
        mine = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data is not None else np.empty(0, np.uint8)
        if self._size + len(mine) > _MAX_TEXT_BYTES:
            raise DataError(Reason.TOO_LARGE, item="a column with more than two gigabytes of text")
        self._bytes.add(mine)
        self._ends.add(ends[1:] - ends[0] + np.int32(self._size))
        self._there.add(np.asarray(part.is_valid()))
        self._size, self._nulls = self._size + len(mine), self._nulls + part.null_count

    def column(self) -> pa.Array:
        ends = self._ends.column()
        there = pa.py_buffer(np.packbits(self._there.column(), bitorder="little")) if self._nulls else None
        buffers = [there, pa.py_buffer(ends), pa.py_buffer(self._bytes.column())]
        return pa.Array.from_buffers(pa.string(), len(ends) - 1, buffers, self._nulls)


_NONE = np.zeros(1, np.int32)
