"""The version in force, and the service that shows it."""

import asyncio
import json
from datetime import timedelta

import pytest

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import DataError, IdentityError, PolicyError, Reason
from federation.core.identity import Role
from federation.core.ids import PartyId, PolicyVersion
from federation.v1 import policy_pb2
from gateway.identity.caller import Caller, set_caller
from gateway.policy.active import ActivePolicy
from gateway.policy.versions import SqlVersions
from gateway.rpc.policy import MAX_FACTS_CHARS, PolicyServicer
from tests.policy_kit import AT, cases, files, shipped

STRICTER = {"budget": ("epsilon: 8.0", "epsilon: 7.0")}


def write(folder, **changed):
    folder.mkdir(exist_ok=True)
    for name, text in files(**changed).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def versions():
    engine = open_database(None)
    yield SqlVersions(engine)
    engine.dispose()


def test_reload_puts_a_good_folder_in_force(tmp_path, versions):
    clock = FixedClock(AT)
    gate = ActivePolicy(write(tmp_path / "p"), clock, versions)
    first = gate.active
    clock.at += timedelta(days=1)
    write(tmp_path / "p", **STRICTER)
    assert gate.active is first  # nothing is taken before reload
    assert gate.reload() is gate.active
    assert gate.active.budget.epsilon == 7.0
    assert gate.active_since == AT + timedelta(days=1)
    assert gate.decide(cases().__next__()[2]).version == gate.active.version


@pytest.mark.parametrize(
    "change",
    [{"budget": ("epsilon: 8.0", "epsilon: eight")}, {"agreement": ("alliance: skyline", "alliance: other")}],
)
def test_a_bad_file_never_replaces_a_good_one(tmp_path, versions, change):
    gate = ActivePolicy(write(tmp_path / "p"), FixedClock(AT), versions)
    first = gate.active
    write(tmp_path / "p", **change)
    with pytest.raises(PolicyError):
        gate.reload()
    assert gate.active is first
    assert [activation.version for activation in versions.history()] == [first.version]


def test_a_restart_with_a_bad_file_keeps_the_version_in_force(tmp_path, versions):
    folder = write(tmp_path / "p")
    version = ActivePolicy(folder, FixedClock(AT), versions).active.version
    (folder / "rules.yaml").unlink()
    again = ActivePolicy(folder, FixedClock(AT + timedelta(days=1)), versions)
    assert (again.active.version, again.active_since) == (version, AT)


def test_a_first_start_with_a_bad_file_fails(tmp_path, versions):
    (write(tmp_path / "p") / "rules.yaml").unlink()
    with pytest.raises(PolicyError):
        ActivePolicy(tmp_path / "p", FixedClock(AT), versions)
    assert versions.latest() is None


def test_old_decisions_replay_identically(tmp_path, versions):
    gate = ActivePolicy(write(tmp_path / "p"), FixedClock(AT), versions)
    before = [gate.decide(facts) for _, _, facts in cases()]
    write(tmp_path / "p", consent=("consent: {status: given, at: recipient}", "legal_basis: [eu-gdpr:A6-1-f]"))
    gate.reload()
    assert [gate.decide(facts) for _, _, facts in cases()] != before
    old = gate.at_version(before[0].version)
    assert [old.decide(facts) for _, _, facts in cases()] == before


def test_a_version_that_never_was_or_was_changed_is_refused(versions):
    gate = ActivePolicy(shipped(), FixedClock(AT), versions)
    with pytest.raises(PolicyError):
        gate.at_version(PolicyVersion("0" * 64))
    forged = PolicyVersion("f" * 64)
    versions.activate(forged, files(), AT)
    with pytest.raises(PolicyError):
        gate.at_version(forged)


@pytest.fixture
def servicer(versions):
    set_caller(Caller(PartyId("compliance"), Role.COMPLIANCE, "01", AT, AT + timedelta(days=1)))
    yield PolicyServicer(ActivePolicy(shipped(), FixedClock(AT), versions))
    set_caller(None)


def explain(servicer, text):
    return asyncio.run(servicer.ExplainRequest(policy_pb2.ExplainRequestRequest(facts_json=text), None))


def test_the_service_shows_the_version_in_force(servicer):
    answer = asyncio.run(servicer.GetPolicy(policy_pb2.GetPolicyRequest(), None))
    assert answer.version == shipped().version
    assert answer.active_since == AT.isoformat()
    assert {file.name: file.yaml for file in answer.files} == dict(shipped().files)


def test_the_service_explains_what_the_engine_decides(servicer):
    for _, _, facts in cases():
        decision = shipped().decide(facts)
        answer = explain(servicer, json.dumps(facts.to_json()))
        assert answer.permitted is decision.permitted
        assert [reason.code for reason in answer.reasons] == [given.code for given in decision.reasons]
        assert json.loads(answer.obligations_json)["mask"] == dict(decision.obligations.mask)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", Reason.BAD_FIELD),
        ("[" * 10_000, Reason.BAD_FIELD),
        ('{"purpose": 1' + "0" * 9000 + "}", Reason.BAD_FIELD),
        ('{"customer": "x"}', Reason.BAD_FIELD),
        ('{"purpose": "\\ud800"}', Reason.BAD_FIELD),
        ("x" * (MAX_FACTS_CHARS + 1), Reason.TOO_LARGE),
    ],
)
def test_bad_facts_are_refused(servicer, text, reason):
    with pytest.raises(DataError) as caught:
        explain(servicer, text)
    assert caught.value.reason == reason


def test_no_caller_no_answer(servicer):
    set_caller(None)
    with pytest.raises(IdentityError):
        explain(servicer, "{}")
