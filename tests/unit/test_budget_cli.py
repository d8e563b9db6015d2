"""What the budget's reader sees."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from federation.cli import budget, console
from federation.v1 import budget_pb2 as pb


def test_the_columns_of_prices_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    question = pb.BudgetQuestion(what="cube venn", released=True, epsilon=0.5, epsilon_more=0.2, fits=True)
    answer = pb.GetBudgetResponse(questions=[question])

    @contextmanager
    def connect(_config: Path) -> Iterator[Any]:
        yield SimpleNamespace(budget=SimpleNamespace(GetBudget=lambda _request, timeout: answer))

    monkeypatch.setattr(budget, "connect", connect)
    with console.out.capture() as captured:
        assert CliRunner().invoke(budget.app, ["--config", "none"]).exit_code == 0
    text = " ".join(captured.get().split())
    assert "now: what asking spends in the newest epoch" in text
    assert "on top of this: what the next release" in text
