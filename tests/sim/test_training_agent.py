"""The agent alone: what it refuses, and that no message is trained twice for the price of one."""

from typing import Any

import pytest
from dp_accounting import DpEvent
from flwr.proto.message_pb2 import Message as ProtoMessage
from structlog.testing import capture_logs

from federation.client.config import Limits
from federation.client.training.approvals import Approvals
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import DataError, Reason, TrainingError
from federation.training import dpsgd
from federation.training.features import MARKETING_V1
from federation.training.flower import ConfigRecord, Message, RecordDict, become, pack, stamp, to_record, unpack
from federation.training.models import initial
from federation.training.plan import Plan
from federation.v1 import training_pb2 as pb
from tests.kits.agent import FEATURES, NOISE, Setup, message, proposal, propose
from tests.kits.training import NOW, FrameData, make_rows


@pytest.fixture
def setup() -> Setup:
    return Setup(open_database(None), FrameData(make_rows(2000, 1)), Limits())


def told(agent: Any, **changes: Any) -> tuple[pb.ExchangeMessagesRequest, str]:
    """The refusal of a proposal, which every party may read, and what the partner's own log says about it."""
    with capture_logs() as logged:
        answer = propose(agent, **changes)
    assert answer is not None
    assert answer.refusal == pb.TrainerRefusal(run_id=answer.refusal.run_id, reason=answer.refusal.reason)
    return answer, "; ".join(entry["item"] for entry in logged if entry["event"] == "training_refused")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"features": [*FEATURES, "job"]}, "job"),
        ({"label": "housing_loan"}, "housing_loan"),
        ({"partners": ["airline", "insurer"]}, "this partner is not in it"),
        ({"partners": ["airline", "bank", "stranger"]}, "partners stranger"),  # whoever the CA once knew
        ({"rounds": 11, "epsilon": 3.0}, "rounds"),
        ({"noise_multiplier": 0.5 * NOISE}, "not true"),
        ({"noise_multiplier": 0.995 * NOISE}, "not true"),  # costs 2.012 instead of 2
        ({"model": "neural_oracle"}, "neural_oracle"),
        ({"model": "perceptron"}, "model perceptron"),  # known, but not in this partner's policy
        ({"model": "linear_discriminant"}, "model"),  # has no steps to take under local noise
        ({"epsilon": 50.0}, "epsilon"),
        ({"delta": 1e-4, "noise_multiplier": 0.9 * NOISE}, "delta"),  # the same epsilon, and less noise
        ({"sampling_rate": 0.0}, "sampling_rate"),
    ],
)
def test_proposal_outside_its_own_limits_is_refused_in_words(setup: Setup, changes: dict[str, Any], word: str) -> None:
    agent = setup.restart()
    answer, said = told(agent, **changes)
    assert word in said
    assert answer.refusal.run_id == "run-1"
    assert agent.answer(message("a")).refusal.reason == "PROPOSAL_REFUSED"  # type: ignore[union-attr]
    assert agent.accountant.spent() == 0


def test_own_limits_are_stronger_than_the_alliance_policy(setup: Setup) -> None:
    setup.limits = Limits(features=("age",))
    assert "balance" in told(setup.restart())[1]
    setup.limits = Limits(max_epsilon_per_run=1.0)
    answer = propose(setup.restart())
    assert answer is not None
    assert answer.refusal.reason == "BUDGET_EXHAUSTED"


def test_nobody_else_learns_the_partners_limits_or_account(setup: Setup) -> None:
    """The gateway tells a partner's word to every party: why is for the partner's own log."""
    setup.limits = Limits(epsilon_per_customer=0.37)
    asked = pb.ExchangeMessagesResponse(proposed=pb.ProposedRun(proposal=proposal()))
    with capture_logs() as logged:
        answer = setup.restart().answer(asked)
    assert answer is not None
    assert (answer.decision.approved, answer.decision.reason) == (False, "BUDGET_EXHAUSTED")
    assert "0.37" in "".join(entry.get("item", "") for entry in logged)
    refusal, said = told(setup.restart())
    assert refusal.refusal.reason == "BUDGET_EXHAUSTED"
    assert "0.37" in said


def test_models_are_those_of_the_policy_and_of_the_own_limits(setup: Setup) -> None:
    setup.limits = Limits(models=("perceptron",))
    assert "model logistic_regression" in told(setup.restart())[1]


def test_run_that_would_not_fit_is_refused_before_a_row_is_touched(setup: Setup) -> None:
    setup.limits = Limits(epsilon_per_customer=1.5)
    agent = setup.restart()
    assert propose(agent) is None
    for number in range(3):
        assert agent.answer(message(f"m{number}")).HasField("reply")  # type: ignore[union-attr]
    spent = agent.accountant.spent()
    again = setup.restart()
    setup.data.frame = None  # type: ignore[assignment]
    answer = propose(again, run_id="run-2")
    assert answer is not None
    assert answer.refusal.reason == "BUDGET_EXHAUSTED"
    assert again.accountant.spent() == spent


def test_redelivered_message_gets_the_kept_reply_for_free(setup: Setup) -> None:
    agent = setup.restart()
    propose(agent)
    first = agent.answer(message("a"))
    spent = agent.accountant.spent()
    again = setup.restart()
    propose(again)
    assert again.answer(message("a")) == first
    assert again.accountant.spent() == spent


def test_round_lost_in_a_crash_is_paid_again_and_drawn_anew(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = setup.restart()
    propose(agent)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "train_round", killed)
        with pytest.raises(KeyboardInterrupt):
            agent.answer(message("a"))
    lost = agent.accountant.spent()
    assert lost > 0
    again = setup.restart()
    assert propose(again) is None
    assert again.answer(message("a")).HasField("reply")  # type: ignore[union-attr]
    assert again.accountant.spent() > lost


def test_more_rounds_than_approved_are_refused(setup: Setup) -> None:
    agent = setup.restart()
    propose(agent)
    answers = [agent.answer(message(f"m{number}")) for number in range(4)]
    assert [answer.WhichOneof("part") for answer in answers if answer] == ["reply"] * 3 + ["refusal"]


def test_two_processes_together_pay_for_no_more_rounds_than_approved(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [setup.restart(), setup.restart()]
    for agent in agents:
        propose(agent)
    first, second = (agent._bench for agent in agents)
    assert first is not None
    assert second is not None
    first.pay("m0")
    first.pay("m1")
    cost = Plan.round_event

    def meanwhile(plan: Plan) -> DpEvent:
        monkeypatch.setattr(Plan, "round_event", cost)
        second.pay("m2")  # the other process, between a look at the account and its entry
        return cost(plan)

    monkeypatch.setattr(Plan, "round_event", meanwhile)
    with pytest.raises(TrainingError, match="more rounds"):
        first.pay("m3")
    assert agents[0].accountant.charged("run-1") == {"m0", "m1", "m2"}


def test_run_keeps_its_first_proposal_and_is_over_when_it_ended(setup: Setup) -> None:
    agent = setup.restart()
    assert propose(agent) is None
    assert "another proposal" in told(agent, learning_rate=2.0)[1]
    assert propose(agent) is None
    agent.answer(message("a"))
    agent.answer(pb.ExchangeMessagesResponse(ended=pb.RunEnded(run_id="run-1")))
    spent = agent.accountant.spent()
    assert agent.answer(message("a")).HasField("refusal")  # type: ignore[union-attr]
    assert "ended" in told(setup.restart())[1]
    assert agent.accountant.spent() == spent


@pytest.mark.parametrize("wrong", ["run", "shape", "bytes"])
def test_message_that_does_not_fit_costs_nothing(setup: Setup, wrong: str) -> None:
    agent = setup.restart()
    propose(agent)
    garbage = pb.ExchangeMessagesResponse(message=pb.FlowerMessage(run_id="run-1", message=b"\xff" * 9))
    sent = {"run": message("a", run_id="run-2"), "shape": message("a", width=3), "bytes": garbage}[wrong]
    assert agent.answer(sent).HasField("refusal")  # type: ignore[union-attr]
    assert agent.accountant.spent() == 0


def test_withdrawn_customers_leave_before_the_next_round(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    train = dpsgd.train_round

    def watched(kind: str, weights: Any, rows: Any, **more: Any) -> Any:
        sizes.append(len(rows[1]))
        return train(kind, weights, rows, **more)

    monkeypatch.setattr(dpsgd, "train_round", watched)
    agent = setup.restart()
    propose(agent)
    agent.answer(message("a"))
    setup.data.left_out = set(setup.data.frame.index[:300])
    agent.answer(message("b"))
    assert sizes == [2000, 1700]


def test_failure_inside_tells_the_gateway_nothing_of_the_data(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    agent = setup.restart()
    propose(agent)
    setup.data.frame = setup.data.frame.drop(columns="age")
    answer = agent.answer(message("a"))
    assert answer is not None
    assert answer.refusal.reason == "MISSING_COLUMN"

    def broken() -> None:
        raise ValueError("could not convert 'Jane Doe' to a number")

    setup.data.customers = broken  # type: ignore[assignment,method-assign]
    answer = agent.answer(message("b"))
    assert answer is not None
    assert answer.refusal.reason == "INTERNAL"
    assert "Jane" not in str(answer) + capsys.readouterr().out

    def torn() -> None:
        raise DataError(Reason.BROKEN_ROW, item="customers.csv, row 48213: 3 fields, expected 9")

    setup.data.customers = torn  # type: ignore[assignment,method-assign]
    answer = agent.answer(message("c"))
    assert answer is not None
    assert answer.refusal.reason == "BROKEN_ROW"
    assert "48213" not in str(answer)
    assert "48213" in capsys.readouterr().out


def test_too_few_customers_refuse_by_the_noisy_size(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.data.frame = make_rows(3, 1)
    agent = setup.restart(lambda count: b"\x80" * count)  # no noise to speak of
    propose(agent)
    answer = agent.answer(message("a"))
    assert answer is not None
    assert (answer.refusal.reason, answer.refusal.text) == ("PROPOSAL_REFUSED", "")
    assert "too few customers" in capsys.readouterr().out


def test_reply_names_no_size(setup: Setup) -> None:
    agent = setup.restart()
    propose(agent)
    answer = agent.answer(message("a"))
    assert answer is not None
    assert list(unpack(answer.reply.message, item="test").content) == ["update"]


def test_paused_partner_answers_nothing_but_that(setup: Setup) -> None:
    agent = setup.restart()
    assert propose(agent) is None
    approvals = Approvals(setup.engine, FixedClock(NOW))
    approvals.pause("run-1", paused=True)
    for told in (message("a"), pb.ExchangeMessagesResponse(proposal=proposal())):
        answer = agent.answer(told)
        assert answer is not None
        assert answer.paused.run_id == "run-1"
    assert agent.accountant.spent() == 0
    approvals.pause("run-1", paused=False)
    assert agent.answer(message("a")).HasField("reply")  # type: ignore[union-attr]


def test_message_cannot_ask_for_other_columns_or_carry_code(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    train = dpsgd.train_round

    def watched(kind: str, weights: Any, rows: Any, **more: Any) -> Any:
        widths.append(rows[0].shape[1])
        return train(kind, weights, rows, **more)

    monkeypatch.setattr(dpsgd, "train_round", watched)
    agent = setup.restart()
    propose(agent)
    become(1)
    wishes = ConfigRecord({"round": 1, "features": ["job"], "noise_multiplier": 0.0, "code": b"import os"})
    weights = initial("logistic_regression", MARKETING_V1.width(FEATURES))
    wire = Message(
        RecordDict({"arrays": to_record(weights), "config": wishes}), dst_node_id=2, message_type="train", group_id="1"
    )
    stamp(wire, "a")
    answer = agent.answer(pb.ExchangeMessagesResponse(message=pb.FlowerMessage(run_id="run-1", message=pack(wire))))
    assert answer is not None
    assert answer.HasField("reply")
    assert widths == [MARKETING_V1.width(FEATURES)]  # what was approved, whatever the message says


@pytest.mark.parametrize("kind", ["evaluate", "query", "query.run", "query.keys", "system"])
def test_message_that_asks_for_another_kind_of_work_costs_nothing(setup: Setup, kind: str) -> None:
    agent = setup.restart()
    propose(agent)
    sent = message("a")
    wire = ProtoMessage.FromString(sent.message.message)
    wire.metadata.message_type = kind
    sent.message.message = wire.SerializeToString()
    answer = agent.answer(sent)
    assert answer is not None
    assert answer.HasField("refusal")
    assert agent.accountant.spent() == 0
