"""``entente train audit``: what it asks of the gateway, what it prints, and how it ends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from federation.cli import train_audit
from federation.cli.train import app
from federation.client.config import Limits, PartnerConfig
from federation.core.canonical import canonical_json
from federation.core.clock import FixedClock, to_text
from federation.core.database import open_database
from federation.core.identity import Role
from federation.training.audit.findings import account_of
from federation.training.models import LOGISTIC_REGRESSION, initial, save_weights, weights_digest
from federation.training.plan import read_plan
from federation.training.signed_card import sign_card
from federation.v1 import training_pb2 as pb
from gateway.training.proposals import TrainingRules, complete
from tests.kits.training import ALLIANCE, DELTA, NOW, PARTNERS, SUMMED, FrameData, identity_of, make_rows

runner = CliRunner()


class Stub:
    """The gateway's answers about runs; the claim of the finished one is divided by ``understated``."""

    def __init__(self, understated: float = 1.0, weights: dict[str, Any] | None = None) -> None:
        proposal = complete(pb.TrainingProposal(), TrainingRules(SUMMED, DELTA, PARTNERS), frozenset(PARTNERS))
        self.runs = []
        for run_id, state, at in (
            ("old", pb.RUN_STATE_FINISHED, "2026-01-01"),
            ("new", pb.RUN_STATE_FINISHED, "2026-02-01"),
            ("next", pb.RUN_STATE_PROPOSED, ""),
        ):
            own = pb.TrainingProposal()
            own.CopyFrom(proposal)
            own.run_id = run_id
            self.runs.append(pb.RunInfo(run_id=run_id, state=state, ended_at=at, proposal=own))
        self.plan = read_plan(self.runs[0].proposal)
        spent = account_of(self.plan, self.plan.rounds)
        tight = {"person": spent.person / understated, "customer": spent.customer / understated}
        card = {f"tight_epsilon_per_{unit}": epsilon for unit, epsilon in tight.items()}
        card |= {f"epsilon_per_{unit}": 1.1 * epsilon for unit, epsilon in tight.items()}
        about = {"model": self.plan.kind, "feature_schema": self.plan.schema.version, "alliance": ALLIANCE}
        more = {"features": list(self.plan.features), "trained_at": to_text(NOW)}
        self.card = {**card, **about, **more, "delta": DELTA, "attempts": self.plan.rounds}
        self.weights = save_weights(weights or initial(self.plan.kind, self.plan.width))
        self.signer = identity_of("gateway", Role.GATEWAY)
        self.asked: list[str] = []

    def ListRuns(self, request: pb.ListRunsRequest, timeout: float) -> pb.ListRunsResponse:
        self.asked.append("ListRuns")
        return pb.ListRunsResponse(runs=self.runs)

    def GetModel(self, request: pb.GetModelRequest, timeout: float) -> pb.GetModelResponse:
        self.asked.append(f"GetModel {request.run_id}")
        card = canonical_json({**self.card, "run_id": request.run_id, "weights_sha256": weights_digest(self.weights)})
        return pb.GetModelResponse(
            run_id=request.run_id, weights=self.weights, signed_card=sign_card(card.decode(), self.signer)
        )


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def run(stub: Stub, *arguments: str, data: FrameData | None = None) -> Any:
        connection = SimpleNamespace(training=stub, wait_ready=lambda _: None)
        place = SimpleNamespace(
            connection=connection,
            data=data,
            config=PartnerConfig(party="bank", gateway="127.0.0.1:1", limits=Limits()),
            engine=open_database(tmp_path / "partner.db"),
            clock=FixedClock(NOW),
            identity=identity_of("bank"),
            policy=SimpleNamespace(region_of={}),
        )

        @contextmanager
        def connect(config: Path) -> Iterator[Any]:
            yield connection

        @contextmanager
        def workplace(config: Path) -> Iterator[Any]:
            yield place

        monkeypatch.setattr(train_audit, "connect", connect)
        monkeypatch.setattr(train_audit, "workplace", workplace)
        monkeypatch.setattr(train_audit, "_ca", lambda config: identity_of("bank").ca)
        return runner.invoke(app, ["audit", *arguments, "--config", str(tmp_path)])

    return run


def test_newest_finished_run_is_audited_and_nothing_but_its_card_is_asked(call: Any, tmp_path: Path) -> None:
    stub, plot = Stub(), tmp_path / "audit.svg"
    done = call(stub, "--json", "--confidence", "0.9999", "--canary-rows", "20", "--plot", str(plot))
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert (shown["run_id"], shown["holds"]) == ("new", True)
    assert stub.asked == ["ListRuns", "GetModel new"]
    assert shown["claimed"]["person"] == stub.card["tight_epsilon_per_person"]
    assert "<svg" in plot.read_text()


def test_claim_that_is_too_small_ends_in_exit_code_one(call: Any) -> None:
    done = call(Stub(understated=4), "old", "--canary-rows", "20")
    assert done.exit_code == 1
    assert "The claim does not stand." in " ".join(done.output.split())
    assert "more than claimed" in " ".join(done.output.split())


def test_proposal_is_audited_before_it_is_approved_by_its_own_account(call: Any) -> None:
    stub = Stub(understated=4)
    done = call(stub, "next", "--json", "--confidence", "0.9999", "--canary-rows", "20")
    assert json.loads(done.output)["holds"]
    assert stub.asked == ["ListRuns"]


def test_unknown_run_is_named(call: Any) -> None:
    done = call(Stub(), "nobody")
    assert "UNKNOWN_RUN" in str(done.exception)


def test_claim_counts_only_under_the_gateways_signature(call: Any) -> None:
    stub = Stub()
    stub.signer = identity_of("bank")
    assert "ROLE_NOT_ALLOWED" in str(call(stub).exception)


def test_run_without_a_model_has_no_members_yet(call: Any) -> None:
    assert "has no model yet" in str(call(Stub(), "next", "--membership", data=FrameData(make_rows(10, 1))).exception)


def test_own_rows_are_dealt_to_as_many_partners(call: Any) -> None:
    data = FrameData(make_rows(9000, 1))
    done = call(Stub(), "new", "--own-rows", "--json", "--confidence", "0.9999", "--canary-rows", "20", data=data)
    assert json.loads(done.output)["holds"], done.output
    assert data.asked


def member_world(memory: float) -> tuple[Stub, FrameData]:
    """A model that gives every tenth customer's own label away, or knows nothing, and who was trained on."""
    stub = Stub()
    frame = make_rows(6000, 1)
    left_out = set(frame.index[3000:])
    weights = {
        "weight": np.zeros((1, stub.plan.width), dtype=np.float32),
        "bias": np.zeros(1, dtype=np.float32),
    }
    if memory:
        # Members have a mark that others lack, and the model trusts it: as good as knowing them by name.
        frame.loc[frame.index[:3000], "housing"] = frame["accepted_offer"][:3000]
        frame.loc[frame.index[3000:], "housing"] = 1 - frame["accepted_offer"][3000:]
        columns = stub.plan.schema.columns(stub.plan.features)
        weights["weight"][0, columns.index("housing=yes")] = memory
        weights["weight"][0, columns.index("housing=no")] = -memory
    stub.weights = save_weights(weights)
    assert stub.plan.kind == LOGISTIC_REGRESSION
    return stub, FrameData(frame, left_out)


def test_model_that_knows_nothing_tells_no_members(call: Any) -> None:
    stub, data = member_world(0.0)
    done = call(stub, "--membership", "--json", data=data)
    shown = json.loads(done.output)
    assert (done.exit_code, shown["holds"], shown["auc"][0]) == (0, True, 0.5)
    assert (shown["members"], shown["others"]) == (3000, 3000)


def test_model_that_knows_its_members_is_found_out(call: Any) -> None:
    stub, data = member_world(10.0)
    stub.card = {**stub.card, "tight_epsilon_per_person": 0.5}
    done = call(stub, "--membership", "--json", data=data)
    shown = json.loads(done.output)
    assert (done.exit_code, shown["holds"], shown["auc"][0]) == (1, False, 1.0)
    assert shown["epsilon_at_least"] > 0.5
    assert "epsilon 0.500" in call(stub, "--membership", data=data).output


def test_others_may_come_from_a_file(call: Any, tmp_path: Path) -> None:
    stub, data = member_world(0.0)
    file = tmp_path / "public.csv"
    pd.DataFrame(make_rows(500, 2)).to_csv(file, index=False)
    data.left_out.clear()
    done = call(stub, "--membership", "--held-out", str(file), "--json", data=data)
    assert json.loads(done.output)["others"] == 500
    assert "every customer may be in training" in str(call(stub, "--membership", data=data).exception)


def test_picture_of_another_kind_is_refused_before_anything_is_asked(call: Any) -> None:
    stub = Stub()
    done = call(stub, "--plot", "audit.pdf")
    assert done.exit_code != 0
    assert not stub.asked
