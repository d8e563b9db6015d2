"""A connection that is lost, or a process that dies, costs a chunk: both ways, at any row, with handles or without."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.client.overlap import carry, files
from federation.client.overlap.files import shuffled, write_rows
from federation.core.clock import FixedClock
from federation.core.errors import OverlapError, Reason
from federation.overlap.blind import low_order_rows
from federation.overlap.decoys import LEAST
from federation.v1 import overlap_pb2 as pb
from gateway.overlap import spool as spool_module
from gateway.overlap.spool import Shape, Spool
from tests.kits.overlap_world import Direct, World, make_policy, one_by_one, people

BOTH = ("airline", "bank")
SENT = 2 * 2 * (40 + LEAST + LEAST)
"""Of two partners in two indexes: people, decoys, and decoys once more."""


class LostError(Exception):
    """The connection."""


class Flaky:
    """A stub whose connection is lost after some messages, in each direction; counts the rows that crossed."""

    def __init__(self, inner: Direct, budget: int) -> None:
        self.inner, self.budget, self.up, self.down = inner, budget, 0, 0

    def spend(self) -> None:
        if self.budget == 0:
            raise LostError
        self.budget -= 1

    def GetBatch(self, request: pb.GetBatchRequest) -> "Flaky.Parts":
        return Flaky.Parts(self, self.inner.GetBatch(request))

    class Parts:
        def __init__(self, stub: "Flaky", parts: Any) -> None:
            self.stub, self.parts = stub, parts

        def __iter__(self) -> "Flaky.Parts":
            return self

        def __next__(self) -> pb.GetBatchResponse:
            part: pb.GetBatchResponse = next(self.parts)
            self.stub.spend()
            self.stub.down += len(part.chunk.points) // 32
            return part

        def cancel(self) -> None:
            self.parts.cancel()

    def PutBatch(self, messages: Iterator[pb.PutBatchRequest]) -> Iterator[pb.PutBatchResponse]:
        def counted() -> Iterator[pb.PutBatchRequest]:
            for message in messages:
                self.spend()
                self.up += len(message.chunk.points) // 32
                yield message

        return self.inner.PutBatch(counted())


@pytest.fixture
def world(tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two partners with 40 customers each, chunks of 4 rows, a sync after every 8."""
    for module in (carry, files, spool_module):
        monkeypatch.setattr(module, "CHUNK_ROWS", 4)
    monkeypatch.setattr(files.read_chunks, "__defaults__", (0, 4))
    monkeypatch.setattr(spool_module, "SYNC_ROWS", 8)
    monkeypatch.setattr(files, "BUCKET_ROWS", 16)
    one_by_one(monkeypatch)
    data = {name: people(name, {f"p{n}": "" for n in range(start, start + 40)}) for name, start in
            (("airline", 0), ("bank", 30))}  # fmt: skip
    return World(tmp_path, clock, make_policy(BOTH, {}), data)


def serve(world: World, budget: int) -> tuple[int, int, int]:
    """Lets agents work over connections that are lost again and again, with a new process each time."""
    epoch = world.coordinator.begin("", "email")
    losses = up = down = 0
    for _ in range(500):
        stubs = []
        for party in BOTH:
            stub = Flaky(Direct(world, party), budget)  # type: ignore[arg-type]
            world.agents[party] = world.open_agent(party, stub=stub)
            stubs.append(stub)
        try:
            if world.work() == 0:
                break
        except LostError:
            losses += 1
            world.coordinator = world.open_coordinator()
        up, down = up + sum(stub.up for stub in stubs), down + sum(stub.down for stub in stubs)
    world.coordinator.finish(epoch)
    assert world.coordinator.index.exact(epoch, BOTH, ()) == {
        (("airline",), ()): 30, (("bank",), ()): 30, (BOTH, ()): 10
    }  # fmt: skip
    assert list((world.folder / "gateway" / "overlap" / "batches").iterdir()) == []
    assert not any((world.folder / "bank" / "hops").iterdir())
    return losses, up, down


def test_nothing_is_sent_twice_but_what_was_not_on_disk(world: World) -> None:
    """7 messages a connection: headers and at most 6 chunks of 4 rows. Every row still crosses about once."""
    losses, up, down = serve(world, budget=7)
    assert losses > 20
    assert down == SENT
    assert up == 2 * SENT  # each loss was orderly: the spool synced what it had


def test_without_losses_it_is_one_connection(world: World) -> None:
    assert serve(world, budget=10_000) == (0, 2 * SENT, SENT)


def shape(points: bytes, **changes: Any) -> Shape:
    values: dict[str, Any] = {
        "rows": len(points) // 32,
        "digest": hashlib.sha256(points).digest(),
        "width": 32,
        "handles": False,
        "look_for_low_order": True,
    }
    return Shape(**{**values, **changes})


ROWS = b"".join(bytes([n]) * 32 for n in range(2, 12))


def test_what_a_dead_process_left_is_counted_again_and_torn_rows_are_cut(tmp_path: Path) -> None:
    zero = ROWS[:64] + bytes(32) + ROWS[96:]
    first = Spool(tmp_path).receive("b", 0, shape(zero, handles=True))
    first.add(zero[:160], bytes(range(80)))
    first.close()
    with (tmp_path / "b.0.part").open("ab") as file:
        file.write(b"torn")
    again = Spool(tmp_path).receive("b", 0, shape(zero, handles=True))
    assert (again.rows, again.durable_rows, again.low_order) == (5, 5, [2])
    again.add(zero[160:], bytes(range(80, 160)))
    again.check()
    again.keep()
    assert b"".join(Spool(tmp_path).chunks("b", 0, 32)) == zero
    assert b"".join(Spool(tmp_path).handles("b")) == bytes(range(160))
    assert {path.name for path in tmp_path.iterdir()} == {"b.0", "b.0.handles"}


def test_rows_of_another_batch_are_not_gone_on_with(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    other = spool.receive("b", 1, shape(ROWS[32:] + ROWS[:32]))
    other.add(ROWS[:64], b"")
    other.close()
    fresh = spool.receive("b", 1, shape(ROWS))
    assert fresh.rows == 0
    fresh.close()


def test_a_later_connection_takes_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    slow = spool.receive("b", 0, shape(ROWS))
    slow.add(ROWS[:64], b"")
    fast = spool.receive("b", 0, shape(ROWS))
    assert fast.rows == 2
    with pytest.raises(OverlapError) as caught:
        slow.add(ROWS[64:], b"")
    assert caught.value.reason is Reason.UNKNOWN_BATCH
    slow.discard()  # it ended in an error, which must not take the other's rows
    fast.add(ROWS[64:], b"")
    fast.check()
    fast.keep()


def test_rows_that_an_earlier_connection_left_hold_up_their_own_batch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty million of them took a second to read, again with each connection for them, and all others waited."""
    spool, reading, read = Spool(tmp_path), threading.Event(), threading.Event()
    left = spool.receive("b", 0, shape(ROWS))
    left.add(ROWS[:64], b"")
    left.close()

    def slow(points: bytes) -> list[int]:
        reading.set()
        assert read.wait(60)
        return low_order_rows(points)

    monkeypatch.setattr("gateway.overlap.spool.low_order_rows", slow)
    with ThreadPoolExecutor(3) as pool:
        again = pool.submit(spool.receive, "b", 0, shape(ROWS))
        assert reading.wait(60)
        later = pool.submit(spool.receive, "b", 0, shape(ROWS))
        other = pool.submit(spool.receive, "c", 0, shape(ROWS))
        try:
            assert other.result(30).rows == 0
            assert not again.done()
        finally:
            read.set()
        assert later.result(30).rows == 2
        with pytest.raises(OverlapError):  # the one that came last has it
            again.result(30).sync()
    for incoming in (again, later, other):
        incoming.result().close()


def test_a_prefix_that_does_not_belong_is_found_and_thrown_away(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    bad = spool.receive("b", 0, shape(ROWS))
    bad.add(ROWS[32:64], b"")
    bad.close()
    again = spool.receive("b", 0, shape(ROWS))
    again.add(ROWS[32:], b"")
    with pytest.raises(OverlapError) as caught:
        again.check()
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_shuffle_over_buckets_loses_nothing_and_reaches_every_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BUCKET_ROWS", 2)
    seen: dict[bytes, int] = {}
    for _ in range(600):
        mixed = b"".join(shuffled(iter([b"ab", b"cd"]), tmp_path / "s", rows=4, width=1, random=os.urandom))
        seen[mixed] = seen.get(mixed, 0) + 1
    assert set(seen) == {bytes(order) for order in permutations(b"abcd")}  # misses one with a chance of 2e-10
    assert list(tmp_path.iterdir()) == []
    content = write_rows(tmp_path / "f", iter([b"ab", b"cd"]), 2)
    assert (content.rows, content.digest) == (2, hashlib.sha256(b"abcd").digest())
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_a_batch_for_which_the_gateway_has_no_room_is_refused_before_its_rows_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a full disk would stop withdrawals and the audit log."""
    spool = Spool(tmp_path)
    shape = Shape(rows=1_000, digest=bytes(32), width=64, handles=True, look_for_low_order=False)
    free = 1_000 * (64 + 16) + spool_module.FREE_BYTES
    monkeypatch.setattr(spool_module.shutil, "disk_usage", lambda _path: SimpleNamespace(free=free - 1))
    with pytest.raises(OverlapError) as caught:
        spool.receive("a", 0, shape)
    assert caught.value.reason is Reason.NO_ROOM
    assert "on the gateway's disk" in caught.value.item
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(spool_module.shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    spool.receive("a", 0, shape).discard()


def test_several_batches_that_come_at_once_leave_the_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is alone on the disk when it is announced; one partner can announce as many as it likes."""
    rows, width = 1_000, 64
    disk = spool_module.FREE_BYTES + rows * width + 1_000

    def usage(_path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=disk - sum(path.stat().st_size for path in tmp_path.glob("*.0.part")))

    monkeypatch.setattr(spool_module.shutil, "disk_usage", usage)
    shape = Shape(rows=rows, digest=bytes(32), width=width, handles=False, look_for_low_order=False)
    first, second = (Spool(tmp_path).receive(name, 0, shape) for name in ("a", "b"))
    first.add(bytes(rows * width), b"")
    first.sync()
    with pytest.raises(OverlapError) as caught:
        second.add(bytes(rows * width), b"")
    assert caught.value.reason is Reason.NO_ROOM
    second.discard()
    first.discard()
