"""What this partner says of proposed runs, and which runs it has paused: its own word, kept at its own place.

A run is trained only if this partner has approved its proposal, byte for byte: a person by ``entente train approve``,
or the standing rule in ``partner.yaml``. The standing rule is asked again when the run starts, so what it allowed under
older limits does not outlive them; a person's no holds whatever the rule says. A gateway that claims an approval gains
nothing: the agent believes only what is here.

What a partner's limits forbid outright is refused at once, and no person can approve it without changing them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.sqlite import insert

from federation.client.config import Limits
from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import Reason, TrainingError
from federation.policy.specs import JudgingSpec, TrainingSpec
from federation.privacy.composition import epsilon_of
from federation.training.judging import REGION, Judging
from federation.training.memory import RunMemory
from federation.training.plan import Plan, read_plan
from federation.v1 import training_pb2 as pb

CLAIM_SLACK = 1 + 1e-6
"""Recomputed epsilon may be this much above the claimed one, for another machine's arithmetic: calibrations stop on
the side of more noise."""
MAX_PENDING = 32
"""Proposals that may wait here for a person; the gateway can only add to them."""
MAX_WAIT = timedelta(days=7)
"""How long one waits here at most, whatever the gateway says."""
PENDING, YES, NO = "pending", "approved", "refused"

_metadata = MetaData()
_proposals = Table(
    "training_proposals",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("proposal", LargeBinary, nullable=False),
    Column("proposed_by", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("state", String, nullable=False),
    Column("decided_at", String, nullable=False, default=""),
)
_pauses = Table(
    "training_pauses",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("paused", Boolean, nullable=False),
)


class OwnRules(Protocol):
    """The partner's own compiled policy."""

    @property
    def training(self) -> TrainingSpec:
        """What its policy says of training; rows are decided through ``TrainingData.eligible``."""
        ...

    @property
    def partners(self) -> tuple[str, ...]:
        """The partners of the agreement as it has it."""
        ...

    @property
    def region_of(self) -> Mapping[str, str]:
        """Which region a country of residence belongs to."""
        ...


@dataclass(frozen=True)
class Waiting:
    """A proposal that waits for a person here."""

    run_id: str
    proposal: pb.TrainingProposal
    proposed_by: str
    expires_at: str


class Approvals:
    """Proposals and pauses, durable when a call returns; shared between the agent and a person's commands.

    Args:
        engine: From ``open_database``; may be the accountant's.
        clock: Dates decisions.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        _metadata.create_all(engine)

    def receive(self, asked: pb.ProposedRun, digest: str) -> None:
        """Keeps a proposal for a person; again is fine.

        Raises:
            TrainingError: PROPOSAL_REFUSED for other content under a known id, TOO_MANY_PROPOSALS.
            DataError: BAD_TIME.
        """
        run_id, now = asked.proposal.run_id, to_text(self._clock.now())
        end = min(from_text(asked.expires_at, item="expires_at"), self._clock.now() + MAX_WAIT)
        row = {"run_id": run_id, "digest": digest, "proposal": asked.proposal.SerializeToString(), "state": PENDING}
        row |= {"proposed_by": asked.proposed_by[:48], "expires_at": to_text(end)}
        pending = _proposals.c.state == PENDING
        with self._engine.begin() as connection:
            connection.execute(delete(_proposals).where(pending, _proposals.c.expires_at <= now))
            known = connection.execute(select(_proposals).where(_proposals.c.run_id == run_id)).one_or_none()
            if known is not None:
                _state(known, digest)
                return
            if (
                connection.execute(select(func.count()).select_from(_proposals).where(pending)).scalar_one()
                >= MAX_PENDING
            ):
                raise TrainingError(Reason.TOO_MANY_PROPOSALS, item=f"at most {MAX_PENDING} wait here")
            connection.execute(_proposals.insert().values(**row))

    def decide(self, proposal: pb.TrainingProposal, digest: str, *, approved: bool) -> None:
        """A person's word. Raises TrainingError (PROPOSAL_REFUSED) for other content under a known id."""
        said = {"digest": digest, "proposal": proposal.SerializeToString(), "state": YES if approved else NO}
        with self._engine.begin() as connection:
            known = connection.execute(select(_proposals).where(_proposals.c.run_id == proposal.run_id)).one_or_none()
            if known is not None:
                _state(known, digest)
            self._write(connection, proposal.run_id, said)

    def refuse(self, run_id: str) -> None:
        """A person's no to a run, whatever it proposes; needs no proposal, which only the gateway could give."""
        with self._engine.begin() as connection:
            self._write(connection, run_id, {"state": NO}, digest="", proposal=b"")

    def state(self, run_id: str, digest: str) -> str:
        """PENDING, YES or NO for a proposal; a no is to the run. Raises TrainingError (PROPOSAL_REFUSED) for other
        content."""
        with self._engine.begin() as connection:
            known = connection.execute(select(_proposals).where(_proposals.c.run_id == run_id)).one_or_none()
            return PENDING if known is None else _state(known, digest)

    def waiting(self) -> list[Waiting]:
        """What waits for a person, oldest deadline first."""
        query = select(_proposals).where(_proposals.c.state == PENDING, _proposals.c.expires_at > self._now())
        with self._engine.begin() as connection:
            rows = connection.execute(query.order_by(_proposals.c.expires_at)).all()
        return [
            Waiting(row.run_id, pb.TrainingProposal.FromString(row.proposal), row.proposed_by, row.expires_at)
            for row in rows
        ]

    def drop(self, run_id: str) -> None:
        """A proposal is void: it need not wait any longer. What a person said stays."""
        with self._engine.begin() as connection:
            connection.execute(delete(_proposals).where(_proposals.c.run_id == run_id, _proposals.c.state == PENDING))

    def pause(self, run_id: str, *, paused: bool) -> None:
        """Pauses this partner in a run, or ends that."""
        written = insert(_pauses).values(run_id=run_id, paused=paused)
        with self._engine.begin() as connection:
            connection.execute(written.on_conflict_do_update(index_elements=["run_id"], set_={"paused": paused}))

    def paused(self, run_id: str) -> bool:
        """Whether this partner has paused itself in a run."""
        with self._engine.begin() as connection:
            return bool(connection.scalar(select(_pauses.c.paused).where(_pauses.c.run_id == run_id)))

    def _write(self, connection: Connection, run_id: str, said: Mapping[str, object], **unknown: object) -> None:
        """Keeps a person's word; ``unknown`` is what to write beside it where nothing is known of the run."""
        said = {**said, "decided_at": self._now()}
        written = insert(_proposals).values(run_id=run_id, proposed_by="", expires_at="", **unknown, **said)
        connection.execute(written.on_conflict_do_update(index_elements=["run_id"], set_=said))

    def _now(self) -> str:
        return to_text(self._clock.now())


def _state(known: Row[tuple[object, ...]], digest: str) -> str:
    if known.state != NO and known.digest != digest:
        raise TrainingError(Reason.PROPOSAL_REFUSED, item="the run was proposed with other content before")
    return str(known.state)


class ProposalRules:
    """This partner's limits on runs; nothing here looks at a row.

    Args:
        party: This partner.
        limits: From its configuration.
        policy: Its own rules.
        memory: Of its runs.
    """

    def __init__(self, party: str, limits: Limits, policy: OwnRules, memory: RunMemory) -> None:
        self._party, self._limits, self._policy, self._memory = party, limits, policy, memory

    def check(self, proposal: pb.TrainingProposal) -> Plan:
        """The plan of a proposal that is within the limits.

        Raises:
            DataError: the proposal makes no sense.
            TrainingError: PROPOSAL_REFUSED.
        """
        plan = read_plan(proposal)
        limits, spec = self._limits, self._policy.training
        allowed = set(spec.features if limits.features is None else limits.features)
        # What one partner's part is hidden behind is the others: a gateway must not choose them from outside.
        strangers = set(plan.partners) - set(self._policy.partners)
        models = set(spec.models if limits.models is None else limits.models) & set(spec.models)
        checks = {
            "run has ended": not self._memory.ended(plan.run_id),
            "this partner is not in it": self._party in plan.partners,
            f"partners {', '.join(sorted(strangers))[:96]}": not strangers,
            "too few partners": len(plan.partners) >= spec.min_partners,
            f"features {', '.join(sorted(set(plan.features) - allowed))}": set(plan.features) <= allowed,
            f"model {plan.kind}": plan.kind in models,
            f"label {plan.label[:48]}": plan.label == spec.label,
            "rounds": plan.learning_rounds <= spec.max_rounds,
            "judging: not as this partner's policy has it": _judges_within(plan.judging, spec.judging),
            "epsilon": plan.epsilon <= spec.max_epsilon,
            "delta": plan.delta <= limits.delta,
            f"trust: this partner wants {spec.trust}": (plan.noise is not None) == (spec.trust == "secure_sum"),
            "noise for fewer colluding partners": plan.noise is None or plan.noise.collusion >= spec.collusion,
            # The gateway's claim is not trusted: the noise says what the run costs.
            "claimed epsilon is not true": person_epsilon(plan) <= plan.epsilon * CLAIM_SLACK,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="; ".join(wrong)[:300])
        return plan

    def needs_person(self, plan: Plan) -> str:
        """Why the standing rule does not approve a plan; empty where it does."""
        if self._limits.training_approval == "manual":
            return "this partner approves by hand"
        bounds = self._limits.automatic_within
        outside = {
            "epsilon": bounds.max_epsilon is not None and plan.epsilon > bounds.max_epsilon,
            f"model {plan.kind}": bounds.models is not None and plan.kind not in bounds.models,
            "features": bounds.features is not None and not set(plan.features) <= set(bounds.features),
        }
        names = [name for name, is_outside in outside.items() if is_outside]
        return f"beyond the standing rule: {', '.join(names)}" if names else ""


def _judges_within(asked: Judging | None, own: JudgingSpec | None) -> bool:
    """Whether customers are grouped by nothing but what the own policy names: regions, and bands of some columns."""
    if asked is None or own is None:
        return asked is None
    regions = {REGION} if own.by_region else set()
    return all(each.column in (own.bands if each.edges else regions) for each in asked.groupings)


def person_epsilon(plan: Plan) -> float:
    """What the run costs a person who is a customer of every partner, spare attempts included."""
    return epsilon_of([plan.person_event(plan.max_attempts)], plan.delta)
