"""What the gateway does when a sender does not play by the rules: it refuses, and keeps nothing."""

from pathlib import Path

import pytest

from federation.core.clock import FixedClock
from federation.core.errors import EntenteError, Reason
from federation.core.ids import PartyId
from federation.overlap.blind import CHUNK_ROWS
from federation.overlap.decoys import LEAST
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_victim import POINTS, ROWS, Victim
from tests.kits.overlap_world import Direct, small_world


@pytest.fixture
def victim(tmp_path: Path, clock: FixedClock) -> Victim:
    return Victim(small_world(tmp_path, clock))


def put(victim: Victim, party: str, header: pb.BatchHeader, *chunks: pb.PointsChunk) -> pb.PutBatchResponse:
    if not header.receipts and not header.decoys:
        header.decoys = LEAST
    messages = [pb.PutBatchRequest(header=header), *(pb.PutBatchRequest(chunk=chunk) for chunk in chunks)]
    *_, last = Direct(victim.world, PartyId(party)).PutBatch(iter(messages))
    return last


def refuses(reason: Reason, victim: Victim, party: str, header: pb.BatchHeader, *chunks: pb.PointsChunk) -> None:
    with pytest.raises(EntenteError) as caught:
        put(victim, party, header, *chunks)
    assert caught.value.reason is reason, caught.value
    assert list((victim.world.folder / "gateway" / "overlap" / "batches").iterdir()) == []


def test_streams_that_are_not_what_was_declared(victim: Victim) -> None:
    header, chunk = victim.header(), pb.PointsChunk
    refuses(Reason.TRUNCATED_STREAM, victim, "bank", header, chunk(points=POINTS[:64]))
    refuses(Reason.TOO_LARGE, victim, "bank", header, chunk(points=POINTS), chunk(points=POINTS[:32]))
    refuses(Reason.TOO_LARGE, victim, "bank", header, chunk(points=bytes(32 * (CHUNK_ROWS + 1))))
    refuses(Reason.BAD_POINT, victim, "bank", header, chunk(points=POINTS[:-1]))
    refuses(Reason.DIGEST_MISMATCH, victim, "bank", header, chunk(points=POINTS[:-32] + POINTS[:32]))
    refuses(Reason.BAD_FIELD, victim, "bank", header, chunk(points=POINTS, handles=bytes(16 * ROWS)))
    board = victim.header(index=pb.INDEX_SWITCHBOARD, label="")
    refuses(Reason.BAD_FIELD, victim, "bank", board, chunk(points=POINTS))
    header.decoys = ROWS + 1
    refuses(Reason.BAD_FIELD, victim, "bank", header, chunk(points=POINTS))


def test_a_batch_of_somebody_else(victim: Victim) -> None:
    refuses(Reason.PARTY_MISMATCH, victim, "insurer", victim.header(), pb.PointsChunk(points=POINTS))


def test_an_epoch_that_is_not_under_way(victim: Victim) -> None:
    victim.plan.epoch = "e9"
    refuses(Reason.UNKNOWN_EPOCH, victim, "bank", victim.header(), pb.PointsChunk(points=POINTS))


def test_a_plan_that_is_not_the_epochs(victim: Victim) -> None:
    victim.plan.key_type = "phone"
    refuses(Reason.BAD_MANIFEST, victim, "bank", victim.header(), pb.PointsChunk(points=POINTS))


def test_a_hop_before_its_turn(victim: Victim) -> None:
    header = victim.receipt(victim.header(), "insurer", POINTS)
    refuses(Reason.UNKNOWN_BATCH, victim, "insurer", header, pb.PointsChunk(points=POINTS))


def test_a_second_batch_for_a_label(victim: Victim) -> None:
    assert put(victim, "bank", victim.header(), pb.PointsChunk(points=POINTS)).count == ROWS
    other = POINTS[::-1]
    with pytest.raises(EntenteError) as caught:
        put(victim, "bank", victim.header(other), pb.PointsChunk(points=other))
    assert caught.value.reason is Reason.QUOTA_EXCEEDED


def test_low_order_rows_are_named_and_never_counted(victim: Victim) -> None:
    points = POINTS[:64] + bytes(32) + POINTS[64:] + bytes(31) + b"\x80"
    answer = put(victim, "bank", victim.header(points), pb.PointsChunk(points=points))
    assert list(answer.rejected_rows) == [2, ROWS + 1]


def test_only_the_next_hop_gets_a_batch(victim: Victim) -> None:
    batch_id = put(victim, "bank", victim.header(), pb.PointsChunk(points=POINTS)).batch_id
    coordinator = victim.world.coordinator
    header, chunks = coordinator.carrier.carry(PartyId("insurer"), batch_id)
    assert b"".join(chunks) == POINTS
    assert header.decoys == 0
    for beyond in (ROWS, 2**40, 2**64 - 1):
        assert list(coordinator.carrier.carry(PartyId("insurer"), batch_id, beyond)[1]) == []
    for party, name in (("airline", batch_id), ("bank", batch_id), ("insurer", "0" * 32)):
        with pytest.raises(EntenteError) as caught:
            coordinator.carrier.carry(PartyId(party), name)
        assert caught.value.reason is Reason.UNKNOWN_BATCH
