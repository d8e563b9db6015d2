"""What changed at a partner since its last batches of an epoch, as the batches of one delta.

Two questions are answered. "Everything" looks at the partner's files, parsing what is new in them, and asks its policy
about everybody, as the base did: who is new, gone or relabelled. "Withdrawals only" asks who of those that were sent
may still be there; it reads no identifier and no label, so that a withdrawal does not have to wait for files that are
broken or half written.

A person who is relabelled goes and comes again, as the very row that was sent before. A person who is at the partner
under two customer ids goes when the last of the two does. Every batch of a delta is under a key of its own
(``own_key.renewed``), so that no hop can tell which of the rows that it blinded before go, or come back.

What a delta reveals: to hops and gateway, how many rows came under each label and how many went, to hops but for what
``pad_to`` adds. To the gateway a delta says besides which tokens and which handles they are, because it must find them.
If one person alone changes in both indexes at once, the gateway can tell that this token and this handle belong
together; so it can where a message about a handle (a consent to offers that ends) comes at the same moment. Many
changes in one delta hide that; a withdrawal does not wait for them. Neither decoys nor two deltas in place of one could
hide it: the gateway must find what goes, and sees when.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from federation.client.digests import DIGEST, Digests, Table, are_equal, find
from federation.client.files.columns import ColumnStore, Places, is_rising, parts
from federation.client.overlap.batches import BatchBuilder
from federation.client.overlap.data import PURPOSES, Data, Handles, allowed
from federation.client.overlap.kept import Columns, Kept, Revised
from federation.client.overlap.memory import (
    PEOPLE,
    Memory,
    Pool,
    Renewed,
    customers_of,
    first_of_each,
    renumbered,
    repeated,
)
from federation.client.overlap.people import Chosen, People, Rows
from federation.client.overlap.writing import NO_HANDLES, Draft, Turn
from federation.overlap.decoys import decoys_of
from federation.overlap.own_key import OwnKey
from federation.overlap.plan import ADD, CHECK, REMOVE, STATISTICS, SWITCHBOARD, delta_keys, labels_of
from federation.policy.specs import PartySpec


@dataclass(frozen=True)
class Coming:
    """People who were not there, in the order of the file."""

    person: Table
    people: Chosen | People

    def __len__(self) -> int:
        return len(self.person)


@dataclass(frozen=True)
class Changes:
    """What one delta says."""

    after: Renewed  # places of people who are new are set when they are written
    goes: Table  # places of rows
    back: Mapping[str, Table]  # label to places of rows that were sent before
    comes: Mapping[str, Coming]  # by label
    leaves: Table  # handles
    joins: tuple[Chosen | People, Table]  # with their handles

    @property
    def empty(self) -> bool:
        """Whether nothing changed that the others must hear of."""
        return not (len(self.goes) or len(self.leaves) or self.adds)

    @property
    def adds(self) -> bool:
        """Whether anybody comes."""
        return bool(self.back or self.comes or len(self.joins[1]))

    @property
    def lost_people(self) -> int:
        """How many were in the statistics and are not any more; who comes back under another label is not lost."""
        return len(self.goes) - sum(map(len, self.back.values()))

    @property
    def lost_sharers(self) -> int:
        """How many were on the switchboard and are not any more."""
        return int(np.count_nonzero(find(self.leaves, self.joins[1]) < 0))

    def counts(self) -> dict[str, int]:
        """How many, for the partner's own log."""
        comes = sum(map(len, self.back.values())) + sum(map(len, self.comes.values()))
        return {"goes": len(self.goes), "comes": comes, "leaves": len(self.leaves), "joins": len(self.joins[1])}


@dataclass(frozen=True)
class _Now:
    """Customers of the statistics as they are now: person and label of each."""

    customers: Revised
    people: Table
    labels: Table
    chosen: Callable[[Rows], Chosen | People]
    """The normal forms of some of them, by place, rising."""


class DeltaBuilder:
    """Finds what changed, and writes it.

    Args:
        builder: Of the epoch; with the pool that is given here.
        data: The partner's rows.
        handles: Its handle book.
        party: The partner in its own policy.
        digests: Of the epoch.
        pool: The rows sent in the epoch.
        memory: Who is in the partner's batches now.
        store: Where columns are.
    """

    def __init__(
        self,
        builder: BatchBuilder,
        *,
        data: Data,
        handles: Handles,
        party: PartySpec,
        digests: Digests,
        pool: Pool,
        memory: Memory,
        store: ColumnStore,
    ) -> None:
        self._store = store
        self._builder, self._data, self._handles, self._party = builder, data, handles, party
        self._digests, self._pool, self._memory = digests, pool, memory

    def withdrawn(self, *, here: bool = False) -> Changes:
        """Who was sent and may not be there any more. Raises DataError where the partner's files cannot say.

        Args:
            here: Only those about whom something was recorded at this partner, apart from its files.
        """
        before, keep = self._memory, self._store.chosen
        may, stays = (
            self._may(table, index, here=here)
            for table, index in ((before.customers, STATISTICS), (before.sharing, SWITCHBOARD))
        )
        customers = Revised.part(before.customers, may)
        sharing = Revised.part(before.sharing, stays)
        lost, leaves = before.customers["person"][~may], before.sharing["handle"][~stays]
        people, labels = keep((before.customers["person"], before.customers["label"]), may)
        now = _Now(customers, people, labels, lambda _rows: self._builder.nobody)
        return self._changes(now, lost, sharing, leaves, (self._builder.nobody, NO_HANDLES))

    def current(self) -> Changes:
        """All that changed. Raises DataError, and OverlapError (BAD_FIELD) for a label that the epoch does not have."""
        before = self._memory
        there = self._builder.usable(STATISTICS)
        labels = renumbered(before.labels, labels_of(self._party), self._builder.labels(there))
        columns = customers_of(there.customer, there.person, labels)
        customers, touched = compared(before.customers, columns)
        now = _Now(customers, columns["person"], columns["label"], there.chosen)
        sharers = self._builder.usable(SWITCHBOARD)
        who, what = sharers.customer, sharers.person
        was = find(who, before.sharing["customer"])
        forget_changed(was, (before.sharing["person"], what))
        stays = np.zeros(len(before.sharing), bool)
        stays[was[was >= 0]] = True
        new = np.flatnonzero(was < 0).astype(np.int32)
        handles = self._builder.handles_of(sharers, new)
        sharing = Revised.part(before.sharing, stays, {"customer": who[new], "person": what[new], "handle": handles})
        leaves = before.sharing["handle"][~stays]
        return self._changes(now, touched, sharing, leaves, (sharers.chosen(new), handles))

    def write(self, changes: Changes, sequence: int, keys: Mapping[int, OwnKey], folder: Path) -> None:
        """Writes every batch of a delta and the memory after it."""
        shape = delta_keys(self._party, adds=changes.adds)
        builder, first, turn = self._builder, self._pool.rows, Turn(keys, len(shape), sequence)
        for number, (index, operation, label) in enumerate(shape):
            target = folder / f"{number:03d}.points"
            if operation == CHECK:
                builder.write_decoys(index, turn, target)
                continue
            people: Chosen | People = builder.nobody
            given, sent = NO_HANDLES, np.empty(0, np.uint32)
            if operation == REMOVE and index == STATISTICS:
                sent = changes.goes
            elif operation == REMOVE:  # found by their handles: the points, all random, only pass the same way
                given = changes.leaves
            elif index == STATISTICS:
                sent = changes.back.get(label, sent)
                people = changes.comes[label].people if label in changes.comes else people
            else:
                people, given = changes.joins
            rows = max(len(given), len(sent) + len(people))
            decoys = decoys_of(rows, self._party.pad_to)
            nobody = rows - len(sent) - len(people) + decoys
            points: Iterator[bytes] = builder.points(index, people, nobody, keys[index].key)
            both = chain(self._pool.read(sent), points)
            builder.write(Draft((index, operation, label), both, rows + decoys, decoys, given), turn, target)
        place = first  # new rows were added to the pool in this order
        changed = changes.after.people.new
        for index, operation, label in shape:
            if (index, operation) == (STATISTICS, ADD) and label in changes.comes:
                new = changes.comes[label].person
                changed["place"][find(new, changed["person"])] = np.arange(place, place + len(new))
                place += len(new)
        self._pool.sync()
        changes.after.save(folder, self._pool.rows)

    def _may(self, table: Kept, index: int, *, here: bool) -> Table:
        if not len(table):
            return np.ones(0, bool)
        permitted = allowed(self._data, self._party, index).permitted
        those = self._store.joined(self._digests.of(permitted[part]) for part in parts(len(permitted)))
        mask: Table = find(table["customer"], those) >= 0
        if here:
            recorded = pa.array(self._data.recorded(PURPOSES[index]), pa.string())
            mask |= find(table["customer"], self._digests.of(recorded)) < 0
        return mask

    def _changes(
        self, now: _Now, touched: Table, sharing: Revised, leaves: Table, joins: tuple[Chosen | People, Table]
    ) -> Changes:
        """The changes that lead to a memory.

        Args:
            now: Who is there.
            touched: The people who may have changed; some of them several times.
            sharing: Who is on the switchboard.
            leaves: Handles that go.
            joins: Who comes to the switchboard.
        """
        rows = np.flatnonzero(find(now.people, touched) >= 0)
        first = rows[first_of_each(now.people[rows])]
        there = {
            "person": now.people[first],
            "label": now.labels[first],
            "place": np.zeros(len(first), PEOPLE["place"]),
        }
        mine = find(self._memory.people["person"], touched) >= 0
        before = {name: self._memory.people[name][mine] for name in PEOPLE}
        at = find(there["person"], before["person"])
        known = at >= 0
        there["place"][known] = before["place"][at[known]]
        same = known.copy()
        same[known] = before["label"][at[known]] == there["label"][known]
        back: dict[str, Table] = {}
        comes: dict[str, Coming] = {}
        for number, label in enumerate(self._memory.labels):
            moved = ~same & (there["label"] == number)
            if (moved & known).any():
                back[label] = there["place"][moved & known]
            if (moved & ~known).any():
                new = np.sort(first[moved & ~known])
                comes[label] = Coming(now.people[new], now.chosen(new))
        if back or comes or len(joins[1]):
            # Whoever comes, comes with a batch for each declared label: none could be sent for one the epoch lacks.
            names = labels_of(self._party)
            known_labels = tuple(set(names) & set(self._memory.labels))
            renumbered(known_labels, [*names, *back], np.arange(len(names) + len(back)))
        gone = np.ones(len(before["person"]), bool)
        gone[at[same]] = False
        after = Renewed(self._memory.labels, now.customers, Revised.part(self._memory.people, ~mine, there), sharing)
        return Changes(after, before["place"][gone], back, comes, leaves, joins)


def compared(before: Kept, now: Columns) -> tuple[Revised, Table]:
    """Customers as they are now, and the people of whom rows came, went, changed or may stand in another order.

    Of everybody else there are the same rows in the same order, and so the first of them has the label that it had.

    Args:
        before: Customers then.
        now: Customers now.

    Returns:
        The customers, and digests of people, some of them several times.
    """
    was = find(now["customer"], before["customer"])
    forget_changed(was, (before["label"], now["label"]), (before["person"], now["person"]))
    fresh, lost = was < 0, np.ones(len(before), bool)
    lost[was[~fresh]] = False
    after = Revised(before, was, {name: column[fresh] for name, column in now.items()})
    touched = [before["person"][lost], now["person"][fresh]]
    if not is_rising(was):  # in another order: another row may be the first of whoever has several
        touched.append(repeated(now["person"]))
    return after, np.concatenate(touched)


def forget_changed(was: Places, *columns: tuple[Table, Table]) -> None:
    """Makes rows that are not as they were new ones, in place.

    Args:
        was: Where each row was, -1 for new ones.
        columns: Of then, and of now.
    """
    for part in parts(len(was)):
        place = was[part]
        there = np.flatnonzero(place >= 0)
        for then, now in columns:
            old, new = then[place[there]], now[part][there]
            there = there[are_equal(old, new) if old.dtype == DIGEST else old == new]
        changed = np.ones(len(place), bool)
        changed[there] = False
        place[changed] = -1
