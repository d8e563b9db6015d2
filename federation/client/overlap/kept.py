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
from federation.client.files.columns import ColumnStore, Places, bytes_of, carried, is_rising
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
    def read(cls, folder: Path, name: str, shape: Shape, store: ColumnStore) -> "Kept":
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
        columns = {column: store.joined(carried(place, table, new[column])) for column, table in whole.items()}
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
        was: For each row its place before; ``NEW`` for the next of the new ones.
        new: Columns of the new ones.
    """

    before: Kept
    was: Places
    new: Columns

    @classmethod
    def part(cls, before: Kept, stay: NDArray[np.bool_], new: Columns | None = None) -> "Revised":
        """The rows that stay, and new ones behind them."""
        new = {name: column[:0] for name, column in before.columns.items()} if new is None else new
        more = np.full(len(next(iter(new.values()))), NEW, np.int32)
        return cls(before, np.concatenate([np.flatnonzero(stay).astype(np.int32), more]), new)

    def write(self, folder: Path, name: str) -> None:
        """Keeps the table, durably, readable for its owner alone, in a folder that has none of this name."""
        base = np.full(len(self.was), NEW, np.int32)
        old = self.was != NEW
        base[old] = self.before.base[self.was[old]]
        new = np.flatnonzero(base == NEW)
        whole = self._whole(name)
        if len(whole) and is_rising(base):
            first, path = next(iter(whole.items()))
            size = path.stat().st_size // self.before[first].dtype.itemsize
            if (size - len(base) + 2 * len(new)) * _WORTH_IT <= size:
                gone = np.ones(size, bool)
                gone[base[base != NEW]] = False
                parts: dict[str, Any] = {column: self._some(column, new) for column in whole}
                difference = io.BytesIO()
                at = new.astype(np.uint32)
                np.savez(difference, gone=np.flatnonzero(gone).astype(np.uint32), at=at, **parts)
                write_secret(folder / f"{name}.edit", difference.getvalue())
                for column, path in whole.items():
                    os.link(path, _path(folder, name, column))
                return
        for column, table in self.before.columns.items():
            rows = carried(self.was, table, self.new[column])
            write_secret(_path(folder, name, column), (bytes_of(part) for part in rows))

    def _some(self, column: str, rows: NDArray[np.intp]) -> Table:
        """A column of some rows."""
        was = self.was[rows]
        found = (
            self.before[column].take(was, mode="clip")
            if len(self.before)
            else np.empty(len(rows), self.before[column].dtype)
        )
        fresh = was == NEW
        found[fresh] = self.new[column][np.searchsorted(np.flatnonzero(self.was == NEW), rows[fresh])]
        return found

    def _whole(self, name: str) -> dict[str, Path]:
        folder = self.before.folder
        return {} if folder is None else {column: _path(folder, name, column) for column in self.before.columns}


def _path(folder: Path, name: str, column: str) -> Path:
    return folder / f"{name}.{column}"


def _mapped(path: Path, dtype: np.dtype[Any]) -> Table:
    if not path.stat().st_size:  # nothing can be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
