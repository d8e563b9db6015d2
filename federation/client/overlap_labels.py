"""The label of each customer: one value of every column that the partner's own policy lists, and nothing else.

Columns stand in the customers file, or are derived from the holdings: ``holds_<product>`` and the yearly value as a
band. A value that the policy does not list becomes "unknown"; an amount that is no number is a broken file.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Protocol

import pandas as pd
from pandas.api.types import is_numeric_dtype

from federation.client.config import Columns
from federation.core.errors import DataError, Reason
from federation.core.ids import CustomerId
from federation.overlap.plan import label_of
from federation.policy.specs import HOLDS, UNKNOWN, YEARLY_VALUE, BandSpec, PartySpec


class Tables(Protocol):
    """The files that labels come from."""

    def customers(self) -> pd.DataFrame:
        """All customers, indexed by customer id."""
        ...

    def holdings(self) -> pd.DataFrame:
        """Which products each customer has, with what they bring in a year."""
        ...


def customer_labels(party: PartySpec, data: Tables, names: Columns, ids: Sequence[CustomerId]) -> list[str]:
    """The label of each of some customers, as ``plan.labels_of`` lists them.

    Args:
        party: The partner in its own policy.
        data: Its files; holdings are read only where a column is derived from them.
        names: What its columns are called.
        ids: Customers, in the order of the answer.

    Raises:
        DataError: MISSING_COLUMN, BROKEN_ROW (an amount that is no number, or below zero), and what reading raises.
    """
    columns: dict[str, list[str]] = {}
    for column, allowed in party.columns.items():
        if (spec := party.value_bands.get(YEARLY_VALUE)) is not None and column == YEARLY_VALUE:
            columns[column] = _bands(data.holdings(), names.yearly_value, spec, ids)
        elif column.startswith(HOLDS):
            holdings = data.holdings()
            holders = set(holdings.loc[holdings["product"] == column.removeprefix(HOLDS), "customer_id"])
            columns[column] = ["yes" if customer in holders else "no" for customer in ids]
        else:
            columns[column] = _listed(data.customers(), column, frozenset(allowed), ids)
    if not columns:
        return [""] * len(ids)
    spelled: dict[tuple[str, ...], str] = {}
    labels = []
    for values in zip(*columns.values(), strict=True):
        if values not in spelled:
            spelled[values] = label_of(dict(zip(columns, values, strict=True)))
        labels.append(spelled[values])
    return labels


def _listed(table: pd.DataFrame, column: str, allowed: frozenset[str], ids: Sequence[CustomerId]) -> list[str]:
    if column not in table.columns:
        raise DataError(Reason.MISSING_COLUMN, item=f"column {column}")
    values = (str(value) for value in table[column].reindex(list(ids)).tolist())
    return [value if value in allowed else UNKNOWN for value in values]


def _bands(holdings: pd.DataFrame, column: str, spec: BandSpec, ids: Sequence[CustomerId]) -> list[str]:
    if column not in holdings.columns:
        raise DataError(Reason.MISSING_COLUMN, item=f"holdings, column {column}")
    amounts = holdings[column]
    if len(amounts) and (not is_numeric_dtype(amounts) or not (amounts >= 0).all() or math.isinf(amounts.max())):
        raise DataError(Reason.BROKEN_ROW, item=f"holdings, column {column}: not an amount of zero or more")
    # In cents, because sums of decimal fractions are not exact in binary: 0.1 + 0.2 + 0.7 must reach 1.
    cents = (amounts * 100).round().groupby(holdings["customer_id"]).sum()
    known = dict(zip(cents.index.tolist(), cents.tolist(), strict=True))
    names, lows = [band.name for band in spec.bands], [band.low for band in spec.bands]
    return [names[bisect.bisect_right(lows, known.get(customer, 0) // 100) - 1] for customer in ids]
