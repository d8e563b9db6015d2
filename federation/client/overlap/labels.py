"""The label of each customer: one value of every column that the partner's own policy lists, and nothing else.

Columns stand in the customers file, as text, or are derived from the holdings: ``holds_<product>`` and the yearly value
as a band. A value that the policy does not list becomes "unknown"; an amount that is no number is a broken file.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from federation.client.config import Columns
from federation.core.errors import DataError, Reason
from federation.policy.specs import HOLDS, UNKNOWN, YEARLY_VALUE, BandSpec, PartySpec

Numbers = NDArray[Any]
Listed = Mapping[str, NDArray[np.uint16]]
"""For each of ``columns_read``: the place of each customer's value among those that the policy lists."""


def columns_read(party: PartySpec) -> tuple[str, ...]:
    """The columns of the customers file that labels come from."""
    derived = {YEARLY_VALUE} if YEARLY_VALUE in party.value_bands else set()
    return tuple(name for name in party.columns if name not in derived and not name.startswith(HOLDS))


class Labels:
    """Finds the label of customers, some at a time.

    Args:
        party: The partner in its own policy.
        names: What its columns are called.
        holdings: Reads which products each customer has; called only where a column is derived from them.

    Raises:
        DataError: BROKEN_ROW (an amount that is no number, or below zero), MISSING_COLUMN, and what reading raises.
    """

    def __init__(self, party: PartySpec, names: Columns, holdings: Callable[[], pd.DataFrame]) -> None:
        self._party = party
        self._derived: dict[str, Callable[[pa.Array], Numbers]] = {}
        for column, allowed in party.columns.items():
            if (spec := party.value_bands.get(YEARLY_VALUE)) is not None and column == YEARLY_VALUE:
                self._derived[column] = _bands(holdings(), names.yearly_value, spec, allowed)
            elif column.startswith(HOLDS):
                self._derived[column] = _holds(holdings(), column.removeprefix(HOLDS), allowed)

    def of(self, ids: pa.Array, read: Listed) -> Numbers:
        """The label of each of some customers, as its place in ``plan.labels_of``.

        Args:
            ids: The customers.
            read: What stands in the customers' file.
        """
        number = np.zeros(len(ids), np.uint16)
        for column, allowed in self._party.columns.items():
            mine = self._derived[column](ids) if column in self._derived else read[column]
            number = number * np.uint16(len(allowed)) + mine.astype(np.uint16)
        return number


def listed(column: pa.Array, allowed: Sequence[str]) -> NDArray[np.uint16]:
    """The place of each value among those that the policy lists; of others, that of "unknown"."""
    found = pc.index_in(column, value_set=pa.array(allowed, pa.string()))
    return np.asarray(found.fill_null(allowed.index(UNKNOWN)), dtype=np.uint16)


def _holds(holdings: pd.DataFrame, product: str, allowed: Sequence[str]) -> Callable[[pa.Array], Numbers]:
    holders = pa.array(holdings.loc[holdings["product"] == product, "customer_id"].unique(), pa.string())
    yes, no = allowed.index("yes"), allowed.index("no")
    return lambda ids: np.where(np.asarray(pc.is_in(ids, value_set=holders)), yes, no)


def _bands(
    holdings: pd.DataFrame, column: str, spec: BandSpec, allowed: Sequence[str]
) -> Callable[[pa.Array], Numbers]:
    if column not in holdings.columns:
        raise DataError(Reason.MISSING_COLUMN, item=f"holdings, column {column}")
    amounts = holdings[column]
    if len(amounts) and (not is_numeric_dtype(amounts) or not (amounts >= 0).all() or math.isinf(amounts.max())):
        raise DataError(Reason.BROKEN_ROW, item=f"holdings, column {column}: not an amount of zero or more")
    # In cents, because sums of decimal fractions are not exact in binary: 0.1 + 0.2 + 0.7 must reach 1.
    cents = (amounts * 100).round().groupby(holdings["customer_id"]).sum()
    customers, whole = pa.array(cents.index.to_numpy(), pa.string()), np.append(np.asarray(cents, float) // 100, 0)
    lows, numbers = [band.low for band in spec.bands], np.array([allowed.index(band.name) for band in spec.bands])

    def band_of(ids: pa.Array) -> Numbers:
        place = pc.index_in(ids, value_set=customers).fill_null(len(customers))
        band: Numbers = numbers[np.searchsorted(lows, whole[np.asarray(place)], side="right") - 1]
        return band

    return band_of
