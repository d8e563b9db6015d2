"""What an operator reads while an index is built: which epoch it is, how far, and what is wrong."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.cli import overlap
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
