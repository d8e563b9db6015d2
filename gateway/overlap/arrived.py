"""Batches at the end of their way, as the two indexes take them."""

from collections.abc import Iterable, Iterator

from federation.overlap.plan import STATISTICS, SWITCHBOARD, row_bytes
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.epochs import Batch
from gateway.overlap.handles import HandleBatch
from gateway.overlap.people import TokenBatch
from gateway.overlap.spool import Spool


def token_batches(spool: Spool, plan: pb.EpochPlan, batches: Iterable[Batch]) -> Iterator[TokenBatch]:
    """Those of the statistics."""
    for batch in batches:
        if batch.index == STATISTICS:
            chunks = spool.chunks(batch.batch_id, batch.position, row_bytes(plan))
            yield TokenBatch(batch.origin, batch.label, batch.header.padding, chunks, batch.operation)


def handle_batches(spool: Spool, plan: pb.EpochPlan, batches: Iterable[Batch]) -> Iterator[HandleBatch]:
    """Those of the switchboard."""
    for batch in batches:
        if batch.index == SWITCHBOARD:
            chunks = spool.chunks(batch.batch_id, batch.position, row_bytes(plan))
            handles = spool.handles(batch.batch_id)
            yield HandleBatch(batch.origin, chunks, handles, batch.operation, batch.header.padding)
