"""Batches at the end of their way, as the two indexes take them: every point under all partners' keys."""

from collections.abc import Iterable, Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.overlap.blind import blind
from federation.overlap.plan import STATISTICS, SWITCHBOARD, Agreement, labels_of, row_bytes
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.epochs import Batch
from gateway.overlap.handles import HandleBatch
from gateway.overlap.people import TokenBatch
from gateway.overlap.spool import Spool


def labels_by_party(plan: pb.EpochPlan, batches: Sequence[Batch], agreement: Agreement) -> dict[str, list[str]]:
    """The labels that arrived, in the order in which the policy declares them; it may have changed meanwhile."""
    labels = {}
    for party in plan.partners:
        sent = {batch.label for batch in batches if batch.origin == party and batch.index == STATISTICS}
        spec = agreement.parties.get(party)
        declared = [label for label in labels_of(spec) if label in sent] if spec else []
        labels[party] = [*declared, *sorted(sent.difference(declared))]
    return labels


def token_batches(spool: Spool, plan: pb.EpochPlan, batches: Iterable[Batch]) -> Iterator[TokenBatch]:
    """Those of the statistics."""
    for batch in batches:
        if batch.index == STATISTICS:
            chunks = _under_all_keys(spool, plan, batch)
            rows = pb.Manifest.FromString(batch.header.manifest.payload).count
            yield TokenBatch(batch.origin, batch.label, batch.header.padding, chunks, batch.operation, rows)


def handle_batches(spool: Spool, plan: pb.EpochPlan, batches: Iterable[Batch]) -> Iterator[HandleBatch]:
    """Those of the switchboard."""
    for batch in batches:
        if batch.index == SWITCHBOARD:
            chunks = _under_all_keys(spool, plan, batch)
            handles = spool.handles(batch.batch_id)
            yield HandleBatch(batch.origin, chunks, handles, batch.operation, batch.header.padding)


def _under_all_keys(spool: Spool, plan: pb.EpochPlan, batch: Batch) -> Iterator[bytes]:
    """The rows of a batch, converted where they are under their origin's own key (``federation.overlap.own_key``)."""
    chunks = spool.chunks(batch.batch_id, batch.position, row_bytes(plan))
    if not batch.header.conversion:
        return chunks
    key = X25519PrivateKey.from_private_bytes(batch.header.conversion)
    return (blind(chunk, key).points for chunk in chunks)
