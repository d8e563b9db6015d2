"""A gateway process that starts while another is at work on the same files takes nothing away from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.core.clock import FixedClock
from federation.core.ids import PartyId
from gateway.overlap import switchboard
from gateway.overlap.index import StatisticsIndex
from tests.kits.overlap_changes import counted, expected, handle, withdraw
from tests.kits.overlap_world import VENN, World, small_world, venn


@pytest.fixture
def world(tmp_path: Path, clock: FixedClock) -> World:
    return small_world(tmp_path, clock)


def meanwhile(patch: pytest.MonkeyPatch, owner: Any, name: str, happens: Callable[[], object]) -> None:
    """Has something happen, once, at the start of a call."""
    real = getattr(owner, name)

    def call(*given: Any) -> Any:
        patch.setattr(owner, name, real)
        happens()
        return real(*given)

    patch.setattr(owner, name, call)


def test_while_an_epoch_is_built(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[object]()
    meanwhile(monkeypatch, StatisticsIndex, "_publish", lambda: started.append(world.open_coordinator()))
    meanwhile(monkeypatch, switchboard, "_write", lambda: started.append(world.open_coordinator()))
    assert venn(world, world.build()) == VENN
    assert len(started) == 2


def test_while_a_delta_comes_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = world.build()
    withdraw(world.data["bank"], "p6")
    agent, plan = world.agents["bank"], world.plan(epoch)
    meanwhile(
        monkeypatch, Path, "iterdir", lambda: agent.update(plan, withdrawals_only=True)
    )  # a look at what is there
    world.open_coordinator()
    world.work()
    assert [delta.state for delta in world.coordinator.epochs.deltas(epoch)] == ["applied"]
    assert counted(world, epoch) == expected(world)


def test_while_the_next_epoch_is_completed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one reads which epoch is the newest; before it opens the file of that, the file goes."""
    world.build()
    board, bank, known = world.open_coordinator().switchboard, PartyId("bank"), handle("B000001")
    meanwhile(monkeypatch, board, "_database", world.build)
    found = board.handles(bank, known, 9)
    assert found == world.coordinator.switchboard.handles(bank, known, 9) != []


def test_what_a_process_that_was_killed_left_goes_with_the_epoch(world: World) -> None:
    epoch = world.coordinator.begin("", "email")
    overlap = world.folder / "gateway" / "overlap"
    for name in (f"{epoch}@tokens.unfinished", f"{epoch}.duckdb.unfinished", f"{epoch}.duckdb.unfinished.wal"):
        (overlap / "index" / name).touch()
    (overlap / "switchboard" / f"unfinished@{epoch}").mkdir()
    world.build(epoch="later")
    world.coordinator = world.open_coordinator()
    assert not list(overlap.rglob(f"*{epoch}*"))
