"""People decide about a run, and partners come, go, are slow and answer twice; one thread, invented time, no noise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from federation.client.config import Limits, StandingRule
from federation.core.errors import DataError, Reason, TrainingError
from federation.core.identity import Role
from federation.training.plan import proposal_digest
from federation.v1 import training_pb2 as pb
from gateway.training.desk import MAX_WAITING
from gateway.training.runner import Patience
from gateway.training.runs import APPROVED, FAILED, FINISHED, PAUSED, PROPOSED, RUNNING, STOPPED, RunRecord
from tests.kits.exact import undisturbed, without_noise
from tests.kits.kill import World
from tests.kits.training import PARTNERS, SPEC, SUMMED, make_caller

SPECS = {"summed": SUMMED.model_copy(update={"rounds": 4}), "local": SPEC.model_copy(update={"rounds": 4})}
MARKETING, OPERATOR = make_caller(), make_caller("operator", Role.OPERATOR)
BANK = make_caller("bank", Role.PARTNER)
MANUAL = Limits(training_approval="manual")


PAUSE_S = Patience().partners_s + 60
"""Longer than a run waits for partners that are away; the gateway looks twice in each of these seconds."""


@pytest.fixture(autouse=True, scope="module")
def exact() -> Iterator[None]:
    with without_noise():
        yield


def after_round(world: World, number: int, act: Callable[[str], None]) -> None:
    """Does something once, while a round after that number is under way."""
    told: list[str] = []

    def look() -> None:
        live = world.live() if not told else None
        if live is not None and live.done >= number and live.state == RUNNING and not live.ended.is_set():
            told.append(live.run_id)
            act(live.run_id)

    world.hook = look


def later(world: World, seconds: float, act: Callable[[], None]) -> None:
    """Does something once, so many seconds from now."""
    end, done = world.now_s + seconds, []

    def look() -> None:
        if world.now_s >= end and not done:
            done.append(True)
            act()

    world.hook = look


def asked_for(world: World) -> int:
    return len(world.released.replies)


@pytest.mark.parametrize("mode", SPECS)
def test_pause_holds_after_the_round_and_the_model_is_the_same(mode: str, tmp_path: Path) -> None:
    world, seen = World(tmp_path, SPECS[mode], {}), list[int]()

    def resume(run_id: str) -> None:
        record = world.runs.find(run_id)
        assert record is not None
        assert (record.state, record.rounds_done, [hold.party for hold in record.holds]) == (PAUSED, 2, ["marketing"])
        assert world.live().state == PAUSED
        assert world.service.at_rest(run_id)
        seen.append(asked_for(world))
        world.service.control.resume(MARKETING, run_id)

    def pause(run_id: str) -> None:
        assert world.service.control.pause(MARKETING, run_id, "lunch").state == PAUSED
        later(world, PAUSE_S, lambda: resume(run_id))

    after_round(world, 1, pause)
    assert world.play().state == FINISHED
    assert world.runs.model().weights == undisturbed(SPECS[mode])
    assert seen == [2 * len(PARTNERS)]  # nothing was asked while it was paused, and no attempt was lost
    assert asked_for(world) == 4 * len(PARTNERS)
    assert len(world.paid()) == 1
    steps = [kind for kind, _ in world.gates.log]
    assert steps.index("training_paused") < steps.index("training_resumed")


def test_partner_pauses_itself_whatever_the_gateway_does_and_comes_back(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["summed"], {})

    def back(run_id: str) -> None:
        record = world.runs.find(run_id)
        assert record is not None
        assert (record.state, record.holds[0].party, record.holds[0].reason) == (PAUSED, "bank", "at the partner")
        with pytest.raises(TrainingError, match="not by marketing"):
            world.service.control.resume(MARKETING, run_id)  # nobody else ends a partner's pause
        with pytest.raises(TrainingError):
            world.service.control.resume(OPERATOR, run_id)
        world.approvals("bank").pause(run_id, paused=False)
        world.service.control.resume(BANK, run_id)

    def leave(run_id: str) -> None:
        world.approvals("bank").pause(run_id, paused=True)
        later(world, 60, lambda: back(run_id))

    after_round(world, 2, leave)
    assert world.play().state == FINISHED
    assert world.runs.model().weights == undisturbed(SPECS["summed"])


def test_pause_without_end_fails_the_run_and_names_who_paused(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["summed"], {})

    def sleep() -> None:
        world.now_s += 600 if world.live().state == PAUSED else 0

    def pause(run_id: str) -> None:
        world.service.control.pause(BANK, run_id, "")
        world.hook = sleep

    after_round(world, 1, pause)
    record = world.play()
    assert (record.state, record.reason) == (FAILED, "RUN_FAILED: paused for too long by bank")
    assert 86_400 < world.now_s < 90_000


def test_pause_survives_a_restart_of_the_gateway(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {})

    def pause(run_id: str) -> None:
        world.service.control.pause(OPERATOR, run_id, "")
        later(world, 10, lambda: world.service.stop(grace_s=0))

    after_round(world, 1, pause)
    world.begin()
    while world.turn().state != PAUSED:
        pass
    world.hook = lambda: None
    world.restart_gateway()
    run_id = world.live().run_id
    later(world, 30, lambda: [world.service.control.resume(OPERATOR, run_id), None][1])
    assert world.play().state == FINISHED
    assert world.runs.model().weights == undisturbed(SPECS["local"])


def test_stopped_run_gives_no_model_and_stays_stopped(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["summed"], {})
    after_round(world, 1, lambda run_id: [world.service.stop_run(MARKETING, run_id, "wrong label"), None][1])
    record = world.play()
    assert (record.state, record.reason) == (STOPPED, "RUN_STOPPED: by marketing: wrong label")
    assert world.service.stop_run(OPERATOR, record.run_id, "").state == STOPPED
    with pytest.raises(TrainingError):
        world.runs.model()
    assert len(world.paid()) == 1  # the budget stays spent
    for step in (world.service.control.pause, world.service.stop_run):
        with pytest.raises(TrainingError) as caught:
            step(make_caller("sales"), record.run_id, "")
        assert caught.value.reason == Reason.NOT_YOURS
    with pytest.raises(TrainingError) as caught:
        world.service.stop_run(BANK, record.run_id, "")
    assert caught.value.reason == Reason.NOT_YOURS
    with pytest.raises(TrainingError) as caught:
        world.service.control.pause(MARKETING, record.run_id, "")
    assert caught.value.reason == Reason.WRONG_STEP


@pytest.mark.parametrize("mode", SPECS)
def test_reply_that_comes_twice_counts_once(mode: str, tmp_path: Path) -> None:
    world = World(tmp_path, SPECS[mode], {})
    world.tamper = lambda party, reply: [reply, reply] if party == "bank" else [reply]
    assert world.play().state == FINISHED
    assert world.runs.model().weights == undisturbed(SPECS[mode])


def test_slow_partner_costs_an_attempt_of_a_sum_and_ends_a_run_without_one(tmp_path: Path) -> None:
    lost: list[str] = []

    def drop_one(party: str, reply: pb.ExchangeMessagesRequest) -> list[pb.ExchangeMessagesRequest]:
        if party == "insurer" and world.live().done == 2 and len(lost) < 2:
            lost.append(party)  # the key of a phase that is repeated for nothing, then a vector
            return []
        return [reply]

    world = World(tmp_path / "summed", SPECS["summed"], {})
    world.tamper = drop_one
    assert world.play().state == FINISHED
    assert world.runs.model().weights == undisturbed(SPECS["summed"])
    lost.clear()
    world = World(tmp_path / "local", SPECS["local"], {})
    world.tamper = drop_one
    record = world.play()
    assert (record.state, record.reason) == (FAILED, "RUN_FAILED: round 3: no reply of insurer")


def test_partner_that_dies_in_a_round_and_stays_away_ends_the_run_by_name(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["summed"], {})
    after_round(world, 2, lambda _: world.leave("airline"))
    record = world.play()
    assert (record.state, record.reason) == (FAILED, "PARTNER_UNAVAILABLE: airline")


def test_run_that_goes_on_waits_for_partners_for_a_limited_time(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {})
    after_round(world, 1, lambda _: world.service.stop(grace_s=0))
    world.begin()
    record = proposed(world)
    assert (record.state, record.rounds_done) == (RUNNING, 2)  # put down after the round under way
    world.leave("bank")
    world.restart_gateway()
    record = world.play()
    assert (record.state, record.reason) == (FAILED, "PARTNER_UNAVAILABLE: bank")
    assert 900 < world.now_s < 1_000


def proposed(world: World, turns: int = 12) -> RunRecord:
    """The proposal after everybody had time to say something."""
    for _ in range(turns):
        record = world.turn()
    return record


def test_run_begins_when_the_last_partner_has_approved(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {}, {"bank": MANUAL})
    world.begin()
    record = proposed(world)
    assert (record.state, record.undecided) == (PROPOSED, ["bank"])
    assert "waiting for approval by bank" in world.live().text
    assert [waiting.run_id for waiting in world.approvals("bank").waiting()] == [record.run_id]
    assert all(decision.by_rule for decision in record.decisions)
    assert world.paid() == []
    assert asked_for(world) == 0
    world.restart_gateway()  # durable, and whoever has said yes need not again
    assert proposed(world).undecided == ["bank"]
    digest = proposal_digest(record.proposal)
    world.approvals("bank").decide(record.proposal, digest, approved=True)
    world.service.decide("bank", pb.TrainerDecision(run_id=record.run_id, proposal_sha256=digest, approved=True))
    assert world.play().state == FINISHED
    assert world.runs.model().weights == undisturbed(SPECS["local"])
    by = {decision.party: decision.by_rule for decision in world.runs.all()[0].decisions}
    assert by == {"airline": True, "bank": False, "insurer": True}


def said(logged: Sequence[Mapping[str, Any]]) -> str:
    """Why the partners' own logs say that they refused; others hear the reason's code alone."""
    return "; ".join(entry["item"] for entry in logged if entry["event"] == "training_refused")


def test_gateway_that_claims_an_approval_gets_no_row(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["summed"], {}, {"bank": MANUAL})
    world.begin()
    record = proposed(world)
    digest = proposal_digest(record.proposal)
    world.service.decide("bank", pb.TrainerDecision(run_id=record.run_id, proposal_sha256=digest, approved=True))
    with capture_logs() as logged:
        record = world.play()
    assert (record.state, asked_for(world)) == (FAILED, 0)
    assert record.reason == "PROPOSAL_REFUSED: bank: NOT_APPROVED"
    assert "this partner approves by hand" in said(logged)
    with world.look_into("bank") as accountant:
        assert accountant.spent() == 0


def test_one_no_ends_a_proposal_and_a_person_outranks_the_rule(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {}, {"bank": MANUAL})
    world.begin()
    record = proposed(world)
    digest = proposal_digest(record.proposal)
    world.approvals("airline").decide(record.proposal, digest, approved=False)
    no = pb.TrainerDecision(run_id=record.run_id, proposal_sha256=digest, reason="not\x1b before the audit")
    world.service.decide("airline", no)
    record = world.play()
    assert (record.state, record.reason) == (FAILED, "PROPOSAL_REFUSED: airline: not before the audit")
    assert world.live().ended.is_set()
    with pytest.raises(TrainingError) as caught:
        world.service.decide("bank", pb.TrainerDecision(run_id=record.run_id, proposal_sha256=digest, approved=True))
    assert caught.value.reason == Reason.WRONG_STEP
    for _ in range(5):
        world.turn()
    assert world.approvals("bank").waiting() == []
    assert world.paid() == []


def test_word_on_another_proposal_or_of_a_stranger_does_not_count(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {}, {"bank": MANUAL})
    world.begin()
    record = proposed(world)
    with pytest.raises(DataError):
        world.service.decide("bank", pb.TrainerDecision(run_id=record.run_id, proposal_sha256="00", approved=True))
    digest = proposal_digest(record.proposal)
    for party, run_id in (("stranger", record.run_id), ("bank", "run-0")):
        with pytest.raises(TrainingError) as caught:
            world.service.decide(party, pb.TrainerDecision(run_id=run_id, proposal_sha256=digest, approved=True))
        assert caught.value.reason == Reason.UNKNOWN_RUN
    assert world.turn().undecided == ["bank"]


def test_proposal_waits_for_a_limited_time_and_names_whose_word_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {}, {"bank": MANUAL, "airline": MANUAL})
    world.begin()
    assert proposed(world).state == PROPOSED
    world.now_s += 7 * 86_400
    world.service.expire()
    record = world.turn()
    assert (record.state, record.reason) == (FAILED, "NOT_APPROVED: airline, bank")
    assert world.live().ended.is_set()


def test_few_proposals_wait_at_a_time_and_none_starts_by_itself_that_should_not(tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {})
    world.begin()
    made = [
        world.service.propose(MARKETING, pb.TrainingProposal(rounds=1), f"p{number}", autostart=False)
        for number in range(MAX_WAITING)
    ]
    again = world.service.propose(MARKETING, pb.TrainingProposal(rounds=1), "p0", autostart=False)
    assert again.run_id == made[0].run_id
    with pytest.raises(TrainingError) as caught:
        world.service.propose(MARKETING, pb.TrainingProposal(rounds=1), "one more", autostart=False)
    assert caught.value.reason == Reason.TOO_MANY_PROPOSALS
    world.service.stop_run(MARKETING, made[1].run_id, "")
    for _ in range(4 * MAX_WAITING):
        world.wait()
    record = world.runs.find(made[0].run_id)
    assert record is not None
    assert record.state == APPROVED
    with pytest.raises(TrainingError) as caught:
        world.service.start(make_caller("sales"), pb.TrainingProposal(), "", made[0].run_id)
    assert caught.value.reason == Reason.NOT_YOURS
    world.service.start(OPERATOR, pb.TrainingProposal(), "", made[0].run_id)
    world.service.work()
    record = world.runs.find(made[0].run_id)
    assert record is not None
    assert (record.state, record.caller) == (FINISHED, MARKETING)  # its recipient is who proposed it


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        (StandingRule(max_epsilon=1.0), "epsilon"),
        (StandingRule(models=("linear_discriminant",)), "model logistic_regression"),
        (StandingRule(features=("age",)), "features"),
    ],
)
def test_standing_rule_approves_within_its_bounds_alone(rule: StandingRule, word: str, tmp_path: Path) -> None:
    world = World(tmp_path, SPECS["local"], {}, {"insurer": Limits(automatic_within=rule)})
    world.begin()
    record = proposed(world)
    assert record.undecided == ["insurer"]
    digest = proposal_digest(record.proposal)
    world.service.decide("insurer", pb.TrainerDecision(run_id=record.run_id, proposal_sha256=digest, approved=True))
    with capture_logs() as logged:
        assert world.play().reason == "PROPOSAL_REFUSED: insurer: NOT_APPROVED"
    assert f"beyond the standing rule: {word}" in said(logged)


def test_time_left_is_told_and_shrinks(tmp_path: Path) -> None:
    world, told = World(tmp_path, SPECS["summed"], {}), list[float]()

    def look() -> None:
        world.now_s += 1
        live = world.live()
        if live.done and not live.ended.is_set():
            told.append(live.seconds_left)

    world.hook = look
    assert world.play().state == FINISHED
    assert told[0] > told[-1] > 0
    assert world.live().seconds_left == 0
