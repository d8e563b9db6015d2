"""The overlap service with real TLS and three agents: a build, its failures, and streams that are not what they say."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.client.connection import translated
from federation.core.clock import SystemClock
from federation.core.errors import DataError, EntenteError, Reason
from federation.core.identity import Role
from federation.overlap.batch import Content, sign_manifest
from federation.overlap.blind import CHUNK_ROWS
from federation.overlap.decoys import LEAST, decoys_of
from federation.policy.specs import CubeSpec
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_gateway import Gateway
from tests.kits.overlap_world import World, make_policy, people, small_world

pytestmark = pytest.mark.e2e
ALL = ("bank", "insurer", "airline")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(small_world(tmp_path, SystemClock()), connect_timeout_s=0.3, stall_timeout_s=5.0) as opened:
        yield opened


def build(gateway: Gateway, epoch: str = "") -> list[pb.BuildIndexResponse]:
    with gateway.connect("ops", Role.OPERATOR) as connection, translated():
        return list(connection.overlap.BuildIndex(pb.BuildIndexRequest(epoch=epoch), timeout=60))


def refused(reason: Reason, call: Callable[[], Any]) -> str:
    with pytest.raises(EntenteError) as caught, translated():
        call()
    assert caught.value.reason is reason, caught.value
    return caught.value.item


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_three_agents_build_an_epoch_and_marketing_asks_it(gateway: Gateway) -> None:
    for party in ALL:
        gateway.attach(party)
    until(lambda: gateway.servicer.connected() == sorted(ALL))
    messages = build(gateway)
    stages = [message.progress.stage for message in messages]
    assert [stage for n, stage in enumerate(stages) if stage not in stages[:n]] == ["submit", "blind", "index"]
    last = messages[-1]
    assert (last.complete, last.progress.done, last.progress.total) == (True, 1, 1)
    totals = {m.progress.stage: (m.progress.done, m.progress.total) for m in messages[:-1]}
    assert totals["submit"] == (16, 16)
    assert totals["blind"] == (32, 32)
    exact = gateway.world.coordinator.index.exact(last.epoch, ALL, ())
    assert exact[(ALL, ())] == 2
    gateway.world.policy.cubes = {"venn": CubeSpec(name="venn", partners=ALL, epsilon=1.0, min_count=0)}
    with gateway.connect("mkt", Role.MARKETING) as connection:
        first = connection.overlap.QueryCube(pb.QueryCubeRequest(cube="venn"), timeout=60)
        again = connection.overlap.QueryCube(pb.QueryCubeRequest(cube="venn", epoch=last.epoch), timeout=60)
        listed = connection.overlap.ListCubes(pb.ListCubesRequest(), timeout=60)
    assert (first.spent_now, again.spent_now) == (True, False)
    assert first.cells == again.cells
    assert len(first.cells) == 7
    assert listed.cubes[0].released
    assert build(gateway, last.epoch)[-1].complete  # asked again, it says that it is complete


def test_a_partner_that_is_away_is_named_and_the_build_goes_on_when_it_is_back(gateway: Gateway) -> None:
    for party in ("bank", "insurer"):
        gateway.attach(party)
    assert refused(Reason.PARTNER_UNAVAILABLE, lambda: build(gateway, "e1")) == "partner airline"
    gateway.attach("airline")
    assert build(gateway, "e1")[-1].complete


def test_whom_a_build_waits_for_is_told_at_once(gateway: Gateway) -> None:
    gateway.servicer._builds._connect_timeout_s = 60
    for party in ("bank", "airline"):
        gateway.attach(party)
    with gateway.connect("ops", Role.OPERATOR) as connection:
        stream = connection.overlap.BuildIndex(pb.BuildIndexRequest(), timeout=60)
        first = next(stream).progress
        assert (first.stage, first.text) == ("submit", "Waiting for insurer: no agent is connected")
        gateway.attach("insurer")
        *others, last = stream
    assert last.complete
    texts = [other.progress.text for other in others if other.progress.stage == "submit"]
    assert texts[-1] == "Partners blind their own identifiers"


def test_a_build_that_another_one_abandons_says_so_and_blames_no_partner(gateway: Gateway) -> None:
    gateway.servicer._builds._connect_timeout_s = 60
    with gateway.connect("ops", Role.OPERATOR) as connection:
        stream = connection.overlap.BuildIndex(pb.BuildIndexRequest(epoch="e1"), timeout=60)
        assert next(stream).epoch == "e1"
        gateway.world.coordinator.begin("e2", "email")
        assert "e2 was begun" in refused(Reason.EPOCH_ABANDONED, lambda: list(stream))


def test_a_partner_that_fails_is_named_with_its_reason_and_can_try_again(gateway: Gateway) -> None:
    data = gateway.world.data["bank"]
    columns, data.columns = data.columns, _half_empty
    for party in ALL:
        gateway.attach(party)
    item = refused(Reason.BUILD_FAILED, lambda: build(gateway, "e1"))
    assert item == "partner bank: HALF_EMPTY_COLUMN: its own log says where"
    data.columns = columns  # the file was mended; the agent lived on
    assert build(gateway, "e1")[-1].complete


@pytest.mark.parametrize("change", ["labels", "partners"])
def test_a_partner_whose_policy_is_another_copy_is_named_and_told_what_compares_them(
    gateway: Gateway, change: str
) -> None:
    old = make_policy(ALL[:2] if change == "partners" else ALL, {"bank": {"value_tier": ("basic",)}})
    for party in ALL:
        gateway.attach(party, **({"policy": old} if party == "bank" else {}))
    item = refused(Reason.BUILD_FAILED, lambda: build(gateway, "e1"))
    assert item.startswith("partner bank: BAD_MANIFEST: ")
    assert "policy files differ" in item
    assert item.endswith("entente policy diff")


def _half_empty(*_names: Any) -> Any:
    raise DataError(Reason.HALF_EMPTY_COLUMN, item="column email")


def test_an_accident_in_an_agent_is_reported_and_it_lives_on(gateway: Gateway) -> None:
    data = gateway.world.data["bank"]
    columns, data.columns = data.columns, lambda *_names: 1 / 0
    for party in ALL:
        gateway.attach(party)
    assert refused(Reason.BUILD_FAILED, lambda: build(gateway, "e1")) == "partner bank: INTERNAL"
    data.columns = columns
    assert build(gateway, "e1")[-1].complete


def test_agents_that_are_replaced_in_the_middle_finish_the_work(gateway: Gateway) -> None:
    done: list[str] = []
    enough = threading.Event()

    def progress(stage: str, _done: int, _total: int) -> None:
        done.append(stage)
        if len(done) == 5:
            enough.set()

    for party in ALL:
        gateway.attach(party, progress=progress)
    building = threading.Thread(target=lambda: refused(Reason.PARTNER_UNAVAILABLE, lambda: build(gateway, "e1")))
    building.start()
    enough.wait(60)
    gateway.detach()
    building.join(60)
    for party in ALL:
        gateway.attach(party)
    assert build(gateway, "e1")[-1].complete
    assert gateway.world.coordinator.index.exact("e1", ALL, ())[(ALL, ())] == 2


def test_streams_that_are_not_batches(gateway: Gateway) -> None:
    world = gateway.world
    epoch = world.coordinator.begin("", "email")
    plan = world.plan(epoch)
    points = bytes(range(1, 33)) * 9
    header = sign_manifest(
        world.identities["bank"],
        plan,
        index=pb.INDEX_STATISTICS,
        label="value_tier=high",
        content=Content.of(points),
        batches=6,
    )
    header.decoys = LEAST
    head, chunk = pb.PutBatchRequest(header=header), pb.PutBatchRequest(chunk=pb.PointsChunk(points=points))
    short = pb.PutBatchRequest(chunk=pb.PointsChunk(points=points[:-1]))
    with gateway.connect("bank") as bank, gateway.connect("insurer") as insurer:

        def put(connection: Any, *messages: pb.PutBatchRequest) -> Callable[[], Any]:
            return lambda: list(connection.overlap.PutBatch(iter(messages), timeout=60))

        refused(Reason.TRUNCATED_STREAM, put(bank))
        refused(Reason.TRUNCATED_STREAM, put(bank, chunk))
        refused(Reason.TRUNCATED_STREAM, put(bank, head))
        refused(Reason.TOO_LARGE, put(bank, head, chunk, chunk))
        refused(Reason.BAD_POINT, put(bank, head, short))
        refused(Reason.BAD_FIELD, put(bank, head, head))
        refused(Reason.PARTY_MISMATCH, put(insurer, head, chunk))
        refused(Reason.UNKNOWN_BATCH, lambda: list(bank.overlap.GetBatch(pb.GetBatchRequest(batch_id="x"), timeout=60)))
        assert list((world.folder / "gateway" / "overlap" / "batches").iterdir()) == []
        assert put(bank, head, chunk)()[-1].count == 9
        assert put(bank, head, chunk)()[-1].count == 9  # the answer was lost
        report = pb.ReportOverlapTaskRequest(task_id="x", reason="NO_SUCH_REASON")
        refused(Reason.BAD_FIELD, lambda: bank.overlap.ReportOverlapTask(report, timeout=60))


def test_roles(gateway: Gateway) -> None:
    with gateway.connect("mkt", Role.MARKETING) as connection:
        calls = connection.overlap
        refused(Reason.ROLE_NOT_ALLOWED, lambda: list(calls.BuildIndex(pb.BuildIndexRequest(), timeout=60)))
        refused(
            Reason.ROLE_NOT_ALLOWED, lambda: next(calls.WatchOverlapTasks(pb.WatchOverlapTasksRequest(), timeout=60))
        )
    with gateway.connect("bank") as connection:
        refused(Reason.ROLE_NOT_ALLOWED, lambda: connection.overlap.QueryCube(pb.QueryCubeRequest(), timeout=60))


def test_many_rows_cross_in_chunks(tmp_path: Path) -> None:
    count = CHUNK_ROWS + 8
    decoys = decoys_of(count, 1)
    fetched: Counter[int] = Counter()

    def progress(stage: str, done: int, _total: int) -> None:
        if stage == "fetch":
            fetched[done] += 1

    both = ("airline", "bank")
    data = {party: people(party, {f"p{n}": "" for n in range(count)}, sharing=[]) for party in both}
    world = World(tmp_path, SystemClock(), make_policy(both, {}), data)
    with Gateway(world) as opened:
        for party in both:
            opened.attach(party, progress=progress)
        epoch = build(opened)[-1].epoch
    assert fetched[CHUNK_ROWS] == fetched[count + decoys] == 2  # each took the other's in two
    assert world.coordinator.index.exact(epoch, both, ()) == {(both, ()): count}
