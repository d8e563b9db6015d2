"""Carries batches between disk and the gateway in chunks, so that a lost connection costs a chunk and not a batch.

Small batches are not worth that: they travel whole, several in a message.

Down: what arrived stays on disk, and the next attempt asks for the rows after it. Up: the gateway says how many rows
it has on disk, and only what follows is sent. Either way the digest that was signed is checked over all rows at the
end, so a prefix that does not belong is found; it is then thrown away.

Back-pressure is HTTP/2's: a chunk is read from disk when the one before has left.
"""

import hashlib
import os
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from federation.client.overlap.files import read_chunks
from federation.client.overlap.progress import Progress
from federation.client.overlap.stored import StoredBatch
from federation.core.errors import OverlapError, Reason
from federation.core.ids import HANDLE_BYTES
from federation.overlap.batch import Chain, Content, check_content
from federation.overlap.blind import CHUNK_ROWS
from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceStub

_log = structlog.get_logger()


def fetch(
    parts: Iterator[pb.GetBatchResponse], chain: Chain, target: Path, width: int, progress: Progress
) -> Iterator[bytes]:
    """Appends the rows of a stream to those that are in a file, until the batch is whole, and gives all of them.

    Only when it has ended without an error are they known to be those that were signed: what is made of them meanwhile
    must not leave before.

    Args:
        parts: What comes after the header, from the row on that ``rows_in`` gave.
        chain: The verified header.
        target: Holds the rows that came before; holds all of them at the end.
        width: Bytes a row.
        progress: Told how far it is.

    Yields:
        Whole rows, in their order.

    Raises:
        OverlapError: BAD_FIELD, BAD_POINT, TOO_LARGE, TRUNCATED_STREAM or DIGEST_MISMATCH; then the file is gone.
    """
    total, digest = chain.manifest.count, hashlib.sha256()
    rows = rows_in(target, width)
    with os.fdopen(os.open(target, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        file.truncate(rows * width)  # a row that was being written when the process died
    for chunk in read_chunks(target, width):
        digest.update(chunk)
        yield chunk
    try:
        with target.open("ab") as file:
            for part in parts:
                points = part.chunk.points
                if part.WhichOneof("part") != "chunk" or len(points) > CHUNK_ROWS * width:
                    raise OverlapError(Reason.BAD_FIELD, item="field chunk")
                if len(points) % width:
                    raise OverlapError(Reason.BAD_POINT, item=f"row {rows + len(points) // width}: wrong length")
                rows += len(points) // width
                if rows > total:
                    raise OverlapError(Reason.TOO_LARGE, item=f"batch of {chain.manifest.origin}")
                file.write(points)
                digest.update(points)
                progress("fetch", rows, total)
                yield points
        check_content(chain, Content(rows, digest.digest()))
    except OverlapError:
        target.unlink()
        raise


def rows_in(path: Path, width: int) -> int:
    """Whole rows of a file that may not be there."""
    return path.stat().st_size // width if path.exists() else 0


def send(stub: OverlapServiceStub, batch: StoredBatch, width: int, progress: Progress) -> pb.PutBatchResponse:
    """Sends a batch from the row on that the gateway asks for; returns its last word, and logs the rows it rejects.

    Raises:
        OverlapError: TRUNCATED_STREAM where the gateway ended without saying that it has the batch.
    """
    start: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    rows = batch.points.stat().st_size // width
    answers = stub.PutBatch(_messages(batch, width, start))
    try:
        first = True
        for answer in answers:
            progress("send", rows if answer.complete else answer.durable_rows, rows)
            if answer.complete:
                _log_rejected(answer)
                return answer
            if first:
                start.put(answer.durable_rows)
                first = False
    finally:
        start.put(None)  # lets the sending side end, whatever happened here
    raise OverlapError(Reason.TRUNCATED_STREAM, item="answer to a batch")


def send_together(stub: OverlapServiceStub, batches: Sequence[pb.WholeBatch]) -> None:
    """Sends small batches in one message, and logs the rows that the gateway rejects.

    Raises:
        OverlapError: TRUNCATED_STREAM where the gateway does not say of each that it has the batch.
    """
    answers = stub.PutBatches(pb.PutBatchesRequest(batches=batches)).batches
    counts = [pb.Manifest.FromString(batch.header.manifest.payload).count for batch in batches]
    if [answer.count for answer in answers if answer.complete] != counts:
        raise OverlapError(Reason.TRUNCATED_STREAM, item="answer to batches")
    for answer in answers:
        _log_rejected(answer)


def _log_rejected(answer: pb.PutBatchResponse) -> None:
    if answer.rejected_rows:
        _log.warning("rows_rejected", batch=answer.batch_id, rows=len(answer.rejected_rows))


def _messages(batch: StoredBatch, width: int, start: "queue.SimpleQueue[int | None]") -> Iterator[pb.PutBatchRequest]:
    yield pb.PutBatchRequest(header=batch.header)
    row = start.get()
    if row is None:
        return
    handles = read_chunks(batch.handles, HANDLE_BYTES, row) if batch.handles is not None else None
    for points in read_chunks(batch.points, width, row):
        mine = next(handles, b"") if handles is not None else b""
        yield pb.PutBatchRequest(chunk=pb.PointsChunk(points=points, handles=mine))
