"""Keys of an epoch that was replaced: gone for good, wherever the process dies."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from federation.client.overlap.state import EpochState
from federation.core.errors import OverlapError, Reason
from federation.overlap.plan import STATISTICS
from federation.v1 import overlap_pb2 as pb


def test_no_other_key_is_made_for_an_epoch_whose_keys_were_being_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = EpochState(tmp_path)
    plans = [pb.EpochPlan(epoch=f"2026-11-0{day}.1") for day in (1, 2)]
    for plan in plans:
        state.pin_plan(plan)
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
        EpochState(tmp_path).pin_plan(plans[0])
    assert caught.value.reason is Reason.UNKNOWN_EPOCH
    EpochState(tmp_path).complete(plans[1].epoch)
    assert [path.name for path in (tmp_path / "epochs").iterdir()] == [plans[1].epoch]
