"""The tables of the state of epochs, and the questions that every step of every batch asks: those are made once."""

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    exists,
    func,
    select,
)

from federation.overlap.plan import BASE

META = MetaData()
EPOCHS = Table(
    "overlap_epoch",
    META,
    Column("number", Integer, primary_key=True),
    Column("epoch", String(64), nullable=False, unique=True),
    Column("plan", LargeBinary, nullable=False),
    Column("state", String(12), nullable=False),  # "open", "complete", "abandoned"
    Column("created_at", String(40), nullable=False),
    Column("completed_at", String(40), nullable=False, default=""),
)
BATCHES = Table(
    "overlap_batch",
    META,
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
DELTAS = Table(
    "overlap_delta",
    META,
    Column("epoch", String(64), primary_key=True),
    Column("origin", String(32), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("state", String(12), nullable=False),
    Column("reason", String(40), nullable=False, default=""),
    Column("text", Text, nullable=False, default=""),
)
TASKS = Table(
    "overlap_task",
    META,
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


def is_open() -> ColumnElement[bool]:
    """Of a batch: that its epoch, or its delta, is open."""
    where = BATCHES.c
    epochs = select(EPOCHS.c.epoch).where(EPOCHS.c.state == "open")
    same = (DELTAS.c.epoch == where.epoch) & (DELTAS.c.origin == where.origin)
    same &= (DELTAS.c.sequence == where.sequence) & (DELTAS.c.state == "open")
    return ((where.sequence == 0) & where.epoch.in_(epochs)) | exists().where(same)


def _open_tasks() -> Select[tuple[object, ...]]:
    """Of all parties: in open epochs, and of each origin of the first delta that is open."""
    delta = DELTAS.alias()
    first = select(func.min(delta.c.sequence)).where(
        delta.c.epoch == BATCHES.c.epoch, delta.c.origin == BATCHES.c.origin, delta.c.state == "open"
    )
    turn = (BATCHES.c.sequence == 0) | (BATCHES.c.sequence == first.scalar_subquery())
    ready = select(BATCHES.c.batch_id).where(is_open(), turn)
    opened = select(EPOCHS.c.epoch).where(EPOCHS.c.state == "open")
    submits = (TASKS.c.kind == "submit") & TASKS.c.epoch.in_(opened)
    query = select(TASKS).where(TASKS.c.state == "open", submits | TASKS.c.batch_id.in_(ready))
    return query.order_by(TASKS.c.kind.desc())


_SAME_EPOCH = BATCHES.c.epoch == bindparam("epoch")
_NAMED = BATCHES.c.batch_id == bindparam("batch")
EPOCH = select(EPOCHS).where(EPOCHS.c.epoch == bindparam("epoch"))
NEWEST = select(EPOCHS.c.epoch).where(EPOCHS.c.state == "complete").order_by(EPOCHS.c.number.desc()).limit(1)
OPENED = select(EPOCHS.c.epoch).where(EPOCHS.c.state == "open").order_by(EPOCHS.c.number.desc()).limit(1)
BATCH = select(BATCHES).where(_NAMED)
OPEN_BATCH = BATCH.where(is_open())
CLOSED_BATCH = BATCH.where(BATCHES.c.sequence > 0, ~is_open())
BASE_BATCHES = (
    select(BATCHES)
    .where(_SAME_EPOCH, BATCHES.c.sequence == 0)
    .order_by(BATCHES.c.origin, BATCHES.c.index, BATCHES.c.label)
)
POSITIONS = select(BATCHES.c.position).where(_SAME_EPOCH, BATCHES.c.sequence == 0)
NOT_SENT = (
    select(func.count())
    .select_from(BATCHES)
    .where(
        _SAME_EPOCH,
        BATCHES.c.origin == bindparam("origin"),
        BATCHES.c.position == bindparam("awaited"),
        BATCHES.c.sequence == 0,
    )
)
OF_DELTAS = select(DELTAS).where(DELTAS.c.epoch == bindparam("epoch")).order_by(DELTAS.c.origin, DELTAS.c.sequence)
_LATE = exists().where(
    BATCHES.c.epoch == DELTAS.c.epoch,
    BATCHES.c.origin == DELTAS.c.origin,
    BATCHES.c.sequence == DELTAS.c.sequence,
    BATCHES.c.position < bindparam("hops"),
)
ARRIVED = select(DELTAS.c.origin, DELTAS.c.sequence).where(
    DELTAS.c.epoch == bindparam("epoch"), DELTAS.c.state == "open", ~_LATE
)
OPEN_TASKS = _open_tasks()
FAILED = select(TASKS).where(TASKS.c.epoch == bindparam("epoch"), TASKS.c.state == "failed")
WAITING = select(TASKS).where(TASKS.c.epoch == bindparam("epoch"), TASKS.c.state != "done").order_by(TASKS.c.party)
