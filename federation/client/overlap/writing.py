"""A partner's own batches on their way to disk: decoys noted, under the right key, shuffled, signed."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from federation.client.digests import Table
from federation.client.overlap.files import create_private, shuffled, write_rows
from federation.client.overlap.stored import StoredBatch
from federation.core.identity import Identity
from federation.core.ids import HANDLE_BYTES
from federation.overlap.batch import Random, sign_manifest
from federation.overlap.blind import blind
from federation.overlap.decoys import most_decoys
from federation.overlap.own_key import OwnKey, renewed
from federation.overlap.plan import BASE, CHECK, STATISTICS, SWITCHBOARD, BatchKey, row_bytes
from federation.policy.specs import PartySpec
from federation.v1 import overlap_pb2 as pb

HANDLE = np.dtype(f"V{HANDLE_BYTES}")
NO_HANDLES: Table = np.empty(0, HANDLE)


@dataclass(frozen=True)
class Turn:
    """What all batches under one sequence number share."""

    keys: Mapping[int, OwnKey]  # of each index
    batches: int
    sequence: int = 0


@dataclass(frozen=True)
class Draft:
    """A batch that is about to be written. Its rows are under the own key of its index, the decoys last."""

    key: BatchKey
    rows: Iterator[bytes]
    count: int  # rows in all
    decoys: int  # of them; of a batch of decoys, what is none
    handles: Table = field(default_factory=lambda: NO_HANDLES)  # of the rows before those; switchboard only


@dataclass
class _Decoys:
    """Those of one index that were written under one sequence number, for the batch of their own."""

    points: list[bytes] = field(default_factory=list)
    handles: list[Table] = field(default_factory=list)
    rows: int = 0
    most: int = 0  # that hops may think there are


class BatchWriter:
    """Writes batches of one epoch.

    Args:
        plan: The epoch's.
        identity: Signs the manifests.
        party: The partner in its own policy.
        random: For order, handles of nobody, and keys.
    """

    def __init__(self, plan: pb.EpochPlan, identity: Identity, party: PartySpec, random: Random) -> None:
        self._plan, self._identity, self._party, self._random = plan, identity, party, random
        self._width = row_bytes(plan)
        self._decoys: dict[int, _Decoys] = {STATISTICS: _Decoys(), SWITCHBOARD: _Decoys()}

    def write(self, draft: Draft, turn: Turn, target: Path) -> None:
        """Shuffles, writes and signs one batch. Rows that hops may have seen before get another key first."""
        (index, operation, label), width = draft.key, self._width
        scratch, rows, own = target.with_suffix(".bucket"), draft.rows, turn.keys[index]
        # A handle that nobody has, so that a row of nobody on the switchboard looks like any other.
        invented = handles_from(self._random(HANDLE_BYTES * draft.decoys) if index == SWITCHBOARD else b"")
        if operation != CHECK:
            rows = self._noted(draft, invented)
        if operation != BASE:
            own = renewed(own, self._random)
            rows = (blind(chunk, own.key).points for chunk in rows)
        if index == SWITCHBOARD:
            both = shuffled(
                _with_handles(rows, (draft.handles, invented), width),
                scratch,
                rows=draft.count,
                width=width + HANDLE_BYTES,
                random=self._random,
            )
            with os.fdopen(create_private(target.with_suffix(".handles")), "wb") as file:
                content = write_rows(target, _split(both, width, file), width)
                file.flush()
                os.fsync(file.fileno())
        else:
            mixed = shuffled(rows, scratch, rows=draft.count, width=width, random=self._random)
            content = write_rows(target, mixed, width)
        header = sign_manifest(
            self._identity,
            self._plan,
            index=index,
            label=label,
            content=content,
            batches=turn.batches,
            operation=operation,
            sequence=turn.sequence,
        )
        header.decoys, header.conversion = draft.decoys, own.conversion
        StoredBatch(header, target, None).save()

    def others(self, index: int) -> int:
        """How many rows of nobody hide from hops how many decoys there are in an index."""
        return self._decoys[index].most - self._decoys[index].rows

    def write_decoys(self, index: int, others: Iterator[bytes], turn: Turn, target: Path) -> None:
        """Writes the decoys of all batches of an index that were written since the last time, and ``others``."""
        hidden, decoys = self.others(index), self._decoys[index]
        self._decoys[index] = _Decoys()
        rows, handles = chain(decoys.points, others), np.concatenate([NO_HANDLES, *decoys.handles])
        self.write(Draft((index, CHECK, ""), rows, decoys.most, hidden, handles), turn, target)

    def _noted(self, draft: Draft, handles: Table) -> Iterator[bytes]:
        """The rows of a draft; its decoys are kept."""
        decoys, first, at = self._decoys[draft.key[0]], draft.count - draft.decoys, 0
        decoys.most += most_decoys(draft.count, self._party.pad_to)
        decoys.rows += draft.decoys
        decoys.handles.append(handles)
        for chunk in draft.rows:
            rows = len(chunk) // self._width
            if at + rows > first:
                decoys.points.append(chunk[max(0, first - at) * self._width :])
            at += rows
            yield chunk


def handles_from(handles: bytes) -> Table:
    """Handles that stand one after another, as a column."""
    return np.frombuffer(handles, HANDLE)


def _with_handles(points: Iterator[bytes], handles: tuple[Table, Table], width: int) -> Iterator[bytes]:
    """Rows with the handle of each behind it; of handles there are two columns, one after the other."""
    (first, second), at = handles, 0
    for chunk in points:
        rows = np.frombuffer(chunk, dtype=np.uint8).reshape(-1, width)
        end = at + len(rows)
        mine = np.concatenate([first[at:end], second[max(0, at - len(first)) : max(0, end - len(first))]])
        yield np.hstack([rows, mine.view(np.uint8).reshape(-1, HANDLE_BYTES)]).tobytes()
        at = end


def _split(rows: Iterator[bytes], width: int, handles: IO[bytes]) -> Iterator[bytes]:
    """Takes the handles off again: they go to a file of their own."""
    for chunk in rows:
        table = np.frombuffer(chunk, dtype=np.uint8).reshape(-1, width + HANDLE_BYTES)
        handles.write(table[:, width:].tobytes())
        yield table[:, :width].tobytes()
