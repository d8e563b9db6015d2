"""Which version of the model is in use: a list of decisions that is only ever added to, and the last one stands.

Every finished run gives a version, numbered from 1. The first is in use by itself; from then on a person decides, and
may go back to the version that was in use before. A decision is in the audit log before it is kept, and is on disk when
the call returns, so it survives a restart. Partners ask which version is in use and believe the signature of its card,
not the number.
"""

import threading
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, select
from sqlalchemy.exc import IntegrityError

from federation.core.clock import Clock, to_text
from federation.core.errors import DataError, PolicyError, Reason, TrainingError
from federation.policy.scan import identifiers
from gateway.identity.caller import Caller
from gateway.release import AuditLog
from gateway.training.runs import Finished, RunStore

FIRST, USE, ROLLBACK = "first", "use", "rollback"
GATEWAY = "gateway"
MAX_REASON = 400


@dataclass(frozen=True)
class Step:
    """One decision."""

    number: int
    """From 1 on, without gaps."""
    kind: str
    version: int
    """In use from this step on."""
    party: str
    reason: str
    at: str
    audit_index: int


class StepStore(Protocol):
    """Keeps decisions."""

    def add(self, step: Step) -> None:
        """Adds a decision behind all others. Raises PolicyError (WRONG_STEP) if one of its number is there."""
        ...

    def all(self) -> list[Step]:
        """Oldest first."""
        ...


_metadata = MetaData()
_steps = Table(
    "gateway_model_steps",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("party", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", String, nullable=False),
    Column("audit_index", Integer, nullable=False),
)


class SqlStepStore:
    """Decisions in SQLite.

    Args:
        engine: From ``open_database``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _metadata.create_all(engine)

    def add(self, step: Step) -> None:
        """See StepStore."""
        try:
            with self._engine.begin() as connection:
                connection.execute(_steps.insert().values(**step.__dict__))
        except IntegrityError as exc:
            raise PolicyError(Reason.WRONG_STEP, item="another decision came first") from exc

    def all(self) -> list[Step]:
        """See StepStore."""
        with self._engine.begin() as connection:
            return [Step(*row) for row in connection.execute(select(_steps).order_by(_steps.c.number))]


class Versions:
    """Safe to call from any thread; several processes on the same files decide one after another.

    Args:
        runs: Has the finished models.
        steps: Keeps the decisions.
        audit: Hears of each before it counts.
        clock: Dates them.
    """

    def __init__(self, *, runs: RunStore, steps: StepStore, audit: AuditLog, clock: Clock) -> None:
        self._runs, self._steps, self._audit, self._clock = runs, steps, audit, clock
        self._lock = threading.Lock()

    def in_use(self) -> int:
        """The version in use. Raises TrainingError (UNKNOWN_RUN) before the first run has finished."""
        self.settle()
        steps = self._steps.all()
        if not steps:
            raise TrainingError(Reason.UNKNOWN_RUN, item="no run has finished")
        return steps[-1].version

    def settle(self) -> None:
        """Puts the first finished version in use, if nothing was decided yet; also after a crash in between."""
        with self._lock:
            models = self._runs.models()
            if models and not self._steps.all():
                self._decide(FIRST, models[-1], party=GATEWAY, role=GATEWAY, reason="first model")

    def list(self) -> tuple[list[Finished], list[Step]]:
        """Every version, newest first, and every decision, oldest first."""
        self.settle()
        return self._runs.models(), self._steps.all()

    def use(self, caller: Caller, version: int, reason: str) -> Finished:
        """Puts a version in use; nothing new where it is.

        Raises:
            TrainingError: UNKNOWN_RUN.
            DataError: BAD_FIELD for a reason that is too long or holds an identifier.
            AuditError: AUDIT_UNAVAILABLE; then nothing is decided.
        """
        said = _check_reason(reason)
        self.settle()
        with self._lock:
            model = self._find(version)
            if self._steps.all()[-1].version != version:
                self._decide(USE, model, party=str(caller.party), role=str(caller.role), reason=said)
            return model

    def roll_back(self, caller: Caller, from_version: int, reason: str) -> Finished:
        """Puts the version back in use that was before the one in use now.

        Args:
            caller: Who decides.
            from_version: What the caller believes is in use, so that a repeated call does not go back twice.
            reason: In the caller's words.

        Raises:
            PolicyError: WRONG_STEP where another version is in use, or none was before.
            DataError: BAD_FIELD, see ``use``.
            AuditError: AUDIT_UNAVAILABLE; then nothing is decided.
        """
        said = _check_reason(reason)
        self.settle()
        with self._lock:
            trail = _trail(self._steps.all())
            if not trail or trail[-1] != from_version:
                raise PolicyError(Reason.WRONG_STEP, item=f"version {from_version} is not in use")
            if len(trail) < 2:
                raise PolicyError(Reason.WRONG_STEP, item="no version was in use before")
            model = self._find(trail[-2])
            self._decide(ROLLBACK, model, party=str(caller.party), role=str(caller.role), reason=said)
            return model

    def _decide(self, kind: str, model: Finished, *, party: str, role: str, reason: str) -> None:
        """Into the audit log, then onto disk. Needs the lock."""
        body: dict[str, Any] = {"step": kind, "version": model.version, "run": model.run_id}
        index = self._audit.append("model_use", {**body, "caller": party, "role": role, "reason": reason})
        number = len(self._steps.all()) + 1
        self._steps.add(Step(number, kind, model.version, party, reason, to_text(self._clock.now()), index))

    def _find(self, version: int) -> Finished:
        for model in self._runs.models():
            if model.version == version:
                return model
        raise TrainingError(Reason.UNKNOWN_RUN, item=f"version {version}")


def _trail(steps: list[Step]) -> list[int]:
    """The versions that lead to the one in use: a rollback takes the last one off."""
    trail: list[int] = []
    for step in steps:
        if step.kind == ROLLBACK:
            trail.pop()
        else:
            trail.append(step.version)
    return trail


def _check_reason(reason: str) -> str:
    """A person's words for the log. Raises DataError (BAD_FIELD)."""
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise DataError(Reason.BAD_FIELD, item=f"reason: one line of at most {MAX_REASON} characters")
    if held := identifiers(reason):
        raise DataError(Reason.BAD_FIELD, item=f"reason, which holds: {', '.join(held)}")
    return reason
