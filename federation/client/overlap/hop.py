"""A partner's part in others' batches: it blinds them once more, and shuffles the statistics.

The gateway only carries. Before a row is blinded, the origin's signature was verified, and every earlier hop's receipt,
that this partner is next in the ring, that the label is one the agreement lists, and that it stays within its own
limits (``state.EpochState.reserve``). Before the result is signed or sent, the points proved to be those that were
signed, to the last one.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import structlog

from federation.client.config import Limits
from federation.client.overlap.carry import fetch, rows_in, send_together
from federation.client.overlap.files import create_private, shuffled, write_rows
from federation.client.overlap.progress import Progress
from federation.client.overlap.state import EpochState
from federation.client.overlap.stored import StoredBatch
from federation.core.clock import Clock
from federation.core.errors import OverlapError, Reason
from federation.core.identity import Identity
from federation.core.ids import POINT_BYTES
from federation.overlap.batch import (
    Chain,
    Content,
    Random,
    check_content,
    id_of,
    sign_receipt,
    verify_chain,
)
from federation.overlap.blind import blind
from federation.overlap.plan import MAX_TOGETHER_POINTS, STATISTICS, Agreement, row_bytes
from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceStub

_log = structlog.get_logger()


class Hop:
    """Blinds other partners' batches.

    Args:
        stub: Of the gateway.
        identity: The partner's.
        state: Its epochs.
        limits: What it allows.
        policy: Its own policy.
        clock: For the validity of certificates.
        progress: Called while rows are worked on.
        random: Order.
        send: Sends a batch with rows of so many bytes.
    """

    def __init__(
        self,
        stub: OverlapServiceStub,
        identity: Identity,
        state: EpochState,
        *,
        limits: Limits,
        policy: Agreement,
        clock: Clock,
        progress: Progress,
        random: Random,
        send: Callable[[StoredBatch, int], None],
    ) -> None:
        self._send = send
        self._stub, self._identity, self._state, self._limits = stub, identity, state, limits
        self._policy, self._clock, self._progress, self._random = policy, clock, progress, random

    def blind(self, batch_id: str) -> None:
        """Fetches another partner's batch, checks it, blinds it and sends it back.

        Rows are blinded while later ones arrive. A process that was killed goes on with the rows that it has on disk,
        or, where the result was finished, with sending that very result.

        Raises:
            IdentityError: a signature is not what it must be.
            OverlapError: the batch is not what was signed, or more than the limits allow.
        """
        folder = self._state.hop_folder(batch_id)
        done = StoredBatch.load(folder / "out.points")
        if done is None:
            done = self._blind_arriving(batch_id, folder)
        manifest = pb.Manifest.FromString(done.header.manifest.payload)
        self._send(done, row_bytes(manifest.plan))
        shutil.rmtree(folder)

    def blind_together(self, batch_ids: Sequence[str]) -> list[str]:
        """Does the same with several small batches in one message each way; returns those that are left to ``blind``.

        Nothing of them is kept on disk but that they were reserved: after a kill they are fetched and blinded again.

        Raises:
            IdentityError: as ``blind``.
            OverlapError: as ``blind``; where one of them is wrong, none is sent.
        """
        asked = [batch_id for batch_id in batch_ids if not self._state.hop_folder(batch_id).exists()]
        found = self._stub.GetBatches(pb.GetBatchesRequest(batch_ids=asked)).batches if asked else ()
        names = [batch.batch_id for batch in found]
        if len(set(names).intersection(asked)) < len(names):
            raise OverlapError(Reason.UNKNOWN_BATCH, item="a batch that was not asked for, or twice")
        if sum(len(batch.points) for batch in found) > MAX_TOGETHER_POINTS * POINT_BYTES:
            raise OverlapError(Reason.TOO_LARGE, item="batches together")
        chains = [self._chain(batch.header, batch.batch_id) for batch in found]
        for plan in {chain.manifest.plan.SerializeToString(): chain.manifest.plan for chain in chains}.values():
            self._state.pin_plan(plan, self._clock.now(), self._limits.max_epochs_per_day)
        self._state.reserve(chains, self._limits.max_rows_blinded_per_epoch)
        done = [self._blinded(batch, chain) for batch, chain in zip(found, chains, strict=True)]
        if done:
            send_together(self._stub, done)
        left = set(batch_ids).difference(names)
        return [batch_id for batch_id in batch_ids if batch_id in left]

    def _blinded(self, batch: pb.WholeBatch, chain: Chain) -> pb.WholeBatch:
        """A small batch, blinded and, for statistics, shuffled, with a receipt."""
        width = row_bytes(chain.manifest.plan)
        if len(batch.points) % width:
            raise OverlapError(Reason.BAD_POINT, item=f"row {len(batch.points) // width}: wrong length")
        kinds = width // POINT_BYTES
        check_content(chain, Content.of(batch.points, kinds))
        nowhere = self._state.hop_folder(batch.batch_id) / "bucket"  # so few rows are shuffled in memory
        points = b"".join(self._blinded_rows(chain, [batch.points], nowhere))
        header = sign_receipt(self._identity, batch.header, chain, Content.of(points, kinds).digest)
        return pb.WholeBatch(header=header, points=points)

    def _blind_all(self, header: pb.BatchHeader, chain: Chain, folder: Path, chunks: Iterator[bytes]) -> StoredBatch:
        """Blinds and, for statistics, shuffles a batch; signs the result once all of its rows proved right."""
        rows = self._blinded_rows(chain, chunks, folder / "bucket")
        content = write_rows(folder / "out.points", rows, row_bytes(chain.manifest.plan))
        out = StoredBatch(sign_receipt(self._identity, header, chain, content.digest), folder / "out.points", None)
        out.save()
        return out

    def _blinded_rows(self, chain: Chain, chunks: Iterable[bytes], scratch: Path) -> Iterator[bytes]:
        """The rows of a batch blinded and, for statistics, in another order."""
        manifest, width = chain.manifest, row_bytes(chain.manifest.plan)
        key = self._state.key(manifest.plan.epoch, manifest.index)

        def blinded() -> Iterator[bytes]:
            done = low_order = 0
            for chunk in chunks:
                result = blind(chunk, key)
                low_order += len(result.low_order_rows)
                done += len(chunk) // width
                self._progress("blind", done, manifest.count)
                yield result.points
            if low_order:
                about = {"origin": manifest.origin, "epoch": manifest.plan.epoch, "rows": low_order}
                _log.warning("low_order_points", **about)

        if manifest.index != STATISTICS:
            return blinded()
        return shuffled(blinded(), scratch, rows=manifest.count, width=width, random=self._random)

    def _blind_arriving(self, batch_id: str, folder: Path) -> StoredBatch:
        """Brings a batch into a folder and blinds it, once every proof in its header holds, and within the quota."""
        target, name = folder / "in.points", folder / "in.name"
        for _ in range(2):
            known = name.read_bytes() if name.exists() else b""
            # Without its name nobody knows which batch the rows are of.
            request = pb.GetBatchRequest(batch_id=batch_id, from_row=_rows(target, known) if known else 0)
            parts = self._stub.GetBatch(request)
            try:
                header, chain = self._header(next(parts, None), batch_id)
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                # Recorded before a row is read: what arrives must have the digest that is recorded here.
                self._state.reserve([chain], self._limits.max_rows_blinded_per_epoch)
                width = row_bytes(chain.manifest.plan)
                mine = width.to_bytes(2, "big") + chain.manifest_digest + chain.digest
                if known == mine or request.from_row == 0:
                    if known != mine:
                        target.unlink(missing_ok=True)
                        with os.fdopen(create_private(name), "wb") as file:  # not synced: without it, begin anew
                            file.write(mine)
                    return self._blind_all(header, chain, folder, fetch(parts, chain, target, width, self._progress))
                name.unlink()  # rows of another batch: begin anew
            finally:
                parts.cancel()
        raise OverlapError(Reason.DIGEST_MISMATCH, item="batch that changes while it is fetched")

    def _header(self, part: pb.GetBatchResponse | None, batch_id: str) -> tuple[pb.BatchHeader, Chain]:
        if part is None or part.WhichOneof("part") != "header":
            raise OverlapError(Reason.TRUNCATED_STREAM, item="batch header")
        chain = self._chain(part.header, batch_id)
        self._state.pin_plan(chain.manifest.plan, self._clock.now(), self._limits.max_epochs_per_day)
        return part.header, chain

    def _chain(self, header: pb.BatchHeader, batch_id: str) -> Chain:
        """What a header says, once all of it is verified and it is this partner's turn.

        A batch has one name, so it is on this disk once, and what others left here is bounded by what was reserved.
        """
        subject = self._identity.subject
        chain = verify_chain(
            header,
            alliance=subject.alliance,
            agreement=self._policy,
            ca=self._identity.ca,
            at=self._clock.now(),
        )
        if chain.next_hop != subject.party:
            raise OverlapError(Reason.BAD_MANIFEST, item=f"next hop {chain.next_hop}")
        if batch_id != id_of(chain.manifest):
            raise OverlapError(Reason.UNKNOWN_BATCH, item="a batch under another's name")
        return chain


def _rows(target: Path, name: bytes) -> int:
    """Rows that are there of a batch whose width stands at the start of its name."""
    return rows_in(target, int.from_bytes(name[:2], "big"))
