"""Released tables, stored with their noise: the first answer is the only one there will be.

What is stored are the noisy numbers before any threshold, so that a threshold that is raised later holds for old
answers too, and the estimates that were published. They are as safe to keep as to publish.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    insert,
    select,
)

from federation.core.database import reading
from federation.overlap.questions import Cell, Question, Sum

_META = MetaData()
_TABLES = Table(
    "released_table",
    _META,
    Column("place", Integer, primary_key=True, autoincrement=True),  # the order of release
    Column("epoch", String(64), nullable=False),
    Column("name", String(48), nullable=False),
    Column("shape", String(64), nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("epoch", "name", "shape"),
)
KEPT_EPOCHS = 4
"""Answers of the epochs that were asked for last are kept in memory."""
_PLACES = select(_TABLES.c.place).where(_TABLES.c.epoch == bindparam("of_epoch")).order_by(_TABLES.c.place)


@dataclass(frozen=True)
class Answer:
    """One released table, and how it came about."""

    question: Question
    cells: tuple[Cell, ...]
    noisy: tuple[int, ...]  # as drawn, for each cell
    estimates: tuple[int, ...]  # as published, for each cell
    key_type: str
    epsilon: float
    delta: float
    sigma: float
    sensitivity: float
    policy_version: str
    released_at: str
    agrees_with: tuple[str, ...] = ()  # names of earlier tables whose shared sums it keeps
    generation: int = 0  # of the index that it was drawn from: how many deltas were in it
    min_count: int = 0  # a cube's declared threshold when it was drawn, for when the cube is declared no more


@dataclass(frozen=True)
class Stored:
    """An answer under its name: a cube's, or "ad-hoc-" with the start of its question's digest."""

    name: str
    shape: str
    answer: Answer


class AnswerStore(Protocol):
    """Where answers are kept."""

    def get(self, name: str, epoch: str, shape: str) -> Answer | None:
        """The answer, if it was released."""
        ...

    def put(self, name: str, epoch: str, shape: str, make: Callable[[Sequence[Stored]], Answer]) -> tuple[Answer, bool]:
        """Keeps an answer, durably, unless there is one; returns the one that is kept, and whether it is the new one.

        Args:
            name: See Stored.
            epoch: A complete epoch.
            shape: What makes two tables of one name different releases.
            make: Gives the answer, from those that were released before it. No other is stored in between.
        """
        ...

    def released(self, epoch: str) -> Sequence[Stored]:
        """Every answer of an epoch in the order of release."""
        ...


class SqlAnswerStore:
    """Answers in a SQL database. An answer never changes, so what was read is kept in memory for a while."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading = engine, reading(engine)
        self._known: dict[str, dict[int, Stored]] = {}  # by epoch, the last that was asked for at the end
        self._lock = threading.Lock()
        _META.create_all(engine)

    def get(self, name: str, epoch: str, shape: str) -> Answer | None:
        """See AnswerStore."""
        found = (one.answer for one in self.released(epoch) if (one.name, one.shape) == (name, shape))
        return next(found, None)

    def put(self, name: str, epoch: str, shape: str, make: Callable[[Sequence[Stored]], Answer]) -> tuple[Answer, bool]:
        """See AnswerStore."""
        with self._engine.begin() as db:
            before = self._all(db, epoch)
            for one in before:
                if (one.name, one.shape) == (name, shape):
                    return one.answer, False
            answer = make(before)
            body = json.dumps(asdict(answer), sort_keys=True)
            db.execute(insert(_TABLES).values(name=name, epoch=epoch, shape=shape, body=body))
        return answer, True

    def released(self, epoch: str) -> Sequence[Stored]:
        """See AnswerStore."""
        with self._reading.begin() as db:
            return self._all(db, epoch)

    def _all(self, db: Connection, epoch: str) -> Sequence[Stored]:
        with self._lock:
            known = self._known[epoch] = self._known.pop(epoch, {})
            for other in list(self._known)[:-KEPT_EPOCHS]:
                del self._known[other]
        places = list(db.scalars(_PLACES, {"of_epoch": epoch}))
        new = [place for place in places if place not in known]
        for row in db.execute(select(_TABLES).where(_TABLES.c.place.in_(new))) if new else ():
            known[row.place] = Stored(row.name, row.shape, _read(row.body))
        return [known[place] for place in places]


def _read(body: str) -> Answer:
    plain = json.loads(body)
    question = plain.pop("question")
    measure = question.pop("measure")
    return Answer(
        question=Question(
            partners=tuple(question["partners"]),
            by=tuple(question["by"]),
            where=_pairs(question["where"]),
            measure=Sum(**{**measure, "values": _pairs(measure["values"])}) if measure else None,
        ),
        cells=tuple((tuple(members), _pairs(labels)) for members, labels in plain.pop("cells")),
        noisy=tuple(plain.pop("noisy")),
        estimates=tuple(plain.pop("estimates")),
        agrees_with=tuple(plain.pop("agrees_with")),
        **plain,
    )


def _pairs(plain: Any) -> tuple[Any, ...]:
    return tuple((name, value) for name, value in plain)
