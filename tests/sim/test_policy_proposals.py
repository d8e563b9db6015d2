"""From a proposal to a rollback: who may, what stops it, what a crash leaves, and what other processes see."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from federation.client.policy_steps import verify_history
from federation.core.canonical import canonical_json
from federation.core.clock import to_text
from federation.core.errors import AuditError, DataError, EntenteError, IdentityError, PolicyError, Reason
from federation.policy.steps import Kind, Statement, signing_kind
from federation.v1 import policy_pb2 as pb
from gateway.policy.proposals import LEFT_ALONE
from tests.kits.policy import AT, cases, shipped
from tests.kits.proposal import AUTHORITY, LOOSER, ROLES, STRICTER, Node, Office, changed

NEW, OTHER = changed(**STRICTER), changed(**LOOSER)
HOUR = timedelta(hours=1)


@pytest.fixture
def office():
    made = Office()
    yield made
    made.engine.dispose()


def refused(call, reason):
    with pytest.raises(EntenteError) as caught:
        call()
    assert caught.value.reason == reason
    return caught.value


def problems(office):
    steps = office.as_("compliance")._stub.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=1).steps
    return [checked.problem for checked in verify_history(steps, AUTHORITY.certificate, "skyline")]


def test_two_officers_from_proposal_to_rollback(office):
    first = office.node.policy.active.version
    proposal = office.as_("compliance").propose(NEW, "less budget")
    assert (proposal.state, proposal.base, proposal.party) == ("proposed", first, "compliance")
    assert office.as_("compliance-2").approve(NEW.version[:8]).state == "approved"
    assert office.node.policy.active.version == first
    office.clock.at += HOUR
    assert office.as_("compliance").activate(NEW.version).state == "put in force"
    assert office.node.policy.in_force == (office.node.policy.active, AT + HOUR)
    assert office.node.policy.active.version == NEW.version
    assert office.as_("compliance-2").roll_back("sales fell") == first
    assert office.node.policy.active.version == first
    told = ["in_force", "proposal", "approval", "activation", "in_force", "rollback", "in_force"]
    assert office.log.told == told
    assert problems(office) == [""] * len(told)
    assert [entry["by"] for entry in office.log.entries][1:4] == ["compliance", "compliance-2", "compliance"]


def test_the_proposer_cannot_approve(office):
    office.as_("compliance").propose(NEW, "x")
    refused(lambda: office.as_("compliance").approve(NEW.version), Reason.FOUR_EYES)
    same_key = office.certify("compliance-2", office.identities["compliance"].key)
    refused(lambda: office.as_("compliance-2", identity=same_key).approve(NEW.version), Reason.FOUR_EYES)
    refused(lambda: office.as_("compliance-2").activate(NEW.version), Reason.WRONG_STEP)
    assert office.log.told == ["in_force", "proposal"]


@pytest.mark.parametrize("party", ["marketing", "bank", "stranger"])
def test_only_officers_of_the_agreement_take_part(office, party):
    refused(lambda: office.as_(party).propose(NEW, "x"), Reason.ROLE_NOT_ALLOWED)
    office.as_("compliance").propose(NEW, "x")
    refused(lambda: office.as_(party).approve(NEW.version), Reason.ROLE_NOT_ALLOWED)
    refused(lambda: office.as_(party).activate(NEW.version), Reason.ROLE_NOT_ALLOWED)
    office.as_("compliance-2").approve(NEW.version)
    office.as_("compliance").activate(NEW.version)
    refused(lambda: office.as_(party).roll_back("x"), Reason.ROLE_NOT_ALLOWED)


def test_a_step_must_be_signed_by_the_caller(office):
    other = office.identities["compliance-2"]
    error = refused(lambda: office.as_("compliance", identity=other).propose(NEW, "x"), Reason.PARTY_MISMATCH)
    assert isinstance(error, IdentityError)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_partner_vetoes_until_the_version_is_in_force(office, steps):
    office.as_("compliance").propose(NEW, "x")
    if steps > 0:
        office.as_("compliance-2").approve(NEW.version)
    if steps > 1:
        office.as_("compliance").activate(NEW.version, (AT + HOUR).isoformat())
    assert office.as_("bank").veto(NEW.version, "our customers did not agree to that").state == "vetoed"
    refused(lambda: office.as_("compliance-2").approve(NEW.version), Reason.WRONG_STEP)
    refused(lambda: office.as_("compliance").activate(NEW.version), Reason.WRONG_STEP)
    office.clock.at += 2 * HOUR
    assert office.node.policy.refresh().version == shipped().version
    assert problems(office) == [""] * len(problems(office))
    office.as_("compliance").propose(NEW, "once more, after we talked")  # a veto ends the proposal and not the version


def test_no_veto_after_the_version_is_in_force(office):
    office.put_in_force(NEW)
    refused(lambda: office.as_("bank").veto(NEW.version, "late"), Reason.WRONG_STEP)


def test_an_activation_waits_for_its_time(office):
    office.as_("compliance").propose(NEW, "x")
    office.as_("compliance-2").approve(NEW.version)
    assert office.as_("compliance").activate(NEW.version, (AT + HOUR).isoformat()).state == "scheduled"
    refused(lambda: office.as_("compliance").activate(NEW.version), Reason.WRONG_STEP)
    office.clock.at += HOUR - timedelta(seconds=1)
    assert office.node.policy.refresh().version == shipped().version
    office.clock.at += timedelta(seconds=1)
    office.node.seconds += 1  # it looks by itself
    assert office.node.policy.active.version == NEW.version
    office.clock.at -= 2 * HOUR  # a clock that is set back brings no older version back
    assert office.node.policy.refresh().version == NEW.version


@pytest.mark.parametrize("when", [AT - HOUR, AT + timedelta(days=400)])
def test_an_activation_in_the_past_or_far_away_is_refused(office, when):
    office.as_("compliance").propose(NEW, "x")
    office.as_("compliance-2").approve(NEW.version)
    refused(lambda: office.as_("compliance").activate(NEW.version, when.isoformat()), Reason.BAD_TIME)


def test_a_version_comes_into_force_only_on_the_one_it_was_made_on(office):
    office.as_("compliance").propose(OTHER, "x")
    office.as_("compliance-2").approve(OTHER.version)
    office.as_("compliance-2").propose(NEW, "y")
    office.as_("compliance").approve(NEW.version)
    office.as_("compliance").activate(OTHER.version, (AT + HOUR).isoformat())
    office.as_("compliance").activate(NEW.version)
    office.clock.at += HOUR
    assert office.node.policy.refresh().version == NEW.version
    assert office.node.proposals.proposals()[0].state == "lapsed"
    assert office.log.told[-1] == "lapse"


def test_one_rollback_and_it_cancels_what_was_scheduled(office):
    refused(lambda: office.as_("compliance").roll_back("x"), Reason.WRONG_STEP)
    office.put_in_force(NEW)
    office.as_("compliance").propose(OTHER, "x")
    office.as_("compliance-2").approve(OTHER.version)
    office.as_("compliance").activate(OTHER.version, (AT + HOUR).isoformat())
    office.as_("compliance").roll_back("x")
    refused(lambda: office.as_("compliance").roll_back("again"), Reason.WRONG_STEP)
    office.clock.at += 2 * HOUR
    assert office.node.policy.refresh().version == shipped().version


def claimed(office, version):
    """What is wrong in a history to which the gateway adds that a version came into force."""
    steps = list(office.as_("compliance")._stub.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=1).steps)
    last, at = steps[-1], to_text(office.clock.at)
    steps.append(pb.PolicyStep(number=last.number + 1, kind="in_force", version=version, at=at, effective_at=at))
    return [checked.problem for checked in verify_history(steps, AUTHORITY.certificate, "skyline")]


def test_a_history_with_a_version_in_force_again_on_old_signatures_does_not_verify(office):
    first = office.node.policy.active.version
    office.put_in_force(NEW)
    office.as_("compliance").roll_back("why")
    assert not any(problems(office))
    assert claimed(office, NEW.version)[-1] == "came into force without an approved proposal"
    office.put_in_force(OTHER)
    assert not any(problems(office))
    assert claimed(office, first)[-1] == "came into force without an approved proposal"


def test_a_history_with_a_version_in_force_before_its_time_does_not_verify(office):
    office.as_("compliance").propose(NEW, "x")
    office.as_("compliance-2").approve(NEW.version)
    office.as_("compliance").activate(NEW.version, to_text(AT + HOUR))
    assert claimed(office, NEW.version)[-1] == "came into force without an approved proposal"
    office.clock.at += HOUR
    assert not any(problems(office))


def test_a_rollback_that_lapsed_puts_nothing_in_force_later(office):
    """It was signed for the version then in force, and another came into force before it."""
    office.put_in_force(NEW)
    steps = list(office.as_("compliance")._stub.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=1).steps)
    office.as_("compliance").roll_back("why")
    signed = list(office.as_("compliance")._stub.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=1).steps)
    rollback = next(step for step in signed if step.kind == "rollback")
    again = [pb.PolicyStep(number=90 + n, kind="in_force", version=v, at=rollback.at, effective_at=rollback.at)
             for n, v in enumerate([OTHER.version, NEW.version])]  # fmt: skip
    told = [checked.problem for checked in verify_history([*steps, rollback, *again], AUTHORITY.certificate, "skyline")]
    assert told[-2:] == ["came into force without an approved proposal"] * 2


def test_a_history_with_two_rollbacks_in_a_row_does_not_verify(office):
    first = office.node.policy.active.version
    office.put_in_force(NEW)
    office.as_("compliance").roll_back("why")
    officer = office.as_("compliance")
    payload = Statement(Kind.ROLLBACK, "skyline", NEW.version, first, to_text(office.clock.at), words="forward")
    signed = officer._identity.sign(signing_kind(Kind.ROLLBACK), payload.to_bytes())
    steps = list(officer._stub.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=1).steps)
    about = {"version": NEW.version, "base": first, "words": "forward", "party": "compliance", "signed": signed}
    steps.append(pb.PolicyStep(number=99, kind="rollback", at=payload.at, **about))
    told = [checked.problem for checked in verify_history(steps, AUTHORITY.certificate, "skyline")]
    assert told[-1] == "does not go back to the version before"


def test_what_is_in_force_or_proposed_is_not_proposed_again(office):
    refused(lambda: office.as_("compliance").propose(shipped(), "x"), Reason.WRONG_STEP)
    office.as_("compliance").propose(NEW, "x")
    refused(lambda: office.as_("compliance-2").propose(NEW, "x"), Reason.WRONG_STEP)


def test_somebody_must_be_left_to_approve(office):
    alone = changed(agreement=("id: compliance-2\n    role: compliance", "id: compliance-2\n    role: auditor"))
    refused(lambda: office.as_("compliance").propose(alone, "x"), Reason.POLICY_INVALID)


def test_the_files_must_be_what_was_signed(office):
    servicer, identity = office.node.servicer, office.identities["compliance"]
    statement = Statement(Kind.PROPOSAL, "skyline", NEW.version, shipped().version, AT.isoformat(), words="x")
    signed = identity.sign(signing_kind(Kind.PROPOSAL), statement.to_bytes())
    files = [pb.PolicyFile(name=name, yaml=text) for name, text in OTHER.files.items()]
    stub = office.as_("compliance")._stub
    refused(
        lambda: stub.ProposePolicy(pb.ProposePolicyRequest(signed=signed, files=files), timeout=1),
        Reason.POLICY_INVALID,
    )
    assert servicer._proposals.proposals() == []


@pytest.mark.parametrize(
    "change",
    [
        {"words": ""},
        {"words": "a\x00b"},
        {"words": "x" * 401},
        {"alliance": "other"},
        {"step": Kind.APPROVAL},
        {"at": "yesterday"},
        {"at": (AT - HOUR).isoformat()},
    ],
)
def test_a_statement_that_is_not_in_order_is_refused(office, change):
    good = Statement(Kind.PROPOSAL, "skyline", NEW.version, shipped().version, AT.isoformat(), words="x")
    signed = office.identities["compliance"].sign("policy-proposal", replace(good, **change).to_bytes())
    with pytest.raises(DataError):
        office.node.proposals.propose(office.caller("compliance"), signed, NEW.files, shipped())
    assert office.log.told == ["in_force"]


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b"{}", b"[" * 3000, canonical_json({"step": 1})])
def test_a_payload_that_is_no_statement_is_refused(office, payload):
    signed = office.identities["compliance"].sign("policy-proposal", payload)
    with pytest.raises(DataError):
        office.node.proposals.propose(office.caller("compliance"), signed, NEW.files, shipped())


# --- crashes ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing of it runs on."""


def kill_at_commit(office, number):
    """The process dies just before its commit of that number is durable."""
    seen = iter(range(1, 1000))

    def before(connection):
        if next(seen) == number:
            raise Killed

    event.listen(office.engine, "commit", before)
    return lambda: event.remove(office.engine, "commit", before)


def everything(office):
    """The whole round; each step is taken unless an earlier life took it already."""
    state = {p.version: p.state for p in office.node.proposals.proposals()}.get(NEW.version)
    if state is None:
        office.as_("compliance").propose(NEW, "x")
    if state in (None, "proposed"):
        office.as_("compliance-2").approve(NEW.version)
    if state in (None, "proposed", "approved"):
        office.as_("compliance").activate(NEW.version)


@pytest.mark.parametrize("number", range(1, 60))
def test_killed_between_any_two_steps_it_goes_on(number):
    office = Office()
    restore = kill_at_commit(office, number)
    try:
        everything(office)
        killed = False
    except Killed:
        killed = True
    finally:
        restore()
    if killed:
        office.clock.at += LEFT_ALONE
        office.node = office.start()
        assert office.node.policy.active.version in (shipped().version, NEW.version)
        everything(office)
        office.node.policy.refresh()
    assert office.node.policy.active.version == NEW.version
    once = list(dict.fromkeys((entry["step"], entry["what"]) for entry in office.log.entries))
    assert [what for _, what in once] == ["in_force", "proposal", "approval", "activation", "in_force"]
    assert [a.version for a in office.node.versions.history()] == [shipped().version, NEW.version]
    assert problems(office) == [""] * 5
    office.engine.dispose()


def test_nothing_takes_effect_before_it_is_in_the_log(office):
    office.as_("compliance").propose(NEW, "x")
    office.as_("compliance-2").approve(NEW.version)
    office.log.fails = True
    with pytest.raises(AuditError):
        office.as_("compliance").activate(NEW.version)
    assert office.node.versions.latest().version == shipped().version
    office.log.fails = False
    office.clock.at += LEFT_ALONE
    assert office.node.policy.refresh().version == NEW.version
    assert office.log.told == ["in_force", "proposal", "approval", "activation", "in_force"]


# --- several processes ------------------------------------------------------------------------------------------------


def test_another_process_sees_the_change_and_its_requests_go_on(tmp_path):
    office = Office(tmp_path / "policy.db")
    other = office.start()
    pinned = other.policy.active
    before = [pinned.decide(facts) for _, _, facts in cases()]
    office.put_in_force(NEW)
    assert other.policy.active is pinned  # looked a moment ago
    other.seconds += 0.3
    assert other.policy.active.version == NEW.version
    assert other.policy.in_force == office.node.policy.in_force or other.policy.active_since == AT
    assert [pinned.decide(facts) for _, _, facts in cases()] == before  # what was pinned finishes under its version
    assert office.log.told.count("in_force") == 2
    office.engine.dispose()


def test_two_processes_cannot_both_take_a_step(tmp_path):
    office = Office(tmp_path / "policy.db")
    nodes = [office.node, office.start()]
    office.as_("compliance").propose(NEW, "x")
    outcomes: list[str] = []

    def approve(node: Node) -> None:
        try:
            outcomes.append(office.as_("compliance-2", node).approve(NEW.version).state)
        except PolicyError as exc:
            outcomes.append(exc.reason)

    threads = [threading.Thread(target=approve, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(["approved", Reason.WRONG_STEP])
    office.engine.dispose()


def test_every_change_is_seen_by_requests_that_never_stop(tmp_path):
    office = Office(tmp_path / "policy.db")
    node, stop, seen, failed = office.start(), threading.Event(), set(), []
    node.policy._tick = iter(range(10**9)).__next__  # looks at every request
    _, _, facts = next(iter(cases()))

    def work() -> None:
        while not stop.is_set():
            try:
                seen.add(node.policy.decide(facts).version)
            except Exception as exc:
                failed.append(exc)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    office.put_in_force(NEW)
    office.as_("compliance").roll_back("x")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert seen <= {shipped().version, NEW.version}
    assert node.policy.refresh().version == shipped().version
    office.engine.dispose()


def test_the_roles_of_the_kit_are_those_of_the_agreement():
    assert {p for p in ROLES if p in shipped().parties} == set(ROLES) - {"stranger"}


def test_a_database_that_cannot_be_read_is_a_denial(office):
    office.node.seconds += 1
    office.node.policy._settle = lambda: (_ for _ in ()).throw(OperationalError("select", {}, Exception("disk")))
    _, _, facts = next(iter(cases()))
    refused(lambda: office.node.policy.decide(facts), Reason.UNAVAILABLE)
