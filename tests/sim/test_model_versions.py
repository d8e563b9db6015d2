"""Two finished runs: which version partners get, who may decide, back to the one before, both on the same rows."""

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.models import ModelShelf
from federation.core.identity import Role
from federation.v1 import models_pb2
from federation.v1 import training_pb2 as pb
from federation.v1.models_pb2_grpc import ModelServiceStub
from tests.kits.training import Gateway, alliance, follow, identity_of, make_rows, make_versions


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway with two finished models, and nothing decided by a person."""
    path = tmp_path_factory.mktemp("versions") / "test.csv"
    make_rows(2_000, 99).to_csv(path, index=False)
    with alliance(evaluation_csv=path) as (gateway, _):
        for key in ("one", "two"):
            assert follow(gateway, key)[-1].state == pb.RUN_STATE_FINISHED
        yield gateway


def models(gateway: Gateway, party: str = "marketing", role: Role = Role.MARKETING) -> Any:
    return gateway.stub(party, role, ModelServiceStub)


def listed(gateway: Gateway) -> models_pb2.ListModelsResponse:
    answer: models_pb2.ListModelsResponse = models(gateway, "auditor", Role.AUDITOR).ListModels(
        models_pb2.ListModelsRequest()
    )
    return answer


def test_versions_are_decided_audited_and_picked_up_by_partners(gateway: Gateway, tmp_path: Path) -> None:
    before = listed(gateway)
    assert [(model.version, model.in_use) for model in before.models] == [(2, False), (1, True)]
    assert all(0.5 < model.auc < 1 and model.epsilon_per_person > 0 for model in before.models)
    bank = "bank", Role.PARTNER
    shelf = ModelShelf(gateway.stub(*bank), models(gateway, *bank), identity_of("bank"), tmp_path)
    assert shelf.in_use().run_id == before.models[1].run_id
    newest = gateway.stub().GetModel(pb.GetModelRequest())
    used = gateway.stub().GetModel(pb.GetModelRequest(in_use=True))
    assert (newest.version, used.version) == (2, 1)

    models(gateway).UseModel(models_pb2.UseModelRequest(version=2, reason="newer customers"))
    assert shelf.in_use().run_id == before.models[0].run_id
    assert make_versions_again(gateway) == 2
    back = models_pb2.RollBackModelRequest(from_version=2, reason="calibration is off")
    models(gateway, "compliance", Role.COMPLIANCE).RollBackModel(back)
    assert shelf.in_use().run_id == before.models[1].run_id
    assert [(step.kind, step.version, step.party) for step in listed(gateway).steps] == [
        ("first", 1, "gateway"),
        ("use", 2, "marketing"),
        ("rollback", 1, "compliance"),
    ]
    logged = [body for kind, body in gateway.gates.log if kind == "model_use"]
    assert [(body["step"], body["version"], body["caller"]) for body in logged] == [
        ("first", 1, "gateway"),
        ("use", 2, "marketing"),
        ("rollback", 1, "compliance"),
    ]
    with pytest.raises(grpc.RpcError) as caught:
        models(gateway, "compliance", Role.COMPLIANCE).RollBackModel(back)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def make_versions_again(gateway: Gateway) -> int:
    """The version in use for a gateway that was restarted on the same files."""
    return make_versions(gateway.engine, gateway.gates).in_use()


def test_two_versions_on_the_same_public_rows(gateway: Gateway) -> None:
    compare = models(gateway).CompareModels
    found = compare(models_pb2.CompareModelsRequest(first=1, second=2))
    assert found.rows == 2_000
    assert found.difference.value == pytest.approx(found.second.value - found.first.value)
    assert found.difference.low <= found.difference.value <= found.difference.high
    again = compare(models_pb2.CompareModelsRequest(first=2, second=2))
    assert (again.difference.value, again.p_value) == (0, 1)
    with pytest.raises(grpc.RpcError) as caught:
        compare(models_pb2.CompareModelsRequest(first=1, second=3))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_two_people_who_decide_at_once_make_two_decisions_in_order(gateway: Gateway) -> None:
    steps = len(listed(gateway).steps)
    calls = [
        threading.Thread(
            target=models(gateway).UseModel, args=(models_pb2.UseModelRequest(version=version),), daemon=True
        )
        for version in (2, 1, 2, 1)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join(10)
    after = listed(gateway)
    assert [step.audit_index for step in after.steps] == sorted(step.audit_index for step in after.steps)
    assert len(after.steps) > steps
    assert [model.version for model in after.models if model.in_use] == [after.steps[-1].version]
