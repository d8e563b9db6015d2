"""kill -9 between any two steps of a delta: the same delta is sent and applied, once, or none was."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from federation.client.overlap import agent, state
from federation.client.overlap.delta import DeltaBuilder
from federation.client.overlap.memory import Pool, Renewed
from federation.client.overlap.state import EpochState
from federation.core.clock import FixedClock
from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId, PartyId
from gateway.overlap.carrying import Carrier
from gateway.overlap.epochs_sql import SqlEpochs
from gateway.overlap.handles import LinkedHandles
from gateway.overlap.index import StatisticsIndex
from gateway.overlap.people import People
from gateway.overlap.spool import Incoming, Spool
from gateway.overlap.switchboard import _ROWS, Switchboard
from tests.kits.lives import Killed, killing
from tests.kits.overlap_changes import add, counted, expected, handle, relabel, remove, restarted, withdraw
from tests.kits.overlap_world import World, small_world

STEPS: list[tuple[Any, str]] = [
    (Pool, "append"),
    (Pool, "sync"),
    (Renewed, "save"),
    (DeltaBuilder, "write"),
    (EpochState, "save_delta"),
    (EpochState, "sent"),
    (state, "remove_batches"),
    (EpochState, "reserve"),
    (agent, "send"),
    (agent, "send_together"),
    (Carrier, "take"),
    (Incoming, "keep"),
    (SqlEpochs, "open_delta"),
    (SqlEpochs, "advance"),
    (SqlEpochs, "close_delta"),
    (People, "change"),
    (StatisticsIndex, "_publish"),
    (StatisticsIndex, "apply"),
    (LinkedHandles, "change"),
    (Switchboard, "_change"),
    (Switchboard, "apply"),
    (Spool, "clear"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=[f"{getattr(o, '__name__', o)}.{n}" for o, n in STEPS])
def test_killed_at_a_step_it_goes_on(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], after: bool
) -> None:
    owner, name = step
    key_type = "email+phone" if owner is LinkedHandles else "email"
    world = small_world(tmp_path, clock, pad_to=2)
    epoch = world.build(key_type)
    bank = world.data["bank"]
    remove(bank, "p0")
    relabel(bank, "p1", value_tier="basic")
    add(bank, "B100", "p14", value_tier="high")
    withdraw(bank, "p6", "offer_sharing")
    for at in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, killing(owner, name, after=after, at=at))
            # The first step is one of the delta; whether there is a second depends on what it is.
            with pytest.raises(Killed) if at == 1 else contextlib.suppress(Killed):
                world.update("bank")
        restarted(world)
        if at == 1:
            withdraw(bank, "p3")  # meanwhile: it must not change a delta that has its number
    world.work()
    world.update()
    assert counted(world, epoch) == expected(world)
    board = world.coordinator.switchboard
    assert board.handles(PartyId("bank"), handle("B000006"), 9) == []
    assert board.handles(PartyId("bank"), handle("B100"), 9)
    assert {delta.state for delta in world.coordinator.epochs.deltas(epoch)} == {"applied"}
    assert list((tmp_path / "gateway" / "overlap" / "batches").iterdir()) == []
    left = [path.name for path in (tmp_path / "gateway" / "overlap" / "index").iterdir()]
    assert not [name for name in left if "unfinished" in name]


def about_to_complete(folder: Path, clock: FixedClock) -> tuple[World, str, EpochId]:
    """One epoch answers, and all batches of another have passed every hop."""
    world = small_world(folder, clock)
    first = world.build()
    second = world.coordinator.begin("", "email")
    world.work()
    return world, first, second


COMPLETING = [(StatisticsIndex, "build"), (Switchboard, "build"), (SqlEpochs, "complete"), (StatisticsIndex, "retire")]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", COMPLETING, ids=[f"{o.__name__}.{n}" for o, n in COMPLETING])
def test_killed_while_an_epoch_is_completed_one_of_the_two_is_there_whole(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], after: bool
) -> None:
    world, first, second = about_to_complete(tmp_path, clock)
    bank = world.data["bank"]
    withdraw(bank, "p6")
    withdraw(bank, "p7", "offer_sharing")
    with monkeypatch.context() as patched:
        patched.setattr(step[0], step[1], killing(*step, after=after, at=1))
        with pytest.raises(Killed):
            world.coordinator.finish(second)
    restarted(world)
    completed = step[1] == "retire" or (step[1] == "complete" and after)
    tokens = set()
    for epoch in (second if completed else first, second):
        world.tell()
        world.update("bank", withdrawals_only=True)
        assert counted(world, epoch) == expected(world)
        board = world.coordinator.switchboard
        assert board.handles(PartyId("bank"), handle("B000007"), 9) == []
        [row] = board._read(select(_ROWS.c.token).where(_ROWS.c.handle == handle("B000001")))
        tokens.add(row.token)
        world.coordinator.finish(second)
    assert len(tokens) == (1 if completed else 2)  # keys are fresh in each epoch
    overlap = tmp_path / "gateway" / "overlap"
    assert [path.name for path in (overlap / "index").glob(f"{first}*")] == [f"{first}.duckdb"]  # its labels
    assert not list((overlap / "switchboard").glob(f"{first}*"))


@pytest.mark.parametrize("built", [StatisticsIndex, Switchboard])
def test_an_epoch_that_is_begun_while_another_is_completed_abandons_it_whole(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, built: type
) -> None:
    world, first, second = about_to_complete(tmp_path, clock)
    build = built.build  # type: ignore[attr-defined]

    def begin_another(*args: Any) -> None:
        build(*args)
        world.coordinator.begin("third", "email")

    monkeypatch.setattr(built, "build", begin_another)
    with pytest.raises(OverlapError) as caught:
        world.coordinator.finish(second)
    assert caught.value.reason is Reason.UNKNOWN_EPOCH
    assert world.coordinator.epochs.newest_complete() == first
    overlap = tmp_path / "gateway" / "overlap"
    assert not [path for path in overlap.rglob(f"{second}*") if path.parent.name != "batches"]  # no token of it is left
    world.update()
    assert counted(world, first) == expected(world)
