"""The state of epochs in a SQL database; see ``epochs.Epochs`` for what each method promises."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    exists,
    func,
    insert,
    select,
    text,
    update,
)

from federation.core.clock import to_text
from federation.core.database import reading
from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId, PartyId
from federation.overlap.plan import BASE
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.epochs import AWAITED, MAX_WAITING, Batch, Counts, Delta, Epoch, Kind, Task, batch_id_of

_META = MetaData()
_EPOCHS = Table(
    "overlap_epoch",
    _META,
    Column("number", Integer, primary_key=True),
    Column("epoch", String(64), nullable=False, unique=True),
    Column("plan", LargeBinary, nullable=False),
    Column("state", String(12), nullable=False),  # "open", "complete", "abandoned"
    Column("created_at", String(40), nullable=False),
    Column("completed_at", String(40), nullable=False, default=""),
)
_BATCHES = Table(
    "overlap_batch",
    _META,
    Column("batch_id", String(64), primary_key=True),
    Column("epoch", String(64), nullable=False, index=True),
    Column("origin", String(32), nullable=False),
    Column("index", Integer, nullable=False),
    Column("label", String(1024), nullable=False),
    Column("position", Integer, nullable=False),
    Column("header", LargeBinary, nullable=False, default=b""),
    Column("rejected", Integer, nullable=False, default=0),
    Column("operation", Integer, nullable=False, default=BASE),
    Column("sequence", Integer, nullable=False, default=0),
)
_DELTAS = Table(
    "overlap_delta",
    _META,
    Column("epoch", String(64), primary_key=True),
    Column("origin", String(32), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("state", String(12), nullable=False),
    Column("reason", String(40), nullable=False, default=""),
    Column("text", Text, nullable=False, default=""),
)
_TASKS = Table(
    "overlap_task",
    _META,
    Column("task_id", String(64), primary_key=True),
    Column("epoch", String(64), nullable=False, index=True),
    Column("party", String(32), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("batch_id", String(64), nullable=False),
    Column("state", String(8), nullable=False),  # "open", "done", "failed"
    Column("reason", String(40), nullable=False, default=""),
    Column("text", Text, nullable=False, default=""),
    Column("attempt", Integer, nullable=False, default=0),
)


class SqlEpochs:
    """Epochs in a SQL database."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading = engine, reading(engine)  # who only looks waits for no writer
        _META.create_all(engine)

    def create(
        self, plan: pb.EpochPlan, batches: Mapping[PartyId, Sequence[tuple[int, str]]], at: datetime
    ) -> list[str]:
        """See Epochs."""
        opened = select(_EPOCHS.c.epoch).where(_EPOCHS.c.state == "open")
        with self._engine.begin() as db:
            left = select(_BATCHES.c.batch_id).where(_BATCHES.c.epoch.in_(opened))
            abandoned = sorted(db.execute(left).scalars())
            db.execute(update(_EPOCHS).where(_EPOCHS.c.state == "open").values(state="abandoned"))
            data = plan.SerializeToString(deterministic=True)
            db.execute(insert(_EPOCHS).values(epoch=plan.epoch, plan=data, state="open", created_at=to_text(at)))
            for origin, keys in batches.items():
                for index, label in keys:
                    row = {"epoch": plan.epoch, "origin": origin, "index": index, "label": label, "position": AWAITED}
                    name = batch_id_of(plan.epoch, origin, index, label)
                    db.execute(insert(_BATCHES).values(batch_id=name, **row))
                _open_task(db, plan.epoch, origin, "submit", "")
        return abandoned

    def get(self, epoch: str) -> Epoch | None:
        """See Epochs."""
        with self._reading.begin() as db:
            row = db.execute(select(_EPOCHS).where(_EPOCHS.c.epoch == epoch)).mappings().first()
        return Epoch(EpochId(row["epoch"]), pb.EpochPlan.FromString(row["plan"]), row["state"]) if row else None

    def newest_complete(self) -> EpochId | None:
        """See Epochs."""
        where = _EPOCHS.c
        query = select(where.epoch).where(where.state == "complete").order_by(where.number.desc()).limit(1)
        with self._reading.begin() as db:
            name = db.execute(query).scalar()
        return EpochId(name) if name is not None else None

    def names(self, prefix: str) -> set[str]:
        """See Epochs."""
        with self._reading.begin() as db:
            rows = db.execute(select(_EPOCHS.c.epoch).where(_EPOCHS.c.epoch.startswith(prefix, autoescape=True)))
            return set(rows.scalars())

    def batch(self, batch_id: str) -> Batch | None:
        """See Epochs."""
        with self._reading.begin() as db:
            row = db.execute(_OPEN_BATCH, {"name": batch_id}).mappings().first()
        return _batch(dict(row)) if row else None

    def closed(self, batch_id: str) -> Batch | None:
        """See Epochs."""
        mine = (_BATCHES.c.batch_id == batch_id) & (_BATCHES.c.sequence > 0)
        with self._reading.begin() as db:
            row = db.execute(select(_BATCHES).where(mine, ~_is_open())).mappings().first()
        return _batch(dict(row)) if row else None

    def batches(self, epoch: str) -> list[Batch]:
        """See Epochs."""
        where = _BATCHES.c
        base = select(_BATCHES).where(where.epoch == epoch, where.sequence == 0)
        with self._reading.begin() as db:
            rows = db.execute(base.order_by(where.origin, where.index, where.label)).mappings()
            return [_batch(dict(row)) for row in rows]

    def open_delta(self, epoch: str, origin: str, sequence: int, keys: Sequence[tuple[int, int, str]]) -> None:
        """See Epochs."""
        mine = (_DELTAS.c.epoch == epoch) & (_DELTAS.c.origin == origin)
        with self._engine.begin() as db:
            states = list(db.execute(select(_DELTAS.c.state).where(mine).order_by(_DELTAS.c.sequence)).scalars())
            if sequence <= len(states):
                return
            if sequence != len(states) + 1 or states.count("open") >= MAX_WAITING or "failed" in states:
                item = f"delta {sequence} of {origin}; {len(states)} came, {states.count('applied')} are in the index"
                raise OverlapError(Reason.OUT_OF_SEQUENCE, item=item)
            about = {"epoch": epoch, "origin": origin, "sequence": sequence}
            db.execute(insert(_DELTAS).values(**about, state="open"))
            for index, operation, label in keys:
                row = {"index": index, "operation": operation, "label": label, "position": AWAITED}
                name = batch_id_of(epoch, origin, index, label, operation=operation, sequence=sequence)
                db.execute(insert(_BATCHES).values(batch_id=name, **about, **row))

    def deltas(self, epoch: str) -> list[Delta]:
        """See Epochs."""
        query = select(_DELTAS).where(_DELTAS.c.epoch == epoch).order_by(_DELTAS.c.origin, _DELTAS.c.sequence)
        with self._reading.begin() as db:
            return [Delta(**row) for row in db.execute(query).mappings()]

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

    def advance(self, batch_id: str, header: pb.BatchHeader, next_hop: str | None, rejected: int) -> None:
        """See Epochs."""
        with self._engine.begin() as db:
            row = db.execute(select(_BATCHES).where(_BATCHES.c.batch_id == batch_id)).mappings().one()
            position = len(header.receipts)
            if row["position"] != position - 1:
                raise OverlapError(Reason.UNKNOWN_BATCH, item=f"batch at position {row['position']}")
            values = {"position": position, "header": header.SerializeToString()}
            if position == 0:
                values["rejected"] = rejected
            db.execute(update(_BATCHES).where(_BATCHES.c.batch_id == batch_id).values(**values))
            done = (_TASKS.c.batch_id == batch_id) & (_TASKS.c.kind == "blind")
            if position == 0:
                where = _BATCHES.c
                mine = (where.epoch == row["epoch"]) & (where.origin == row["origin"]) & (where.position == AWAITED)
                mine &= where.sequence == 0
                if not db.execute(select(func.count()).select_from(_BATCHES).where(mine)).scalar_one():
                    done |= _TASKS.c.task_id == _task_id(row["epoch"], row["origin"], "submit", "")
            db.execute(update(_TASKS).where(done).values(state="done", reason="", text=""))
            if next_hop is not None:
                _open_task(db, row["epoch"], next_hop, "blind", batch_id)

    def tasks(self, party: str) -> list[Task]:
        """See Epochs."""
        delta = _DELTAS.alias()
        first = select(func.min(delta.c.sequence)).where(
            delta.c.epoch == _BATCHES.c.epoch, delta.c.origin == _BATCHES.c.origin, delta.c.state == "open"
        )
        turn = (_BATCHES.c.sequence == 0) | (_BATCHES.c.sequence == first.scalar_subquery())
        ready = select(_BATCHES.c.batch_id).where(_is_open(), turn)
        opened = select(_EPOCHS.c.epoch).where(_EPOCHS.c.state == "open")
        query = select(_TASKS).where(_TASKS.c.party == party, _TASKS.c.state == "open")
        submits = (_TASKS.c.kind == "submit") & _TASKS.c.epoch.in_(opened)
        query = query.where(submits | _TASKS.c.batch_id.in_(ready))
        with self._reading.begin() as db:
            return [Task(**row) for row in db.execute(query.order_by(_TASKS.c.kind.desc())).mappings()]

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

    def counts(self, epoch: str) -> Counts:
        """See Epochs."""
        waiting = select(_TASKS).where(_TASKS.c.epoch == epoch, _TASKS.c.state != "done").order_by(_TASKS.c.party)
        with self._reading.begin() as db:
            plan = db.execute(select(_EPOCHS.c.plan).where(_EPOCHS.c.epoch == epoch)).scalar_one()
            base = select(_BATCHES.c.position).where(_BATCHES.c.epoch == epoch, _BATCHES.c.sequence == 0)
            positions = list(db.execute(base).scalars())
            tasks = tuple(Task(**row) for row in db.execute(waiting).mappings())
        hops = len(pb.EpochPlan.FromString(plan).partners) - 1
        sent = [position for position in positions if position != AWAITED]
        return Counts(len(sent), len(positions), sum(sent), len(positions) * hops, tasks)

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

    def replaced(self) -> list[EpochId]:
        """See Epochs."""
        query = select(_EPOCHS.c.epoch).where(_EPOCHS.c.state == "complete").order_by(_EPOCHS.c.number.desc())
        with self._reading.begin() as db:
            return [EpochId(name) for name in db.execute(query.offset(1)).scalars()]


def _is_open() -> ColumnElement[bool]:
    """Of a batch: that its epoch, or its delta, is open."""
    where = _BATCHES.c
    epochs = select(_EPOCHS.c.epoch).where(_EPOCHS.c.state == "open")
    same = (_DELTAS.c.epoch == where.epoch) & (_DELTAS.c.origin == where.origin)
    same &= (_DELTAS.c.sequence == where.sequence) & (_DELTAS.c.state == "open")
    return ((where.sequence == 0) & where.epoch.in_(epochs)) | exists().where(same)


# Made once: every step of every batch asks it.
_OPEN_BATCH = select(_BATCHES).where(_BATCHES.c.batch_id == bindparam("name"), _is_open())


def _task_id(epoch: str, party: str, kind: Kind, batch_id: str) -> str:
    return hashlib.sha256(f"{epoch}/{party}/{kind}/{batch_id}".encode()).hexdigest()[:32]


def _open_task(db: Connection, epoch: str, party: str, kind: Kind, batch_id: str) -> None:
    row = {"epoch": epoch, "party": party, "kind": kind, "batch_id": batch_id, "state": "open"}
    db.execute(insert(_TASKS).values(task_id=_task_id(epoch, party, kind, batch_id), **row))


def _batch(row: dict[str, object]) -> Batch:
    header = pb.BatchHeader.FromString(bytes(row.pop("header")))  # type: ignore[call-overload]
    return Batch(header=header, **row)  # type: ignore[arg-type]
