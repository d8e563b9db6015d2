"""What an operator reads while an index is built: which epoch it is, how far, and what is wrong."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from federation.cli import console, overlap
from federation.core.errors import OverlapError, Reason
from federation.v1 import common_pb2
from federation.v1 import overlap_pb2 as pb
from tests.kits.command import entente

CONFIG = ("--config", "nowhere")
NAME = "2026-11-01.1"


def step(stage: str, done: int, total: int, text: str = "") -> pb.BuildIndexResponse:
    progress = common_pb2.Progress(stage=stage, done=done, total=total, text=text)
    return pb.BuildIndexResponse(epoch=NAME, progress=progress)


def gateway(patch: pytest.MonkeyPatch, messages: Sequence[pb.BuildIndexResponse], failure: Exception | None) -> None:
    """Has commands talk to a gateway that says this and then fails."""

    def answer(_request: Any) -> Iterator[pb.BuildIndexResponse]:
        yield from messages
        if failure is not None:
            raise failure

    @contextmanager
    def connect(_config: Path) -> Iterator[Any]:
        yield SimpleNamespace(overlap=SimpleNamespace(BuildIndex=answer))

    patch.setattr(overlap, "connect", connect)


def test_the_name_of_the_epoch_comes_first_and_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = OverlapError(Reason.BUILD_FAILED, item="partner bank: BROKEN_ROW")
    gateway(monkeypatch, [step("submit", 0, 3)], failure)
    said = entente("overlap", "build", *CONFIG)
    assert said.returncode == 4
    assert said.stderr.splitlines()[0] == f"Epoch {NAME}"
    assert f"epoch {NAME}: partner bank: BROKEN_ROW" in said.stderr


def test_the_name_is_in_an_error_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway(monkeypatch, [step("submit", 0, 3)], OverlapError(Reason.BUILD_FAILED))
    said = entente("overlap", "build", "--json", *CONFIG)
    assert json.loads(said.stderr)["error"]["item"] == f"epoch {NAME}"


def test_what_is_piped_has_a_line_for_each_change_and_none_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = "Waiting for insurer: no agent is connected"
    steps = [step("submit", 0, 3, waiting)]
    steps += [step("submit", done, 3, "Partners blind") for done in (1, 2)]
    steps += [step("submit", 3, 3, "Partners blind")]
    steps += [step("blind", done, 90, f"{1000 * done:,} points so far") for done in range(80)]
    gateway(monkeypatch, steps, None)
    said = entente("overlap", "build", *CONFIG)
    assert said.stderr.splitlines() == [
        f"Epoch {NAME}",
        f"submit 0/3: {waiting}",
        "submit 1/3: Partners blind",
        "submit 3/3: Partners blind",
        "blind 0/90: 0 points so far",
    ]
    assert entente("overlap", "build", "--json", *CONFIG).stderr == ""


def test_a_terminal_of_80_columns_shows_how_long_it_has_been(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, soft_wrap=True, highlight=False, color_system=None)
    monkeypatch.setattr(console, "err", terminal)
    text = "Batches go through the other partners; 123,456,789 points so far"
    console.follow([step("blind", 123456, 234567, text)], lambda message: message.progress, quiet=False)
    last = [line for line in screen.getvalue().splitlines() if "blind" in line][-1]
    assert "0:00:0" in last
    assert "123456/234567" in last
