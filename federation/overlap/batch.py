"""Signed batches: what an origin says it sent, what each hop says it did, and how a reader checks all of it.

Guarantees, to whoever calls ``verify_chain`` and then ``check_content``: the points are exactly those that the named
origin signed, blinded and reordered by exactly the ring's next partners in order, none added or dropped between two
signatures; and the batch is one that the plan and the agreement know. So a gateway that carries batches cannot slip in
points of its own, leave rows out, swap labels or send a batch round another way. The same holds for a delta: what its
batches do and its number are signed too, and a reader takes number n + 1 only when it has all of n.

Not guaranteed: that a hop blinded honestly. A hop can sign whatever it likes, as far as the row count that the origin
signed. The gateway finds out by decoys (``decoys``), with a chance that grows with the rows that were not given back;
against a hop that plays with the gateway, quotas and the one-batch-a-label rule of the reader (who keeps a record) are
what there is.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from cryptography.x509 import Certificate
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from federation.core.errors import IdentityError, OverlapError, Reason
from federation.core.identity import Identity, Role, verify_signed
from federation.core.ids import POINT_BYTES
from federation.overlap.blind import row_count
from federation.overlap.plan import (
    BASE,
    MAX_DELTAS,
    OTHER_POLICY,
    Agreement,
    BatchKey,
    base_keys,
    check_plan,
    delta_keys,
    ring,
)
from federation.policy.specs import PartySpec
from federation.v1 import common_pb2
from federation.v1 import overlap_pb2 as pb

MANIFEST, RECEIPT = "manifest", "hop-receipt"
MAX_ROWS = 50_000_000
MAX_HEADER_BYTES = 1 << 15
"""What eight partners sign, with certificates and a label, takes under a third; all that travel together fit a message.
"""
DIGEST_BYTES = 32
Random = Callable[[int], bytes]


@dataclass(frozen=True)
class Content:
    """What a signature says of a batch's points: how many rows, and the SHA-256 of all bytes in order."""

    rows: int
    digest: bytes

    @classmethod
    def of(cls, points: bytes, key_types: int = 1) -> "Content":
        """The content of points that are in memory, so many a row."""
        return cls(row_count(points) // key_types, hashlib.sha256(points).digest())


@dataclass(frozen=True)
class Chain:
    """A verified header: the manifest and what the points must be now."""

    manifest: pb.Manifest
    manifest_digest: bytes
    position: int  # hops passed; the next hop's place in ``manifest.hops``
    digest: bytes  # SHA-256 of the points as they are now

    @property
    def next_hop(self) -> str | None:
        """Who blinds it next, or None after the last hop."""
        hops = self.manifest.hops
        return hops[self.position] if self.position < len(hops) else None


def sign_manifest(
    identity: Identity,
    plan: pb.EpochPlan,
    *,
    index: int,
    label: str,
    content: Content,
    batches: int,
    operation: int = BASE,
    sequence: int = 0,
) -> pb.BatchHeader:
    """The header of an origin's own batch.

    Args:
        identity: The origin's.
        plan: The epoch's.
        index: ``pb.INDEX_STATISTICS`` or ``pb.INDEX_SWITCHBOARD``.
        label: One of ``plan.labels_of``; "" for the switchboard, removals and decoys.
        content: The blinded points as they are sent, decoys included.
        batches: How many batches the origin sends under this sequence number.
        operation: ``pb.OPERATION_BASE``, in a delta ``ADD`` or ``REMOVE``, or in both ``CHECK``.
        sequence: 0, or the number of the delta.
    """
    origin = identity.subject.party
    manifest = pb.Manifest(
        plan=plan,
        index=pb.Index.ValueType(index),
        origin=origin,
        hops=ring(tuple(plan.partners), origin),
        label=label,
        count=content.rows,
        digest=content.digest,
        batches=batches,
        operation=pb.Operation.ValueType(operation),
        sequence=sequence,
    )
    return pb.BatchHeader(manifest=identity.sign(MANIFEST, manifest.SerializeToString(deterministic=True)))


def sign_receipt(identity: Identity, header: pb.BatchHeader, chain: Chain, digest_out: bytes) -> pb.BatchHeader:
    """The header with this hop's receipt for the points it puts out, by their SHA-256; decoys are left out of it."""
    receipt = pb.HopReceipt(
        manifest_digest=chain.manifest_digest,
        position=chain.position,
        digest_in=chain.digest,
        digest_out=digest_out,
    )
    signed = identity.sign(RECEIPT, receipt.SerializeToString(deterministic=True))
    return pb.BatchHeader(manifest=header.manifest, receipts=[*header.receipts, signed])


def verify_chain(
    header: pb.BatchHeader, *, alliance: str, agreement: Agreement, ca: Certificate, at: datetime
) -> Chain:
    """Checks every signature and every field of a header before anything is done with its points.

    Args:
        header: As received.
        alliance: The reader's own alliance.
        agreement: The reader's own policy.
        ca: The alliance's certificate authority.
        at: Now; certificates must be valid.

    Raises:
        IdentityError: a signature or certificate does not verify, or belongs to another party than it should.
        OverlapError: BAD_MANIFEST, BAD_FIELD, TOO_LARGE, DIGEST_MISMATCH (a receipt does not continue the one before).
    """
    if header.ByteSize() > MAX_HEADER_BYTES:  # fields that nobody knows are signed and passed on like all others
        raise OverlapError(Reason.TOO_LARGE, item=f"header of {header.ByteSize()} bytes, at most {MAX_HEADER_BYTES}")
    origin = _signer(header.manifest, MANIFEST, alliance, ca, at)
    manifest = pb.Manifest()
    _parse(manifest, header.manifest)
    check_plan(manifest.plan, alliance, agreement)
    if manifest.origin != origin:
        raise IdentityError(Reason.PARTY_MISMATCH, item=f"manifest of {origin}")
    if origin not in manifest.plan.partners:
        raise OverlapError(Reason.BAD_MANIFEST, item="field origin")
    _check_manifest(manifest, agreement)
    digest, manifest_digest = manifest.digest, hashlib.sha256(header.manifest.payload).digest()
    if len(header.receipts) > len(manifest.hops):
        raise OverlapError(Reason.BAD_MANIFEST, item="number of receipts")
    for position, signed in enumerate(header.receipts):
        signer = _signer(signed, RECEIPT, alliance, ca, at)
        if signer != manifest.hops[position]:
            raise IdentityError(Reason.PARTY_MISMATCH, item=f"receipt {position}, signed by {signer}")
        receipt = pb.HopReceipt()
        _parse(receipt, signed)
        if receipt.manifest_digest != manifest_digest or receipt.position != position:
            raise OverlapError(Reason.BAD_MANIFEST, item=f"receipt {position}")
        if receipt.digest_in != digest or len(receipt.digest_out) != DIGEST_BYTES:
            raise OverlapError(Reason.DIGEST_MISMATCH, item=f"receipt {position}")
        digest = receipt.digest_out
    return Chain(manifest, manifest_digest, len(header.receipts), digest)


def batch_id_of(epoch: str, origin: str, index: int, label: str, *, operation: int = BASE, sequence: int = 0) -> str:
    """The id of a batch follows from what it is; it is no secret."""
    delta = f"/{operation}/{sequence}" if sequence or operation != BASE else ""
    return hashlib.sha256(f"{epoch}/{origin}/{index}/{label}{delta}".encode()).hexdigest()[:32]


def id_of(manifest: pb.Manifest) -> str:
    """The id of the batch that a manifest is of."""
    where = (manifest.plan.epoch, manifest.origin, manifest.index, manifest.label)
    return batch_id_of(*where, operation=manifest.operation, sequence=manifest.sequence)


def check_content(chain: Chain, content: Content) -> None:
    """Checks that points are those a chain speaks of.

    Raises:
        OverlapError: TRUNCATED_STREAM, TOO_LARGE or DIGEST_MISMATCH.
    """
    if content.rows != chain.manifest.count:
        reason = Reason.TRUNCATED_STREAM if content.rows < chain.manifest.count else Reason.TOO_LARGE
        raise OverlapError(reason, item=f"{content.rows} rows, expected {chain.manifest.count}")
    if content.digest != chain.digest:
        raise OverlapError(Reason.DIGEST_MISMATCH, item=f"batch of {chain.manifest.origin}")


def permutation(rows: int, random: Random) -> NDArray[np.intp]:
    """A random order of rows: the ranks of as many 64-bit random keys.

    Uniform but for ties among the keys, which for ten million rows happen with a chance of 3 in a million.
    """
    return np.argsort(np.frombuffer(random(8 * rows), dtype=np.uint64), kind="stable")


def reorder(data: bytes, order: NDArray[np.intp], width: int = POINT_BYTES) -> bytes:
    """Rows of ``width`` bytes in another order."""
    return np.frombuffer(data, dtype=f"V{width}")[order].tobytes()


def _signer(signed: common_pb2.Signed, kind: str, alliance: str, ca: Certificate, at: datetime) -> str:
    subject = verify_signed(signed, kind, ca, at)
    if subject.role is not Role.PARTNER or subject.alliance != alliance:
        raise IdentityError(Reason.ROLE_NOT_ALLOWED, item=f"{kind} signed by {subject.role}")
    return subject.party


def declared_keys(manifest: pb.Manifest, party: PartySpec) -> tuple[BatchKey, ...]:
    """All batches that there are under a manifest's sequence number."""
    if manifest.sequence == 0:
        return base_keys(party)
    goes = delta_keys(party, adds=False)
    return goes if manifest.batches == len(goes) else delta_keys(party, adds=True)


def _parse(message: pb.Manifest | pb.HopReceipt, signed: common_pb2.Signed) -> None:
    try:
        message.ParseFromString(signed.payload)
    except DecodeError as exc:
        raise OverlapError(Reason.BAD_MANIFEST, item=f"{signed.kind}: not readable") from exc


def _check_manifest(manifest: pb.Manifest, agreement: Agreement) -> None:
    keys = declared_keys(manifest, agreement.parties[manifest.origin])
    if manifest.count > MAX_ROWS:
        raise OverlapError(Reason.TOO_LARGE, item=f"{manifest.count} rows, at most {MAX_ROWS}")
    wrong = [
        field
        for field, good in (
            ("hops", tuple(manifest.hops) == ring(tuple(manifest.plan.partners), manifest.origin)),
            ("label", (manifest.index, manifest.operation, manifest.label) in keys),
            ("digest", len(manifest.digest) == DIGEST_BYTES),
            ("batches", manifest.batches == len(keys)),
            ("sequence", manifest.sequence <= MAX_DELTAS),
        )
        if not good
    ]
    if wrong:
        about = f"; {OTHER_POLICY}" if wrong[0] in {"label", "batches"} else ""
        raise OverlapError(Reason.BAD_MANIFEST, item=f"manifest of {manifest.origin}, field {wrong[0]}{about}")
