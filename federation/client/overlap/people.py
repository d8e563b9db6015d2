"""Customers as columns, for the overlap: who they are, and the normal form of what identifies them.

Memory: for a customer some ten bytes beside the id and the texts themselves, and no Python object.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from federation.client.config import DataConfig
from federation.core.errors import DataError, Reason
from federation.overlap.normalise import normalise_column

APART = "\x1f"  # no normal form holds it
_SLICE_ROWS = 1 << 16
Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]


class People:
    """The normal form of the identifiers of some customers, a column for each key type; null where one has none.

    Args:
        columns: Of equal length.
    """

    def __init__(self, columns: Sequence[pa.Array]) -> None:
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return len(self.columns[0])

    def take(self, rows: Rows) -> "People":
        """Some of them, in the order given."""
        return People([column.take(pa.array(rows)) for column in self.columns])

    def part(self, start: int, stop: int) -> "People":
        """Those from one place to before another."""
        return People([column.slice(start, stop - start) for column in self.columns])

    def texts(self) -> pa.Array:
        """A text for each that is another for everybody who differs in any identifier."""
        if len(self.columns) == 1:
            return self.columns[0]
        return pc.binary_join_element_wise(*(column.fill_null("") for column in self.columns), APART)


@dataclass(frozen=True)
class Customers:
    """The customers' file at one moment.

    ``given``: who has anything in an identifier column; ``usable``: who has an identifier of any key type.
    """

    table: pa.Table
    ids: pa.Array
    people: People
    given: Mask
    usable: Mask


def read_customers(
    read: Callable[[Sequence[str], Sequence[str]], pa.Table],
    config: DataConfig,
    kinds: Sequence[str],
    columns: Sequence[str],
) -> Customers:
    """Reads the customers and brings their identifiers into the normal form.

    Args:
        read: Gives columns by name as text, the id first; of the second names those that are there.
        config: What columns are called, and how phone numbers are written.
        kinds: Key types.
        columns: Further columns to read.

    Raises:
        DataError: MISSING_COLUMN (with several key types a partner may be without some, but not without all);
            HALF_EMPTY_COLUMN where more than ``max_empty_share`` is empty, which means a wrong file more often than a
            fact; what reading raises.
    """
    names = {kind: str(getattr(config.columns, kind)) for kind in kinds}
    table = read(columns, list(names.values()))
    missing = [name for name in names.values() if name not in table.column_names]
    if len(missing) == len(names):
        raise DataError(Reason.MISSING_COLUMN, item=f"{config.customers.name}, column {missing[0]}")
    rows, normal = len(table), []
    given = np.zeros(rows, bool)
    for kind, name in names.items():
        if name in missing:
            normal.append(pa.nulls(rows, pa.string()))
            continue
        column = table[name].combine_chunks()
        filled = np.asarray(pc.not_equal(pc.utf8_trim_whitespace(column), ""))
        _check_filled(config, name, float(1 - filled.mean()) if rows else 1.0)
        given |= filled
        normal.append(_normal(column, kind, config))
    wanted = [name for name in table.column_names if name not in names.values() or name in columns]
    usable = np.logical_or.reduce([np.asarray(column.is_valid()) for column in normal])
    return Customers(table.select(wanted), table.column(0).combine_chunks(), People(normal), given, usable)


def _normal(column: pa.Array, kind: str, config: DataConfig) -> pa.Array:
    """A part at a time, so that what is made on the way stays small."""
    parts = [
        normalise_column(column.slice(start, _SLICE_ROWS), kind, region=config.phone_region, mode=config.phone_numbers)
        for start in range(0, len(column), _SLICE_ROWS)
    ]
    return pa.concat_arrays(parts) if parts else pa.array([], pa.string())


def _check_filled(config: DataConfig, name: str, empty: float) -> None:
    if empty > config.max_empty_share:
        fix = "Check the file, or raise data.max_empty_share in partner.yaml if this is how your data is."
        item = f"{config.customers.name}, column {name}: {empty:.0%} empty"
        raise DataError(Reason.HALF_EMPTY_COLUMN, item=item, fix=fix)
