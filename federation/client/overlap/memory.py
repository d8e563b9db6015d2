"""What a partner last sent for an epoch, kept at the partner alone, so that it can tell what changed since.

The files of then are gone when a delta is due, and so may be the people. What stays is, in files that only the owner
can read: for every customer whose row went into the statistics, two keyed digests (of the customer id and of the normal
forms) and the number of the label; for every person the place of the blinded row that was sent; for every customer on
the switchboard the two digests and the handle. The digests (``client.digests``) are under a key of this epoch: they say
who is equal within this folder and nothing to whoever lacks the key. All of it goes with the epoch.

Memory: 38 bytes a customer and 26 a person while a difference is taken; rows of points stay on disk.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.client.digests import DIGEST, halves
from federation.client.overlap import kept
from federation.core.errors import OverlapError, Reason
from federation.core.files import write_secret
from federation.core.ids import Handle
from federation.overlap.blind import CHUNK_ROWS

Table = NDArray[Any]
CUSTOMERS = np.dtype([("customer", DIGEST), ("person", DIGEST), ("label", "<u2"), kept.BASE])
PEOPLE = np.dtype([("person", DIGEST), ("label", "<u2"), ("place", "<u4"), kept.BASE])
SHARING = np.dtype([("customer", DIGEST), ("person", DIGEST), ("handle", "V16"), kept.BASE])
_TABLES = {"customers": CUSTOMERS, "people": PEOPLE, "sharing": SHARING}
_ABOUT, _POOL = "memory.json", "rows"


@dataclass(frozen=True)
class Memory:
    """Who is in a partner's batches, all deltas counted in."""

    labels: tuple[str, ...]
    customers: Table = field(default_factory=lambda: np.empty(0, CUSTOMERS))  # of the statistics, first in file first
    people: Table = field(default_factory=lambda: np.empty(0, PEOPLE))  # of the statistics, by digest
    sharing: Table = field(default_factory=lambda: np.empty(0, SHARING))
    rows: int = 0  # of the pool, all that were ever sent
    folder: Path | None = None  # that it was read from, or that what it was made from was read from

    def save(self, folder: Path) -> None:
        """Keeps it in a new folder, durably."""
        write_secret(folder / _ABOUT, json.dumps({"labels": self.labels, "rows": self.rows}).encode())
        for name in _TABLES:
            kept.write(folder, name, getattr(self, name), self.folder)

    @classmethod
    def load(cls, folder: Path) -> "Memory":
        """What ``save`` kept."""
        tables = {name: kept.read(folder, name, dtype) for name, dtype in _TABLES.items()}
        about = json.loads((folder / _ABOUT).read_text())
        return cls(tuple(about["labels"]), **tables, rows=about["rows"], folder=folder)


class Recorder:
    """Takes down who is in the batches of an epoch as they are built.

    Args:
        labels: Every label that the partner may use.
        pool: The epoch's rows.
    """

    def __init__(self, labels: Sequence[str], pool: "Pool") -> None:
        self._labels, self._pool = tuple(labels), pool
        self._customers, self._sharing = np.empty(0, CUSTOMERS), np.empty(0, SHARING)
        self._people, self._first = first_of_each(self._customers)
        self._sent: list[Table] = []

    def statistics(self, customers: Table, people: Table, labels: Table) -> Table:
        """Takes everybody who may be in the statistics, in the order of the file, those who are there twice too.

        Args:
            customers: Digests of their ids.
            people: Digests of their normal forms.
            labels: The number of each one's label.

        Returns:
            Where each person is first among them, rising.
        """
        self._customers = customers_table(customers, people, labels)
        self._people, self._first = first_of_each(self._customers)
        return np.sort(self._first)

    def sent(self, places: Table) -> None:
        """Says whose rows of the statistics come next, by their place among the customers."""
        self._sent.append(places)

    def points(self, rows: bytes) -> None:
        """Takes blinded rows of people of the statistics."""
        self._pool.append(rows)

    def switchboard(self, customers: Table, people: Table, handles: Sequence[Handle]) -> None:
        """Takes everybody who is on the switchboard."""
        self._sharing = sharing_table(customers, people, handles)

    def memory(self) -> Memory:
        """What was taken down, once every batch is built."""
        self._pool.sync()
        order = np.concatenate(self._sent) if self._sent else np.empty(0, np.intp)
        place = np.empty(len(self._customers), np.uint32)
        place[order] = np.arange(len(order), dtype=np.uint32)
        people = self._people.copy()
        people["place"] = place[self._first]  # whoever is in the statistics was sent, once
        return Memory(self._labels, self._customers, people, self._sharing, self._pool.rows)


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


def customers_table(customers: Table, people: Table, labels: Sequence[int] | Table) -> Table:
    """Rows of ``CUSTOMERS``."""
    table = np.empty(len(customers), CUSTOMERS)
    table["customer"], table["person"], table["label"], table["base"] = customers, people, labels, kept.NEW
    return table


def sharing_table(customers: Table, people: Table, handles: Sequence[Handle]) -> Table:
    """Rows of ``SHARING``."""
    table = np.empty(len(customers), SHARING)
    table["customer"], table["person"], table["base"] = customers, people, kept.NEW
    table["handle"] = np.frombuffer(b"".join(handles), "V16")
    return table


def first_of_each(customers: Table) -> tuple[Table, Table]:
    """The people among customers, each with the label of its first row, and where that row is.

    They are in an order of their digests that is always the same. Their ``place`` is not known yet.
    """
    half, rest = halves(customers["person"])
    order = np.argsort(half)
    same = np.flatnonzero(half[order[1:]] == half[order[:-1]])
    if (rest[order[same]] != rest[order[same + 1]]).any():  # two that share their first half alone: hardly ever
        order = np.lexsort((rest, half))
        same = np.flatnonzero((half[order[1:]] == half[order[:-1]]) & (rest[order[1:]] == rest[order[:-1]]))
    new = np.ones(len(order), bool)
    new[same + 1] = False
    first = np.minimum.reduceat(order, np.flatnonzero(new)) if len(order) else order
    table = np.zeros(len(first), PEOPLE)
    table["person"], table["label"] = customers["person"][first], customers["label"][first]
    table["base"] = kept.NEW
    return table, first


def label_numbers(labels: tuple[str, ...], names: Sequence[str], chosen: Table) -> Table:
    """Labels, given as places in a list of names, as places in an epoch's list.

    Raises:
        OverlapError: BAD_FIELD for one that the epoch does not have.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    found = np.array([numbers.get(name, -1) for name in names], np.intp)[chosen]
    if (found < 0).any():
        item = "a label that the policy declared after this epoch was built"
        raise OverlapError(Reason.BAD_FIELD, item=item, fix="Build a new epoch.")
    return found
