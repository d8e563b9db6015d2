"""What every store of decisions and every store of losses promises, over each driver; and the decisions themselves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import AuditError, DataError, PolicyError, Reason, TrainingError
from federation.v1 import training_pb2 as pb
from gateway.training.losses import LossStore, SqlLossStore
from gateway.training.runs import Model, RunKey
from gateway.training.runs_sql import SqlRunStore
from gateway.training.versions import FIRST, ROLLBACK, USE, SqlStepStore, Step, StepStore, Versions
from tests.kits.training import NOW, make_caller

AT = "2026-11-01T00:00:00+00:00"
STEP = Step(1, FIRST, 1, "gateway", "first model", AT, 0)


@pytest.fixture(params=["memory", "file"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Engine]:
    """Gives the database; called again, the database after a restart (in memory: the same)."""
    memory = open_database(None)
    return lambda: memory if request.param == "memory" else open_database(tmp_path / "training.db")


def test_decisions_are_kept_in_their_order_and_each_number_once(engine: Callable[[], Engine]) -> None:
    store: StepStore = SqlStepStore(engine())
    store.add(STEP)
    store.add(replace(STEP, number=2, kind=USE, version=2))
    again: StepStore = SqlStepStore(engine())
    assert [step.version for step in again.all()] == [1, 2]
    assert again.all()[0] == STEP
    with pytest.raises(PolicyError) as caught:
        again.add(replace(STEP, number=2, version=3))
    assert caught.value.reason == Reason.WRONG_STEP
    assert [step.version for step in store.all()] == [1, 2]


def test_losses_are_kept_by_run_and_the_last_word_counts(engine: Callable[[], Engine]) -> None:
    store: LossStore = SqlLossStore(engine())
    for number, loss in ((2, 0.5), (1, 0.6), (2, 0.4)):
        store.keep("run-1", number, loss)
    store.keep("run-2", 1, 0.9)
    again: LossStore = SqlLossStore(engine())
    assert again.read("run-1") == [(1, 0.6), (2, 0.4)]
    assert again.read("run-3") == []


class Log:
    """An audit log that can fail."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.broken = False

    def append(self, kind: str, body: Any) -> int:
        if self.broken:
            raise AuditError(Reason.AUDIT_UNAVAILABLE)
        self.entries.append({"kind": kind, **body})
        return len(self.entries) - 1


def finish(engine: Engine, number: int) -> None:
    runs, run_id = SqlRunStore(engine), f"run-{number}"
    proposal, key = pb.TrainingProposal(run_id=run_id), RunKey(f"name-{number}", "")
    runs.propose(run_id, key, proposal, make_caller(), autostart=True, at=AT, expires_at=AT)
    runs.finish(Model(run_id, b"weights", "{}", b"signed"), AT)


def versions_of(engine: Engine, log: Log) -> Versions:
    return Versions(runs=SqlRunStore(engine), steps=SqlStepStore(engine), audit=log, clock=FixedClock(NOW))


def test_first_version_is_in_use_by_itself_and_later_ones_wait_for_a_person(engine: Callable[[], Engine]) -> None:
    log = Log()
    with pytest.raises(TrainingError) as caught:
        versions_of(engine(), log).in_use()
    assert caught.value.reason == Reason.UNKNOWN_RUN
    finish(engine(), 1)
    finish(engine(), 2)
    assert versions_of(engine(), log).in_use() == 1
    assert [(entry["step"], entry["caller"]) for entry in log.entries] == [(FIRST, "gateway")]
    versions_of(engine(), log).use(make_caller(), 2, "better for young customers")
    again = versions_of(engine(), log)
    assert again.in_use() == 2
    again.use(make_caller(), 2, "")  # nothing new
    models, steps = again.list()
    assert [model.version for model in models] == [2, 1]
    assert [(step.kind, step.version, step.party, step.audit_index) for step in steps] == [
        (FIRST, 1, "gateway", 0),
        (USE, 2, "marketing", 1),
    ]


def test_rollback_goes_back_step_by_step_and_not_twice_for_one_call(engine: Callable[[], Engine]) -> None:
    log = Log()
    for number in (1, 2, 3):
        finish(engine(), number)
    versions = versions_of(engine(), log)
    versions.use(make_caller(), 2, "")
    versions.use(make_caller(), 3, "")
    assert versions.roll_back(make_caller(), 3, "calibration is off").version == 2
    with pytest.raises(PolicyError) as caught:
        versions.roll_back(make_caller(), 3, "the same call again")
    assert caught.value.reason == Reason.WRONG_STEP
    assert versions_of(engine(), log).roll_back(make_caller(), 2, "").version == 1
    with pytest.raises(PolicyError, match="WRONG_STEP"):
        versions.roll_back(make_caller(), 1, "")
    assert versions.in_use() == 1
    assert [entry["step"] for entry in log.entries] == [FIRST, USE, USE, ROLLBACK, ROLLBACK]


def test_what_cannot_be_logged_is_not_decided(engine: Callable[[], Engine]) -> None:
    log = Log()
    finish(engine(), 1)
    finish(engine(), 2)
    versions = versions_of(engine(), log)
    assert versions.in_use() == 1
    log.broken = True
    with pytest.raises(AuditError):
        versions.use(make_caller(), 2, "")
    log.broken = False
    assert versions_of(engine(), log).in_use() == 1


@pytest.mark.parametrize("reason", ["ask anna@example.org", "two\nlines", "x" * 401])
def test_reasons_hold_nobody_and_one_line(engine: Callable[[], Engine], reason: str) -> None:
    finish(engine(), 1)
    versions = versions_of(engine(), Log())
    with pytest.raises(DataError):
        versions.use(make_caller(), 1, reason)
    with pytest.raises(TrainingError):
        versions.use(make_caller(), 9, "there is none")
