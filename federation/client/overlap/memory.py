"""What a partner last sent for an epoch, kept at the partner alone, so that it can tell what changed since.

The files of then are gone when a delta is due, and so may be the people. What stays is, in files that only the owner
can read: for every customer whose row went into the statistics, two keyed digests (of the customer id and of the normal
forms) and the number of the label; for every person the place of the blinded row that was sent; for every customer on
the switchboard the two digests and the handle. The digests (``client.digests``) are under a key of this epoch: they say
who is equal within this folder and nothing to whoever lacks the key. All of it goes with the epoch.

That is 34 bytes a customer and 22 a person, on disk; while a difference is taken, some four a customer are in memory.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from federation.client.digests import DIGEST, Table, alike, halves
from federation.client.files.columns import ColumnStore, Places, parts
from federation.client.overlap.kept import Columns, Kept, Revised, Shape
from federation.core.errors import OverlapError, Reason
from federation.core.files import write_secret
from federation.overlap.blind import CHUNK_ROWS

CUSTOMERS = {"customer": DIGEST, "person": DIGEST, "label": np.dtype("<u2")}  # of the statistics, first in file first
PEOPLE = {"person": DIGEST, "label": np.dtype("<u2"), "place": np.dtype("<u4")}  # of the statistics
SHARING = {"customer": DIGEST, "person": DIGEST, "handle": np.dtype("V16")}
_ABOUT, _POOL = "memory.json", "rows"


@dataclass(frozen=True)
class Memory:
    """Who is in a partner's batches, all deltas counted in."""

    labels: tuple[str, ...]
    customers: Kept
    people: Kept
    sharing: Kept
    rows: int = 0  # of the pool, all that were ever sent

    @classmethod
    def load(cls, folder: Path, store: ColumnStore) -> "Memory":
        """What ``Renewed.save`` kept. Raises OverlapError (UNKNOWN_EPOCH) for what an earlier version kept."""
        if not (folder / "customers.customer").exists():
            item = f"{folder.name}: kept by another version"
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=item, fix="Build a new epoch.")
        about = json.loads((folder / _ABOUT).read_text())
        tables = (("customers", CUSTOMERS), ("people", PEOPLE), ("sharing", SHARING))
        customers, people, sharing = (Kept.read(folder, name, shape, store) for name, shape in tables)
        return cls(tuple(about["labels"]), customers, people, sharing, about["rows"])


@dataclass(frozen=True)
class Renewed:
    """A memory that is to be kept."""

    labels: tuple[str, ...]
    customers: Revised
    people: Revised
    sharing: Revised

    def save(self, folder: Path, rows: int) -> None:
        """Keeps it in a new folder, durably; ``rows`` are all that were ever sent."""
        write_secret(folder / _ABOUT, json.dumps({"labels": self.labels, "rows": rows}).encode())
        self.customers.write(folder, "customers")
        self.people.write(folder, "people")
        self.sharing.write(folder, "sharing")


class Recorder:
    """Takes down who is in the batches of an epoch as they are built.

    Args:
        labels: Every label that the partner may use.
        store: Where columns are until they are kept.
    """

    def __init__(self, labels: Sequence[str], store: ColumnStore) -> None:
        self._labels, self._store = tuple(labels), store
        self._customers, self._sharing = _nothing(CUSTOMERS), _nothing(SHARING)
        self._first: Places = np.empty(0, np.int32)
        self._sent: list[Places] = []

    def statistics(self, customers: Table, people: Table, labels: Table) -> Places:
        """Takes everybody who may be in the statistics, in the order of the file, those who are there twice too.

        Args:
            customers: Digests of their ids.
            people: Digests of their normal forms.
            labels: The number of each one's label.

        Returns:
            Where each person is first among them, rising.
        """
        self._customers = customers_of(customers, people, labels)
        self._first = first_of_each(people)
        return np.sort(self._first)

    def sent(self, places: Places) -> None:
        """Says whose rows of the statistics come next, by their place among the customers."""
        self._sent.append(places)

    def switchboard(self, customers: Table, people: Table, handles: Table) -> None:
        """Takes everybody who is on the switchboard."""
        self._sharing = {"customer": customers, "person": people, "handle": handles}

    def save(self, folder: Path, rows: int) -> None:
        """Keeps what was taken down in a new folder, durably, once every batch is built; ``rows`` were sent in all."""
        place, sent = np.empty(len(self._customers["customer"]), PEOPLE["place"]), 0
        for some in self._sent:
            place[some] = np.arange(sent, sent + len(some), dtype=np.uint32)
            sent += len(some)
        taken = {**self._customers, "place": place}  # whoever is in the statistics was sent, once
        people = {
            name: self._store.joined(taken[name][self._first[part]] for part in parts(len(self._first)))
            for name in PEOPLE
        }
        tables = zip((CUSTOMERS, PEOPLE, SHARING), (self._customers, people, self._sharing), strict=True)
        made = (Revised.part(Kept.empty(shape), np.empty(0, bool), columns) for shape, columns in tables)
        Renewed(self._labels, *made).save(folder, rows)


class Pool:
    """The blinded rows that a partner sent in an epoch, one after another in one file.

    Rows are added before the memory that counts them is kept; what is behind those is of an attempt that ended.

    Args:
        folder: The epoch's.
        width: Bytes a row.
        rows: How many count.
    """

    def __init__(self, folder: Path, width: int, rows: int) -> None:
        self._path, self._width, self.rows = folder / _POOL, width, rows
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, rows * width)
        self._file = os.fdopen(descriptor, "r+b")
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: bytes) -> None:
        """Adds whole rows."""
        self._file.write(rows)
        self.rows += len(rows) // self._width

    def sync(self) -> None:
        """Makes what was added durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self, places: Sequence[int] | Table) -> Iterator[bytes]:
        """The rows in some places, in their order, a chunk at a time."""
        self._file.flush()
        for start in range(0, len(places), CHUNK_ROWS):
            part = np.asarray(places[start : start + CHUNK_ROWS])
            table = np.memmap(self._path, dtype=f"V{self._width}", mode="r")
            yield table[part].tobytes()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def customers_of(customers: Table, people: Table, labels: Sequence[int] | Table) -> Columns:
    """Columns of ``CUSTOMERS``."""
    return {"customer": customers, "person": people, "label": np.asarray(labels, CUSTOMERS["label"])}


def first_of_each(people: Table) -> Places:
    """Where each of some people is first, in an order of their digests that is always the same."""
    return np.concatenate([rows[_first_of_each(people[rows])].astype(np.int32) for [rows] in alike(people)])


def repeated(people: Table) -> Table:
    """The people who are there more than once, each several times."""
    found = []
    for [rows] in alike(people):
        some = people[rows]
        once = np.ones(len(rows), bool)
        once[_first_of_each(some)] = False
        found.append(some[once])
    return np.concatenate(found)


def _first_of_each(people: Table) -> Table:
    half, rest = halves(people)
    order = np.argsort(half)
    same = _repeated(half[order])
    if (rest[order[same]] != rest[order[same + 1]]).any():  # two that share their first half alone: hardly ever
        order = np.lexsort((rest, half))
        same = np.intersect1d(_repeated(half[order]), _repeated(rest[order]))
    new = np.ones(len(order), bool)
    new[same + 1] = False
    first: Table = np.minimum.reduceat(order, np.flatnonzero(new)) if len(order) else order
    return first


def renumbered(labels: tuple[str, ...], names: Sequence[str], chosen: Table) -> Table:
    """Labels, given as places in a list of names, as places in an epoch's list.

    Raises:
        OverlapError: BAD_FIELD for one that the epoch does not have.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    own = np.array([numbers.get(name, -1) for name in names], np.int32)
    if (own < 0).any() and (own[chosen] < 0).any():
        item = "a label that the policy declared after this epoch was built"
        raise OverlapError(Reason.BAD_FIELD, item=item, fix="Build a new epoch.")
    return own.astype(CUSTOMERS["label"])[chosen]


def _repeated(ordered: Table) -> Table:
    """Places of those that are equal to the next."""
    return np.flatnonzero(ordered[1:] == ordered[:-1])


def _nothing(shape: Shape) -> Columns:
    return Kept.empty(shape).columns
