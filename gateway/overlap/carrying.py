"""How batches come in and go out: each whole, as it was signed, from whom it is expected and to whose turn it is.

The gateway checks what a hop will check too (signatures, order, labels, digests), so that a fault is found where it
arises, and that a partner sends only its own batches or the one it was asked to blind. Small batches travel together in
one message; they are checked one by one, as those that come as a stream are.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.x509 import Certificate

from federation.core.clock import Clock
from federation.core.errors import IdentityError, OverlapError, Reason
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, PartyId
from federation.overlap.batch import Chain, declared_keys, id_of, verify_chain
from federation.overlap.decoys import enough
from federation.overlap.plan import (
    MAX_TOGETHER,
    MAX_TOGETHER_POINTS,
    SWITCHBOARD,
    Agreement,
    ring,
    row_bytes,
)
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.deltas import Deltas
from gateway.overlap.epochs import Batch, Epochs, Step, known_epoch
from gateway.overlap.spool import MAX_NAMED_ROWS, Incoming, Shape, Spool


class ActivePolicy(Protocol):
    """Gives the policy set that is active now."""

    @property
    def active(self) -> Agreement:
        """The one active version."""
        ...


@dataclass(frozen=True)
class Expected:
    """A batch that may come in now: where it stands, its verified header, and whether it is here already."""

    batch: Batch
    header: pb.BatchHeader
    chain: Chain
    here: bool

    @property
    def delivered(self) -> pb.PutBatchResponse:
        """What whoever sends it again is told where it is here."""
        return pb.PutBatchResponse(batch_id=self.batch.batch_id, count=self.chain.manifest.count, complete=True)


class Carrier:
    """Takes and gives batches. Safe to call from several threads.

    Args:
        epochs: Where each batch stands.
        spool: Where its rows are.
        deltas: Admits what comes after the base of an epoch.
        alliance: Name of the alliance.
        ca: Its certificate authority.
        policies: The active policy: partners and labels.
        clock: Tells the time.
        lock: Held while a batch takes a step.
    """

    def __init__(
        self,
        epochs: Epochs,
        spool: Spool,
        deltas: Deltas,
        *,
        alliance: str,
        ca: Certificate,
        policies: ActivePolicy,
        clock: Clock,
        lock: threading.Lock,
    ) -> None:
        self._epochs, self._spool, self._deltas, self._lock = epochs, spool, deltas, lock
        self._alliance, self._ca, self._policies, self._clock = alliance, ca, policies, clock

    def expect(self, party: PartyId, header: pb.BatchHeader) -> Expected:
        """Finds the batch that a partner is about to send; the first one of a delta opens that delta, durably.

        Raises:
            IdentityError: a signature does not verify, or another party should have sent this.
            OverlapError: BAD_MANIFEST, UNKNOWN_BATCH, UNKNOWN_EPOCH; QUOTA_EXCEEDED for a second batch of a label;
                OUT_OF_SEQUENCE for a delta that is not the next one.
        """
        chain = self._checked(party, header)
        manifest, batch_id = chain.manifest, id_of(chain.manifest)
        closed = self._epochs.closed(batch_id) if manifest.sequence else None
        if manifest.sequence and closed is None and not chain.position:
            self._deltas.admit(manifest, declared_keys(manifest, self._policies.active.parties[manifest.origin]))
        batch = closed or self._batch(batch_id)
        known = batch.header.manifest.payload
        if known and known != header.manifest.payload:
            raise OverlapError(Reason.QUOTA_EXCEEDED, item=f"second batch for {manifest.label!r}")
        if batch.position < chain.position - 1:
            raise OverlapError(Reason.UNKNOWN_BATCH, item=f"batch at position {batch.position}")
        return Expected(batch, header, chain, here=closed is not None or batch.position >= chain.position)

    def receive(self, expected: Expected) -> Incoming:
        """Opens the spool for the rows of an expected batch; it may hold some of them already."""
        chain, manifest = expected.chain, expected.chain.manifest
        first = chain.position == 0
        shape = Shape(
            rows=manifest.count,
            digest=chain.digest,
            width=row_bytes(manifest.plan),
            handles=first and manifest.index == SWITCHBOARD,
            look_for_low_order=first,
        )
        return self._spool.receive(expected.batch.batch_id, chain.position, shape)

    def accept(self, *arrived: tuple[Expected, Incoming]) -> list[pb.PutBatchResponse]:
        """Takes batches whose rows are all there, one step on each; the second of two equal deliveries changes nothing.

        Raises:
            OverlapError: TRUNCATED_STREAM, DIGEST_MISMATCH, UNKNOWN_BATCH; then none took a step.
        """
        for _, incoming in arrived:
            incoming.check()
        for _, incoming in arrived:
            incoming.sync()  # before the lock: several wait for the disk at once
        with self._lock:
            steps, passed = list[Step](), list[tuple[str, int]]()
            for expected, incoming in arrived:
                chain, batch_id = expected.chain, expected.batch.batch_id
                now = self._batch(batch_id)
                if now.position >= chain.position:
                    incoming.discard()
                    continue
                incoming.keep()
                header = pb.BatchHeader(
                    manifest=expected.header.manifest,
                    receipts=expected.header.receipts,
                    decoys=expected.header.decoys or now.header.decoys,
                    conversion=expected.header.conversion or now.header.conversion,
                )
                steps.append(Step(batch_id, header, chain.next_hop, len(incoming.low_order)))
                passed += [(batch_id, chain.position - 1)] if chain.position else []
            if steps:
                self._spool.sync()
                self._epochs.advance(steps)
            for batch_id, stage in passed:
                self._spool.remove(batch_id, stage)
        return [
            pb.PutBatchResponse(
                batch_id=expected.batch.batch_id,
                count=incoming.rows,
                rejected_rows=incoming.low_order[:MAX_NAMED_ROWS],
                complete=True,
            )
            for expected, incoming in arrived
        ]

    def take(self, party: PartyId, batches: Sequence[pb.WholeBatch]) -> list[tuple[Chain, pb.PutBatchResponse]]:
        """Takes small batches that came together: all of them or, where one is wrong, none.

        Returns:
            For each its verified header and the answer.

        Raises:
            IdentityError: as ``expect``.
            OverlapError: as ``expect``, ``Incoming.add`` and ``accept``; TOO_LARGE for more than may come together.
        """
        _check_together(batches)
        expected = [self.expect(party, batch.header) for batch in batches]
        answers = {one.batch.batch_id: one.delivered for one in expected}
        if len(answers) < len(batches):
            raise OverlapError(Reason.QUOTA_EXCEEDED, item="a batch twice")
        with contextlib.ExitStack() as opened:
            arrived = []
            for one, batch in zip(expected, batches, strict=True):
                if not one.here:
                    incoming = self.receive(one)
                    opened.callback(incoming.discard)  # harmless once it is kept
                    rows = incoming.rows  # that an earlier connection left
                    width = row_bytes(one.chain.manifest.plan)
                    incoming.add(batch.points[rows * width :], batch.handles[rows * HANDLE_BYTES :])
                    arrived.append((one, incoming))
            answers |= {answer.batch_id: answer for answer in self.accept(*arrived)}
        return [(one.chain, answers[one.batch.batch_id]) for one in expected]

    def carry(self, party: PartyId, batch_id: str, from_row: int = 0) -> tuple[pb.BatchHeader, Iterator[bytes]]:
        """The batch that a partner was asked to blind, from a row on; its header has nothing that is for the gateway.

        Raises:
            OverlapError: UNKNOWN_BATCH for anything that is not that partner's turn.
        """
        batch = self._batch(batch_id)
        plan = known_epoch(self._epochs, batch.epoch).plan
        hops = ring(tuple(plan.partners), batch.origin)
        turn = not batch.sequence or any(task.batch_id == batch_id for task in self._epochs.tasks(party))
        if not turn or not 0 <= batch.position < len(hops) or hops[batch.position] != party:
            raise OverlapError(Reason.UNKNOWN_BATCH, item="not this partner's turn")
        header = pb.BatchHeader(manifest=batch.header.manifest, receipts=batch.header.receipts)
        return header, self._spool.chunks(batch_id, batch.position, row_bytes(plan), from_row)

    def carry_together(self, party: PartyId, batch_ids: Sequence[str]) -> list[pb.WholeBatch]:
        """Of the batches that a partner was asked to blind, those that fit into one answer; as ``carry``.

        Raises:
            OverlapError: UNKNOWN_BATCH; TOO_LARGE for too many names.
        """
        if len(batch_ids) > MAX_TOGETHER:
            raise OverlapError(Reason.TOO_LARGE, item=f"{len(batch_ids)} batches, at most {MAX_TOGETHER}")
        found, left = [], MAX_TOGETHER_POINTS
        for batch_id in batch_ids:
            header, chunks = self.carry(party, batch_id)
            manifest = pb.Manifest.FromString(header.manifest.payload)
            points = manifest.count * row_bytes(manifest.plan) // POINT_BYTES
            if points <= left:
                left -= points
                found.append(pb.WholeBatch(batch_id=batch_id, header=header, points=b"".join(chunks)))
        return found

    def _checked(self, party: PartyId, header: pb.BatchHeader) -> Chain:
        """What a header says, once all of it is verified and this party may send the batch."""
        chain = verify_chain(
            header, alliance=self._alliance, agreement=self._policies.active, ca=self._ca, at=self._clock.now()
        )
        manifest = chain.manifest
        sender = manifest.hops[chain.position - 1] if chain.position else manifest.origin
        if sender != party:
            raise IdentityError(Reason.PARTY_MISMATCH, item=f"batch of {manifest.origin}, position {chain.position}")
        if header.decoys > (manifest.count if chain.position == 0 else 0):
            raise OverlapError(Reason.BAD_FIELD, item="field decoys")
        if chain.position == 0 and not enough(manifest, header.decoys):
            raise OverlapError(Reason.BAD_FIELD, item="field decoys: fewer than are due")
        if len(header.conversion) not in ({0} if chain.position else {0, POINT_BYTES}):
            raise OverlapError(Reason.BAD_FIELD, item="field conversion")
        if known_epoch(self._epochs, manifest.plan.epoch).plan != manifest.plan:
            raise OverlapError(Reason.BAD_MANIFEST, item="field plan")
        return chain

    def _batch(self, batch_id: str) -> Batch:
        found = self._epochs.batch(batch_id)
        if found is None:
            raise OverlapError(Reason.UNKNOWN_BATCH, item="not of an open epoch")
        return found


def _check_together(batches: Sequence[pb.WholeBatch]) -> None:
    points = sum(len(batch.points) for batch in batches) // POINT_BYTES
    if len(batches) > MAX_TOGETHER or points > MAX_TOGETHER_POINTS:
        most = f"at most {MAX_TOGETHER} with {MAX_TOGETHER_POINTS}"
        raise OverlapError(Reason.TOO_LARGE, item=f"{len(batches)} batches with {points} points together, {most}")
