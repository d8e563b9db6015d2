"""The state of epochs in a SQL database; see ``epochs.Epochs`` for what each method promises.

What streams and builds ask again and again is read once for all of them, and again when the database has changed.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, Engine, bindparam, insert, select, text, update

from federation.core.clock import to_text
from federation.core.database import reading
from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId, PartyId
from federation.overlap.batch import batch_id_of
from federation.overlap.plan import BatchKey
from federation.v1 import overlap_pb2 as pb
from gateway.changes import Changes, Stamp
from gateway.overlap import epochs_tables as ask
from gateway.overlap.epochs import AWAITED, MAX_WAITING, Batch, Counts, Delta, Epoch, Kind, Step, Task
from gateway.overlap.epochs_tables import BATCHES as _BATCHES
from gateway.overlap.epochs_tables import DELTAS as _DELTAS
from gateway.overlap.epochs_tables import EPOCHS as _EPOCHS
from gateway.overlap.epochs_tables import META as _META
from gateway.overlap.epochs_tables import TASKS as _TASKS
from gateway.overlap.epochs_tables import is_open as _is_open

_Found = TypeVar("_Found")


class SqlEpochs:
    """Epochs in a SQL database."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading = engine, reading(engine)  # who only looks waits for no writer
        _META.create_all(engine)
        self._changes, self._looking = Changes(engine), threading.Lock()
        self._seen: Stamp | None = None
        self._known: dict[str, object] = {}  # as the database was when it had that stamp

    def create(self, plan: pb.EpochPlan, batches: Mapping[PartyId, Sequence[BatchKey]], at: datetime) -> list[str]:
        """See Epochs."""
        opened = select(_EPOCHS.c.epoch).where(_EPOCHS.c.state == "open")
        with self._engine.begin() as db:
            left = select(_BATCHES.c.batch_id).where(_BATCHES.c.epoch.in_(opened))
            abandoned = sorted(db.execute(left).scalars())
            db.execute(update(_EPOCHS).where(_EPOCHS.c.state == "open").values(state="abandoned"))
            data = plan.SerializeToString(deterministic=True)
            db.execute(insert(_EPOCHS).values(epoch=plan.epoch, plan=data, state="open", created_at=to_text(at)))
            for origin, keys in batches.items():
                for index, operation, label in keys:
                    row = {"index": index, "operation": operation, "label": label, "position": AWAITED}
                    name = batch_id_of(plan.epoch, origin, index, label, operation=operation)
                    db.execute(insert(_BATCHES).values(batch_id=name, epoch=plan.epoch, origin=origin, **row))
                _open_task(db, plan.epoch, origin, "submit", "")
        return abandoned

    def get(self, epoch: str) -> Epoch | None:
        """See Epochs."""
        found = self._look(f"epoch {epoch}", lambda db: db.execute(ask.EPOCH, {"epoch": epoch}).mappings().first())
        if found is None:
            return None
        plan = pb.EpochPlan.FromString(found["plan"])  # parsed anew, so a caller may change it
        return Epoch(EpochId(found["epoch"]), plan, found["state"])

    def opened(self) -> EpochId | None:
        """See Epochs."""
        with self._reading.begin() as db:
            name: str | None = db.execute(ask.OPENED).scalar()
        return EpochId(name) if name is not None else None

    def newest_complete(self) -> EpochId | None:
        """See Epochs."""
        name: str | None = self._look("newest", lambda db: db.execute(ask.NEWEST).scalar())
        return EpochId(name) if name is not None else None

    def names(self, prefix: str) -> set[str]:
        """See Epochs."""
        with self._reading.begin() as db:
            rows = db.execute(select(_EPOCHS.c.epoch).where(_EPOCHS.c.epoch.startswith(prefix, autoescape=True)))
            return set(rows.scalars())

    def batch(self, batch_id: str) -> Batch | None:
        """See Epochs."""
        with self._reading.begin() as db:
            row = db.execute(ask.OPEN_BATCH, {"batch": batch_id}).mappings().first()
        return _batch(dict(row)) if row else None

    def closed(self, batch_id: str) -> Batch | None:
        """See Epochs."""
        with self._reading.begin() as db:
            row = db.execute(ask.CLOSED_BATCH, {"batch": batch_id}).mappings().first()
        return _batch(dict(row)) if row else None

    def batches(self, epoch: str) -> list[Batch]:
        """See Epochs."""
        with self._reading.begin() as db:
            rows = db.execute(ask.BASE_BATCHES, {"epoch": epoch}).mappings()
            return [_batch(dict(row)) for row in rows]

    def open_delta(self, epoch: str, origin: str, sequence: int, keys: Sequence[BatchKey]) -> None:
        """See Epochs."""
        mine = (_DELTAS.c.epoch == epoch) & (_DELTAS.c.origin == origin)
        with self._engine.begin() as db:
            states = list(db.execute(select(_DELTAS.c.state).where(mine).order_by(_DELTAS.c.sequence)).scalars())
            if sequence <= len(states):
                return
            if sequence != len(states) + 1 or states.count("open") >= MAX_WAITING or "failed" in states:
                item = f"delta {sequence} of {origin}; {len(states)} came"
                raise OverlapError(Reason.OUT_OF_SEQUENCE, item=item)
            about = {"epoch": epoch, "origin": origin, "sequence": sequence}
            db.execute(insert(_DELTAS).values(**about, state="open"))
            for index, operation, label in keys:
                row = {"index": index, "operation": operation, "label": label, "position": AWAITED}
                name = batch_id_of(epoch, origin, index, label, operation=operation, sequence=sequence)
                db.execute(insert(_BATCHES).values(batch_id=name, **about, **row))

    def deltas(self, epoch: str) -> list[Delta]:
        """See Epochs."""
        return list(self._look(f"deltas {epoch}", lambda db: _read_deltas(db, epoch)))

    def arrived(self, epoch: str, hops: int) -> set[tuple[PartyId, int]]:
        """See Epochs."""
        with self._reading.begin() as db:
            rows = db.execute(ask.ARRIVED, {"epoch": epoch, "hops": hops})
            return {(PartyId(row.origin), row.sequence) for row in rows}

    def delta_batches(self, delta: Delta) -> list[Batch]:
        """See Epochs."""
        where = _BATCHES.c
        mine = (where.epoch == delta.epoch) & (where.origin == delta.origin) & (where.sequence == delta.sequence)
        with self._reading.begin() as db:
            rows = db.execute(select(_BATCHES).where(mine).order_by(text("rowid"))).mappings()
            return [_batch(dict(row)) for row in rows]

    def close_delta(self, delta: Delta, reason: str = "", item: str = "") -> None:
        """See Epochs."""
        where = _DELTAS.c
        mine = (where.epoch == delta.epoch) & (where.origin == delta.origin) & (where.sequence == delta.sequence)
        state = "failed" if reason else "applied"
        with self._engine.begin() as db:
            values = {"state": state, "reason": reason, "text": item}
            db.execute(update(_DELTAS).where(mine, where.state == "open").values(**values))

    def open_batches(self) -> set[str]:
        """See Epochs."""
        with self._reading.begin() as db:
            return set(db.execute(select(_BATCHES.c.batch_id).where(_is_open())).scalars())

    def advance(self, steps: Sequence[Step]) -> None:
        """See Epochs."""
        with self._engine.begin() as db:
            for step in steps:
                _advance(db, step)

    def tasks(self, party: str) -> list[Task]:
        """See Epochs."""
        return list(self._look("tasks", _read_tasks).get(party, ()))

    def fail(self, task_id: str, party: str, reason: str, text: str) -> bool:
        """See Epochs."""
        mine = (_TASKS.c.task_id == task_id) & (_TASKS.c.party == party) & (_TASKS.c.state == "open")
        with self._engine.begin() as db:
            failed = db.execute(update(_TASKS).where(mine).values(state="failed", reason=reason, text=text))
        return bool(failed.rowcount)

    def reopen(self, epoch: str) -> None:
        """See Epochs."""
        failed = (_TASKS.c.epoch == epoch) & (_TASKS.c.state == "failed")
        with self._engine.begin() as db:
            again = {"state": "open", "reason": "", "text": "", "attempt": _TASKS.c.attempt + 1}
            db.execute(update(_TASKS).where(failed).values(**again))

    def failed(self, epoch: str) -> list[Task]:
        """See Epochs."""
        return list(self._look(f"failed {epoch}", lambda db: _read_failed(db, epoch)))

    def counts(self, epoch: str) -> Counts:
        """See Epochs."""
        return self._look(f"counts {epoch}", lambda db: _read_counts(db, epoch))

    def complete(self, epoch: str, at: datetime) -> list[str]:
        """See Epochs."""
        mine = (_EPOCHS.c.epoch == epoch) & (_EPOCHS.c.state == "open")
        others = (_DELTAS.c.state == "open") & (_DELTAS.c.epoch != epoch)
        of_others = (_BATCHES.c.sequence > 0) & (_BATCHES.c.epoch != epoch)
        with self._engine.begin() as db:
            abandoned = list(db.execute(select(_BATCHES.c.batch_id).where(_is_open(), of_others)).scalars())
            db.execute(update(_EPOCHS).where(mine).values(state="complete", completed_at=to_text(at)))
            db.execute(update(_DELTAS).where(others).values(state="abandoned"))
        return abandoned

    def abandon(self, epoch: str) -> list[str]:
        """See Epochs."""
        mine = (_EPOCHS.c.epoch == epoch) & (_EPOCHS.c.state == "open")
        with self._engine.begin() as db:
            left = select(_BATCHES.c.batch_id).where(_BATCHES.c.epoch.in_(select(_EPOCHS.c.epoch).where(mine)))
            abandoned = sorted(db.execute(left).scalars())
            db.execute(update(_EPOCHS).where(mine).values(state="abandoned"))
        return abandoned

    def replaced(self) -> list[EpochId]:
        """See Epochs."""
        query = select(_EPOCHS.c.epoch).where(_EPOCHS.c.state == "complete").order_by(_EPOCHS.c.number.desc())
        with self._reading.begin() as db:
            return [EpochId(name) for name in db.execute(query.offset(1)).scalars()]

    def abandoned(self) -> list[EpochId]:
        """See Epochs."""
        query = select(_EPOCHS.c.epoch).where(_EPOCHS.c.state == "abandoned")
        with self._reading.begin() as db:
            return [EpochId(name) for name in db.execute(query).scalars()]

    def _look(self, what: str, read: Callable[[Connection], _Found]) -> _Found:
        """What was read before, as long as the database is as it was. Everybody gets the same: none may change it."""
        with self._looking:
            stamp = self._changes.stamp()
            if stamp != self._seen:
                self._seen, self._known = stamp, {}
            if what in self._known:
                return self._known[what]  # type: ignore[return-value]
            with self._reading.begin() as db:
                found = read(db)
            if found is not None:  # names of what is not there are without number
                self._known[what] = found
            return found


# Every step of every batch does these.
_MOVE = (
    update(_BATCHES)
    .where(_BATCHES.c.batch_id == bindparam("moved"))
    .values(position=bindparam("position"), header=bindparam("header"), rejected=bindparam("rejected"))
)
_DONE = {"state": "done", "reason": "", "text": ""}
_BLINDED = update(_TASKS).where(_TASKS.c.batch_id == bindparam("moved"), _TASKS.c.kind == "blind").values(**_DONE)
_SUBMITTED = update(_TASKS).where(_TASKS.c.task_id == bindparam("task")).values(**_DONE)
_OPEN_TASK = insert(_TASKS)


def _advance(db: Connection, step: Step) -> None:
    row = db.execute(ask.BATCH, {"batch": step.batch_id}).mappings().one()
    position = len(step.header.receipts)
    if row["position"] != position - 1:
        raise OverlapError(Reason.UNKNOWN_BATCH, item=f"batch at position {row['position']}")
    rejected = row["rejected"] if position else step.rejected
    values = {"position": position, "header": step.header.SerializeToString(), "rejected": rejected}
    db.execute(_MOVE, {"moved": step.batch_id, **values})
    if position:
        db.execute(_BLINDED, {"moved": step.batch_id})
    elif not row["sequence"]:
        of_origin = {"epoch": row["epoch"], "origin": row["origin"], "awaited": AWAITED}
        if not db.execute(ask.NOT_SENT, of_origin).scalar_one():
            db.execute(_SUBMITTED, {"task": _task_id(row["epoch"], row["origin"], "submit", "")})
    if step.next_hop is not None:
        _open_task(db, row["epoch"], step.next_hop, "blind", step.batch_id)


def _read_deltas(db: Connection, epoch: str) -> list[Delta]:
    return [Delta(**row) for row in db.execute(ask.OF_DELTAS, {"epoch": epoch}).mappings()]


def _read_failed(db: Connection, epoch: str) -> list[Task]:
    return [Task(**row) for row in db.execute(ask.FAILED, {"epoch": epoch}).mappings()]


def _read_tasks(db: Connection) -> dict[str, list[Task]]:
    found: dict[str, list[Task]] = {}
    for row in db.execute(ask.OPEN_TASKS).mappings():
        task = Task(**row)
        found.setdefault(task.party, []).append(task)
    return found


def _read_counts(db: Connection, epoch: str) -> Counts:
    of_epoch = {"epoch": epoch}
    plan = db.execute(ask.EPOCH, of_epoch).mappings().one()["plan"]
    positions = list(db.execute(ask.POSITIONS, of_epoch).scalars())
    tasks = tuple(Task(**row) for row in db.execute(ask.WAITING, of_epoch).mappings())
    hops = len(pb.EpochPlan.FromString(plan).partners) - 1
    sent = [position for position in positions if position != AWAITED]
    return Counts(len(sent), len(positions), sum(sent), len(positions) * hops, tasks)


def _task_id(epoch: str, party: str, kind: Kind, batch_id: str) -> str:
    return hashlib.sha256(f"{epoch}/{party}/{kind}/{batch_id}".encode()).hexdigest()[:32]


def _open_task(db: Connection, epoch: str, party: str, kind: Kind, batch_id: str) -> None:
    row = {"epoch": epoch, "party": party, "kind": kind, "batch_id": batch_id, "state": "open"}
    db.execute(_OPEN_TASK, {"task_id": _task_id(epoch, party, kind, batch_id), **row})


def _batch(row: dict[str, object]) -> Batch:
    header = pb.BatchHeader.FromString(bytes(row.pop("header")))  # type: ignore[call-overload]
    return Batch(header=header, **row)  # type: ignore[arg-type]
