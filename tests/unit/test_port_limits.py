"""Whatever an honest partner sends in one message, the gateway reads."""

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from federation.client.consent.link import STATES_PER_CALL
from federation.consent.message import to_message
from federation.consent.statements import MAX_RECIPIENTS
from federation.core.ids import HANDLE_BYTES, POINT_BYTES
from federation.overlap.batch import MAX_HEADER_BYTES
from federation.overlap.blind import CHUNK_ROWS
from federation.overlap.plan import MAX_TOGETHER, MAX_TOGETHER_POINTS
from federation.v1 import consent_pb2
from federation.v1 import overlap_pb2 as pb
from gateway.rpc.port import MAX_REQUEST_BYTES
from tests.kits.offers import given

KEY_TYPES = 3


def chunk() -> pb.PutBatchRequest:
    points, handles = bytes(CHUNK_ROWS * KEY_TYPES * POINT_BYTES), bytes(CHUNK_ROWS * HANDLE_BYTES)
    return pb.PutBatchRequest(chunk=pb.PointsChunk(points=points, handles=handles))


def together() -> pb.PutBatchesRequest:
    header = pb.BatchHeader()
    header.manifest.payload = bytes(MAX_HEADER_BYTES)
    rows = MAX_TOGETHER_POINTS // MAX_TOGETHER
    whole = pb.WholeBatch(header=header, points=bytes(rows * POINT_BYTES), handles=bytes(rows * HANDLE_BYTES))
    return pb.PutBatchesRequest(batches=[whole] * MAX_TOGETHER)


def consents() -> consent_pb2.RecordConsentsRequest:
    state = to_message(given(recipients=frozenset(f"a{number:031d}" for number in range(MAX_RECIPIENTS))))
    assert len(state.recipients) == MAX_RECIPIENTS
    state.handle, state.purpose, state.region = bytes(HANDLE_BYTES), "p" * 48, "PT"
    return consent_pb2.RecordConsentsRequest(states=[state] * STATES_PER_CALL)


@pytest.mark.parametrize("largest", [chunk, together, consents])
def test_the_largest_message_is_read(largest: Callable[[], Message]) -> None:
    assert 1 << 20 < largest().ByteSize() < MAX_REQUEST_BYTES
