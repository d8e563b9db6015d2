"""What all tests share: the real input where it is given, a clock, and no network for unit and contract tests."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from federation.core.clock import FixedClock

NOW = datetime(2026, 11, 1, tzinfo=UTC)
"""The day for which the real input's true answers are given."""


LONGEST = (
    "e2e/test_story.py",
    "e2e/test_superlink.py",
    "sim/test_overlap_delta_crashes.py",
    "sim/test_question_attacks.py",
    "sim/test_question_crashes.py",
    "property/test_ledger_property.py",
    "e2e/test_training_resume.py",
    "sim/test_training_kills.py",
    "sim/test_training_audit.py",
    "sim/test_flower_simulation.py",
    "property/test_eligible_property.py",
    "property/test_question_property.py",
    "e2e/test_policy_round.py",
    "e2e/test_consent_two_gateways.py",
    "sim/test_training_control.py",
    "sim/test_overlap_delta.py",
    "sim/test_audit_bounds.py",
    "sim/test_overlap_epoch.py",
    "sim/test_question_consistency.py",
)
"""With several workers a file is played by one: the longest begin first, so that none is alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get("/".join(item.path.parts[-2:]), len(LONGEST)))


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with bank/, insurer/, airline/, test.csv and truth.json, made from real input."""
    folder = os.environ.get("ENTENTE_TEST_DATA", "")
    if not folder:
        pytest.skip("ENTENTE_TEST_DATA names no folder with real input")
    return Path(folder)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only loopback can be reached; a test that needs more is wrong."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        loopback = not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost")
        if not loopback:
            pytest.fail(f"{request.node.name} tried to reach {address!r}")
        real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)
