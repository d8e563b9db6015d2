"""What comes into force because its time has come. Each function works within a transaction that the caller opened."""

from datetime import datetime

from sqlalchemy import Connection, func, select, update

from federation.core.clock import to_text
from federation.core.ids import PolicyVersion
from federation.policy.steps import Kind
from gateway.policy.steps_sql import STEPS, State, insert_step, state_of, steps_of
from gateway.policy.versions import activate_in, activations_after, latest_in


def bring_into_force(db: Connection, now: datetime) -> list[int]:
    """Takes activations and rollbacks that are logged and due; returns numbers of notes that are to be logged.

    One that was made on another version than the one in force, or that was vetoed meanwhile, lapses.
    """
    waiting = STEPS.c.kind.in_([Kind.ACTIVATION, Kind.ROLLBACK]) & (STEPS.c.done == "")
    due = select(STEPS).where(waiting, STEPS.c.audit_index.is_not(None), STEPS.c.effective_at <= to_text(now))
    notes: list[int] = []
    for row in db.execute(due.order_by(STEPS.c.effective_at, STEPS.c.number)).all():
        if row.proposal and any(step.audit_index is None for step in steps_of(db, row.proposal)):
            continue  # an earlier step of it is not in the log yet
        latest = latest_in(db)
        vetoed = bool(row.proposal) and state_of(db, row.proposal) is State.VETOED
        good = latest is not None and latest.version == row.base and not vetoed
        if good:
            activate_in(db, PolicyVersion(row.version), max(now, latest.at) if latest else now)
        else:
            values = {"kind": Kind.LAPSE, "proposal": row.proposal, "version": row.version, "base": row.base}
            notes.append(insert_step(db, now, {**values, "party": "gateway"}))
        db.execute(update(STEPS).where(STEPS.c.number == row.number).values(done="in_force" if good else "lapsed"))
        if good and row.kind == Kind.ROLLBACK:
            scheduled = (STEPS.c.kind == Kind.ACTIVATION) & (STEPS.c.done == "")
            db.execute(update(STEPS).where(scheduled).values(done="lapsed"))
    return notes


def note_activations(db: Connection, now: datetime) -> list[int]:
    """Notes each activation that has no note, the first start's too; returns numbers of notes that are to be logged."""
    noted = db.scalar(select(func.max(STEPS.c.activation))) or 0
    values = {"kind": Kind.IN_FORCE, "party": "gateway"}
    return [
        insert_step(
            db, now, {**values, "version": done.version, "effective_at": to_text(done.at), "activation": number}
        )
        for number, done in activations_after(db, noted)
    ]
