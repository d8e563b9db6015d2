"""PolicyService: the version in force, and what it would say."""

import asyncio
import json
from typing import Any

from federation.core.canonical import canonical_json
from federation.core.clock import to_text
from federation.core.errors import DataError, Reason
from federation.policy.explain import obligations_to_json
from federation.policy.facts import Decision, facts_from_json
from federation.policy.policy_set import PolicySet
from federation.v1 import policy_pb2, policy_pb2_grpc
from gateway.identity.caller import current_caller
from gateway.policy.active import ActivePolicy

MAX_FACTS_CHARS = 16 * 1024


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """Reads only. The interceptor checked the caller's role."""

    def __init__(self, policy: ActivePolicy) -> None:
        self._policy = policy

    async def GetPolicy(self, request: policy_pb2.GetPolicyRequest, context: Any) -> policy_pb2.GetPolicyResponse:
        """The version in force with its files."""
        current_caller()
        policy, since = self._policy.in_force
        return policy_pb2.GetPolicyResponse(
            version=policy.version,
            active_since=to_text(since),
            files=[policy_pb2.PolicyFile(name=name, yaml=text) for name, text in policy.files.items()],
        )

    async def ExplainRequest(
        self, request: policy_pb2.ExplainRequestRequest, context: Any
    ) -> policy_pb2.ExplainRequestResponse:
        """What the version in force would decide. Nothing is released or kept."""
        current_caller()
        decision = await asyncio.to_thread(_decide, self._policy.active, request.facts_json)
        return policy_pb2.ExplainRequestResponse(
            permitted=decision.permitted,
            reasons=[
                policy_pb2.DecisionReason(rule=g.rule, code=g.code, text=g.text, legal_ref=g.legal_ref)
                for g in decision.reasons
            ],
            obligations_json=canonical_json(obligations_to_json(decision.obligations)).decode(),
            policy_version=decision.version,
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
