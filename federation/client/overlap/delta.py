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

from federation.client.digests import Digests, Table, are_equal, find
from federation.client.overlap.batches import BatchBuilder
from federation.client.overlap.data import Data, Handles, allowed
from federation.client.overlap.kept import Columns, Kept, Revised
from federation.client.overlap.memory import (
    PEOPLE,
    Memory,
    Pool,
    Renewed,
    customers_of,
    first_of_each,
    label_numbers,
    sharing_of,
)
from federation.client.overlap.people import People, Rows
from federation.client.overlap.writing import Draft, Turn
from federation.core.ids import Handle
from federation.overlap.decoys import decoys_of
from federation.overlap.own_key import OwnKey
from federation.overlap.plan import ADD, CHECK, REMOVE, STATISTICS, SWITCHBOARD, delta_keys, labels_of
from federation.policy.specs import PartySpec


@dataclass(frozen=True)
class Changes:
    """What one delta says."""

    after: Renewed  # places of people who are new are set when they are written
    goes: Table  # places of rows
    back: Mapping[str, Table]  # label to places of rows that were sent before
    comes: Mapping[str, People]  # label to people who were not there
    leaves: list[Handle]
    joins: tuple[People, list[Handle]]

    @property
    def empty(self) -> bool:
        """Whether nothing changed that the others must hear of."""
        return not (len(self.goes) or self.leaves or self.adds)

    @property
    def adds(self) -> bool:
        """Whether anybody comes."""
        return bool(self.back or self.comes or self.joins[1])

    @property
    def lost_people(self) -> int:
        """How many were in the statistics and are not any more; who comes back under another label is not lost."""
        return len(self.goes) - sum(map(len, self.back.values()))

    @property
    def lost_sharers(self) -> int:
        """How many were on the switchboard and are not any more."""
        return len(set(self.leaves).difference(self.joins[1]))

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
    people_of: Callable[[Rows], People]
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
    ) -> None:
        self._builder, self._data, self._handles, self._party = builder, data, handles, party
        self._digests, self._pool, self._memory = digests, pool, memory

    def withdrawn(self) -> Changes:
        """Who was sent and may not be there any more. Raises DataError where the partner's files cannot say."""
        before = self._memory
        may, stays = self._may(before.customers, STATISTICS), self._may(before.sharing, SWITCHBOARD)
        customers = Revised.part(before.customers, may)
        sharing = Revised.part(before.sharing, stays)
        nobody: tuple[People, list[Handle]] = (self._builder.nobody, [])
        leaves, lost = _handles(before.sharing["handle"][~stays]), before.customers["person"][~may]
        people, labels = (before.customers[name][may] for name in ("person", "label"))
        now = _Now(customers, people, labels, lambda _rows: nobody[0])
        return self._changes(now, lost, sharing, leaves, nobody)

    def current(self) -> Changes:
        """All that changed. Raises DataError, and OverlapError (BAD_FIELD) for a label that the epoch does not have."""
        before = self._memory
        there = self._builder.usable(STATISTICS)
        labels = label_numbers(before.labels, labels_of(self._party), self._builder.labels(there))
        columns = customers_of(there.customer, there.person, labels)
        customers, touched = compared(before.customers, columns)
        now = _Now(customers, columns["person"], columns["label"], there.people)
        sharers = self._builder.usable(SWITCHBOARD)
        who, what = sharers.customer, sharers.person
        at = find(who, before.sharing["customer"])
        same = np.flatnonzero(at >= 0)
        same = same[are_equal(before.sharing["person"][at[same]], what[same])]
        stays = np.zeros(len(before.sharing), bool)
        stays[at[same]] = True
        new = np.delete(np.arange(len(who)), same)
        handles = self._handles.handles_for(sharers.ids(new))
        sharing = Revised.part(before.sharing, stays, sharing_of(who[new], what[new], handles))
        leaves = _handles(before.sharing["handle"][~stays])
        joins = (sharers.people(new), handles)
        return self._changes(now, touched, sharing, leaves, joins)

    def write(self, changes: Changes, sequence: int, keys: Mapping[int, OwnKey], folder: Path) -> None:
        """Writes every batch of a delta and the memory after it."""
        shape = delta_keys(self._party, adds=changes.adds)
        builder, first, turn = self._builder, self._pool.rows, Turn(keys, len(shape), sequence)
        for number, (index, operation, label) in enumerate(shape):
            target = folder / f"{number:03d}.points"
            if operation == CHECK:
                builder.write_decoys(index, turn, target)
                continue
            people, given = builder.nobody, list[Handle]()
            sent = np.empty(0, np.uint32)
            if operation == REMOVE and index == STATISTICS:
                sent = changes.goes
            elif operation == REMOVE:  # found by their handles: the points, all random, only pass the same way
                given = changes.leaves
            elif index == STATISTICS:
                sent, people = changes.back.get(label, sent), changes.comes.get(label, people)
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
                new = self._digests.of(changes.comes[label].texts())
                changed["place"][find(new, changed["person"])] = np.arange(place, place + len(new))
                place += len(new)
        self._pool.sync()
        changes.after.save(folder, self._pool.rows)

    def _may(self, table: Kept, index: int) -> Table:
        if not len(table):
            return np.ones(0, bool)
        mask: Table = find(table["customer"], self._digests.of(allowed(self._data, self._party, index).permitted)) >= 0
        return mask

    def _changes(
        self, now: _Now, touched: Table, sharing: Revised, leaves: list[Handle], joins: tuple[People, list[Handle]]
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
        comes: dict[str, People] = {}
        for number, label in enumerate(self._memory.labels):
            moved = ~same & (there["label"] == number)
            if (moved & known).any():
                back[label] = there["place"][moved & known]
            if (moved & ~known).any():
                comes[label] = now.people_of(np.sort(first[moved & ~known]))
        if back or comes or joins[1]:
            # Whoever comes, comes with a batch for each declared label: none could be sent for one the epoch lacks.
            names = labels_of(self._party)
            known_labels = tuple(set(names) & set(self._memory.labels))
            label_numbers(known_labels, [*names, *back], np.arange(len(names) + len(back)))
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
    at = find(now["customer"], before["customer"])
    there = np.flatnonzero(at >= 0)
    was = at[there]
    same = (now["label"][there] == before["label"][was]) & are_equal(now["person"][there], before["person"][was])
    there, was = there[same], was[same]
    fresh, lost = np.ones(len(at), bool), np.ones(len(before), bool)
    fresh[there], lost[was] = False, False
    source = np.empty(len(at), np.int32)
    source[there], source[fresh] = was, len(before) + np.arange(len(at) - len(there))
    after = Revised(before, source, {name: column[fresh] for name, column in now.items()})
    if (np.diff(was) < 0).any():
        return after, np.concatenate([before["person"], now["person"]])
    return after, np.concatenate([before["person"][lost], now["person"][fresh]])


def _handles(column: Table) -> list[Handle]:
    return [Handle(row.tobytes()) for row in column]
