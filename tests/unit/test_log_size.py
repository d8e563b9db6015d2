"""How large the audit log is, is told to nobody who may not read it: it grows by what is decided about offers."""

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from federation.cli.models import _entry
from federation.cli.policy_versions import _index
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.identity import Role
from federation.policy.steps import Kind
from federation.v1 import models_pb2, policy_pb2
from gateway.identity.caller import set_caller
from gateway.identity.roles import READS_LOG, ROLES
from gateway.policy.steps_sql import Step as PolicyStep
from gateway.rpc.models import ModelServicer
from gateway.rpc.policy import PolicyServicer
from gateway.training.runs import Finished
from gateway.training.versions import SqlStepStore, Versions
from tests.conftest import NOW
from tests.kits.services import FILES
from tests.kits.training import make_caller

OTHERS = frozenset(Role) - READS_LOG - {Role.GATEWAY}
CARD = json.dumps({"model": "m", "weights_sha256": "w", "epsilon_per_person": 1.0, "metrics": None})
LONG = 4_711
"""Entries that the log holds before ours."""


class Log:
    def __init__(self) -> None:
        self.size = LONG

    def append(self, kind: str, body: Any) -> int:
        self.size += 1
        return self.size - 1


def model_steps(role: Role) -> list[models_pb2.ModelStep]:
    runs: Any = SimpleNamespace(models=lambda: [Finished(1, "run-1", "t", CARD)])
    log: Any = Log()
    versions = Versions(runs=runs, steps=SqlStepStore(open_database(None)), audit=log, clock=FixedClock(NOW))
    servicer: Any = ModelServicer(versions, runs, None)  # type: ignore[arg-type]
    set_caller(make_caller(str(role), role))
    return list(asyncio.run(servicer.ListModels(models_pb2.ListModelsRequest(), None)).steps)


def policy_steps(role: Role) -> list[policy_pb2.PolicyStep]:
    names = "proposal", "version", "base", "party", "words", "at", "effective_at", "done"
    words: Any = dict.fromkeys(names, "") | {"kind": Kind.VETO, "signed": b""}
    steps = [PolicyStep(number=number, audit_index=index, **words) for number, index in ((1, LONG), (2, None))]
    proposals: Any = SimpleNamespace(proposals=list, history=lambda: steps)
    servicer: Any = PolicyServicer(SimpleNamespace(refresh=lambda: None), proposals)  # type: ignore[arg-type]
    set_caller(make_caller(str(role), role))
    return list(asyncio.run(servicer.ListPolicySteps(policy_pb2.ListPolicyStepsRequest(), None)).steps)


@pytest.fixture(autouse=True)
def _nobody_after() -> Iterator[None]:
    yield
    set_caller(None)


@pytest.mark.parametrize("role", sorted(OTHERS))
def test_a_role_that_may_not_read_the_log_is_told_no_index_of_it(role: Role) -> None:
    (model,) = model_steps(role)
    assert (model.kind, model.HasField("audit_index"), _entry(model)) == ("first", False, {"audit_index": None})
    logged, waiting = policy_steps(role)
    assert (logged.HasField("audit_entry"), _index(logged)) == (False, None)
    assert _index(waiting) == -1  # that a step is without effect yet says nothing of the log's size


@pytest.mark.parametrize("role", sorted(READS_LOG))
def test_a_reader_of_the_log_is_told_where_a_step_is_in_it(role: Role) -> None:
    (model,) = model_steps(role)
    assert _entry(model) == {"audit_index": LONG}
    assert [_index(step) for step in policy_steps(role)] == [LONG, -1]


def _fields(message: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[FieldDescriptor]:
    if message.full_name in seen:
        return
    for field in message.fields:
        yield field
        if field.message_type is not None:
            yield from _fields(field.message_type, seen | {message.full_name})


def test_no_other_answer_has_a_field_for_it() -> None:
    found = set()
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if ROLES[f"{service.name}/{method.name}"] <= READS_LOG:
                    continue
                names = {field.name for field in _fields(method.output_type)}
                found |= {(method.name, name) for name in names if "audit" in name or "tree" in name}
    assert found == {("ListModels", "audit_index"), ("ListPolicySteps", "audit_entry")}  # tested above
