"""How a policy version comes into force: proposed by one compliance officer, approved by another, activated at a time.

Guarantees
- Four eyes: the approval is another party's, with another key, than the proposal.
- A version is proposed on the one in force, and comes into force only on that one: no change is undone unseen.
- A partner may veto a version until it is in force. So may compliance, to withdraw it.
- Each step is in the audit log before it has effect: it is filed, then logged, then takes effect. A crash in between
  leaves a step that the next look (any process, or the next start) logs and completes. At worst the log has one step
  twice, with the same number; never has a step effect without an entry.
- A rollback takes one officer, because it must be quick, and so it is bounded: it goes to the version directly before,
  which was in force already, and only once; and whatever was scheduled is cancelled.

What a person signed is kept, and ``ListPolicySteps`` gives it out, so that nobody has to believe this gateway.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from sqlalchemy import Connection, Engine, Row, func, insert, select, update

from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import DataError, IdentityError, PolicyError, Reason
from federation.core.identity import Role, verify_signed
from federation.core.ids import PolicyVersion
from federation.policy.load import parse_policy
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
from federation.v1.common_pb2 import Signed
from gateway.identity.caller import Caller
from gateway.policy.due import bring_into_force, note_activations
from gateway.policy.steps_sql import OPEN, PROPOSALS, STEPS, State, Step, insert_step, read_step, state_of, steps_of
from gateway.policy.versions import METADATA, activations_after, keep_files, latest_in
from gateway.release import AuditLog

LEFT_ALONE = timedelta(seconds=5)
"""A step younger than this is left to the process that filed it; an older one was cut off by a crash."""
MAX_AHEAD = timedelta(days=366)
MAX_OPEN = 100
AUDIT_KIND = "policy_step"


@dataclass(frozen=True)
class Proposal:
    """A proposed version and how far it is."""

    id: str
    version: PolicyVersion
    base: PolicyVersion
    party: str
    state: State
    effective_at: datetime | None


class Proposals:
    """Takes steps and brings into force what is due. Safe to call from several threads and processes.

    Args:
        engine: The database that holds the versions.
        audit: Where each step is logged.
        ca: Issues the certificates that sign steps.
        clock: Dates steps and decides what is due.
    """

    def __init__(self, engine: Engine, audit: AuditLog, ca: x509.Certificate, clock: Clock) -> None:
        self._engine, self._audit, self._ca, self._clock = engine, audit, ca, clock
        METADATA.create_all(engine)

    def propose(self, caller: Caller, signed: Signed, files: Mapping[str, str], current: PolicySet) -> Proposal:
        """Takes a new version. Nothing changes yet.

        Raises:
            PolicyError: POLICY_INVALID for files that do not load, are not what was signed, are another alliance's, or
                would leave fewer than two compliance officers; WRONG_STEP when the version in force is another than the
                signer saw, or the version is in force or proposed already.
            IdentityError, DataError: see ``read_statement`` and ``verify_signed``.
        """
        at = self._clock.now()
        statement = self._statement(caller, signed, Kind.PROPOSAL, current, at)
        fresh = parse_policy(files)
        if fresh.version != statement.version:
            raise PolicyError(Reason.POLICY_INVALID, item="the files are not the version that was signed")
        if fresh.alliance != current.alliance:
            item = f"agreement.yaml alliance: got {fresh.alliance}, expected {current.alliance}"
            raise PolicyError(Reason.POLICY_INVALID, item=item)
        if len(_officers(fresh)) < 2:
            item = "agreement.yaml parties: fewer than two have role compliance, so nobody could approve a change again"
            raise PolicyError(Reason.POLICY_INVALID, item=item)
        name = proposal_id(signed.payload)
        with self._engine.begin() as db:
            self._on_the_one_in_force(db, statement)
            if fresh.version == statement.base:
                raise _wrong(f"version {fresh.version[:12]} is in force")
            rows = db.execute(select(PROPOSALS)).all()
            still_open = [row for row in rows if state_of(db, row.id) in OPEN]
            if any(row.version == fresh.version for row in still_open):
                raise _wrong(f"version {fresh.version[:12]} is proposed already")
            if len(still_open) >= MAX_OPEN:
                raise PolicyError(Reason.QUOTA_EXCEEDED, item="open proposals")
            keep_files(db, fresh.version, fresh.files)
            db.execute(
                insert(PROPOSALS).values(id=name, version=fresh.version, base=statement.base, party=caller.party)
            )
            number = self._file(db, statement, signed, at, party=caller.party, proposal=name)
        self._log(number)
        return self.proposal(name)

    def take(self, kind: Kind, caller: Caller, signed: Signed, current: PolicySet) -> Proposal:
        """An approval, a veto or an activation of a proposal that is open.

        Raises:
            PolicyError: UNKNOWN_PROPOSAL; WRONG_STEP; FOUR_EYES.
            IdentityError, DataError: see ``read_statement`` and ``verify_signed``.
        """
        at = self._clock.now()
        statement = self._statement(caller, signed, kind, current, at)
        effective_at = _effective_at(statement, at) if kind is Kind.ACTIVATION else None
        with self._engine.begin() as db:
            row = db.execute(select(PROPOSALS).where(PROPOSALS.c.id == statement.proposal)).one_or_none()
            if row is None or row.version != statement.version or row.base != statement.base:
                raise PolicyError(Reason.UNKNOWN_PROPOSAL, item=statement.version[:12])
            state = state_of(db, row.id)
            if state not in OPEN:
                raise _wrong(f"version {row.version[:12]} is {state}")
            if kind is Kind.APPROVAL:
                if state is not State.PROPOSED:
                    raise _wrong(f"version {row.version[:12]} is {state}")
                self._other_eyes(db, row, caller, signed)
            if kind is Kind.ACTIVATION:
                if state is not State.APPROVED:
                    raise _wrong(f"version {row.version[:12]} is {state}, expected {State.APPROVED}")
                self._on_the_one_in_force(db, statement)
            who = {"party": caller.party, "proposal": row.id}
            number = self._file(db, statement, signed, at, **who, effective_at=effective_at)
        self._log(number)
        self.settle()
        return self.proposal(statement.proposal)

    def roll_back(self, caller: Caller, signed: Signed, current: PolicySet) -> PolicyVersion:
        """Puts the version directly before in force again, at once; see the module.

        Raises:
            PolicyError: WRONG_STEP when there is none, it is not the one that was signed, or the version in force came
                by a rollback itself.
        """
        at = self._clock.now()
        statement = self._statement(caller, signed, Kind.ROLLBACK, current, at)
        with self._engine.begin() as db:
            self._on_the_one_in_force(db, statement)
            past = [activation.version for _, activation in activations_after(db, 0)]
            if len(past) < 2:
                raise _wrong("there is no version before the one in force")
            kinds = (Kind.ROLLBACK, Kind.ACTIVATION)
            last = db.scalar(
                select(func.max(STEPS.c.number)).where(STEPS.c.kind.in_(kinds), STEPS.c.done == "in_force")
            )
            if db.scalar(select(STEPS.c.kind).where(STEPS.c.number == last)) == Kind.ROLLBACK:
                raise _wrong("the version in force came by a rollback; propose the one that you want")
            if statement.version != past[-2]:
                raise _wrong(f"the version before is {past[-2][:12]}, not {statement.version[:12]}")
            number = self._file(db, statement, signed, at, party=caller.party, proposal="", effective_at=at)
        self._log(number)
        self.settle()
        return PolicyVersion(statement.version)

    def settle(self) -> None:
        """Completes what a crash cut off, and brings into force what is due. Cheap when there is nothing to do."""
        now = self._clock.now()
        with self._engine.begin() as db:
            late = select(STEPS.c.number).where(STEPS.c.audit_index.is_(None), STEPS.c.at <= to_text(now - LEFT_ALONE))
            unlogged = [row.number for row in db.execute(late.order_by(STEPS.c.number))]
        for number in unlogged:
            self._log(number)
        with self._engine.begin() as db:
            noted = bring_into_force(db, now) + note_activations(db, now)
        for number in noted:
            self._log(number)

    def proposal(self, name: str) -> Proposal:
        """A proposal by its id. Raises PolicyError (UNKNOWN_PROPOSAL)."""
        found = next((proposal for proposal in self.proposals() if proposal.id == name), None)
        if found is None:
            raise PolicyError(Reason.UNKNOWN_PROPOSAL, item=name[:12])
        return found

    def proposals(self) -> list[Proposal]:
        """All proposals, oldest first."""
        with self._engine.begin() as db:
            rows = db.execute(select(PROPOSALS).order_by(PROPOSALS.c.number)).all()
            return [self._read(db, row) for row in rows]

    def history(self) -> list[Step]:
        """All steps, oldest first, with what was signed."""
        with self._engine.begin() as db:
            return [read_step(row) for row in db.execute(select(STEPS).order_by(STEPS.c.number))]

    def _read(self, db: Connection, row: Row[tuple[object, ...]]) -> Proposal:
        times = [
            from_text(s.effective_at) for s in steps_of(db, row.id) if s.kind == Kind.ACTIVATION and s.effective_at
        ]
        effective_at = times[-1] if times else None
        version, base = PolicyVersion(row.version), PolicyVersion(row.base)
        return Proposal(row.id, version, base, row.party, state_of(db, row.id), effective_at)

    def _statement(self, caller: Caller, signed: Signed, kind: Kind, current: PolicySet, at: datetime) -> Statement:
        """What the caller signed, if the caller may take such a step under the agreement in force."""
        subject = verify_signed(signed, signing_kind(kind), self._ca, at)
        if (subject.party, subject.role) != (caller.party, caller.role):
            raise IdentityError(Reason.PARTY_MISMATCH, item=f"signer of the {kind}")
        party = current.parties.get(caller.party)
        allowed = {Role.COMPLIANCE, Role.PARTNER} if kind is Kind.VETO else {Role.COMPLIANCE}
        if party is None or party.role != caller.role or caller.role not in allowed:
            raise IdentityError(Reason.ROLE_NOT_ALLOWED, item=f"{caller.party} is not named for this by the agreement")
        statement = read_statement(signed.payload, kind)
        if statement.alliance != current.alliance:
            raise DataError(Reason.BAD_FIELD, item="alliance of the statement")
        if abs(from_text(statement.at, item="at of the statement") - at) > MAX_SKEW:
            raise DataError(Reason.BAD_TIME, item="the signer's clock differs from the gateway's")
        return statement

    def _on_the_one_in_force(self, db: Connection, statement: Statement) -> None:
        latest = latest_in(db)
        if latest is None or latest.version != statement.base:
            have = "none" if latest is None else latest.version[:12]
            raise _wrong(f"made on version {statement.base[:12]}, but {have} is in force")

    def _other_eyes(self, db: Connection, row: Row[tuple[object, ...]], caller: Caller, signed: Signed) -> None:
        first = next(step for step in steps_of(db, row.id) if step.kind == Kind.PROPOSAL)
        if row.party == caller.party or public_key_digest(Signed.FromString(first.signed)) == public_key_digest(signed):
            raise PolicyError(Reason.FOUR_EYES, item=caller.party, fix="A colleague approves it.")

    def _file(
        self,
        db: Connection,
        statement: Statement,
        signed: Signed,
        at: datetime,
        *,
        party: str,
        proposal: str,
        effective_at: datetime | None = None,
    ) -> int:
        values = {
            "kind": statement.step,
            "proposal": proposal,
            "version": statement.version,
            "base": statement.base,
            "party": party,
            "words": statement.words,
            "effective_at": to_text(effective_at) if effective_at else "",
            "signed": signed.SerializeToString(deterministic=True),
        }
        return insert_step(db, at, values)

    def _log(self, number: int) -> None:
        """Puts a step into the audit log and then says so; free text stays out of the log."""
        with self._engine.begin() as db:
            step = read_step(db.execute(select(STEPS).where(STEPS.c.number == number)).one())
        body = {"step": number, "what": step.kind, "version": step.version, "base": step.base, "by": step.party}
        body |= {"proposal": step.proposal, "filed_at": step.at, "effective_at": step.effective_at}
        digest = hashlib.sha256(step.signed).hexdigest() if step.signed else ""
        index = self._audit.append(AUDIT_KIND, {**body, "signed": digest})
        with self._engine.begin() as db:
            mine = (STEPS.c.number == number) & STEPS.c.audit_index.is_(None)
            db.execute(update(STEPS).where(mine).values(audit_index=index))


def _officers(policy: PolicySet) -> list[str]:
    return [party.id for party in policy.parties.values() if party.role == "compliance"]


def _effective_at(statement: Statement, now: datetime) -> datetime:
    if not statement.effective_at:
        return now
    at = from_text(statement.effective_at, item="effective_at")
    if not now <= at <= now + MAX_AHEAD:
        raise DataError(Reason.BAD_TIME, item="effective_at: it must be within the coming year")
    return at


def _wrong(item: str) -> PolicyError:
    return PolicyError(Reason.WRONG_STEP, item=item, fix="See: entente policy history.")
