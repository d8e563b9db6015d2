"""A gateway's policy part with two officers and a partner, in process: real certificates, signatures and database."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine

from federation.client.policy_steps import PolicySteps
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import AuditError, Reason
from federation.core.identity import Identity, Role, Subject, new_key
from federation.core.ids import PartyId
from federation.policy.load import parse_policy
from federation.policy.policy_set import PolicySet
from gateway.identity.authority import Authority
from gateway.identity.caller import Caller, set_caller
from gateway.identity.roles import check_role
from gateway.policy.active import ActivePolicy
from gateway.policy.proposals import Proposals
from gateway.policy.versions import SqlVersions
from gateway.rpc.policy import PolicyServicer
from tests.kits.policy import AT, files, shipped

ROLES = {
    "compliance": Role.COMPLIANCE,
    "compliance-2": Role.COMPLIANCE,
    "bank": Role.PARTNER,
    "marketing": Role.MARKETING,
    "stranger": Role.COMPLIANCE,  # has a certificate, but the agreement does not name it
}
STRICTER = {"budget": ("epsilon: 8.0", "epsilon: 7.0")}
LOOSER = {"offers": ("cooling_off_days: 30", "cooling_off_days: 3")}
AUTHORITY = Authority.create("skyline", AT - timedelta(days=1))


def changed(**change: tuple[str, str]) -> PolicySet:
    return parse_policy(files(**change))


class Log:
    """An audit log that keeps bodies, and fails when told to."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self.fails = False

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        if self.fails:
            raise AuditError(Reason.AUDIT_UNAVAILABLE)
        assert kind == "policy_step"
        self.entries.append(dict(body))
        return len(self.entries) - 1

    @property
    def told(self) -> list[str]:
        return [entry["what"] for entry in self.entries]


class Node:
    """One gateway process."""

    def __init__(self, engine: Engine, log: Log, clock: FixedClock) -> None:
        self.proposals = Proposals(engine, log, AUTHORITY.certificate, clock)
        self.seconds = 0.0
        self.versions = SqlVersions(engine)
        self.policy = ActivePolicy(shipped(), clock, self.versions, self.proposals.settle, lambda: self.seconds)
        self.servicer = PolicyServicer(self.policy, self.proposals)


class Office:
    """Everybody, before one or more gateway processes on one database."""

    def __init__(self, path: Path | None = None) -> None:
        self.clock, self.log, self.path = FixedClock(AT), Log(), path
        self.engine = open_database(path)
        self.node = self.start()
        self.identities = {party: self.certify(party) for party in ROLES}

    def start(self) -> Node:
        return Node(self.engine, self.log, self.clock)

    def certify(self, party: str, key: Any = None) -> Identity:
        subject, key = Subject("skyline", ROLES[party], PartyId(party)), key or new_key()
        pem = AUTHORITY.issue(key.public_key(), subject, self.clock.now())
        return Identity(subject, key, pem, AUTHORITY.certificate)

    def as_(self, party: str, node: Node | None = None, identity: Identity | None = None) -> PolicySteps:
        """A person's client, over the servicer and the table of roles, without a network."""
        servicer, caller = (node or self.node).servicer, self.caller(party)

        def call(method: str) -> Any:
            def send(request: Any, timeout: float) -> Any:
                check_role(f"/federation.v1.PolicyService/{method}", caller.role)
                set_caller(caller)
                try:
                    return asyncio.run(getattr(servicer, method)(request, None))
                finally:
                    set_caller(None)

            return send

        methods = [name for name in dir(servicer) if name[0].isupper()]
        stub: Any = SimpleNamespace(**{method: call(method) for method in methods})
        return PolicySteps(stub, identity or self.identities[party], self.clock)

    def caller(self, party: str) -> Caller:
        return Caller(PartyId(party), ROLES[party], "01", AT + timedelta(days=30))

    def put_in_force(self, policy: PolicySet) -> None:
        self.as_("compliance").propose(policy, "a change")
        self.as_("compliance-2").approve(policy.version)
        self.as_("compliance").activate(policy.version)
