"""Batches at the end of their way, as the two indexes take them: every point under all partners' keys.

As rows pass, the decoys among them are counted (``federation.overlap.decoys``): each batch must hold as many as its
origin says, each of them once.
"""

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from federation.core.errors import OverlapError, Reason
from federation.core.ids import HANDLE_BYTES
from federation.overlap.blind import blind
from federation.overlap.decoys import LEAST
from federation.overlap.plan import BASE, CHECK, STATISTICS, SWITCHBOARD, Agreement, labels_of, ring, row_bytes
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.epochs import Batch
from gateway.overlap.handles import HandleBatch
from gateway.overlap.people import TokenBatch
from gateway.overlap.spool import Spool

MAX_KEPT_ROWS = 300_000
"""Of a delta: at most 29 MB with three key types."""
_HALF, _NAME = np.dtype("<u4"), np.dtype("<u8")
_HALF_BITS = np.uint64(32)


def labels_by_party(plan: pb.EpochPlan, batches: Sequence[Batch], agreement: Agreement) -> dict[str, list[str]]:
    """The labels that arrived, in the order in which the policy declares them; it may have changed meanwhile."""
    labels = {}
    for party in plan.partners:
        mine = (one for one in batches if one.origin == party)
        sent = {one.label for one in mine if (one.index, one.operation) == (STATISTICS, BASE)}
        spec = agreement.parties.get(party)
        declared = [label for label in labels_of(spec) if label in sent] if spec else []
        labels[party] = [*declared, *sorted(sent.difference(declared))]
    return labels


class Arrived:
    """All batches of an epoch's base, or of one delta.

    Args:
        spool: Where their rows are.
        plan: The epoch's.
        batches: Which.
    """

    def __init__(self, spool: Spool, plan: pb.EpochPlan, batches: Sequence[Batch]) -> None:
        self._spool, self._plan = spool, plan
        self._batches = [one for one in batches if one.operation != CHECK]
        self._decoys: dict[tuple[str, int], _Decoys] = {}
        self._kept: dict[str, list[tuple[bytes, bytes]]] = {}
        for one in batches:
            if one.operation == CHECK:
                self._check_size(one)
                self._decoys[one.origin, one.index] = _Decoys(self._rows(one), row_bytes(plan), one.header.decoys)

    def tokens(self) -> Iterator[TokenBatch]:
        """Those of the statistics."""
        for one in self._batches:
            if one.index == STATISTICS:
                chunks = (points for points, _ in self._watched(one))
                yield TokenBatch(one.origin, one.label, one.header.decoys, chunks, one.operation, _count(one))

    def handles(self) -> Iterator[HandleBatch]:
        """Those of the switchboard."""
        for one in self._batches:
            if one.index == SWITCHBOARD:
                yield HandleBatch(one.origin, self._watched(one), one.operation, one.header.decoys)

    def read_all(self) -> None:
        """Reads every row, for what ``check`` says before anything is done with them.

        Few are kept in memory, so that they are not converted twice; of many that is a small part of the work.
        """
        keep = sum(map(_count, self._batches)) <= MAX_KEPT_ROWS
        for one in self._batches:
            rows = self._watched(one)
            if keep:
                self._kept[one.batch_id] = list(rows)
            else:
                for _ in rows:
                    pass

    def check(self) -> None:
        """Says whether hops gave back what they were given, once every row was read.

        Raises:
            OverlapError: DECOYS_MISSING, with the origin.
        """
        for one in self._batches:
            decoys = self._decoys.get((one.origin, one.index))
            if decoys is None or decoys.found.get(one.batch_id) != one.header.decoys or not decoys.complete:
                hops = " or ".join(ring(tuple(self._plan.partners), one.origin))
                fix = f"Build a new epoch. What {one.origin} sent passed {hops}."
                raise OverlapError(Reason.DECOYS_MISSING, item=f"rows of {one.origin}", fix=fix)

    def _check_size(self, check: Batch) -> None:
        """Whether a batch of decoys is no larger than it need be, whatever ``pad_to`` is: they are held in memory."""
        mine = (one for one in self._batches if (one.origin, one.index) == (check.origin, check.index))
        if _count(check) > sum(LEAST + 2 * _count(one) for one in mine):
            raise OverlapError(Reason.TOO_LARGE, item=f"decoys of {check.origin}", fix="Build a new epoch.")

    def _watched(self, one: Batch) -> Iterator[tuple[bytes, bytes]]:
        """Rows of a batch with their handles, while its decoys are counted."""
        if (kept := self._kept.get(one.batch_id)) is not None:
            yield from kept
            return
        decoys = self._decoys.get((one.origin, one.index))
        if decoys is not None:
            decoys.found[one.batch_id] = 0
        for points, handles in self._rows(one):
            if decoys is not None:
                decoys.count(one.batch_id, points, handles)
            yield points, handles

    def _rows(self, one: Batch) -> Iterator[tuple[bytes, bytes]]:
        """Rows under all keys, converted where they are under one of their own (``federation.overlap.own_key``)."""
        chunks: Iterable[bytes] = self._spool.chunks(one.batch_id, one.position, row_bytes(self._plan))
        if one.header.conversion:
            key = X25519PrivateKey.from_private_bytes(one.header.conversion)
            chunks = (blind(chunk, key).points for chunk in chunks)
        if one.index == STATISTICS:
            return ((chunk, b"") for chunk in chunks)
        return zip(chunks, self._spool.handles(one.batch_id), strict=True)


def _count(batch: Batch) -> int:
    return pb.Manifest.FromString(batch.header.manifest.payload).count


class _Decoys:
    """The decoys of an origin in one index, and where they were found.

    A row is told by a hash of 64 bits, of all its bytes, under a key that is drawn for this one check. That one of ten
    million rows is taken for one of two hundred thousand decoys has a chance of one in ten million. Without the key
    nobody can do better than that, though between two partners a hop writes the very bytes that are hashed.
    Source: Lemire, Kaser 2014, Strongly universal string hashing is fast, section 3 (multilinear).

    Args:
        parts: Rows of the batch of decoys, each with its handle on the switchboard.
        width: Bytes of a row, without the handle.
        others: How many of the rows are no decoys.
    """

    def __init__(self, parts: Iterable[tuple[bytes, bytes]], width: int, others: int) -> None:
        self._width, halves = width, (width + HANDLE_BYTES) // _HALF.itemsize
        self._key = np.frombuffer(os.urandom(2 * (1 + halves) * _NAME.itemsize), _NAME).reshape(-1, 2)
        self._names = np.sort(np.concatenate([self._named(*part) for part in parts] or [np.empty(0, _NAME)]))
        self._seen = np.zeros(len(self._names), bool)
        self._wanted = len(self._names) - others
        self.found: dict[str, int] = {}
        """In each batch that was read."""

    @property
    def complete(self) -> bool:
        """Whether each was found, once."""
        once = not (self._names[1:] == self._names[:-1]).any()
        return once and int(self._seen.sum()) == sum(self.found.values()) == self._wanted

    def count(self, batch_id: str, points: bytes, handles: bytes) -> None:
        """Looks for them among some rows of a batch."""
        if not len(self._names):
            return
        names = self._named(points, handles)
        at = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        mine = at[self._names[at] == names]
        self._seen[mine] = True
        self.found[batch_id] += len(mine)

    def _named(self, points: bytes, handles: bytes) -> NDArray[np.uint64]:
        """The hash of each row, of all its points and its handle."""
        parts = [np.frombuffer(points, _HALF).reshape(-1, self._width // _HALF.itemsize)]
        if handles:
            parts.append(np.frombuffer(handles, _HALF).reshape(-1, HANDLE_BYTES // _HALF.itemsize))
        rows = np.hstack(parts).astype(_NAME)
        sums = rows @ self._key[1 : 1 + rows.shape[1]] + self._key[0]
        high, low = (sums[:, at] >> _HALF_BITS for at in (0, 1))
        names: NDArray[np.uint64] = high << _HALF_BITS | low
        return names
