"""A large table on disk: whole, or as an earlier whole one and what is different since.

After a night a table is as it was but for a few rows. Writing those takes as long as they are many, not as the table
is long. Every row knows its place in the table on disk ("base"), ``NEW`` where it is not in it; rows come and go
anywhere. Where those that are in it do not stand in its order any more, or the difference has grown to a good part of
it, the table is written whole again. A folder needs no other: it has a link to the whole table.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.core.files import write_secret

Table = NDArray[Any]
BASE = ("base", "<i4")
"""The field that a table must have."""
NEW = -1
_WORTH_IT = 8
"""A difference is written where it is so many times smaller than the table."""


def write(folder: Path, name: str, table: Table, before: Path | None) -> None:
    """Keeps a table, durably, readable for its owner alone.

    Args:
        folder: Holds nothing of this name yet.
        name: Of the table.
        table: Rows with their ``BASE``.
        before: The folder that it was read from, of which ``BASE`` speaks; None for a table that was never written.
    """
    if before is not None and (whole := before / f"{name}.table").exists():
        size = whole.stat().st_size // table.dtype.itemsize
        old = table["base"] >= 0
        stay = table["base"][old]
        new = np.flatnonzero(~old).astype(np.uint32)
        if (np.diff(stay) > 0).all() and (size - len(stay) + len(new)) * _WORTH_IT <= size:
            gone = np.ones(size, bool)
            gone[stay] = False
            difference = io.BytesIO()
            np.savez(difference, gone=np.flatnonzero(gone).astype(np.uint32), at=new, rows=table[new])
            write_secret(folder / f"{name}.edit", difference.getvalue())
            os.link(whole, folder / f"{name}.table")
            return
    write_secret(folder / f"{name}.table", table.tobytes())


def read(folder: Path, name: str, dtype: np.dtype[Any]) -> Table:
    """A table that ``write`` kept, each row with its ``BASE``."""
    table = np.fromfile(folder / f"{name}.table", dtype=dtype)
    table["base"] = np.arange(len(table), dtype=np.int32)
    edit = folder / f"{name}.edit"
    if not edit.exists():
        return table
    with np.load(edit, allow_pickle=False) as difference:
        gone, at, rows = (difference[part] for part in ("gone", "at", "rows"))
    stay, old = np.ones(len(table), bool), np.ones(len(table) - len(gone) + len(rows), bool)
    stay[gone], old[at] = False, False
    edited = np.empty(len(old), dtype)
    edited[old], edited[at] = table[stay], rows
    edited["base"][at] = NEW
    return edited
