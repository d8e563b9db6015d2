"""One side forgets a delta, or cannot apply one: no fresh answer speaks of people whom nobody can take out."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from federation.core.clock import FixedClock
from federation.core.errors import Reason
from federation.core.ids import EpochId, PartyId
from gateway.overlap.index import StatisticsIndex
from gateway.overlap.switchboard import Switchboard
from gateway.overlap.withdrawals import Withdrawals
from tests.kits.lives import Killed
from tests.kits.overlap_changes import ALL, add, answering, counted, expected, handle, restarted, withdraw
from tests.kits.overlap_world import World, small_world
from tests.kits.refused import refused


@pytest.fixture
def world(tmp_path: Path, clock: FixedClock) -> World:
    return small_world(tmp_path, clock)


def confirm(world: World, epoch: str) -> None:
    """Asks every partner, whose agents answer at once."""
    with answering(world):
        Withdrawals(world.coordinator.deltas, connect_s=0, answer_s=0)(EpochId(epoch), ALL)


def restore(kept: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def test_a_partner_restored_to_before_somebody_came_cannot_say_whether_they_withdrew(world: World) -> None:
    epoch = world.build()
    shutil.copytree(world.folder / "bank", world.folder / "kept")
    add(world.data["bank"], "B100", "p14", value_tier="high")
    world.update("bank")
    restore(world.folder / "kept", world.folder / "bank")
    restarted(world)
    withdraw(world.data["bank"], "p14")
    assert "bank: its last delta is 0, here it is 1" in refused(Reason.WITHDRAWALS_UNCONFIRMED, confirm, world, epoch)
    confirm(world, world.build())


def test_a_gateway_restored_to_before_a_withdrawal_does_not_answer(world: World) -> None:
    epoch = world.build()
    shutil.copytree(world.folder / "gateway", world.folder / "kept")
    withdraw(world.data["bank"], "p6")
    confirm(world, epoch)
    restore(world.folder / "kept", world.folder / "gateway")
    restarted(world)
    assert counted(world, epoch) != expected(world)
    assert "bank: its last delta is 1, here it is 0" in refused(Reason.WITHDRAWALS_UNCONFIRMED, confirm, world, epoch)


def test_handles_of_a_delta_that_was_half_applied_come_before_those_of_another_origin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens know of the insurer's delta, the handles do not; after the restart the bank's comes first."""
    epoch = world.build("email+phone")
    withdraw(world.data["insurer"], "p6", "offer_sharing")
    withdraw(world.data["bank"], "p7", "offer_sharing")
    world.agents["insurer"].withdraw()
    with monkeypatch.context() as patched:

        def kill(*_: Any) -> None:
            world.agents["bank"].withdraw()
            while tasks := [(party, task) for party in ALL for task in world.coordinator.tasks(PartyId(party))]:
                for party, (_task, message) in tasks:
                    world.agents[party].blind(message.blind.batch_id)
            raise Killed

        patched.setattr(Switchboard, "_change", kill)
        with pytest.raises(Killed):
            world.work()
    restarted(world)
    assert {delta.state for delta in world.coordinator.epochs.deltas(epoch)} == {"applied"}
    board = world.coordinator.switchboard
    assert board.handles(PartyId("insurer"), handle("I000001"), 9) == []
    assert board.handles(PartyId("bank"), handle("B000007"), 9) == []


def test_what_could_not_be_applied_is_tried_again_with_the_next_question(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = world.build()
    withdraw(world.data["bank"], "p6")
    with monkeypatch.context() as patched:

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(StatisticsIndex, "_publish", fail)
        refused(Reason.WITHDRAWALS_UNCONFIRMED, confirm, world, epoch)
        restarted(world)  # and the gateway starts all the same
    confirm(world, epoch)
    assert counted(world, epoch) == expected(world)
