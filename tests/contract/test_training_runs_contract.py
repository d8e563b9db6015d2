"""What every registry of runs promises, over each driver."""

from collections.abc import Callable
from pathlib import Path

import pytest

from federation.core.database import open_database
from federation.core.errors import Reason, TrainingError
from federation.v1 import training_pb2 as pb
from gateway.training.runs import FAILED, FINISHED, RUNNING, Model, RunKey, RunStore, SqlRunStore

AT, LATER = "2026-11-01T00:00:00+00:00", "2026-11-01T00:01:00+00:00"
PROPOSAL = pb.TrainingProposal(run_id="run-1", rounds=5, partners=["bank", "insurer"])
KEY = RunKey("name-1", "request-1")


@pytest.fixture(params=["memory", "file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RunStore]:
    """Gives the store; called again, the store after a restart (in memory: the same engine)."""
    memory = open_database(None)
    return lambda: SqlRunStore(memory if request.param == "memory" else open_database(tmp_path / "runs.db"))


def test_run_is_remembered_from_begin_to_finish(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    store.begin("run-1", KEY, PROPOSAL, AT)
    store.keep_round("run-1", 2, b"half")
    record = reopen().find("run-1")
    assert record is not None
    assert (record.state, record.rounds_done, record.proposal, record.key) == (RUNNING, 2, PROPOSAL, KEY)
    assert (record.started_at, record.ended_at) == (AT, "")
    store.finish(Model("run-1", b"model", "{}", b"signed"), LATER)
    assert reopen().model("run-1").weights == b"model"
    found = reopen().find_key("name-1")
    assert found is not None
    assert (found.state, found.ended_at, found.reason) == (FINISHED, LATER, "")


def test_same_run_or_key_cannot_begin_twice(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    store.begin("run-1", KEY, PROPOSAL, AT)
    for run_id, key in (("run-1", RunKey("other", "")), ("run-2", KEY)):
        with pytest.raises(TrainingError):
            store.begin(run_id, key, PROPOSAL, AT)
    assert [record.run_id for record in store.all()] == ["run-1"]


def test_interrupted_run_is_failed_with_a_clear_reason_when_the_gateway_starts(
    reopen: Callable[[], RunStore],
) -> None:
    store = reopen()
    store.begin("run-1", KEY, PROPOSAL, AT)
    store.keep_round("run-1", 2, b"half")
    store.begin("run-2", RunKey("name-2", ""), PROPOSAL, AT)
    store.finish(Model("run-2", b"model", "{}", b"signed"), AT)
    again = reopen()
    assert again.fail_interrupted(LATER) == ["run-1"]
    record = again.find("run-1")
    assert record is not None
    assert (record.state, record.ended_at) == (FAILED, LATER)
    assert "2 of 5 rounds" in record.reason
    assert again.fail_interrupted(LATER) == []
    with pytest.raises(TrainingError) as caught:
        again.model("run-1")  # what was reached is not a released model
    assert caught.value.reason == Reason.UNKNOWN_RUN


def test_newest_finished_model_is_the_default(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    with pytest.raises(TrainingError) as caught:
        store.model("")
    assert caught.value.reason == Reason.UNKNOWN_RUN
    for number in (1, 2, 3):
        store.begin(f"run-{number}", RunKey(f"name-{number}", ""), PROPOSAL, AT)
    store.finish(Model("run-1", b"one", "{}", b"signed"), AT)
    store.finish(Model("run-2", b"two", "{}", b"signed"), AT)
    store.fail("run-3", "RUN_FAILED", AT)
    assert store.model("").run_id == "run-2"
    assert (store.model("run-1").version, store.model("", 1).weights) == (1, b"one")
    assert [(model.version, model.run_id) for model in reopen().models()] == [(2, "run-2"), (1, "run-1")]
    with pytest.raises(TrainingError):
        store.model("", 3)
    assert [record.run_id for record in store.all()] == ["run-3", "run-2", "run-1"]
