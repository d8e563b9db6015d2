"""The label of each customer: one value of every column that the partner's own policy lists, and nothing else.

Columns stand in the customers file, as text, or are derived from the holdings: ``holds_<product>`` and the yearly value
as a band. A value that the policy does not list becomes "unknown"; an amount that is no number is a broken file.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from federation.client.config import Columns
from federation.client.files.columns import Places
from federation.core.errors import DataError, Reason
from federation.policy.specs import HOLDS, UNKNOWN, YEARLY_VALUE, BandSpec, PartySpec

Numbers = NDArray[np.uint16]
Listed = Mapping[str, Numbers]
"""For each of some columns: the place of each customer's value among those that the policy lists."""


def columns_read(party: PartySpec) -> tuple[str, ...]:
    """The columns of the customers file that labels come from."""
    derived = {YEARLY_VALUE} if YEARLY_VALUE in party.value_bands else set()
    return tuple(name for name in party.columns if name not in derived and not name.startswith(HOLDS))


def derived(party: PartySpec, names: Columns, ids: pa.Array, holdings: Callable[[], pd.DataFrame]) -> Listed:
    """The same for columns that are derived from the holdings.

    For all customers at once, because a table of all who hold something is made for each column.

    Args:
        party: The partner in its own policy.
        names: What its columns are called.
        ids: The customers.
        holdings: Reads which products each customer has; called only where a column is derived from them.

    Raises:
        DataError: BROKEN_ROW (an amount that is no number, or below zero), MISSING_COLUMN, and what reading raises.
    """
    found = dict[str, Numbers]()
    for column, allowed in party.columns.items():
        if (spec := party.value_bands.get(YEARLY_VALUE)) is not None and column == YEARLY_VALUE:
            found[column] = _bands(holdings(), names.yearly_value, spec, ids, allowed)
        elif column.startswith(HOLDS):
            found[column] = _holds(holdings(), column.removeprefix(HOLDS), ids, allowed)
    return found


def numbers_of(party: PartySpec, listed: Listed, rows: Places) -> Numbers:
    """The label of each of some customers, by place, as its place in ``plan.labels_of``."""
    number = np.zeros(len(rows), np.uint16)
    for column, allowed in party.columns.items():
        number = number * np.uint16(len(allowed)) + listed[column][rows]
    return number


def listed(column: pa.Array, allowed: Sequence[str]) -> NDArray[np.uint16]:
    """The place of each value among those that the policy lists; of others, that of "unknown"."""
    found = pc.index_in(column, value_set=pa.array(allowed, pa.string()))
    return np.asarray(found.fill_null(allowed.index(UNKNOWN)), dtype=np.uint16)


def _holds(holdings: pd.DataFrame, product: str, ids: pa.Array, allowed: Sequence[str]) -> Numbers:
    holders = holdings.loc[holdings["product"] == product, "customer_id"].unique()
    holds = np.asarray(pc.is_in(ids, value_set=pa.array(holders, pa.string())))
    return np.where(holds, np.uint16(allowed.index("yes")), np.uint16(allowed.index("no")))


def _bands(holdings: pd.DataFrame, column: str, spec: BandSpec, ids: pa.Array, allowed: Sequence[str]) -> Numbers:
    if column not in holdings.columns:
        raise DataError(Reason.MISSING_COLUMN, item=f"holdings, column {column}")
    amounts = holdings[column]
    if len(amounts) and (not is_numeric_dtype(amounts) or not (amounts >= 0).all() or math.isinf(amounts.max())):
        raise DataError(Reason.BROKEN_ROW, item=f"holdings, column {column}: not an amount of zero or more")
    # In cents, because sums of decimal fractions are not exact in binary: 0.1 + 0.2 + 0.7 must reach 1.
    cents = (amounts * 100).round().groupby(holdings["customer_id"]).sum()
    whole = np.append(np.asarray(cents, float) // 100, 0)  # at the end of whoever holds nothing
    place = pc.index_in(ids, value_set=pa.array(cents.index.to_numpy(), pa.string())).fill_null(len(cents))
    numbers = np.array([allowed.index(band.name) for band in spec.bands], np.uint16)
    bands = numbers[np.searchsorted([band.low for band in spec.bands], whole, side="right") - 1]
    mine: Numbers = bands[np.asarray(place)]
    return mine
