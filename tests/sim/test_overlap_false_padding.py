"""A partner that says of real people that they are decoys, to learn from what becomes of it who else has them.

Decoys are subtracted from the cell of people who are at the origin alone. If that could fail where the cell is too
small, an origin that picked a label nobody has and one person would read off whether that person is anywhere else; with
one delta after another it would count, exactly and for nothing.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from federation.client.overlap import writing
from federation.client.overlap.writing import BatchWriter, Draft
from federation.core.clock import FixedClock
from federation.core.ids import PartyId
from federation.overlap.plan import ADD, BASE, STATISTICS
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_changes import add, counted, remove
from tests.kits.overlap_world import Direct, World, small_world

ALONE, ELSEWHERE = "p40", "p12"  # p12 is at the insurer and at the airline
TIER = "value_tier=unknown"  # nobody's at the bank


class Listener(Direct):
    """The bank's stub; keeps all that it hears."""

    def __init__(self, world: World) -> None:
        super().__init__(world, PartyId("bank"))
        self.heard: list[bytes] = []

    def PutBatches(self, request: pb.PutBatchesRequest) -> pb.PutBatchesResponse:
        answer = super().PutBatches(request)
        self.heard.append(answer.SerializeToString(deterministic=True))
        return answer


def lie(patch: pytest.MonkeyPatch) -> None:
    """The bank calls every row with a label a decoy, also in its batches of decoys."""
    write = BatchWriter.write

    def lying(writer: BatchWriter, draft: Draft, *where: Any) -> None:
        index, operation, label = draft.key
        if writer._party.id == "bank" and operation in (BASE, ADD) and (index, label) == (STATISTICS, TIER):
            draft = dataclasses.replace(draft, decoys=draft.count)
        write(writer, draft, *where)

    patch.setattr(BatchWriter, "write", lying)
    patch.setattr(writing, "most_decoys", lambda count, _pad_to: count)


def play(folder: Path, clock: FixedClock, target: str, key_type: str) -> tuple[World, str, Listener]:
    """The liar sends a person in the base and in a delta, and a further delta to see whether it is taken."""
    world = small_world(folder, clock)
    bank, liar = world.data["bank"], Listener(world)
    world.agents["bank"] = world.open_agent("bank", stub=liar)
    add(bank, "B100", target)
    epoch = world.build(key_type)
    for _ in range(2):
        remove(bank, target)
        world.update()
        add(bank, "B100", target)
        world.update()
    return world, epoch, liar


@pytest.mark.parametrize("key_type", ["email", "email+phone"])
def test_what_becomes_of_it_does_not_depend_on_who_else_has_the_person(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, key_type: str
) -> None:
    lie(monkeypatch)
    told = []
    for target in (ALONE, ELSEWHERE):
        world, epoch, liar = play(tmp_path / target, clock, target, key_type)
        deltas = [(one.origin, one.sequence, one.state, one.reason) for one in world.coordinator.epochs.deltas(epoch)]
        told.append((liar.heard, deltas))
        assert {state for _, _, state, _ in deltas} == {"applied"}
        counts = counted(world, epoch)
        # The base and two deltas took one each out of the cell, where the person is now if nobody else has them.
        assert counts[("bank",), (("bank.value_tier", "unknown"),)] == (target == ALONE) - 3
        assert counts[("insurer",), ()] == 2  # the lie moved no other number: p11 and p13
    assert told[0] == told[1]
