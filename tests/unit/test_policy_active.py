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
from gateway.policy.active import STALE_S, ActivePolicy
from gateway.policy.proposals import Proposals
from gateway.policy.versions import SqlVersions
from gateway.rpc.policy import MAX_FACTS_CHARS, PolicyServicer
from tests.kits.policy import AT, cases, files, shipped
from tests.kits.proposal import AUTHORITY, STRICTER, Log, changed


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


def change(versions, policy, at):
    versions.activate(policy.version, policy.files, at)


def test_the_folder_counts_at_the_first_start_only(tmp_path, versions):
    clock, folder = FixedClock(AT), write(tmp_path / "p")
    first = ActivePolicy(folder, clock, versions).active
    write(folder, **STRICTER)
    clock.at += timedelta(days=1)
    again = ActivePolicy(folder, clock, versions)
    assert (again.active.version, again.active_since) == (first.version, AT)
    (folder / "rules.yaml").unlink()
    assert ActivePolicy(folder, clock, versions).active.version == first.version


def test_a_first_start_with_a_bad_file_fails(tmp_path, versions):
    (write(tmp_path / "p") / "rules.yaml").unlink()
    with pytest.raises(PolicyError):
        ActivePolicy(tmp_path / "p", FixedClock(AT), versions)
    assert versions.latest() is None


def test_a_change_is_seen_at_the_next_look_and_at_the_latest_after_stale_s(versions):
    seconds = [0.0]
    gate = ActivePolicy(shipped(), FixedClock(AT), versions, tick=lambda: seconds[0])
    stricter = changed(**STRICTER)
    change(versions, stricter, AT + timedelta(days=1))
    seconds[0] += STALE_S
    assert gate.active.version == shipped().version
    seconds[0] += 0.001
    policy, since = gate.in_force
    assert (policy.version, since) == (stricter.version, AT + timedelta(days=1))
    change(versions, shipped(), AT + timedelta(days=2))
    assert gate.refresh().version == shipped().version
    assert gate.decide(cases().__next__()[2]).version == shipped().version


def test_old_decisions_replay_identically(versions):
    gate = ActivePolicy(shipped(), FixedClock(AT), versions)
    before = [gate.decide(facts) for _, _, facts in cases()]
    other = changed(consent=("consent: {status: given, at: recipient}", "legal_basis: [eu-gdpr:A6-1-f]"))
    change(versions, other, AT)
    gate.refresh()
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
    with pytest.raises(PolicyError):  # it is in force, cannot be read, and so nothing is decided
        gate.refresh()


@pytest.fixture
def servicer(versions):
    set_caller(Caller(PartyId("compliance"), Role.COMPLIANCE, "01", AT + timedelta(days=1)))
    clock = FixedClock(AT)
    proposals = Proposals(versions._engine, Log(), AUTHORITY.certificate, clock)
    yield PolicyServicer(ActivePolicy(shipped(), clock, versions), proposals)
    set_caller(None)


def explain(servicer, text):
    return asyncio.run(servicer.ExplainRequest(policy_pb2.ExplainRequestRequest(facts_json=text), None))


def test_the_service_shows_the_version_in_force(servicer):
    answer = asyncio.run(servicer.GetPolicy(policy_pb2.GetPolicyRequest(), None))
    assert answer.version == shipped().version
    assert answer.active_since == AT.isoformat()
    assert {file.name: file.yaml for file in answer.files} == dict(shipped().files)


def test_the_service_shows_any_version_that_was(servicer, versions):
    old, new = shipped().version, changed(**STRICTER)
    change(versions, new, AT)
    servicer._policy.refresh()
    answer = asyncio.run(servicer.GetPolicy(policy_pb2.GetPolicyRequest(version=old), None))
    assert (answer.version, answer.active_since) == (old, "")
    with pytest.raises(PolicyError):
        asyncio.run(servicer.GetPolicy(policy_pb2.GetPolicyRequest(version="0" * 64), None))


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
