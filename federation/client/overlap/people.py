"""Customers as columns, for the overlap: digests of who they are, and the normal form of what identifies them.

A customer takes some fifty bytes beside the id, on disk where customers are many; the texts themselves are held while a
base is built, and only then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from federation.client.config import DataConfig
from federation.client.digests import Digests, Table
from federation.client.files.columns import Column, ColumnStore, Places, parts
from federation.client.files.derived import Derive, Derived, Different
from federation.client.files.tables import check_key
from federation.client.overlap.labels import Listed, columns_read, listed
from federation.core.errors import DataError, Reason
from federation.overlap.normalise import normalise_column
from federation.policy.specs import PartySpec

APART = "\x1f"  # no normal form holds it
Rows = NDArray[np.signedinteger[Any]]
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

    ``customer`` and ``person``: digests of the id and of the normal forms; ``given``: who has anything in an identifier
    column; ``usable``: who has an identifier of any key type; ``listed``: see ``labels``.
    """

    ids: pa.Array
    customer: Table
    person: Table
    given: Mask
    usable: Mask
    listed: Listed
    people_of: Callable[[Rows], People]
    """The normal forms of some customers, by place, rising. Raises FileMoved where they are to be read and changed."""


@dataclass(frozen=True)
class Usable:
    """Customers that may be in an index and have a usable identifier, in the order of the file."""

    rows: Places  # of the file
    among: Customers
    store: ColumnStore

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def customer(self) -> Table:
        """The digest of each one's id."""
        return self._of(self.among.customer)

    @property
    def person(self) -> Table:
        """The digest of each one's identifiers."""
        return self._of(self.among.person)

    def _of(self, column: Table) -> Table:
        """A column for each of them; the column itself where they are everybody."""
        if len(self.rows) == len(column):
            return column
        some: Table = self.store.joined(column[self.rows[part]] for part in parts(len(self.rows)))
        return some

    def chosen(self, which: Rows | slice) -> "Chosen":
        """Some of them, by place, rising."""
        return Chosen(self.among.people_of, self.rows[which])


@dataclass(frozen=True)
class Chosen:
    """Some customers of a file, whose normal forms are copied only as they are needed."""

    people_of: Callable[[Rows], People]
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, stop: int) -> People:
        """Those from one place to before another."""
        return self.people_of(self.rows[start:stop])


class CustomerReader:
    """Reads the customers and brings their identifiers into the normal form; a second time only where lines are new.

    Args:
        derived: Makes a reader of some columns that follows the file, as ``PartnerData.derived``.
        config: What columns are called, and how phone numbers are written.
        kinds: Key types.
        party: The partner in its own policy.
        digests: Of the epoch.
    """

    def __init__(
        self,
        derived: Callable[[Sequence[str], Sequence[str], Derive], Derived],
        config: DataConfig,
        kinds: Sequence[str],
        party: PartySpec,
        digests: Digests,
    ) -> None:
        self._config, self._party, self._digests = config, party, digests
        self._names = {kind: str(getattr(config.columns, kind)) for kind in kinds}
        self._there: list[str] = []  # of these, in the file
        self._derived = derived(columns_read(party), list(self._names.values()), self._derive)
        self._different = Different()

    def read(self) -> Customers:
        """The customers as they are now.

        Raises:
            DataError: MISSING_COLUMN (with several key types a partner may be without some, but not without all);
                HALF_EMPTY_COLUMN where more than ``max_empty_share`` is empty, which means a wrong file more often than
                a fact; BROKEN_ROW for an id that is not unique; what reading raises.
        """
        look = self._derived.read()
        ids, customer, person, usable, *others = look.columns
        if not self._different(customer, look.was):  # and the file is another than the one that was decided about
            check_key(self._config.customers, ids.to_pandas().rename(self._config.columns.id))
        given, *filled = others[: len(self._names) + 1]
        for name, mine in zip(self._names.values(), filled, strict=True):
            if name in self._there:
                _check_filled(self._config, name, 1 - np.count_nonzero(mine) / len(ids) if len(ids) else 1.0)
        numbers = dict(zip(columns_read(self._party), others[len(self._names) + 1 :], strict=True))
        whole = People(look.extras)

        def people_of(rows: Rows) -> People:
            if look.whole:
                return whole.take(rows)
            parts = [self._normal(batch) for batch in look.rows(rows)] or [
                [pa.array([], pa.string())] * len(self._names)
            ]
            return People([pa.concat_arrays(some) for some in zip(*parts, strict=True)])

        return Customers(ids, customer, person, given, usable, numbers, people_of)

    def _derive(self, batch: pa.RecordBatch) -> tuple[Sequence[Column], Sequence[Column]]:
        self._there = [name for name in self._names.values() if name in batch.schema.names]
        if not self._there:
            missing = next(iter(self._names.values()))
            raise DataError(Reason.MISSING_COLUMN, item=f"{self._config.customers.name}, column {missing}")
        ids, normal, filled = batch[self._config.columns.id], self._normal(batch), []
        for name in self._names.values():
            there = pc.not_equal(pc.utf8_trim_whitespace(batch[name]), "") if name in self._there else None
            filled.append(np.zeros(len(batch), bool) if there is None else np.asarray(there))
        usable = np.logical_or.reduce([np.asarray(column.is_valid()) for column in normal])
        person = self._digests.of(People(normal).texts().fill_null(""))
        numbers = [listed(batch[name], self._party.columns[name]) for name in columns_read(self._party)]
        given = np.logical_or.reduce(filled)
        return [ids, self._digests.of(ids), person, usable, given, *filled, *numbers], normal

    def _normal(self, batch: pa.RecordBatch) -> list[pa.Array]:
        config = self._config
        return [
            normalise_column(batch[name], kind, region=config.phone_region, mode=config.phone_numbers)
            if name in batch.schema.names
            else pa.nulls(len(batch), pa.string())
            for kind, name in self._names.items()
        ]


def _check_filled(config: DataConfig, name: str, empty: float) -> None:
    if empty > config.max_empty_share:
        fix = "Check the file, or raise data.max_empty_share in partner.yaml if this is how your data is."
        item = f"{config.customers.name}, column {name}: {empty:.0%} empty"
        raise DataError(Reason.HALF_EMPTY_COLUMN, item=item, fix=fix)
