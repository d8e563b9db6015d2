"""kill -9 between any two steps of a delta: the same delta is sent and applied, once, or none was."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.client.overlap import agent, carry, state
from federation.client.overlap.delta import DeltaBuilder
from federation.client.overlap.memory import Pool, Renewed
from federation.client.overlap.state import EpochState
from federation.core.clock import FixedClock
from gateway.overlap.carrying import Carrier
from gateway.overlap.epochs_sql import SqlEpochs
from gateway.overlap.handles import LinkedHandles
from gateway.overlap.index import StatisticsIndex
from gateway.overlap.people import People
from gateway.overlap.spool import Incoming, Spool
from gateway.overlap.switchboard import Switchboard
from tests.kits.overlap_world import World, small_world
from tests.sim.test_overlap_delta import add, counted, expected, handle, relabel, remove, withdraw


class Killed(BaseException):
    """Nobody catches it, as nobody catches a signal 9."""


STEPS: list[tuple[Any, str]] = [
    (Pool, "append"),
    (Pool, "sync"),
    (Renewed, "save"),
    (DeltaBuilder, "write"),
    (EpochState, "save_delta"),
    (EpochState, "sent"),
    (state, "remove_batches"),
    (EpochState, "reserve"),
    (carry, "send"),
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


def restarted(world: World) -> World:
    world.coordinator = world.open_coordinator()
    world.agents = {name: world.open_agent(name) for name in world.policy.parties}
    return world


def killing(owner: Any, name: str, *, after: bool, at: int) -> Callable[..., Any]:
    real, calls = getattr(owner, name), 0

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            raise Killed
        result = real(*args, **kwargs)
        if calls == at:
            raise Killed
        return result

    return step


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
            with contextlib.suppress(Killed):
                world.update("bank")
        restarted(world)
        if at == 1:
            withdraw(bank, "p3")  # meanwhile: it must not change a delta that has its number
    world.work()
    world.update()
    assert counted(world, epoch) == expected(world)
    board = world.coordinator.switchboard
    assert board.person("bank", handle("B000006")) is None  # type: ignore[arg-type]
    assert board.person("bank", handle("B100")) is not None  # type: ignore[arg-type]
    assert {delta.state for delta in world.coordinator.epochs.deltas(epoch)} == {"applied"}
    assert list((tmp_path / "gateway" / "overlap" / "batches").iterdir()) == []
    left = [path.name for path in (tmp_path / "gateway" / "overlap" / "index").iterdir()]
    assert not [name for name in left if "unfinished" in name]
