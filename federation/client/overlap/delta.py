"""What changed at a partner since its last batches of an epoch, as the batches of one delta.

Two questions are answered. "Everything" looks at the partner's files, parsing what is new in them, and asks its policy
about everybody, as the base did: who is new, gone or relabelled. "Withdrawals only" asks who of those that were sent
may still be there; it reads no identifier and no label, so that a withdrawal does not have to wait for files that are
broken or half written.

A person who is relabelled goes and comes again, with the very row that was sent before. A person who is at the partner
under two customer ids goes when the last of the two does.

What the sizes of a delta reveal: to hops and gateway, how many rows came and went under each label, padding included
(the party's ``pad_to`` rounds each batch up, and nothing less hides a single change from hops); to the gateway besides
which tokens and which handles they are, because it must find them: it sees that a pseudonym changed its label or went,
and when. If one person alone changes in both indexes at once, the gateway can tell that this token and this handle
belong together; so it can where a message about a handle (a consent to offers that ends) comes at the same moment.
Many changes in one delta hide that; a withdrawal does not wait for them. Neither padding nor two deltas in place of one
could hide it: the gateway must find what goes, and sees when.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.digests import Digests, Table, find
from federation.client.overlap.batches import BatchBuilder, Draft
from federation.client.overlap.data import Data, Handles, allowed
from federation.client.overlap.memory import (
    Memory,
    Pool,
    customers_table,
    first_of_each,
    label_numbers,
    sharing_table,
)
from federation.client.overlap.people import People, Rows
from federation.core.ids import Handle
from federation.overlap.batch import padding_rows
from federation.overlap.plan import ADD, REMOVE, STATISTICS, SWITCHBOARD, delta_keys, labels_of
from federation.policy.specs import PartySpec


@dataclass(frozen=True)
class Changes:
    """What one delta says."""

    after: Memory  # places of people who are new are set when they are written
    goes: Table  # places of rows
    back: Mapping[str, Table]  # label to places of rows that were sent before
    comes: Mapping[str, People]  # label to people who were not there
    leaves: list[Handle]
    joins: tuple[People, list[Handle]]
    untouched: int = 0  # people in ``after`` who stand before those that changed

    @property
    def empty(self) -> bool:
        """Whether nothing changed that the others must hear of."""
        return not (len(self.goes) or self.leaves or self.adds)

    @property
    def adds(self) -> bool:
        """Whether anybody comes."""
        return bool(self.back or self.comes or self.joins[1])

    def counts(self) -> dict[str, int]:
        """How many, for the partner's own log."""
        comes = sum(map(len, self.back.values())) + sum(map(len, self.comes.values()))
        return {"goes": len(self.goes), "comes": comes, "leaves": len(self.leaves), "joins": len(self.joins[1])}


class DeltaBuilder:
    """Finds what changed, and writes it.

    Args:
        builder: Of the epoch; its recorder's digests and pool are the ones given here.
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
        nobody: tuple[People, list[Handle]] = (self._builder.nobody, [])
        if may.all() and stays.all():
            return Changes(before, np.empty(0, np.uint32), {}, {}, [], nobody)
        after = replace(before, customers=before.customers[may], sharing=before.sharing[stays])
        return self._compare(after, _handles(before.sharing[~stays]), nobody, lambda _rows: nobody[0])

    def current(self) -> Changes:
        """All that changed. Raises DataError, and OverlapError (BAD_FIELD) for a label that the epoch does not have."""
        before = self._memory
        there = self._builder.usable(STATISTICS)
        numbers = label_numbers(before.labels, labels_of(self._party), self._builder.labels(there))
        customers = customers_table(there.customer, there.person, numbers)
        sharers = self._builder.usable(SWITCHBOARD)
        who, what = sharers.customer, sharers.person
        at = find(who, before.sharing["customer"])
        same = at >= 0
        same[same] = before.sharing["person"][at[same]] == what[same]
        new, kept = np.flatnonzero(~same), np.zeros(len(before.sharing), bool)
        kept[at[same]] = True
        handles = self._handles.handles_for(sharers.ids(new))
        joining = sharing_table(who[new], what[new], handles)
        after = replace(before, customers=customers, sharing=np.concatenate([before.sharing[kept], joining]))
        joins = (sharers.people(new), handles)
        return self._compare(after, _handles(before.sharing[~kept]), joins, there.people)

    def write(self, changes: Changes, sequence: int, keys: Mapping[int, X25519PrivateKey], folder: Path) -> None:
        """Writes every batch of a delta and the memory after it."""
        shape = delta_keys(self._party, adds=changes.adds)
        builder, first = self._builder, self._pool.rows
        for number, (index, operation, label) in enumerate(shape):
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
            padding = padding_rows(rows, self._party.pad_to)
            random_rows = rows - len(sent) - len(people) + padding
            points: Iterator[bytes] = builder.points(index, label, people, random_rows, keys[index])
            draft = Draft(
                index=index,
                label=label,
                rows=chain(self._pool.read(sent), points),
                count=rows + padding,
                padding=padding,
                batches=len(shape),
                handles=given,
                operation=operation,
                sequence=sequence,
            )
            builder.write(draft, folder / f"{number:03d}.points")
        place = first  # new rows were added to the pool in this order
        changed = changes.after.people[changes.untouched :]
        for index, operation, label in shape:
            if (index, operation) == (STATISTICS, ADD) and label in changes.comes:
                new = self._digests.of(changes.comes[label].texts())
                changed["place"][find(new, changed["person"])] = np.arange(place, place + len(new))
                place += len(new)
        self._pool.sync()
        replace(changes.after, rows=self._pool.rows).save(folder)

    def _may(self, table: Table, index: int) -> Table:
        if not len(table):
            return np.ones(0, bool)
        mask: Table = find(table["customer"], self._digests.of(allowed(self._data, self._party, index).permitted)) >= 0
        return mask

    def _compare(
        self,
        after: Memory,
        leaves: list[Handle],
        joins: tuple[People, list[Handle]],
        people_of: Callable[[Rows], People],
    ) -> Changes:
        """The changes that lead to a memory whose people are still to be found among its customers.

        Args:
            after: With customers and sharing as they are now.
            leaves: Handles that go.
            joins: Who comes to the switchboard.
            people_of: The normal forms of some customers in ``after``, by place, rising.
        """
        touched = _touched(self._memory.customers, after.customers)
        rows = np.flatnonzero(find(after.customers["person"], touched) >= 0)
        now, first = first_of_each(after.customers[rows])
        first = rows[first]
        mine = find(self._memory.people["person"], touched) >= 0
        before, others = self._memory.people[mine], self._memory.people[~mine]
        at = find(now["person"], before["person"])
        known = at >= 0
        now["place"][known] = before["place"][at[known]]
        same = known.copy()
        same[known] = before["label"][at[known]] == now["label"][known]
        back: dict[str, Table] = {}
        comes: dict[str, People] = {}
        for number, label in enumerate(after.labels):
            mine = ~same & (now["label"] == number)
            if (mine & known).any():
                back[label] = now["place"][mine & known]
            if (mine & ~known).any():
                comes[label] = people_of(np.sort(first[mine & ~known]))
        if back or comes or joins[1]:
            # Whoever comes, comes with a batch for each declared label: none could be sent for one the epoch lacks.
            names = labels_of(self._party)
            label_numbers(tuple(set(names) & set(after.labels)), [*names, *back], np.arange(len(names) + len(back)))
        gone = np.ones(len(before), bool)
        gone[at[same]] = False
        people = np.concatenate([others, now])
        return Changes(replace(after, people=people), before["place"][gone], back, comes, leaves, joins, len(others))


def _touched(before: Table, after: Table) -> Table:
    """The people of whom rows came, went, changed or may stand in another order; some of them several times.

    Of everybody else there are the same rows in the same order, and so the first of them has the label that it had.

    Args:
        before: Customers then.
        after: Customers now; rows that were there then get the place on disk that they had.
    """
    at = find(after["customer"], before["customer"])
    same = at >= 0
    for name in ("person", "label"):
        same[same] = after[name][same] == before[name][at[same]]
    kept = at[same]
    after["base"][same] = before["base"][kept]
    if (np.diff(kept) < 0).any():
        return np.concatenate([before["person"], after["person"]])
    lost = np.ones(len(before), bool)
    lost[kept] = False
    return np.concatenate([before["person"][lost], after["person"][~same]])


def _handles(table: Table) -> list[Handle]:
    return [Handle(row.tobytes()) for row in table["handle"]]
