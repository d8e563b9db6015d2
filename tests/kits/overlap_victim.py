"""The partner insurer, fed by a gateway that a test plays."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from federation.core.errors import EntenteError, Reason
from federation.overlap.batch import MANIFEST, Content, id_of, sign_manifest, sign_receipt, verify_chain
from federation.overlap.hash_to_curve import hash_to_curve
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_world import Parts, World

BATCHES = 6  # bank: basic, high, unknown, switchboard, and two of decoys
LABEL = "value_tier=basic"
ROWS = 16
POINTS = hash_to_curve([b"%d" % n for n in range(ROWS)], b"dst")  # what they are does not matter to a hop


def name_of(*parts: Any) -> str:
    """The id of a batch by its header; any where there is none."""
    header = next((part for part in parts if isinstance(part, pb.BatchHeader)), pb.BatchHeader())
    try:
        return id_of(pb.Manifest.FromString(header.manifest.payload))
    except DecodeError:
        return "some-batch"


class Victim:
    """The partner insurer, fed by a gateway that the test plays.

    The ring is airline, bank, insurer; a batch of the bank goes to the insurer first and then to the airline.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.plan = world.plan(world.coordinator.begin("", "email"))
        self.sent: list[tuple[pb.BatchHeader, bytes]] = []
        self.agent = world.open_agent("insurer", stub=self)
        self.parts: list[Any] = []

    def GetBatch(self, _request: pb.GetBatchRequest) -> Parts:
        return Parts(self.parts)

    def PutBatch(self, messages: Any) -> Iterator[pb.PutBatchResponse]:
        header = next(messages).header
        yield pb.PutBatchResponse()
        self.sent.append((header, b"".join(message.chunk.points for message in messages)))
        yield pb.PutBatchResponse(complete=True)

    def feed(self, *parts: Any) -> None:
        self.parts = list(parts)
        self.agent.blind(name_of(*parts))

    def refuses(self, reason: Reason, *parts: Any) -> str:
        with pytest.raises(EntenteError) as caught:
            self.feed(*parts)
        assert caught.value.reason is reason, caught.value
        assert self.sent == []
        return caught.value.item

    def header(self, points: bytes = POINTS, origin: str = "bank", **changes: Any) -> pb.BatchHeader:
        """An honest header of the bank, or one whose manifest the signer itself made wrong."""
        index, label = changes.pop("index", pb.INDEX_STATISTICS), changes.pop("label", LABEL)
        identity = self.world.identities[origin]
        header = sign_manifest(
            identity, self.plan, index=index, label=label, content=Content.of(points), batches=BATCHES
        )
        if changes:
            manifest = pb.Manifest.FromString(header.manifest.payload)
            for name, value in changes.items():
                if name in ("hops",):
                    del manifest.hops[:]
                    manifest.hops.extend(value)
                else:
                    setattr(manifest, name, value)
            header.manifest.CopyFrom(identity.sign(MANIFEST, manifest.SerializeToString()))
        return header

    def receipt(self, header: pb.BatchHeader, party: str, points: bytes) -> pb.BatchHeader:
        """A header that a hop signed on: so it passed these points on."""
        world = self.world
        chain = verify_chain(
            header, alliance="skyline", agreement=world.policy, ca=world.authority.certificate, at=world.clock.now()
        )
        return sign_receipt(world.identities[party], header, chain, hashlib.sha256(points).digest())
