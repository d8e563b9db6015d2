"""PolicyService: the version in force, what it would say, and the steps by which the next one comes into force."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from federation.core.canonical import canonical_json
from federation.core.clock import to_text
from federation.core.errors import DataError, Reason
from federation.core.ids import PolicyVersion
from federation.policy.documents import DOCUMENTS
from federation.policy.explain import obligations_to_json
from federation.policy.facts import Decision, facts_from_json
from federation.policy.policy_set import PolicySet
from federation.policy.steps import Kind
from federation.policy.yaml_text import MAX_BYTES
from federation.v1 import common_pb2, policy_pb2, policy_pb2_grpc
from gateway.identity.caller import current_caller
from gateway.identity.roles import READS_LOG
from gateway.policy.active import ActivePolicy
from gateway.policy.proposals import Proposal, Proposals
from gateway.policy.steps_sql import Step

MAX_FACTS_CHARS = 16 * 1024


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """The interceptor checked the caller's role; ``Proposals`` checks who may take which step of what."""

    def __init__(self, policy: ActivePolicy, proposals: Proposals) -> None:
        self._policy, self._proposals = policy, proposals

    async def GetPolicy(self, request: policy_pb2.GetPolicyRequest, context: Any) -> policy_pb2.GetPolicyResponse:
        """A version with its files; the one in force unless the request names another."""
        current_caller()
        policy, since = await asyncio.to_thread(lambda: self._policy.in_force)
        active_since = to_text(since)
        if request.version and request.version != policy.version:
            policy = await asyncio.to_thread(self._policy.at_version, PolicyVersion(request.version[:64]))
            active_since = ""
        return policy_pb2.GetPolicyResponse(
            version=policy.version,
            active_since=active_since,
            files=[policy_pb2.PolicyFile(name=name, yaml=text) for name, text in policy.files.items()],
        )

    async def ExplainRequest(
        self, request: policy_pb2.ExplainRequestRequest, context: Any
    ) -> policy_pb2.ExplainRequestResponse:
        """What the version in force would decide. Nothing is released or kept."""
        current_caller()
        decision = await asyncio.to_thread(lambda: _decide(self._policy.active, request.facts_json))
        return policy_pb2.ExplainRequestResponse(
            permitted=decision.permitted,
            reasons=[policy_pb2.DecisionReason(**reason.to_json()) for reason in decision.reasons],
            obligations_json=canonical_json(obligations_to_json(decision.obligations)).decode(),
            policy_version=decision.version,
        )

    async def ProposePolicy(
        self, request: policy_pb2.ProposePolicyRequest, context: Any
    ) -> policy_pb2.ProposePolicyResponse:
        """Takes a version for approval; nothing changes yet."""
        caller = current_caller()
        files = _files(request.files)

        def propose() -> Proposal:
            return self._proposals.propose(caller, request.signed, files, self._policy.refresh())

        return policy_pb2.ProposePolicyResponse(proposal=_proposal(await asyncio.to_thread(propose)))

    async def ApprovePolicy(
        self, request: policy_pb2.ApprovePolicyRequest, context: Any
    ) -> policy_pb2.ApprovePolicyResponse:
        """The second pair of eyes."""
        return policy_pb2.ApprovePolicyResponse(proposal=await self._take(Kind.APPROVAL, request.signed))

    async def VetoPolicy(self, request: policy_pb2.VetoPolicyRequest, context: Any) -> policy_pb2.VetoPolicyResponse:
        """Ends a proposal that is not in force."""
        return policy_pb2.VetoPolicyResponse(proposal=await self._take(Kind.VETO, request.signed))

    async def ActivatePolicy(
        self, request: policy_pb2.ActivatePolicyRequest, context: Any
    ) -> policy_pb2.ActivatePolicyResponse:
        """Puts an approved version in force, at once or at its time."""
        return policy_pb2.ActivatePolicyResponse(proposal=await self._take(Kind.ACTIVATION, request.signed))

    async def RollBackPolicy(
        self, request: policy_pb2.RollBackPolicyRequest, context: Any
    ) -> policy_pb2.RollBackPolicyResponse:
        """The version directly before, at once."""
        caller = current_caller()

        def roll_back() -> str:
            self._proposals.roll_back(caller, request.signed, self._policy.refresh())
            return self._policy.refresh().version

        return policy_pb2.RollBackPolicyResponse(version=await asyncio.to_thread(roll_back))

    async def ListPolicySteps(
        self, request: policy_pb2.ListPolicyStepsRequest, context: Any
    ) -> policy_pb2.ListPolicyStepsResponse:
        """Everything that anybody did, and what was signed."""
        reads_log = current_caller().role in READS_LOG

        def read() -> policy_pb2.ListPolicyStepsResponse:
            self._policy.refresh()
            proposals = [_proposal(proposal) for proposal in self._proposals.proposals()]
            steps = [_step(step, reads_log=reads_log) for step in self._proposals.history()]
            return policy_pb2.ListPolicyStepsResponse(proposals=proposals, steps=steps)

        return await asyncio.to_thread(read)

    async def _take(self, kind: Kind, signed: common_pb2.Signed) -> policy_pb2.PolicyProposal:
        caller = current_caller()

        def take() -> Proposal:
            proposal = self._proposals.take(kind, caller, signed, self._policy.refresh())
            self._policy.refresh()  # what this step put in force is in force here before the answer
            return proposal

        return _proposal(await asyncio.to_thread(take))


def _files(files: Iterable[policy_pb2.PolicyFile]) -> dict[str, str]:
    """Raises DataError: TOO_LARGE, BAD_FIELD."""
    found: dict[str, str] = {}
    for file in files:
        if len(found) >= len(DOCUMENTS) or len(file.yaml) > MAX_BYTES:
            raise DataError(Reason.TOO_LARGE, item="files")
        if file.name in found:
            raise DataError(Reason.BAD_FIELD, item="a file stands here twice")
        found[file.name] = file.yaml
    return found


def _proposal(proposal: Proposal) -> policy_pb2.PolicyProposal:
    return policy_pb2.PolicyProposal(
        id=proposal.id,
        version=proposal.version,
        base=proposal.base,
        party=proposal.party,
        state=proposal.state,
        effective_at=to_text(proposal.effective_at) if proposal.effective_at else "",
    )


def _step(step: Step, *, reads_log: bool) -> policy_pb2.PolicyStep:
    entry = 0 if step.audit_index is None else step.audit_index + 1
    return policy_pb2.PolicyStep(
        number=step.number,
        kind=step.kind,
        proposal=step.proposal,
        version=step.version,
        base=step.base,
        party=step.party,
        words=step.words,
        at=step.at,
        effective_at=step.effective_at,
        signed=common_pb2.Signed.FromString(step.signed) if step.signed else None,
        audit_entry=entry if reads_log or not entry else None,
    )


def _decide(policy: PolicySet, facts_json: str) -> Decision:
    """Raises DataError: TOO_LARGE, BAD_FIELD, BAD_TIME."""
    if len(facts_json) > MAX_FACTS_CHARS:
        raise DataError(Reason.TOO_LARGE, item="facts_json")
    try:
        value = json.loads(facts_json)
    except (ValueError, RecursionError) as exc:
        raise DataError(Reason.BAD_FIELD, item="facts_json is no JSON") from exc
    return policy.decide(facts_from_json(value))
