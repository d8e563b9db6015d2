"""Keys of an epoch that was replaced: gone for good, wherever the process dies."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.client.overlap.state import EpochState
from federation.core.errors import OverlapError, Reason
from federation.overlap.plan import STATISTICS
from federation.v1 import overlap_pb2 as pb
from tests.conftest import NOW


def test_no_other_key_is_made_for_an_epoch_whose_keys_were_being_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = EpochState(tmp_path)
    plans = [pb.EpochPlan(epoch=f"2026-11-0{day}.1") for day in (1, 2)]
    for plan in plans:
        state.pin_plan(plan, NOW, 9)
        state.key(plan.epoch, STATISTICS)

    def killed(folder: Path, **_: Any) -> None:
        real(folder)
        raise KeyboardInterrupt

    real = shutil.rmtree
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            state.complete(plans[1].epoch)
    with pytest.raises(OverlapError) as caught:
        EpochState(tmp_path).pin_plan(plans[0], NOW, 9)
    assert caught.value.reason is Reason.UNKNOWN_EPOCH
    EpochState(tmp_path).complete(plans[1].epoch)
    assert [path.name for path in (tmp_path / "epochs").iterdir()] == [plans[1].epoch]


def test_so_many_epochs_a_day_whatever_the_clock_does(tmp_path: Path) -> None:
    def pin(name: str, hours: float) -> None:
        EpochState(tmp_path).pin_plan(pb.EpochPlan(epoch=name), NOW + timedelta(hours=hours), 2)

    pin("e1", 0)
    pin("e2", 1)
    pin("e2", 1)  # known
    for hours in (1, 23.9, -22.9):
        with pytest.raises(OverlapError) as caught:
            pin("e3", hours)
        assert (caught.value.reason, caught.value.item) == (Reason.QUOTA_EXCEEDED, "epoch e3: more than 2 within a day")
    pin("e3", 24.5)
