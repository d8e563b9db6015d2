"""Two agents never work on one folder, and a dead one holds none."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from federation.client import alone as alone_module
from federation.client.alone import alone, is_running
from federation.core.errors import Reason
from tests.kits.command import entente
from tests.kits.refused import refused

HOLD = """
import sys, time, pathlib
from federation.client.alone import alone
with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(state: Path) -> None:
    with alone(state):
        pass


def test_a_second_agent_is_refused_and_told_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone_module, "WAIT_S", 0.1)
    state = tmp_path / "state"
    (tmp_path / "partner.yaml").write_text(yaml.safe_dump({"party": "bank", "gateway": "127.0.0.1:1"}))
    assert not is_running(state)
    with alone(state):
        assert is_running(state)
        assert refused(Reason.STATE_IN_USE, hold, state) == str(state)
        second = entente("partner", "run", "--config", str(tmp_path))
        assert second.returncode == 3
        assert "STATE_IN_USE" in second.stderr
        assert str(state) in second.stderr.replace("\n", "")
    assert not is_running(state)
    hold(state)


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_running(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    hold(tmp_path)
    assert not is_running(tmp_path)


def test_a_look_does_not_keep_an_agent_out(tmp_path: Path) -> None:
    hold(tmp_path)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        is_running(tmp_path)
        hold(tmp_path)
