"""Small batches that travel together: the same checks as one by one, and one that is wrong spoils no other."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from federation.client.overlap import hop as hop_module
from federation.core.clock import FixedClock
from federation.core.errors import Reason
from federation.core.ids import PartyId
from federation.overlap.hash_to_curve import hash_to_curve
from federation.overlap.plan import MAX_TOGETHER, MAX_TOGETHER_POINTS
from federation.v1 import overlap_pb2 as pb
from gateway.overlap import carrying
from tests.kits.overlap_world import VENN, Direct, Parts, World, one_by_one, small_world, venn
from tests.kits.refused import refused

ALL = ("bank", "insurer", "airline")
BANK, INSURER = PartyId("bank"), PartyId("insurer")


class Tampering(Direct):
    """A gateway that changes what it gives and takes."""

    def __init__(self, world: World, party: PartyId) -> None:
        super().__init__(world, party)
        self.gives = self.takes = lambda batches: batches
        self.got: list[int] = []
        self.wrong = ""

    def GetBatches(self, request: pb.GetBatchesRequest) -> pb.GetBatchesResponse:
        found = self.gives(list(super().GetBatches(request).batches))
        self.got.append(len(found))
        return pb.GetBatchesResponse(batches=found)

    def GetBatch(self, request: pb.GetBatchRequest) -> Parts:
        if request.batch_id != self.wrong:
            return super().GetBatch(request)
        [batch] = super().GetBatches(pb.GetBatchesRequest(batch_ids=[request.batch_id])).batches
        return Parts([batch.header, hash_to_curve([b"guess"] * (len(batch.points) // 32), b"dst")])

    def PutBatches(self, request: pb.PutBatchesRequest) -> pb.PutBatchesResponse:
        return super().PutBatches(pb.PutBatchesRequest(batches=self.takes(list(request.batches))))


@pytest.fixture(params=[1, 4], ids=["unpadded", "padded"])
def world(tmp_path: Path, clock: FixedClock, request: pytest.FixtureRequest) -> World:
    world = small_world(tmp_path, clock, pad_to=request.param)
    world.together = True
    return world


def positions(world: World, epoch: str) -> set[int]:
    return {batch.position for batch in world.coordinator.epochs.batches(epoch)}


def submitted(world: World) -> tuple[str, dict[str, Tampering]]:
    """An epoch of which every base is at its first hop, with stubs that can be told to lie."""
    epoch = world.coordinator.begin("", "email")
    stubs = {party: Tampering(world, PartyId(party)) for party in ALL}
    world.agents = {party: world.open_agent(party, stub=stub) for party, stub in stubs.items()}
    world.work(3)
    return epoch, stubs


def waiting(world: World) -> list[str]:
    """The batches that the insurer is asked to blind."""
    return [message.blind.batch_id for _, message in world.coordinator.tasks(INSURER)]


def blind_waiting(world: World) -> None:
    world.agents["insurer"]._hop.blind_together(waiting(world))


@pytest.mark.parametrize("key_type", ["email", "email+phone"])
def test_what_travels_together_counts_as_what_travels_alone(world: World, key_type: str) -> None:
    epoch = world.build(key_type)
    assert venn(world, epoch) == VENN
    world.data["bank"].consented["overlap_statistics"].remove("B000001")
    world.update()
    assert venn(world, epoch)["bank",] == 1


def test_nothing_is_left_on_the_way(world: World) -> None:
    world.build()
    assert list((world.folder / "gateway" / "overlap" / "batches").iterdir()) == []
    assert not (world.folder / "bank" / "hops").exists()


def test_it_takes_few_messages(world: World) -> None:
    epoch, stubs = submitted(world)
    world.work()
    batches = world.coordinator.epochs.batches(epoch)
    for party, stub in stubs.items():
        assert len(stub.got) == 2  # what comes from its origin, and what has passed a hop
        assert sum(stub.got) == sum(batch.origin != party for batch in batches)


def test_what_does_not_fit_travels_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "MAX_TOGETHER_POINTS", 4)
    one_by_one(monkeypatch)
    assert venn(world, world.build()) == VENN


def test_a_batch_that_was_begun_alone_goes_on_alone(world: World) -> None:
    epoch, stubs = submitted(world)
    [(_, task), *_] = world.coordinator.tasks(INSURER)
    world.agents["insurer"]._state.hop_folder(task.blind.batch_id).mkdir(parents=True)
    many = len(world.coordinator.tasks(INSURER))
    blind_waiting(world)
    assert stubs["insurer"].got == [many - 1]
    world.work()
    world.coordinator.finish(epoch)
    assert venn(world, epoch) == VENN


def swapped(batches: list[pb.WholeBatch]) -> list[pb.WholeBatch]:
    one, two = [batch for batch in batches if batch.points][:2]
    one.points, two.points = two.points, one.points
    return batches


def guessed(batches: list[pb.WholeBatch]) -> list[pb.WholeBatch]:
    batch = next(batch for batch in batches if batch.points)
    batch.points = hash_to_curve([b"guess"] * (len(batch.points) // 32), b"dst")
    return batches


def dropped(batches: list[pb.WholeBatch]) -> list[pb.WholeBatch]:
    batch = next(batch for batch in batches if batch.points)
    batch.points = batch.points[32:]
    return batches


def cut(batches: list[pb.WholeBatch]) -> list[pb.WholeBatch]:
    batch = next(batch for batch in batches if batch.points)
    batch.points = batch.points[1:]
    return batches


def unsigned(batches: list[pb.WholeBatch]) -> list[pb.WholeBatch]:
    batches[0].header.manifest.signature = bytes(64)
    return batches


TAMPERED = [
    (swapped, Reason.DIGEST_MISMATCH),
    (guessed, Reason.DIGEST_MISMATCH),
    (dropped, Reason.TRUNCATED_STREAM),
    (cut, Reason.BAD_POINT),
    (unsigned, Reason.BAD_SIGNATURE),
]


@pytest.mark.parametrize(("tamper", "reason"), TAMPERED)
def test_a_hop_blinds_none_of_them_where_one_is_not_what_was_signed(world: World, tamper: Any, reason: Reason) -> None:
    epoch, stubs = submitted(world)
    stubs["insurer"].gives, taken = tamper, list[pb.WholeBatch]()
    stubs["insurer"].takes = lambda batches: [*batches, *(taken.extend(batches) or ())]
    refused(reason, blind_waiting, world)
    assert taken == []
    assert positions(world, epoch) == {0}
    # Each by itself is then as it is on the gateway's disk, so all of them pass.
    world.work()
    world.coordinator.finish(epoch)
    assert venn(world, epoch) == VENN


def test_where_one_is_wrong_the_others_pass_and_it_is_reported(world: World) -> None:
    epoch, stubs = submitted(world)
    stub = stubs["insurer"]
    stub.gives = guessed
    tasks = [message for _, message in world.coordinator.tasks(INSURER)]
    stub.wrong = next(batch.batch_id for batch in Direct.GetBatches(
        stub, pb.GetBatchesRequest(batch_ids=[task.blind.batch_id for task in tasks])).batches if batch.points
    )  # fmt: skip
    world.agents["insurer"]._blind_waiting(deque(tasks))
    failed = world.coordinator.epochs.failed(epoch)
    assert [(task.batch_id, task.reason) for task in failed] == [(stub.wrong, str(Reason.DIGEST_MISMATCH))]
    passed = {batch.batch_id for batch in world.coordinator.epochs.batches(epoch) if batch.position == 1}
    assert passed == {task.blind.batch_id for task in tasks} - {stub.wrong}


@pytest.mark.parametrize(("tamper", "reason"), TAMPERED)
def test_the_gateway_takes_none_of_them_where_one_is_not_what_was_signed(
    world: World, tamper: Any, reason: Reason
) -> None:
    epoch, stubs = submitted(world)
    stubs["insurer"].takes = tamper
    refused(reason, blind_waiting, world)
    assert positions(world, epoch) == {0}
    assert not list((world.folder / "gateway" / "overlap" / "batches").glob("*.part*"))


def test_more_than_may_travel_together_is_refused(world: World) -> None:
    _, _ = submitted(world)
    carrier = world.coordinator.carrier
    batch = pb.WholeBatch(points=bytes(32))
    for batches in ([batch] * (MAX_TOGETHER + 1), [pb.WholeBatch(points=bytes(32 * (MAX_TOGETHER_POINTS + 1)))]):
        refused(Reason.TOO_LARGE, carrier.take, BANK, batches)
    refused(Reason.TOO_LARGE, carrier.carry_together, BANK, ["x"] * (MAX_TOGETHER + 1))


def test_a_partner_refuses_more_than_it_can_have_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(world)
    monkeypatch.setattr(hop_module, "MAX_TOGETHER_POINTS", 3)
    refused(Reason.TOO_LARGE, blind_waiting, world)


def test_a_batch_twice_in_one_message_is_refused(world: World) -> None:
    epoch, stubs = submitted(world)
    stubs["insurer"].takes = lambda batches: [*batches, batches[0]]
    refused(Reason.QUOTA_EXCEEDED, blind_waiting, world)
    assert positions(world, epoch) == {0}


def test_what_was_delivered_before_is_delivered_again_without_effect(world: World) -> None:
    epoch, stubs = submitted(world)
    sent = list[pb.WholeBatch]()
    stubs["insurer"].takes = lambda batches: [*batches, *(sent.extend(batches) or ())]
    blind_waiting(world)
    before = {batch.batch_id: batch.header for batch in world.coordinator.epochs.batches(epoch)}
    answers = world.coordinator.carrier.take(INSURER, sent)
    assert all(answer.complete for _, answer in answers)
    assert {batch.batch_id: batch.header for batch in world.coordinator.epochs.batches(epoch)} == before


def test_of_two_deliveries_at_once_one_is_kept_with_its_own_header(world: World) -> None:
    """Each has the rows in another order; the first is overtaken when all of its rows are there."""
    epoch, stubs = submitted(world)
    sent = list[pb.WholeBatch]()
    stubs["insurer"].takes = lambda batches: sent.extend(batches) or []
    for _ in range(2):
        refused(Reason.TRUNCATED_STREAM, blind_waiting, world)  # of no batch the gateway says that it has it
    carrier, place = world.coordinator.carrier, next(at for at, batch in enumerate(sent) if len(batch.points) > 64)
    first, second = sent[place], sent[place + len(sent) // 2]
    assert first.points != second.points
    expected = carrier.expect(INSURER, first.header)
    incoming = carrier.receive(expected)
    incoming.add(first.points, b"")
    carrier.take(INSURER, [second])
    refused(Reason.UNKNOWN_BATCH, carrier.accept, (expected, incoming))
    stubs["insurer"].takes = lambda batches: batches
    world.work()
    world.coordinator.finish(epoch)
    assert venn(world, epoch) == VENN


def test_what_the_gateway_does_not_say_it_has_is_sent_again(world: World) -> None:
    epoch = world.build()
    stub = Tampering(world, BANK)
    world.agents["bank"] = world.open_agent("bank", stub=stub)
    world.data["bank"].consented["overlap_statistics"].remove("B000001")
    stub.takes = lambda batches: batches[1:]
    refused(Reason.TRUNCATED_STREAM, world.update, "bank")
    stub.takes = lambda batches: batches
    world.update("bank")
    assert venn(world, epoch)["bank",] == 1


def test_a_partner_blinds_no_batch_that_it_did_not_ask_for(world: World) -> None:
    _, stubs = submitted(world)
    for answer in (lambda batches: [*batches, batches[0]], lambda batches: [pb.WholeBatch(batch_id="x")]):
        stubs["insurer"].gives = answer
        refused(Reason.UNKNOWN_BATCH, blind_waiting, world)


def test_another_partners_batches_cannot_be_had_or_sent(world: World) -> None:
    submitted(world)
    refused(Reason.UNKNOWN_BATCH, world.coordinator.carrier.carry_together, BANK, waiting(world))
