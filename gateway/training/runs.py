"""The registry of runs: what was proposed, how far it came, the model after every complete round.

Durable when a call returns. A run that is still "running" when the gateway starts was interrupted: it is marked failed,
with the round it reached; its budget stays spent, and a new run is a new proposal.
"""

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Column, Engine, Integer, LargeBinary, MetaData, Row, String, Table, func, select

from federation.core.errors import Reason, TrainingError
from federation.v1 import training_pb2 as pb

RUNNING, FINISHED, FAILED = "running", "finished", "failed"


@dataclass(frozen=True)
class RunKey:
    """What makes a call to start a run the same call again: digests of who with which key, and of what was asked."""

    name: str
    request: str


@dataclass(frozen=True)
class RunRecord:
    """One run."""

    run_id: str
    key: RunKey
    state: str
    started_at: str
    ended_at: str
    rounds_done: int
    proposal: pb.TrainingProposal
    reason: str


@dataclass(frozen=True)
class Model:
    """What a finished run gave."""

    run_id: str
    weights: bytes
    """safetensors."""
    card_json: str
    signed_card: bytes
    """The same bytes, signed by the gateway (federation.v1.Signed)."""
    version: int = 0
    """Counts finished models; 0 until it is kept."""


@dataclass(frozen=True)
class Finished:
    """A finished model, without its weights."""

    version: int
    run_id: str
    finished_at: str
    card_json: str


class RunStore(Protocol):
    """Keeps runs."""

    def begin(self, run_id: str, key: RunKey, proposal: pb.TrainingProposal, at: str) -> None:
        """Registers a run. Raises TrainingError (RUN_FAILED) if there is one of that id."""
        ...

    def keep_round(self, run_id: str, rounds_done: int, weights: bytes) -> None:
        """A round is complete."""
        ...

    def finish(self, model: Model, at: str) -> int:
        """The run gave a model; returns its version, one above the last."""
        ...

    def fail(self, run_id: str, reason: str, at: str) -> None:
        """The run ended without a model."""
        ...

    def fail_interrupted(self, at: str) -> list[str]:
        """Marks every run that is still running as failed, and returns their ids. For a gateway that starts."""
        ...

    def find(self, run_id: str) -> RunRecord | None:
        """A run by its id."""
        ...

    def find_key(self, name: str) -> RunRecord | None:
        """A run by the name in its key."""
        ...

    def all(self) -> list[RunRecord]:
        """Every run, newest first."""
        ...

    def model(self, run_id: str = "", version: int = 0) -> Model:
        """A finished model by its run or version; without either the newest. Raises TrainingError (UNKNOWN_RUN)."""
        ...

    def models(self) -> list[Finished]:
        """Every finished model without its weights, newest first."""
        ...


_metadata = MetaData()
_runs = Table(
    "gateway_training_runs",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String, unique=True, nullable=False),
    Column("key_name", String, unique=True, nullable=False),
    Column("key_request", String, nullable=False),
    Column("state", String, nullable=False),
    Column("started_at", String, nullable=False),
    Column("ended_at", String, nullable=False, default=""),
    Column("rounds_done", Integer, nullable=False, default=0),
    Column("proposal", LargeBinary, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("weights", LargeBinary, nullable=False, default=b""),
    Column("card_json", String, nullable=False, default=""),
    Column("signed_card", LargeBinary, nullable=False, default=b""),
    Column("version", Integer, unique=True),
)


class SqlRunStore:
    """Runs in SQLite.

    Args:
        engine: From ``open_database``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _metadata.create_all(engine)

    def begin(self, run_id: str, key: RunKey, proposal: pb.TrainingProposal, at: str) -> None:
        """See RunStore."""
        row = {"run_id": run_id, "key_name": key.name, "key_request": key.request, "state": RUNNING, "started_at": at}
        with self._engine.begin() as connection:
            if connection.scalar(
                select(_runs.c.number).where((_runs.c.run_id == run_id) | (_runs.c.key_name == key.name))
            ):
                raise TrainingError(Reason.RUN_FAILED, item=f"run {run_id} was there before")
            connection.execute(_runs.insert().values(**row, proposal=proposal.SerializeToString()))

    def keep_round(self, run_id: str, rounds_done: int, weights: bytes) -> None:
        """See RunStore."""
        self._update(run_id, rounds_done=rounds_done, weights=weights)

    def finish(self, model: Model, at: str) -> int:
        """See RunStore."""
        values = {"weights": model.weights, "card_json": model.card_json, "signed_card": model.signed_card}
        with self._engine.begin() as connection:
            version = int(connection.scalar(select(func.max(_runs.c.version))) or 0) + 1
            done = _runs.update().where(_runs.c.run_id == model.run_id)
            connection.execute(done.values(**values, state=FINISHED, ended_at=at, version=version))
        return version

    def fail(self, run_id: str, reason: str, at: str) -> None:
        """See RunStore."""
        self._update(run_id, state=FAILED, reason=reason, ended_at=at)

    def fail_interrupted(self, at: str) -> list[str]:
        """See RunStore."""
        interrupted = [record for record in self.all() if record.state == RUNNING]
        for record in interrupted:
            done = f"{record.rounds_done} of {record.proposal.rounds} rounds"
            self.fail(record.run_id, f"RUN_FAILED: the gateway stopped after {done}", at)
        return [record.run_id for record in interrupted]

    def find(self, run_id: str) -> RunRecord | None:
        """See RunStore."""
        return next((record for record in self._read() if record.run_id == run_id), None)

    def find_key(self, name: str) -> RunRecord | None:
        """See RunStore."""
        return next((record for record in self._read() if record.key.name == name), None)

    def all(self) -> list[RunRecord]:
        """See RunStore."""
        return self._read()

    def model(self, run_id: str = "", version: int = 0) -> Model:
        """See RunStore."""
        query = select(_runs).where(_runs.c.state == FINISHED).order_by(_runs.c.version.desc()).limit(1)
        if run_id:
            query = query.where(_runs.c.run_id == run_id)
        if version:
            query = query.where(_runs.c.version == version)
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            item = run_id[:64] or (f"version {version}" if version else "no run has finished")
            raise TrainingError(Reason.UNKNOWN_RUN, item=item)
        return Model(row.run_id, row.weights, row.card_json, row.signed_card, row.version)

    def models(self) -> list[Finished]:
        """See RunStore."""
        columns = _runs.c.version, _runs.c.run_id, _runs.c.ended_at, _runs.c.card_json
        query = select(*columns).where(_runs.c.state == FINISHED).order_by(_runs.c.version.desc())
        with self._engine.begin() as connection:
            return [Finished(*row) for row in connection.execute(query)]

    def _update(self, run_id: str, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(_runs.update().where(_runs.c.run_id == run_id).values(**values))

    def _read(self) -> list[RunRecord]:
        with self._engine.begin() as connection:
            rows = connection.execute(select(_runs).order_by(_runs.c.number.desc())).all()
        return [_record(row) for row in rows]


def _record(row: Row[tuple[object, ...]]) -> RunRecord:
    return RunRecord(
        run_id=row.run_id,
        key=RunKey(row.key_name, row.key_request),
        state=row.state,
        started_at=row.started_at,
        ended_at=row.ended_at,
        rounds_done=row.rounds_done,
        proposal=pb.TrainingProposal.FromString(row.proposal),
        reason=row.reason,
    )
