"""A partner's own word on proposed runs: what its limits forbid, what its rule approves, what waits for a person."""

from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from federation.client.config import Limits
from federation.client.training.agent import TrainingAgent
from federation.client.training.approvals import MAX_PENDING, Approvals
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import Reason
from federation.training.plan import proposal_digest
from federation.v1 import training_pb2 as pb
from tests.kits.agent import FEATURES, NOISE, Setup, message, proposal, propose
from tests.kits.training import NOW, FrameData, make_rows


@pytest.fixture
def setup() -> Setup:
    return Setup(open_database(None), FrameData(make_rows(2000, 1)), Limits())


def proposed(**changes: Any) -> pb.ExchangeMessagesResponse:
    asked = pb.ProposedRun(
        proposal=proposal(**changes), proposed_by="marketing", expires_at="2026-11-08T00:00:00+00:00"
    )
    return pb.ExchangeMessagesResponse(proposed=asked)


def word_on(agent: TrainingAgent, **changes: Any) -> pb.TrainerDecision | None:
    answer = agent.answer(proposed(**changes))
    return None if answer is None else answer.decision


def said_of(agent: Any, **changes: Any) -> str:
    """What the partner's own log says of a refusal; others hear its reason alone."""
    with capture_logs() as logged:
        answer = propose(agent, **changes)
    assert answer is not None
    assert answer.refusal.reason in Reason.__members__
    assert not answer.refusal.text
    return "; ".join(entry["item"] for entry in logged if entry["event"] == "training_refused")


def test_standing_rule_says_yes_to_the_very_proposal_and_looks_at_no_row(setup: Setup) -> None:
    agent = setup.restart()
    setup.data.frame = None  # type: ignore[assignment]
    word = word_on(agent)
    assert word is not None
    assert (word.run_id, word.approved, word.by_rule) == ("run-1", True, True)
    assert word.proposal_sha256 == proposal_digest(proposal())
    assert agent.accountant.spent() == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"features": [*FEATURES, "job"]}, "features job"),
        ({"model": "neural_oracle"}, "neural_oracle"),
        ({"noise_multiplier": 0.5 * NOISE}, "not true"),
        ({"partners": ["airline", "insurer"]}, "not in it"),
    ],
)
def test_what_the_limits_forbid_is_refused_at_once(setup: Setup, changes: dict[str, Any], text: str) -> None:
    with capture_logs() as logged:
        word = word_on(setup.restart(), **changes)
    assert word is not None
    assert not word.approved
    assert word.reason in Reason.__members__  # what the limits are is nobody else's business
    assert text in " ".join(entry["item"] for entry in logged if entry["event"] == "proposal_refused")


def test_by_hand_waits_on_disk_and_the_persons_word_is_told_when_asked_again(setup: Setup) -> None:
    setup.limits = Limits(training_approval="manual")
    agent = setup.restart()
    assert word_on(agent) is None
    assert "by hand" in said_of(agent)
    approvals = Approvals(setup.engine, FixedClock(NOW))
    [waiting] = approvals.waiting()
    assert (waiting.run_id, waiting.proposed_by, waiting.proposal) == ("run-1", "marketing", proposal())
    approvals.decide(waiting.proposal, proposal_digest(waiting.proposal), approved=True)
    word = word_on(setup.restart())
    assert word is not None
    assert (word.approved, word.by_rule) == (True, False)
    again = setup.restart()
    assert propose(again) is None
    assert "other content" in said_of(again, learning_rate=2.0)
    assert again.answer(message("a")).HasField("refusal")  # type: ignore[union-attr]
    assert again.accountant.spent() == 0


def test_persons_no_outranks_the_rule(setup: Setup) -> None:
    Approvals(setup.engine, FixedClock(NOW)).decide(proposal(), proposal_digest(proposal()), approved=False)
    agent = setup.restart()
    word = word_on(agent)
    assert word is not None
    assert not word.approved
    assert "refused by a person" in said_of(agent)


def test_persons_no_holds_in_the_middle_of_a_run(setup: Setup) -> None:
    agent = setup.restart()
    assert propose(agent) is None
    Approvals(setup.engine, FixedClock(NOW)).decide(proposal(), proposal_digest(proposal()), approved=False)
    with capture_logs() as logged:
        answer = agent.answer(message("a"))
    assert answer is not None
    assert not answer.refusal.text
    assert "refused by a person" in logged[-1]["item"]
    assert agent.accountant.spent() == 0


@pytest.mark.parametrize("expires_at", ["2999-01-01T00:00:00+00:00", "zzz", "", "2026-11-08T00:00:00"])
def test_gateway_cannot_have_a_proposal_wait_for_longer_than_a_week(setup: Setup, expires_at: str) -> None:
    setup.limits = Limits(training_approval="manual")
    asked = pb.ProposedRun(proposal=proposal(), proposed_by="marketing", expires_at=expires_at)
    answer = setup.restart().answer(pb.ExchangeMessagesResponse(proposed=asked))
    waiting = [each.expires_at for each in Approvals(setup.engine, FixedClock(NOW)).waiting()]
    if expires_at.startswith("2999"):
        assert (answer, waiting) == (None, ["2026-11-08T00:00:00+00:00"])
    else:
        assert answer is not None
        assert (answer.refusal.reason, waiting) == ("BAD_TIME", [])


def test_few_proposals_wait_for_a_person_and_old_ones_make_room(setup: Setup) -> None:
    setup.limits = Limits(training_approval="manual")
    agent = setup.restart()
    for number in range(MAX_PENDING):
        assert word_on(agent, run_id=f"run-{number}") is None
    answer = agent.answer(proposed(run_id="one-more"))
    assert answer is not None
    assert answer.refusal.reason == "TOO_MANY_PROPOSALS"
    week_after = Approvals(setup.engine, FixedClock(NOW + timedelta(days=8)))
    assert week_after.waiting() == []
    week_after.receive(pb.ProposedRun(proposal=proposal(run_id="later"), expires_at="2027-01-01T00:00:00+00:00"), "00")
    assert [waiting.run_id for waiting in week_after.waiting()] == ["later"]
