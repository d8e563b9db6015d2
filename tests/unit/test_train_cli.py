"""``entente train`` without a gateway: a run is followed over breaks, ends with an exit code, is told in words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.cli import train_audit, train_control, train_runs
from federation.cli.console import INTERRUPTED, Left, exit_code
from federation.client.config import Limits, PartnerConfig
from federation.client.training.approvals import Approvals
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import EntenteError, Reason, TrainingError, TransportError
from federation.training.plan import proposal_digest
from federation.v1 import common_pb2
from federation.v1 import training_pb2 as pb
from tests.conftest import NOW
from tests.kits.agent import Setup, message, proposal, propose
from tests.kits.training import FrameData, OwnRules, make_rows


def told(state: int, done: int = 0, reason: str = "", seconds_left: float = 0) -> pb.StartRunResponse:
    progress = common_pb2.Progress(stage="round", done=done, total=3, text=f"round {done} of 3")
    response = pb.StartRunResponse(run_id="run-1", progress=progress, reason=reason, seconds_left=seconds_left)
    response.state = state  # type: ignore[assignment]
    return response


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the gateway does each time it is called: messages, or an error; and the requests, at the end."""
    steps: list[Any] = []
    asked: list[pb.StartRunRequest] = []

    def start(request: pb.StartRunRequest) -> Iterator[pb.StartRunResponse]:
        asked.append(request)
        step = steps.pop(0)
        if isinstance(step, (EntenteError, KeyboardInterrupt)):
            raise step
        yield from step

    @contextmanager
    def connect(_: Path) -> Iterator[Any]:
        yield SimpleNamespace(training=SimpleNamespace(StartRun=start))

    monkeypatch.setattr(train_runs, "connect", connect)
    monkeypatch.setattr(train_runs, "AGAIN_S", 0.0)
    steps.append(asked)
    return steps


def play(script: list[Any], *steps: Any) -> list[pb.StartRunRequest]:
    asked: list[pb.StartRunRequest] = script.pop()
    script.extend(steps)
    train_runs.run(Path(), as_json=True)
    assert script == []
    return asked


def test_run_is_followed_over_a_restart_under_the_same_key(
    script: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    away = TransportError(Reason.UNAVAILABLE, item="gateway")
    running = [told(pb.RUN_STATE_RUNNING, 1)]
    asked = play(script, running, away, away, running, [told(pb.RUN_STATE_FINISHED, 3)])
    assert json.loads(capsys.readouterr().out) == {"run_id": "run-1", "state": "finished"}
    assert len(asked) == 5
    assert len({request.idempotency_key for request in asked}) == 1


def test_gateway_that_stays_away_and_a_gate_that_says_no_end_the_command(
    script: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_runs, "AWAY_S", -1.0)
    with pytest.raises(TransportError):
        play(script, TransportError(Reason.UNAVAILABLE, item="gateway"))
    script.clear()
    script.append([])
    with pytest.raises(EntenteError) as caught:
        play(script, EntenteError(Reason.BUDGET_EXHAUSTED, item="model_training"))
    assert exit_code(caught.value) == 1


@pytest.mark.parametrize(
    ("state", "reason"), [(pb.RUN_STATE_FAILED, Reason.RUN_FAILED), (pb.RUN_STATE_STOPPED, Reason.RUN_STOPPED)]
)
def test_run_without_a_model_is_an_error_with_its_reason(script: list[Any], state: int, reason: Reason) -> None:
    with pytest.raises(EntenteError, match="bank") as caught:
        play(script, [told(state, 1, "PROPOSAL_REFUSED: bank")])
    assert (caught.value.reason, exit_code(caught.value)) == (reason, 4)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "round 1 of 3"), (12.4, "about 12 s left"), (125, "about 2 min 5 s left")]
)
def test_time_left_is_told_in_words(seconds: float, words: str) -> None:
    assert train_runs._progress(told(pb.RUN_STATE_RUNNING, 1, seconds_left=seconds)).text.endswith(words)


def test_who_is_waited_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    proposal = pb.TrainingProposal(partners=["airline", "bank"], epsilon=2, rounds=3, model="logistic_regression")
    run = pb.RunInfo(run_id="run-1", state=pb.RUN_STATE_PROPOSED, proposal=proposal, expires_at="2026-11-08")
    run.decisions.add(party="airline", approved=True)
    assert train_runs.describe(run)["waits_for"] == ["bank"]
    assert train_runs.describe(run)["expires_at"] == "2026-11-08"
    run.state = pb.RUN_STATE_PAUSED
    run.holds.add(party="marketing")
    assert train_runs.describe(run)["waits_for"] == ["marketing"]
    train_runs.show_run(run, as_json=False)
    shown = capsys.readouterr().out
    assert "paused" in shown
    assert "logistic_regression" in shown


def test_whoever_leaves_a_run_is_told_how_to_come_back_to_it(
    script: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def leave() -> Iterator[pb.StartRunResponse]:
        yield told(pb.RUN_STATE_RUNNING, 1)
        raise KeyboardInterrupt

    with pytest.raises(Left) as left:
        play(script, leave())
    assert left.value.code == INTERRUPTED
    assert "entente train run run-1" in capsys.readouterr().err


def test_whoever_leaves_before_the_run_has_a_name_is_told_nothing_of_it(script: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(script, KeyboardInterrupt())


def test_a_run_that_is_over_cannot_be_approved_and_no_limit_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    over = pb.ListRunsResponse(runs=[pb.RunInfo(run_id="run-1", state=pb.RUN_STATE_FINISHED)])
    training = SimpleNamespace(ListRuns=lambda _request, timeout: over)
    connection = SimpleNamespace(training=training, wait_ready=lambda _timeout_s: None)

    @contextmanager
    def workplace(_config: Path) -> Iterator[Any]:
        yield SimpleNamespace(
            connection=connection, config=None, engine=open_database(None), clock=FixedClock(NOW), policy=None
        )

    monkeypatch.setattr(train_control, "workplace", workplace)
    with pytest.raises(TrainingError, match="run-1 is finished") as caught:
        train_control.approve(Path("bank"), "run-1")
    assert caught.value.reason is Reason.WRONG_STEP


def test_a_refusal_holds_at_the_partner_without_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_timeout_s: float) -> None:
        raise TransportError(Reason.UNAVAILABLE)

    setup = Setup(open_database(None), FrameData(make_rows(2000, 1)), Limits())
    place = SimpleNamespace(engine=setup.engine, clock=FixedClock(NOW), config=None)
    place.connection = SimpleNamespace(wait_ready=away, training=None)

    @contextmanager
    def workplace(_config: Path) -> Iterator[Any]:
        yield place

    monkeypatch.setattr(train_control, "workplace", workplace)
    agent = setup.restart()
    assert propose(agent) is None
    with pytest.raises(TransportError) as caught:
        train_control.refuse(Path("bank"), "run-1")
    assert "holds at this partner all the same" in caught.value.fix
    for answer in (agent.answer(message("a")), propose(agent), propose(setup.restart(), learning_rate=2.0)):
        assert answer is not None
        assert answer.refusal.reason == "PROPOSAL_REFUSED"
    assert agent.accountant.spent() == 0
    Approvals(setup.engine, place.clock).decide(proposal(), proposal_digest(proposal()), approved=True)
    assert propose(setup.restart()) is None
    assert propose(setup.restart(), learning_rate=2.0) is not None  # what was approved is this proposal alone


@pytest.mark.parametrize("listed", [(), (0.5,)])
def test_what_is_approved_is_the_proposal_that_waits_here(
    listed: tuple[float, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that came over a SuperLink, of which the gateway knows nothing; and not what the gateway lists now."""
    told: list[pb.DecideRunRequest] = []

    def decide(word: pb.DecideRunRequest, timeout: float) -> pb.DecideRunResponse:
        told.append(word)
        return pb.DecideRunResponse(run=runs.runs[0])

    runs = pb.ListRunsResponse(
        runs=[pb.RunInfo(run_id="run-1", proposal=proposal(learning_rate=rate)) for rate in listed]
    )
    setup = Setup(open_database(None), FrameData(make_rows(2000, 1)), Limits(training_approval="manual"))
    settings = PartnerConfig(party="bank", gateway="127.0.0.1:1", limits=setup.limits)
    place = SimpleNamespace(engine=setup.engine, clock=FixedClock(NOW), config=settings, policy=OwnRules())
    training = SimpleNamespace(ListRuns=lambda _request, timeout: runs, DecideRun=decide)
    place.connection = SimpleNamespace(wait_ready=lambda _timeout_s: None, training=training)

    @contextmanager
    def workplace(_config: Path) -> Iterator[Any]:
        yield place

    monkeypatch.setattr(train_control, "workplace", workplace)
    agent = setup.restart()
    asked = pb.ProposedRun(proposal=proposal(), expires_at="2026-11-08T00:00:00+00:00")
    assert agent.answer(pb.ExchangeMessagesResponse(proposed=asked)) is None
    capsys.readouterr()
    train_control.approve(Path("bank"), "run-1", as_json=True)
    assert json.loads(capsys.readouterr().out)["run_id"] == "run-1"
    assert propose(agent) is None
    assert [word.proposal_sha256 for word in told] == [proposal_digest(proposal())] * len(listed)


@pytest.mark.parametrize("reason", [Reason.UNAVAILABLE, Reason.WRONG_STEP])
def test_a_pause_that_the_gateway_does_not_take_holds_at_the_partner_and_says_so(
    reason: Reason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_timeout_s: float) -> None:
        raise EntenteError(reason)

    place = SimpleNamespace(engine=open_database(tmp_path / "state.db"), clock=FixedClock(NOW))
    place.connection = SimpleNamespace(wait_ready=refuse)

    @contextmanager
    def workplace(_config: Path) -> Iterator[Any]:
        yield place

    (tmp_path / "partner.yaml").touch()
    monkeypatch.setattr(train_control, "workplace", workplace)
    with pytest.raises(EntenteError) as caught:
        train_control.pause(tmp_path, "run-1")
    assert "holds here all the same" in caught.value.fix
    assert Approvals(place.engine, place.clock).paused("run-1")


def test_an_audits_progress_writes_nothing_where_nobody_sees_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with train_audit._steps(quiet=False) as step:
        step(1, 2, "canaries")
    assert capsys.readouterr().err == ""
