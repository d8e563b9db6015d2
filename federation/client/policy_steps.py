"""A person's steps with a policy version: signed here, sent to the gateway; and the check of everybody's.

``verify_history`` believes nothing but the alliance CA: each step's signature, who signed it, and that the steps add up
to what the gateway says came into force. It cannot see steps that the gateway left out; the audit log's entries, which
carry the digest of each signed step, can.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import EntenteError, IdentityError, PolicyError, Reason
from federation.core.identity import Identity, Role, Subject, verify_signed
from federation.policy.policy_set import PolicySet
from federation.policy.steps import (
    MAX_SKEW,
    Kind,
    Statement,
    proposal_id,
    public_key_digest,
    read_statement,
    signing_kind,
)
from federation.v1 import policy_pb2 as pb
from federation.v1.common_pb2 import Signed
from federation.v1.policy_pb2_grpc import PolicyServiceStub

CALL_S = 30.0
_MIN_PREFIX = 6
_OPEN = ("proposed", "approved", "scheduled")


class PolicySteps:
    """The steps of one person.

    Args:
        stub: The gateway's policy service.
        identity: Signs the steps.
        clock: Dates them.
    """

    def __init__(self, stub: PolicyServiceStub, identity: Identity, clock: Clock) -> None:
        self._stub, self._identity, self._clock = stub, identity, clock

    def propose(self, policy: PolicySet, message: str) -> pb.PolicyProposal:
        """Proposes a policy set that loaded here, on the version in force."""
        base = self._stub.GetPolicy(pb.GetPolicyRequest(), timeout=CALL_S).version
        files = [pb.PolicyFile(name=name, yaml=text) for name, text in policy.files.items()]
        signed = self._sign(Kind.PROPOSAL, policy.version, base, words=message)
        return self._stub.ProposePolicy(pb.ProposePolicyRequest(signed=signed, files=files), timeout=CALL_S).proposal

    def approve(self, version: str) -> pb.PolicyProposal:
        """Approves the open proposal of a version."""
        signed = self._about(Kind.APPROVAL, version)
        return self._stub.ApprovePolicy(pb.ApprovePolicyRequest(signed=signed), timeout=CALL_S).proposal

    def veto(self, version: str, reason: str) -> pb.PolicyProposal:
        """Ends the open proposal of a version."""
        signed = self._about(Kind.VETO, version, words=reason)
        return self._stub.VetoPolicy(pb.VetoPolicyRequest(signed=signed), timeout=CALL_S).proposal

    def activate(self, version: str, effective_at: str = "") -> pb.PolicyProposal:
        """Puts an approved version in force, at once or at a time (RFC 3339)."""
        signed = self._about(Kind.ACTIVATION, version, effective_at=effective_at)
        return self._stub.ActivatePolicy(pb.ActivatePolicyRequest(signed=signed), timeout=CALL_S).proposal

    def roll_back(self, reason: str) -> str:
        """Puts the version before the one in force in force again; returns it. Raises PolicyError (WRONG_STEP)."""
        steps = self._stub.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=CALL_S).steps
        past = [step.version for step in steps if step.kind == Kind.IN_FORCE]
        if len(past) < 2:
            raise PolicyError(Reason.WRONG_STEP, item="there is no version before the one in force")
        signed = self._sign(Kind.ROLLBACK, past[-2], past[-1], words=reason)
        return self._stub.RollBackPolicy(pb.RollBackPolicyRequest(signed=signed), timeout=CALL_S).version

    def _about(self, kind: Kind, version: str, *, words: str = "", effective_at: str = "") -> Signed:
        found = self._stub.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=CALL_S).proposals
        proposal = open_proposal(found, version)
        return self._sign(
            kind, proposal.version, proposal.base, proposal=proposal.id, words=words, effective_at=effective_at
        )

    def _sign(self, kind: Kind, version: str, base: str, **more: str) -> Signed:
        alliance, at = self._identity.subject.alliance, to_text(self._clock.now())
        statement = Statement(step=kind, alliance=alliance, version=version, base=base, at=at, **more)
        return self._identity.sign(signing_kind(kind), statement.to_bytes())


def open_proposal(proposals: Iterable[pb.PolicyProposal], version: str) -> pb.PolicyProposal:
    """The newest proposal of a version, given by at least six of its first digits.

    Raises:
        PolicyError: UNKNOWN_PROPOSAL when none or several fit.
    """
    fit = [found for found in proposals if len(version) >= _MIN_PREFIX and found.version.startswith(version)]
    still_open = [found for found in fit if found.state in _OPEN] or fit[-1:]
    if len(still_open) != 1:
        fix = "Give the version as `entente policy history` shows it."
        raise PolicyError(Reason.UNKNOWN_PROPOSAL, item=version[:64], fix=fix)
    return still_open[0]


@dataclass
class _Round:
    """What is known of one proposal so far."""

    version: str
    base: str
    party: str
    key: str
    approved: bool = False
    not_before: datetime | None = None  # of an activation that did not have its effect yet
    vetoed: bool = False


@dataclass
class _Check:
    ca: x509.Certificate
    alliance: str
    rounds: dict[str, _Round] = field(default_factory=dict)
    in_force: list[str] = field(default_factory=list)
    back_to: str = ""  # the version of a rollback that was signed on the one in force and did not have its effect yet
    rolled_back: bool = False  # the version in force came by a rollback

    def take(self, step: pb.PolicyStep) -> None:
        """Raises EntenteError when a step is not what it says."""
        kind = Kind(step.kind)
        if kind is Kind.IN_FORCE:
            self._in_force(step)
            return
        if kind is Kind.LAPSE:
            return
        subject = verify_signed(step.signed, signing_kind(kind), self.ca, from_text(step.at))
        said = read_statement(step.signed.payload, kind)
        if (said.version, said.base, said.words, said.alliance) != (step.version, step.base, step.words, self.alliance):
            raise _no("is not what was signed")
        if subject.alliance != self.alliance or subject.party != step.party:
            raise _no(f"was signed by {subject.party}")
        if subject.role is not Role.COMPLIANCE and not (kind is Kind.VETO and subject.role is Role.PARTNER):
            raise _no(f"was signed by a {subject.role}")
        if abs(from_text(said.at) - from_text(step.at)) > MAX_SKEW:
            raise _no("was signed at another time than it was taken")
        self._person(kind, step, said, subject)

    def _person(self, kind: Kind, step: pb.PolicyStep, said: Statement, subject: Subject) -> None:
        key = public_key_digest(step.signed)
        if kind is Kind.PROPOSAL:
            if proposal_id(step.signed.payload) != step.proposal or step.proposal in self.rounds:
                raise _no("has another proposal's id")
            self.rounds[step.proposal] = _Round(step.version, step.base, subject.party, key)
            return
        if kind is Kind.ROLLBACK:
            if self.in_force[-2:] != [step.version, step.base] or self.rolled_back:
                raise _no("does not go back to the version before")
            self.back_to = step.version
            return
        known = self.rounds.get(said.proposal)
        if known is None or said.proposal != step.proposal or (known.version, known.base) != (said.version, said.base):
            raise _no("is about no proposal")
        if kind is Kind.APPROVAL:
            if subject.party == known.party or key == known.key:
                raise _no("was made by the proposer")
            known.approved = True
        known.vetoed |= kind is Kind.VETO
        if kind is Kind.ACTIVATION:
            known.not_before = from_text(said.effective_at or said.at)

    def _in_force(self, step: pb.PolicyStep) -> None:
        """Every signature has one effect, on the version that it was made on."""
        before, self.back_to, back_to = self.in_force[-1:], "", self.back_to
        self.in_force.append(step.version)
        if not before:
            return  # the first start, from the operator's folder
        self.rolled_back = back_to == step.version
        if self.rolled_back:
            return
        since = from_text(step.effective_at) + MAX_SKEW  # "at once" is by the signer's clock
        for way in self.rounds.values():
            made, signed = (way.version, [way.base]) == (step.version, before), way.approved and not way.vetoed
            if made and signed and way.not_before is not None and way.not_before <= since:
                way.not_before = None
                return
        raise _no("came into force without an approved proposal")


@dataclass(frozen=True)
class Checked:
    """One step and what is wrong with it; empty when nothing is."""

    step: pb.PolicyStep
    problem: str


def verify_history(steps: Sequence[pb.PolicyStep], ca: x509.Certificate, alliance: str) -> list[Checked]:
    """Checks every step; see the module. A step that is wrong does not count for those after it."""
    check, found, last = _Check(ca, alliance), list[Checked](), 0
    for step in steps:
        problem = _problem(lambda step=step: check.take(step))  # type: ignore[misc]
        if step.number <= last:
            problem = problem or "steps are not in order"
        last = step.number
        found.append(Checked(step, problem))
    return found


def _problem(take: Callable[[], None]) -> str:
    try:
        take()
    except EntenteError as exc:
        return exc.item or exc.public
    except ValueError:
        return "kind of the step"
    return ""


def _no(item: str) -> IdentityError:
    return IdentityError(Reason.BAD_SIGNATURE, item=item)
