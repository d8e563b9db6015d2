"""The steps of proposals as rows, and what state they add up to."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Connection, Integer, LargeBinary, Row, String, Table, Text, insert, select

from federation.core.clock import to_text
from federation.policy.steps import Kind
from gateway.policy.versions import METADATA

PROPOSALS = Table(
    "policy_proposals",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("version", String(64), nullable=False),
    Column("base", String(64), nullable=False),
    Column("party", String(32), nullable=False),
)
STEPS = Table(
    "policy_steps",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("proposal", String(64), nullable=False, default=""),
    Column("version", String(64), nullable=False),
    Column("base", String(64), nullable=False, default=""),
    Column("party", String(32), nullable=False),
    Column("words", Text, nullable=False, default=""),
    Column("at", String(40), nullable=False),
    Column("effective_at", String(40), nullable=False, default=""),
    Column("signed", LargeBinary, nullable=False, default=b""),  # the envelope; empty for notes of the gateway
    Column("done", String(16), nullable=False, default=""),  # of an activation or rollback: "in_force" or "lapsed"
    Column("activation", Integer, unique=True),  # of a note that a version came into force: which activation
    Column("audit_index", Integer),  # none until the step is in the log; until then it has no effect
)


class State(StrEnum):
    """How far a proposal is. The words go into messages."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    SCHEDULED = "scheduled"
    IN_FORCE = "put in force"
    VETOED = "vetoed"
    LAPSED = "lapsed"


OPEN = frozenset({State.PROPOSED, State.APPROVED, State.SCHEDULED})


@dataclass(frozen=True)
class Step:
    """One row of the history. Times are RFC 3339."""

    number: int
    kind: Kind
    proposal: str
    version: str
    base: str
    party: str
    words: str
    at: str
    effective_at: str
    signed: bytes
    done: str
    audit_index: int | None


def read_step(row: Row[Any]) -> Step:
    """A row as a step."""
    names = [name for name in Step.__dataclass_fields__ if name != "kind"]
    return Step(kind=Kind(row.kind), **{name: getattr(row, name) for name in names})


def steps_of(db: Connection, proposal: str) -> list[Step]:
    """Steps of a proposal, oldest first."""
    rows = db.execute(select(STEPS).where(STEPS.c.proposal == proposal).order_by(STEPS.c.number))
    return [read_step(row) for row in rows]


def state_of(db: Connection, proposal: str) -> State:
    """What the steps add up to; a step counts when it is filed, so that two processes cannot both take it."""
    state = State.PROPOSED
    for step in steps_of(db, proposal):
        if step.kind is Kind.VETO:
            return State.VETOED
        if step.kind is Kind.APPROVAL:
            state = State.APPROVED
        if step.kind is Kind.ACTIVATION:
            state = {"": State.SCHEDULED, "in_force": State.IN_FORCE, "lapsed": State.LAPSED}[step.done]
    return state


def insert_step(db: Connection, at: datetime, values: Mapping[str, object]) -> int:
    """Files a step, or a note of the gateway; returns its number."""
    return int(db.execute(insert(STEPS).values(at=to_text(at), **values).returning(STEPS.c.number)).scalar_one())
