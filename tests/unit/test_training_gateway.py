"""The gateway's parts alone: the hub with partners that come, go and lie, and the metrics."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import ConfigError, DataError, IdentityError, Reason, TrainingError
from federation.core.identity import Role
from federation.training.flower import ConfigRecord, Message, RecordDict, pack, unpack
from federation.training.measures import measure_scores
from federation.training.plan import proposal_digest
from federation.v1 import training_pb2 as pb
from gateway.identity.caller import Caller, CheckStanding
from gateway.release import ReleasePath
from gateway.training.control import RunControl
from gateway.training.evaluation import load_public_set
from gateway.training.grid import HubGrid
from gateway.training.hub import Hub
from gateway.training.proposals import TrainingRules
from gateway.training.runs import FAILED, RUNNING, RunKey
from gateway.training.runs_sql import SqlRunStore
from gateway.training.service import TrainingService
from tests.kits.training import (
    DELTA,
    NOW,
    PARTNERS,
    SPEC,
    Gates,
    make_caller,
    make_press,
    make_versions,
    wait_for,
)


class Inbox:
    """What one stream of a partner was sent."""

    def __init__(self) -> None:
        self.got: list[pb.ExchangeMessagesResponse | None] = []

    def __call__(self, message: pb.ExchangeMessagesResponse | None) -> None:
        self.got.append(message)

    @property
    def parts(self) -> list[str | None]:
        return [message and message.WhichOneof("part") for message in self.got]


def open_run(hub: Hub) -> tuple[HubGrid, dict[str, Inbox]]:
    inboxes = {party: Inbox() for party in PARTNERS}
    for party, inbox in inboxes.items():
        hub.attach(party, inbox)
    hub.open(pb.TrainingProposal(run_id="run-1", partners=PARTNERS))
    return HubGrid(hub, 5, PARTNERS, timeout_s=2), inboxes


def ask_all(grid: HubGrid) -> list[str]:
    content = RecordDict({"config": ConfigRecord({})})
    return list(grid.push_messages([grid.create_message(content, "train", node, "1") for node in grid.nodes]))


def answer_of(inbox: Inbox) -> pb.FlowerMessage:
    last = inbox.got[-1]
    assert last is not None
    asked = unpack(last.message.message, item="test")
    return pb.FlowerMessage(run_id="run-1", message=pack(Message(RecordDict({}), reply_to=asked)))


def test_partner_that_comes_back_gets_proposal_and_message_again() -> None:
    hub = Hub()
    grid, inboxes = open_run(hub)
    ids = ask_all(grid)
    hub.detach("bank", inboxes["bank"])
    assert hub.connected() == set(PARTNERS) - {"bank"}
    back = Inbox()
    hub.attach("bank", back)
    assert back.parts == ["proposal", "message"]
    assert back.got[-1] == inboxes["bank"].got[-1]
    for party, inbox in (inboxes | {"bank": back}).items():
        hub.deliver(party, answer_of(inbox))
    assert len(list(grid.pull_messages(ids))) == 3
    hub.tell_ended("run-1", PARTNERS)
    assert back.parts[-1] == "ended"


def test_newer_stream_ends_the_older_and_its_late_end_changes_nothing() -> None:
    hub = Hub()
    older, newer = Inbox(), Inbox()
    hub.attach("bank", older)
    hub.attach("bank", newer)
    assert older.got == [None]
    hub.detach("bank", older)
    assert hub.connected() == {"bank"}


def test_reply_counts_once_and_only_for_who_was_asked() -> None:
    hub = Hub(reconnect_timeout_s=0.1)
    grid, inboxes = open_run(hub)
    ids = ask_all(grid)
    stolen = answer_of(inboxes["airline"])
    hub.deliver("bank", stolen)  # another partner's message
    hub.deliver("marketing", stolen)  # nobody of this run
    hub.deliver("airline", pb.FlowerMessage(run_id="run-0", message=stolen.message))  # an old run
    hub.deliver("airline", stolen)
    hub.deliver("airline", stolen)  # twice
    hub.deliver("insurer", answer_of(inboxes["insurer"]))
    hub.detach("bank", inboxes["bank"])
    with pytest.raises(TrainingError, match="bank") as caught:
        grid.pull_messages(ids)
    assert caught.value.reason == Reason.PARTNER_UNAVAILABLE


def test_rubbish_refusal_and_silence_end_the_run_by_name() -> None:
    hub = Hub()
    grid, _ = open_run(hub)
    ids = ask_all(grid)
    hub.deliver("bank", pb.FlowerMessage(run_id="run-1", message=b"\xff" * 30))
    with pytest.raises(TrainingError, match="bank") as caught:
        grid.pull_messages(ids)
    assert caught.value.reason == Reason.BAD_UPDATE
    hub.close()

    grid, _ = open_run(hub)
    ids = ask_all(grid)
    refusal = pb.TrainerRefusal(run_id="run-1", reason="BUDGET_EXHAUSTED", text="no\x1b[2J more")
    hub.refuse("insurer", refusal)
    with pytest.raises(TrainingError, match="insurer: BUDGET_EXHAUSTED: no\\[2J more") as caught:
        grid.pull_messages(ids)
    assert caught.value.reason == Reason.PROPOSAL_REFUSED
    hub.close()

    grid, inboxes = open_run(hub)
    grid._timeout_s = 0.05
    ids = ask_all(grid)
    hub.deliver("bank", answer_of(inboxes["bank"]))
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(ids)] == [3]  # the bank's; the rest is late
    hub.deliver("airline", answer_of(inboxes["airline"]))  # too late: counts for nothing
    assert list(grid.pull_messages(ids)) == []


def test_one_run_at_a_time_and_none_after_close() -> None:
    hub = Hub()
    grid, _ = open_run(hub)
    with pytest.raises(TrainingError) as caught:
        hub.open(pb.TrainingProposal(run_id="run-2", partners=PARTNERS))
    assert caught.value.reason == Reason.RUN_BUSY
    hub.close()
    with pytest.raises(TrainingError):
        ask_all(grid)


def service(
    hub: Hub, runs: SqlRunStore, gates: Gates, check_standing: CheckStanding = lambda _: None
) -> TrainingService:
    return TrainingService(
        hub=hub,
        runs=runs,
        release=ReleasePath(gates, gates, gates),
        policy=gates,
        prices=gates,
        audit=gates,
        rules=lambda: TrainingRules(SPEC, DELTA, PARTNERS),
        clock=FixedClock(NOW),
        press=make_press(open_database(None)),
        versions=make_versions(open_database(None), gates),
        check_standing=check_standing,
    )


def say_yes(served: TrainingService, run_id: str) -> None:
    """Every partner approves."""
    record = next(record for record in served.list_runs() if record.run_id == run_id)
    for party in PARTNERS:
        word = pb.TrainerDecision(run_id=run_id, proposal_sha256=proposal_digest(record.proposal), approved=True)
        served.decide(party, word)


def under_way(runs: SqlRunStore, run_id: str) -> bool:
    record = runs.find(run_id)
    return record is not None and record.state == RUNNING


def test_second_run_is_busy_and_a_stopping_gateway_puts_the_first_down(tmp_path: Path) -> None:
    hub, runs = Hub(), SqlRunStore(open_database(tmp_path / "runs.db"))
    for party in PARTNERS:
        hub.attach(party, Inbox())
    gates = Gates()
    served = service(hub, runs, gates)
    live = served.start(make_caller(), pb.TrainingProposal(), "k1")
    say_yes(served, live.run_id)
    with pytest.raises(TrainingError) as caught:
        served.start(make_caller(), pb.TrainingProposal(), "k2")
    assert caught.value.reason == Reason.RUN_BUSY
    assert served.start(make_caller(), pb.TrainingProposal(), "k1") is live
    wait_for(lambda: under_way(runs, live.run_id))
    served.stop(grace_s=0)
    assert live.ended.is_set()
    assert under_way(runs, live.run_id)  # on disk: the next process takes it up


def test_run_of_who_was_struck_off_since_is_not_begun_and_costs_nothing(tmp_path: Path) -> None:
    """A thief's proposal could wait for approval for a week."""
    hub, runs, gates = Hub(), SqlRunStore(open_database(tmp_path / "runs.db")), Gates()
    struck: list[Caller] = []

    def check_standing(caller: Caller) -> None:
        if caller in struck:
            raise IdentityError(Reason.CERTIFICATE_REVOKED)

    served, thief = service(hub, runs, gates, check_standing), make_caller()
    run_id = served.propose(thief, pb.TrainingProposal(), "key", autostart=True).run_id
    struck.append(thief)
    for party in PARTNERS:
        hub.attach(party, lambda _: None)
    say_yes(served, run_id)
    wait_for(lambda: (found := runs.find(run_id)) is not None and found.state == FAILED)
    found = runs.find(run_id)
    assert found is not None
    assert (found.reason, gates.events) == ("CERTIFICATE_REVOKED", [])
    refusal = gates.log[-1]
    assert (refusal[0], refusal[1]["caller"], refusal[1]["reason"]) == ("refused", "marketing", "CERTIFICATE_REVOKED")


def test_restarted_gateway_goes_on_by_itself_and_the_key_still_finds_the_run(tmp_path: Path) -> None:
    runs, gates = SqlRunStore(open_database(tmp_path / "runs.db")), Gates()
    hub = Hub()
    for party in PARTNERS:
        hub.attach(party, Inbox())
    first = service(hub, runs, gates)
    live = first.start(make_caller(), pb.TrainingProposal(), "k1")
    say_yes(first, live.run_id)
    wait_for(lambda: under_way(runs, live.run_id))
    first.stop(grace_s=0)
    fresh = Hub()
    again = service(fresh, runs, gates)  # another process on the same database
    known = again.start(make_caller(), pb.TrainingProposal(), "k1")
    assert known.run_id == live.run_id
    wait_for(lambda: "waiting for" in known.text)
    inboxes = {party: Inbox() for party in PARTNERS}
    for party, inbox in inboxes.items():
        fresh.attach(party, inbox)
    wait_for(lambda: all("message" in inbox.parts for inbox in inboxes.values()))
    with pytest.raises(TrainingError) as caught:
        again.start(make_caller(), pb.TrainingProposal(rounds=2), "k1")
    assert caught.value.reason == Reason.IDEMPOTENCY_CONFLICT
    with pytest.raises(TrainingError) as caught:
        again.start(make_caller("bank"), pb.TrainingProposal(), "k1")  # another caller's key is another key
    assert caught.value.reason == Reason.RUN_BUSY
    again.stop(grace_s=0)


def test_no_model_is_no_release() -> None:
    gates = Gates()
    served = service(Hub(), SqlRunStore(open_database(None)), gates)
    with pytest.raises(TrainingError) as caught:
        served.get_model(make_caller())
    assert caught.value.reason == Reason.UNKNOWN_RUN
    assert gates.log == []


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scores = np.round(rng.random(2000), 2)  # with ties
    labels = (rng.random(2000) < scores * 0.3).astype(float)
    found = measure_scores(scores, labels)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert found["log_loss"] == pytest.approx(log_loss(labels, np.clip(scores, 1e-12, 1 - 1e-12)), abs=1e-4)
    assert found["lift"][-1] == 1.0
    assert found["lift"][0] > 1.3
    assert len(found["lift"]) == len(found["calibration"]) == 10
    assert found["roc"][-1] == [1.0, 1.0]
    assert found["positives"] == labels.sum()
    perfect = measure_scores(labels, labels)
    assert (perfect["auc"], perfect["auc_standard_error"]) == (1.0, 0.0)


def test_evaluation_set_that_cannot_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        measure_scores(np.array([0.1, 0.2]), np.zeros(2))
    with pytest.raises(ConfigError) as caught:
        load_public_set(tmp_path / "absent.csv")
    assert caught.value.reason == Reason.MISSING_FILE
    path = tmp_path / "broken.csv"
    path.write_text("age,y\n1,0\n2\n")
    with pytest.raises(DataError, match="line 3") as broken:
        load_public_set(path)
    assert broken.value.reason == Reason.BROKEN_ROW


def test_a_pause_is_logged_once_however_often_an_agent_says_it() -> None:
    runs, gates = SqlRunStore(open_database(None)), Gates()
    proposal = pb.TrainingProposal(run_id="run-1", partners=PARTNERS)
    at = {"at": "2026-11-01T00:00:00+00:00", "expires_at": "2026-11-08T00:00:00+00:00"}
    runs.propose("run-1", RunKey("k", "r"), proposal, make_caller(), autostart=True, **at)
    runs.begin("run-1", at["at"])
    runner = SimpleNamespace(wake=lambda: None)
    control = RunControl(hub=Hub(), runs=runs, runner=runner, audit=gates, clock=FixedClock(NOW))  # type: ignore[arg-type]

    def pauses() -> list[str]:
        return [body["caller"] for kind, body in gates.log if kind == "training_paused"]

    for _ in range(50):
        control.step_aside("bank", "run-1")
    assert pauses() == ["bank"]
    control.step_aside("insurer", "run-1")
    for _ in range(3):
        control.pause(make_caller("bank", Role.PARTNER), "run-1", "again")
    assert pauses() == ["bank", "insurer"]
    control.resume(make_caller("bank", Role.PARTNER), "run-1")
    control.step_aside("bank", "run-1")  # a new one
    assert pauses() == ["bank", "insurer", "bank"]
