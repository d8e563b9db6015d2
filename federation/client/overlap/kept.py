"""Large tables on disk, column by column: whole, or as an earlier whole one and what is different since.

After a night a table is as it was but for a few rows. Reading the whole one maps it, and writing takes as long as the
rows that are different are many, not as the table is long. Every row knows its place in the whole table on disk,
``NEW`` where it is not in it; rows come and go anywhere. Where those that are in it do not stand in its order any more,
or the difference has grown to a good part of it, the table is written whole again. A folder needs no other: it has
links to the files of the whole table.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.client.digests import Table
from federation.core.files import write_secret

Columns = Mapping[str, Table]
Shape = Mapping[str, np.dtype[Any]]
"""What columns a table has."""
NEW = -1
_WORTH_IT = 8
"""A difference is written where it is so many times smaller than the table."""


@dataclass(frozen=True)
class Kept:
    """A table as it was read.

    Args:
        columns: Of equal length.
        base: The place of each row in the whole table on disk, or ``NEW``.
        folder: Where that is; None before there is one.
    """

    columns: Columns
    base: NDArray[np.int32]
    folder: Path | None = None

    @classmethod
    def empty(cls, shape: Shape) -> "Kept":
        """A table without rows that was never written."""
        return cls({name: np.empty(0, dtype) for name, dtype in shape.items()}, np.empty(0, np.int32))

    @classmethod
    def read(cls, folder: Path, name: str, shape: Shape) -> "Kept":
        """A table that ``Revised.write`` kept."""
        whole = {column: _mapped(_path(folder, name, column), dtype) for column, dtype in shape.items()}
        base = np.arange(len(next(iter(whole.values()))), dtype=np.int32)
        edit = folder / f"{name}.edit"
        if not edit.exists():
            return cls(whole, base, folder)
        with np.load(edit, allow_pickle=False) as difference:
            gone, at = difference["gone"], difference["at"]
            new = {column: difference[column] for column in shape}
        stay, old = np.ones(len(base), bool), np.ones(len(base) - len(gone) + len(at), bool)
        stay[gone], old[at] = False, False
        place = np.full(len(old), NEW, np.int32)
        place[old] = base[stay]
        columns = {}
        for column, table in whole.items():
            columns[column] = np.empty(len(old), table.dtype)
            columns[column][old], columns[column][at] = table[stay], new[column]
        return cls(columns, place, folder)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, column: str) -> Table:
        return self.columns[column]


@dataclass(frozen=True)
class Revised:
    """A table that is made of another one's rows and of new ones.

    Args:
        before: The other one.
        source: For each row its place before, or ``len(before)`` and its place among the new ones.
        new: Columns of the new ones.
    """

    before: Kept
    source: NDArray[np.int32]
    new: Columns

    @classmethod
    def part(cls, before: Kept, stay: NDArray[np.bool_], new: Columns | None = None) -> "Revised":
        """The rows that stay, and new ones behind them."""
        new = {name: column[:0] for name, column in before.columns.items()} if new is None else new
        more = np.arange(len(next(iter(new.values())))) + len(before)
        return cls(before, np.concatenate([np.flatnonzero(stay), more]).astype(np.int32), new)

    def column(self, name: str, rows: Table | slice = slice(None)) -> Table:
        """A column of some rows."""
        source, size = self.source[rows], len(self.before)
        old = source < size
        found = np.empty(len(source), self.before[name].dtype)
        found[old], found[~old] = self.before[name][source[old]], self.new[name][source[~old] - size]
        return found

    def write(self, folder: Path, name: str) -> None:
        """Keeps the table, durably, readable for its owner alone, in a folder that has none of this name."""
        old = self.source < len(self.before)
        base = np.full(len(self.source), NEW, np.int32)
        base[old] = self.before.base[self.source[old]]
        new = np.flatnonzero(base == NEW).astype(np.uint32)
        stay = base[base != NEW]
        whole = self._whole(name)
        if len(whole) and (np.diff(stay) > 0).all():
            first, path = next(iter(whole.items()))
            size = path.stat().st_size // self.before[first].dtype.itemsize
            if (size - len(stay) + len(new)) * _WORTH_IT <= size:
                gone = np.ones(size, bool)
                gone[stay] = False
                parts: dict[str, Any] = {column: self.column(column, new) for column in whole}
                difference = io.BytesIO()
                np.savez(difference, gone=np.flatnonzero(gone).astype(np.uint32), at=new, **parts)
                write_secret(folder / f"{name}.edit", difference.getvalue())
                for column, path in whole.items():
                    os.link(path, _path(folder, name, column))
                return
        for column in self.before.columns:
            write_secret(_path(folder, name, column), self.column(column).tobytes())

    def _whole(self, name: str) -> dict[str, Path]:
        folder = self.before.folder
        return {} if folder is None else {column: _path(folder, name, column) for column in self.before.columns}


def _path(folder: Path, name: str, column: str) -> Path:
    return folder / f"{name}.{column}"


def _mapped(path: Path, dtype: np.dtype[Any]) -> Table:
    if not path.stat().st_size:  # nothing can be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
