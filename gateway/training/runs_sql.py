"""The registry of runs in an SQL database."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Boolean, Column, Engine, Integer, LargeBinary, MetaData, String, Table, func, select
from sqlalchemy.dialects.sqlite import insert

from federation.core.canonical import canonical_json
from federation.core.clock import from_text, to_text
from federation.core.database import reading
from federation.core.errors import Reason, TrainingError
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.v1 import training_pb2 as pb
from gateway.identity.caller import Caller
from gateway.training.runs import (
    FINISHED,
    OVER,
    PROPOSED,
    RUNNING,
    Checkpoint,
    Decision,
    Finished,
    Hold,
    Model,
    RunKey,
    RunRecord,
)

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
_asked = Table(
    "gateway_training_asked",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("caller", String, nullable=False),  # canonical JSON
    Column("autostart", Boolean, nullable=False),
    Column("proposed_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
)
_progress = Table(
    "gateway_training_progress",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("attempts", Integer, nullable=False, default=0),
    Column("number", Integer, nullable=False, default=0),
    Column("state", LargeBinary, nullable=False, default=b""),
)
_decisions = Table(
    "gateway_training_decisions",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("party", String, primary_key=True),
    Column("approved", Boolean, nullable=False),
    Column("by_rule", Boolean, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", String, nullable=False),
)
_holds = Table(
    "gateway_training_holds",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("party", String, primary_key=True),
    Column("reason", String, nullable=False),
    Column("since", String, nullable=False),
)
_ABOUT = [column for column in _runs.c if column.name not in {"weights", "card_json", "signed_card"}]


class SqlRunStore:
    """Runs in SQLite. Safe to share between threads.

    Args:
        engine: From ``open_database``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading = engine, reading(engine)  # who only looks waits for no writer
        _metadata.create_all(engine)

    def propose(
        self,
        run_id: str,
        key: RunKey,
        proposal: pb.TrainingProposal,
        caller: Caller,
        *,
        autostart: bool,
        at: str,
        expires_at: str,
    ) -> None:
        """See RunStore."""
        row = {"run_id": run_id, "key_name": key.name, "key_request": key.request, "state": PROPOSED, "started_at": ""}
        asked = {"run_id": run_id, "caller": _write_caller(caller), "autostart": autostart}
        with self._engine.begin() as connection:
            if connection.scalar(
                select(_runs.c.number).where((_runs.c.run_id == run_id) | (_runs.c.key_name == key.name))
            ):
                raise TrainingError(Reason.RUN_FAILED, item=f"run {run_id} was there before")
            connection.execute(_runs.insert().values(**row, proposal=proposal.SerializeToString()))
            connection.execute(_asked.insert().values(**asked, proposed_at=at, expires_at=expires_at))
            connection.execute(_progress.insert().values(run_id=run_id))

    def decide(self, run_id: str, decision: Decision) -> None:
        """See RunStore."""
        said = {name: getattr(decision, name) for name in ("approved", "by_rule", "reason", "at")}
        written = insert(_decisions).values(run_id=run_id, party=decision.party, **said)
        with self._engine.begin() as connection:
            connection.execute(written.on_conflict_do_update(index_elements=["run_id", "party"], set_=said))

    def arm(self, run_id: str) -> None:
        """See RunStore."""
        with self._engine.begin() as connection:
            connection.execute(_asked.update().where(_asked.c.run_id == run_id).values(autostart=True))

    def begin(self, run_id: str, at: str) -> bool:
        """See RunStore."""
        first = func.coalesce(func.nullif(_runs.c.started_at, ""), at)
        return self._update(run_id, state=RUNNING, started_at=first)

    def keep_attempt(self, run_id: str, attempts: int, number: int) -> None:
        """See RunStore."""
        with self._engine.begin() as connection:
            mine = _progress.update().where(_progress.c.run_id == run_id)
            connection.execute(mine.values(attempts=attempts, number=number))

    def keep_round(self, run_id: str, rounds_done: int, weights: bytes, state: bytes) -> None:
        """See RunStore."""
        with self._engine.begin() as connection:
            mine = _runs.update().where(_runs.c.run_id == run_id)
            connection.execute(mine.values(rounds_done=rounds_done, weights=weights))
            connection.execute(_progress.update().where(_progress.c.run_id == run_id).values(state=state))

    def checkpoint(self, run_id: str) -> Checkpoint:
        """See RunStore."""
        columns = (_runs.c.rounds_done, _runs.c.weights, _progress.c.state, _progress.c.attempts, _progress.c.number)
        query = select(*columns).join(_progress, _progress.c.run_id == _runs.c.run_id)
        with self._reading.begin() as connection:
            row = connection.execute(query.where(_runs.c.run_id == run_id)).one_or_none()
        if row is None:
            raise TrainingError(Reason.UNKNOWN_RUN, item=run_id[:64])
        return Checkpoint(*row)

    def hold(self, run_id: str, hold: Hold) -> None:
        """See RunStore."""
        row = {"run_id": run_id, "party": hold.party, "reason": hold.reason, "since": hold.since}
        with self._engine.begin() as connection:
            connection.execute(insert(_holds).values(**row).on_conflict_do_nothing())

    def release_hold(self, run_id: str, parties: Sequence[str]) -> None:
        """See RunStore."""
        with self._engine.begin() as connection:
            connection.execute(_holds.delete().where(_holds.c.run_id == run_id, _holds.c.party.in_(parties)))

    def finish(self, model: Model, at: str) -> int:
        """See RunStore."""
        values = {"weights": model.weights, "card_json": model.card_json, "signed_card": model.signed_card}
        with self._engine.begin() as connection:
            version = int(connection.scalar(select(func.max(_runs.c.version))) or 0) + 1
            mine = _runs.update().where(_runs.c.run_id == model.run_id, _runs.c.state.not_in(OVER))
            done = connection.execute(mine.values(**values, state=FINISHED, ended_at=at, version=version))
            return version if done.rowcount else 0

    def end(self, run_id: str, state: str, reason: str, at: str) -> bool:
        """See RunStore."""
        return self._update(run_id, state=state, reason=reason, ended_at=at)

    def find(self, run_id: str) -> RunRecord | None:
        """See RunStore."""
        return next(iter(self._read(_runs.c.run_id == run_id)), None)

    def need(self, run_id: str) -> RunRecord:
        """See RunStore."""
        record = self.find(run_id)
        if record is None:
            raise TrainingError(Reason.UNKNOWN_RUN, item=run_id[:64])
        return record

    def find_key(self, name: str) -> RunRecord | None:
        """See RunStore."""
        return next(iter(self._read(_runs.c.key_name == name)), None)

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
        with self._reading.begin() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            item = run_id[:64] or (f"version {version}" if version else "no run has finished")
            raise TrainingError(Reason.UNKNOWN_RUN, item=item)
        return Model(row.run_id, row.weights, row.card_json, row.signed_card, row.version)

    def models(self) -> list[Finished]:
        """See RunStore."""
        columns = _runs.c.version, _runs.c.run_id, _runs.c.ended_at, _runs.c.card_json
        query = select(*columns).where(_runs.c.state == FINISHED).order_by(_runs.c.version.desc())
        with self._reading.begin() as connection:
            return [Finished(*row) for row in connection.execute(query)]

    def _update(self, run_id: str, **values: object) -> bool:
        """Changes a run that is not over, and says whether there was one."""
        with self._engine.begin() as connection:
            mine = _runs.update().where(_runs.c.run_id == run_id, _runs.c.state.not_in(OVER))
            return connection.execute(mine.values(**values)).rowcount > 0

    def _read(self, *which: Any) -> list[RunRecord]:
        asked = (_asked.c.caller, _asked.c.autostart, _asked.c.proposed_at, _asked.c.expires_at)
        runs = select(*_ABOUT, *asked).outerjoin(_asked, _asked.c.run_id == _runs.c.run_id).where(*which)
        with self._reading.begin() as connection:
            rows = connection.execute(runs.order_by(_runs.c.number.desc())).all()
            ids = [row.run_id for row in rows]
            decisions: dict[str, list[Decision]] = {name: [] for name in ids}
            holds: dict[str, list[Hold]] = {name: [] for name in ids}
            for row in connection.execute(select(_decisions).where(_decisions.c.run_id.in_(ids))):
                decisions[row.run_id].append(Decision(row.party, row.approved, row.by_rule, row.reason, row.at))
            for row in connection.execute(select(_holds).where(_holds.c.run_id.in_(ids)).order_by(_holds.c.since)):
                holds[row.run_id].append(Hold(row.party, row.reason, row.since))
        return [_record(row, decisions, holds) for row in rows]


def _record(row: Any, decisions: Mapping[str, Sequence[Decision]], holds: Mapping[str, Sequence[Hold]]) -> RunRecord:
    return RunRecord(
        run_id=row.run_id,
        key=RunKey(row.key_name, row.key_request),
        stored_state=row.state,
        started_at=row.started_at,
        ended_at=row.ended_at,
        rounds_done=row.rounds_done,
        proposal=pb.TrainingProposal.FromString(row.proposal),
        reason=row.reason,
        caller=None if row.caller is None else _read_caller(row.caller),
        autostart=bool(row.autostart),
        proposed_at=row.proposed_at or row.started_at,
        expires_at=row.expires_at or "",
        decisions=tuple(decisions[row.run_id]),
        holds=tuple(holds[row.run_id]),
    )


def _write_caller(caller: Caller) -> str:
    about = {"party": str(caller.party), "role": str(caller.role), "serial": caller.serial}
    return canonical_json({**about, "expires_at": to_text(caller.expires_at)}).decode()


def _read_caller(text: str) -> Caller:
    about = json.loads(text)
    return Caller(
        party=PartyId(about["party"]),
        role=Role(about["role"]),
        serial=about["serial"],
        expires_at=from_text(about["expires_at"]),
    )
