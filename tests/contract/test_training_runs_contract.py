"""What every registry of runs promises, over each driver."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation.core.database import open_database
from federation.core.errors import Reason, TrainingError
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.v1 import training_pb2 as pb
from gateway.identity.caller import Caller
from gateway.training.runs import (
    APPROVED,
    FAILED,
    FINISHED,
    PAUSED,
    PROPOSED,
    RUNNING,
    STOPPED,
    Checkpoint,
    Decision,
    Hold,
    Model,
    RunKey,
    RunStore,
)
from gateway.training.runs_sql import SqlRunStore

AT, LATER, END = "2026-11-01T00:00:00+00:00", "2026-11-01T00:01:00+00:00", "2026-11-08T00:00:00+00:00"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
PROPOSAL = pb.TrainingProposal(run_id="run-1", rounds=5, partners=["bank", "insurer"])
KEY = RunKey("name-1", "request-1")
CALLER = Caller(PartyId("marketing"), Role.MARKETING, "17", NOW + timedelta(days=30))


@pytest.fixture(params=["memory", "file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RunStore]:
    """Gives the store; called again, the store after a restart (in memory: the same engine)."""
    memory = open_database(None)
    return lambda: SqlRunStore(memory if request.param == "memory" else open_database(tmp_path / "runs.db"))


def propose(store: RunStore, run_id: str = "run-1", key: RunKey = KEY, *, autostart: bool = False) -> None:
    store.propose(run_id, key, PROPOSAL, CALLER, autostart=autostart, at=AT, expires_at=END)


def state(store: RunStore, run_id: str = "run-1") -> str:
    record = store.find(run_id)
    assert record is not None
    return record.state


def test_run_is_remembered_from_proposal_to_model(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    propose(store)
    record = reopen().find("run-1")
    assert record is not None
    assert (record.state, record.proposal, record.key, record.caller) == (PROPOSED, PROPOSAL, KEY, CALLER)
    assert (record.proposed_at, record.expires_at, record.started_at, record.autostart) == (AT, END, "", False)
    store.arm("run-1")
    assert store.begin("run-1", LATER)
    assert store.begin("run-1", END)  # again after a restart: the first time stays
    store.keep_round("run-1", 2, b"half", b"state")
    record = reopen().find("run-1")
    assert record is not None
    assert (record.state, record.rounds_done, record.started_at, record.autostart) == (RUNNING, 2, LATER, True)
    assert store.finish(Model("run-1", b"model", "{}", b"signed"), LATER)
    assert reopen().model("run-1").weights == b"model"
    found = reopen().find_key("name-1")
    assert found is not None
    assert (found.state, found.ended_at, found.reason) == (FINISHED, LATER, "")


def test_approved_is_when_every_partner_said_yes_and_the_last_word_counts(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    propose(store)
    yes, no = (Decision("bank", approved, True, "", AT) for approved in (True, False))
    store.decide("run-1", yes)
    store.decide("run-1", Decision("stranger", True, True, "", AT))
    assert state(store) == PROPOSED
    store.decide("run-1", Decision("insurer", True, False, "read it", LATER))
    assert state(reopen()) == APPROVED
    store.decide("run-1", no)
    record = reopen().find("run-1")
    assert record is not None
    assert (record.state, record.undecided) == (PROPOSED, ["bank"])


def test_checkpoint_has_the_last_complete_round_and_every_attempt(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    with pytest.raises(TrainingError) as caught:
        store.checkpoint("run-1")
    assert caught.value.reason == Reason.UNKNOWN_RUN
    propose(store)
    assert store.checkpoint("run-1") == Checkpoint(0, b"", b"", 0, 0)
    store.keep_attempt("run-1", 1, 2)
    store.keep_round("run-1", 1, b"model", b"state")
    store.keep_attempt("run-1", 2, 5)
    assert reopen().checkpoint("run-1") == Checkpoint(1, b"model", b"state", 2, 5)


def test_run_is_paused_while_anybody_holds_it(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    propose(store)
    store.begin("run-1", AT)
    store.hold("run-1", Hold("bank", "month's end", AT))
    store.hold("run-1", Hold("bank", "again", LATER))  # the first one counts: it does not wait any longer
    store.hold("run-1", Hold("marketing", "", LATER))
    record = reopen().find("run-1")
    assert record is not None
    assert (record.state, [hold.party for hold in record.holds]) == (PAUSED, ["bank", "marketing"])
    assert record.holds[0] == Hold("bank", "month's end", AT)
    store.release_hold("run-1", ["marketing"])
    assert state(store) == PAUSED
    store.release_hold("run-1", ["bank", "nobody"])
    assert state(reopen()) == RUNNING


def test_what_is_over_stays_as_it_ended(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    propose(store)
    assert store.end("run-1", STOPPED, "by marketing", AT)
    assert not store.begin("run-1", LATER)
    assert not store.finish(Model("run-1", b"model", "{}", b"signed"), LATER)
    assert not store.end("run-1", FAILED, "late", LATER)
    record = reopen().find("run-1")
    assert record is not None
    assert (record.state, record.reason, record.ended_at) == (STOPPED, "by marketing", AT)
    with pytest.raises(TrainingError) as caught:
        store.model("run-1")  # what was reached is not a released model
    assert caught.value.reason == Reason.UNKNOWN_RUN


def test_same_run_or_key_cannot_be_proposed_twice(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    propose(store)
    for run_id, key in (("run-1", RunKey("other", "")), ("run-2", KEY)):
        with pytest.raises(TrainingError):
            propose(store, run_id, key)
    assert [record.run_id for record in store.all()] == ["run-1"]


def test_newest_finished_model_is_the_default(reopen: Callable[[], RunStore]) -> None:
    store = reopen()
    with pytest.raises(TrainingError) as caught:
        store.model("")
    assert caught.value.reason == Reason.UNKNOWN_RUN
    for number in (1, 2, 3):
        propose(store, f"run-{number}", RunKey(f"name-{number}", ""))
    assert store.finish(Model("run-1", b"one", "{}", b"signed"), AT) == 1
    assert store.finish(Model("run-2", b"two", "{}", b"signed"), AT) == 2
    store.end("run-3", FAILED, "RUN_FAILED", AT)
    assert store.model("").run_id == "run-2"
    assert (store.model("run-1").version, store.model("", 1).weights) == (1, b"one")
    assert [(model.version, model.run_id) for model in reopen().models()] == [(2, "run-2"), (1, "run-1")]
    with pytest.raises(TrainingError):
        store.model("", 3)
    assert [record.run_id for record in store.all()] == ["run-3", "run-2", "run-1"]
