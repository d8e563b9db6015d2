"""Released tables, stored with their noise: the first answer is the only one there will be.

What is stored are the noisy numbers before any threshold, so that a threshold that is raised later holds for old
answers too. They are as safe to keep as to publish.
"""

import json
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Column, Engine, MetaData, String, Table, Text, insert, select

_META = MetaData()
_ANSWERS = Table(
    "cube_answer",
    _META,
    Column("cube", String(48), primary_key=True),
    Column("epoch", String(64), primary_key=True),
    Column("shape", String(64), primary_key=True),
    Column("body", Text, nullable=False),
)


@dataclass(frozen=True)
class Answer:
    """One released table: cells as members, labels and noisy count, and how they came about."""

    cells: tuple[tuple[tuple[str, ...], tuple[tuple[str, str], ...], int], ...]
    key_type: str
    epsilon: float
    delta: float
    sigma: float
    policy_version: str
    released_at: str


class AnswerStore(Protocol):
    """Where answers are kept."""

    def get(self, cube: str, epoch: str, shape: str) -> Answer | None:
        """The answer, if it was released."""
        ...

    def put(self, cube: str, epoch: str, shape: str, answer: Answer) -> Answer:
        """Keeps an answer, durably, unless there is one; returns the one that is kept."""
        ...


class SqlAnswerStore:
    """Answers in a SQL database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _META.create_all(engine)

    def get(self, cube: str, epoch: str, shape: str) -> Answer | None:
        """See AnswerStore."""
        where = _ANSWERS.c
        query = select(where.body).where(where.cube == cube, where.epoch == epoch, where.shape == shape)
        with self._engine.begin() as db:
            body = db.execute(query).scalar()
        return _read(body) if body is not None else None

    def put(self, cube: str, epoch: str, shape: str, answer: Answer) -> Answer:
        """See AnswerStore."""
        where = _ANSWERS.c
        query = select(where.body).where(where.cube == cube, where.epoch == epoch, where.shape == shape)
        with self._engine.begin() as db:
            body = db.execute(query).scalar()
            if body is None:
                body = _write(answer)
                db.execute(insert(_ANSWERS).values(cube=cube, epoch=epoch, shape=shape, body=body))
        return _read(body)


def _write(answer: Answer) -> str:
    return json.dumps(answer.__dict__, sort_keys=True)


def _read(body: str) -> Answer:
    plain = json.loads(body)
    cells = tuple(
        (tuple(members), tuple((column, value) for column, value in labels), int(count))
        for members, labels, count in plain.pop("cells")
    )
    return Answer(cells=cells, **plain)
