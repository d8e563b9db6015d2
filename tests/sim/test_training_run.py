"""Runs from end to end over real gRPC: three agents, one gateway, small rows."""

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest

from federation.core.identity import Role
from federation.training.features import MARKETING_V1
from federation.training.flower import unpack
from federation.training.models import LOGISTIC_REGRESSION, load_weights, weights_digest
from federation.v1 import training_pb2 as pb
from gateway.training.hub import Hub
from tests.kits.training import PARTNERS, SPEC, alliance, follow, make_rows, wait_for


@pytest.fixture
def evaluation_csv(tmp_path: Path) -> Path:
    path = tmp_path / "test.csv"
    make_rows(3000, 99).to_csv(path, index=False)
    return path


def test_three_partners_train_a_model_that_has_learned(evaluation_csv: Path) -> None:
    with alliance(evaluation_csv=evaluation_csv) as (gateway, partners):
        told = follow(gateway)
        assert told[-1].state == pb.RUN_STATE_FINISHED
        assert [t.progress.done for t in told] == sorted(t.progress.done for t in told)
        assert told[-1].progress.done == told[-1].progress.total == SPEC.rounds
        answer = gateway.stub("bank", Role.PARTNER).GetModel(pb.GetModelRequest())
        card = json.loads(answer.card_json)
        weights = load_weights(answer.weights, LOGISTIC_REGRESSION, MARKETING_V1.width(SPEC.features))
        assert card["weights_sha256"] == weights_digest(answer.weights)
        assert card["metrics"]["auc"] > 0.6
        assert set(weights) == {"weight", "bias"}
        # what it cost: within the promise for one partner, more for a person who is everywhere
        assert card["epsilon_per_customer"] < card["epsilon_per_person"] <= 2.0
        for partner in partners.values():
            assert partner.agent.accountant.spent() == pytest.approx(card["epsilon_per_customer"], abs=1e-4)
            assert set(partner.data.asked) == {("model_training", "model_update", "gateway")}
        # the ledger was told before the audit intent, and the audit has every step, intent and outcome
        assert len(gateway.gates.events) == 1
        kinds = ["training_proposed", *["training_decision"] * 3, "intent", "outcome", "model_use", "intent", "outcome"]
        assert [kind for kind, _ in gateway.gates.log] == kinds
        # asked when it was proposed, and again when it began
        assert [facts.origin for facts in gateway.gates.asked[:6]] == [*PARTNERS, *PARTNERS]
        # a partner that fetches the model needs no permit for its own part
        assert {facts.origin for facts in gateway.gates.asked[6:]} == {"airline", "insurer"}


def test_same_key_follows_the_same_run_and_other_content_is_refused() -> None:
    with alliance() as (gateway, _):
        first, again = follow(gateway, key="k1"), follow(gateway, key="k1")
        assert first[-1].run_id == again[-1].run_id
        assert again[-1].state == pb.RUN_STATE_FINISHED
        assert len(gateway.gates.events) == 1
        with pytest.raises(grpc.RpcError) as caught:
            follow(gateway, key="k1", rounds=2)
        assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS


def test_caller_may_leave_and_the_run_goes_on() -> None:
    with alliance() as (gateway, _):
        request = pb.StartRunRequest(idempotency_key="k1")
        call = gateway.stub().StartRun(request)
        next(call)
        call.cancel()
        assert follow(gateway, key="k1")[-1].state == pb.RUN_STATE_FINISHED


def test_partner_that_crashes_in_mid_run_comes_back_and_is_charged_truly() -> None:
    with alliance(spec=SPEC.model_copy(update={"rounds": 8})) as (gateway, partners):
        call = gateway.stub().StartRun(pb.StartRunRequest(idempotency_key="k1"))
        for told in call:
            if told.progress.done >= 1:
                break
        partners["bank"].crash()
        partners["bank"].begin()
        assert follow(gateway, key="k1")[-1].state == pb.RUN_STATE_FINISHED
        accountant = partners["bank"].agent.accountant
        assert len(accountant.charged(gateway.runs.all()[0].run_id)) == 8 + 1  # rounds and the noisy size
        # nobody is charged less than the run, and a round lost in the crash is charged on top
        assert accountant.spent() >= partners["airline"].agent.accountant.spent() - 1e-9


def test_partner_that_stays_away_fails_the_run_and_is_named() -> None:
    with alliance(spec=SPEC.model_copy(update={"rounds": 8}), reconnect_timeout_s=0.3) as (gateway, partners):
        call = gateway.stub().StartRun(pb.StartRunRequest())
        assert any(told.progress.done for told in call)
        partners["insurer"].crash()
        last = list(call)[-1]
        assert last.state == pb.RUN_STATE_FAILED
        assert "PARTNER_UNAVAILABLE: insurer" in last.reason
        assert gateway.gates.log[-1][0] == "failed"
        assert gateway.stub().ListRuns(pb.ListRunsRequest()).runs[0].state == pb.RUN_STATE_FAILED


def test_missing_partner_is_named_before_anything_is_spent() -> None:
    with alliance() as (gateway, partners):
        partners["bank"].crash()
        wait_for(lambda: "bank" not in gateway.hub.connected())
        with pytest.raises(grpc.RpcError) as caught:
            follow(gateway, partners=PARTNERS)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "bank" in caught.value.details()
        assert gateway.gates.events == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda frame: frame.drop(columns="accepted_offer"), "column accepted_offer"),
        (lambda frame: frame.drop(columns="balance"), "column balance"),
        (lambda frame: frame.assign(accepted_offer=0), "labels are all the same"),
    ],
)
def test_public_rows_that_cannot_judge_the_model_are_found_out_before_anything_is_spent(
    evaluation_csv: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame], word: str
) -> None:
    spoil(pd.read_csv(evaluation_csv)).to_csv(evaluation_csv, index=False)
    with alliance(evaluation_csv=evaluation_csv) as (gateway, partners):
        with pytest.raises(grpc.RpcError) as caught:
            follow(gateway)
        assert word in caught.value.details()
        assert gateway.gates.events == []
        assert all(partner.agent.accountant.spent() == 0 for partner in partners.values())


@pytest.mark.parametrize("gate", ["permit", "budget_left"])
def test_gate_that_says_no_stops_the_run_before_any_partner_hears_of_it(gate: str) -> None:
    with alliance() as (gateway, partners):
        setattr(gateway.gates, gate, False)
        with pytest.raises(grpc.RpcError) as caught:
            follow(gateway)
        code = {"permit": grpc.StatusCode.PERMISSION_DENIED, "budget_left": grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert caught.value.code() == code[gate]
        assert all(partner.agent.accountant.spent() == 0 for partner in partners.values())
        assert gateway.runs.all() == []


def test_withdrawal_holds_from_the_next_run_on() -> None:
    with alliance() as (gateway, partners):
        data = partners["bank"].data
        data.left_out = set(data.frame.index)
        last = follow(gateway)[-1]
        assert last.state == pb.RUN_STATE_FAILED
        assert "bank" in last.reason
        assert "POLICY_DENIED" in last.reason
        assert partners["bank"].agent.accountant.spent() == 0


def test_reply_carries_one_noisy_update_and_no_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    deliver = Hub.deliver

    def tap(self: Hub, party: str, wire: pb.FlowerMessage) -> None:
        taken.append(wire.message)
        deliver(self, party, wire)

    monkeypatch.setattr(Hub, "deliver", tap)
    with alliance() as (gateway, _):
        assert follow(gateway)[-1].state == pb.RUN_STATE_FINISHED
    assert len(taken) == len(PARTNERS) * SPEC.rounds
    for data in taken:
        content = unpack(data, item="tap").content
        assert list(content) == ["update"]
        assert set(content["update"]) == {"weight", "bias"}
        assert all(np.abs(array.numpy()).min() > 0 for array in content["update"].values())  # noise in every place
