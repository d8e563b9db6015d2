"""A partner compares its files with what it sent only where something may have changed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from federation.core.clock import FixedClock
from tests.kits.overlap_world import Data, Eligible, World, people, small_world


@dataclass
class Kept(Data):
    """Rows whose answers stay the same objects until a file changes, as ``PartnerData`` keeps them."""

    answers: dict[str, Eligible] = field(default_factory=dict)
    reads: int = 0

    def columns(self, *names: Any) -> pa.Table:
        self.reads += 1
        return super().columns(*names)

    def eligible(self, purpose: str, *rest: Any, **fields: Any) -> Eligible:
        return self.answers.setdefault(purpose, super().eligible(purpose, *rest, **fields))

    def change(self, table: pd.DataFrame) -> None:
        self.table, self.answers = table, {}


def world_of(folder: Path, clock: FixedClock) -> tuple[World, Kept, str]:
    base = people("insurer", {f"p{n}": "family" for n in range(5, 15)}, "life_stage")
    data = Kept(base.table, base.consented)
    world = small_world(folder, clock, extra={"insurer": data})
    return world, data, world.build()


def test_files_that_did_not_change_are_read_once(tmp_path: Path, clock: FixedClock) -> None:
    world, data, _ = world_of(tmp_path, clock)
    world.update()
    reads = data.reads
    world.update()
    world.update(withdrawals_only=True)
    assert data.reads == reads


def test_a_look_for_withdrawals_does_not_hide_what_else_changed(tmp_path: Path, clock: FixedClock) -> None:
    world, data, epoch = world_of(tmp_path, clock)
    world.update()
    before = world.coordinator.index.exact(epoch, ("insurer",), ())
    table = data.table.copy()
    table["email"] = ["p6@example.com", *table["email"][1:]]  # one person less: p5 became p6
    data.change(table)
    world.update(withdrawals_only=True)
    assert world.coordinator.index.exact(epoch, ("insurer",), ()) == before
    world.update()
    after = world.coordinator.index.exact(epoch, ("insurer",), ())
    assert sum(after.values()) == sum(before.values()) - 1
