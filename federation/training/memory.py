"""What a partner remembers of runs: the approved proposal's digest, the noisy size, and the replies it may owe again.

Kept on disk, so that an agent that was killed answers a redelivered message with the very reply it had made, and a run
that ended is never trained again. Replies go when the run ends; the run's line stays.
"""

from sqlalchemy import Boolean, Column, Connection, Engine, Float, LargeBinary, MetaData, String, Table, func, select
from sqlalchemy.dialects.sqlite import insert

from federation.core.errors import Reason, TrainingError

_metadata = MetaData()
_runs = Table(
    "training_runs",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("proposal_digest", String, nullable=False),
    Column("size", Float),
    Column("ended", Boolean, nullable=False, default=False),
)
_replies = Table(
    "training_replies",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("message_id", String, primary_key=True),
    Column("reply", LargeBinary, nullable=False),
)


class RunMemory:
    """Durable when a call returns.

    Args:
        engine: From ``open_database``; may be the accountant's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _metadata.create_all(engine)

    def pin(self, run_id: str, digest: str) -> None:
        """Remembers the digest of what was approved; ends every other run, since a gateway has one at a time.

        Raises:
            TrainingError: PROPOSAL_REFUSED where the same run was approved with other content.
        """
        with self._engine.begin() as connection:
            connection.execute(
                insert(_runs).values(run_id=run_id, proposal_digest=digest, ended=False).on_conflict_do_nothing()
            )
            pinned = connection.scalar(select(_runs.c.proposal_digest).where(_runs.c.run_id == run_id))
            if pinned != digest:
                raise TrainingError(Reason.PROPOSAL_REFUSED, item="the run was approved with another proposal")
            others = connection.scalars(select(_runs.c.run_id).where(_runs.c.run_id != run_id, ~_runs.c.ended)).all()
            for other in others:
                _end(connection, other)

    def ended(self, run_id: str) -> bool:
        """Whether a run is over."""
        with self._engine.begin() as connection:
            return bool(connection.scalar(select(_runs.c.ended).where(_runs.c.run_id == run_id)))

    def end(self, run_id: str) -> None:
        """Marks a run as over and drops its replies."""
        with self._engine.begin() as connection:
            _end(connection, run_id)

    def size(self, run_id: str) -> float | None:
        """The noisy size, if it was drawn."""
        with self._engine.begin() as connection:
            return connection.scalar(select(_runs.c.size).where(_runs.c.run_id == run_id))

    def keep_size(self, run_id: str, size: float) -> None:
        """Remembers the noisy size."""
        with self._engine.begin() as connection:
            connection.execute(_runs.update().where(_runs.c.run_id == run_id).values(size=size))

    def reply(self, run_id: str, message_id: str) -> bytes | None:
        """The reply that was made to a message, if any."""
        query = select(_replies.c.reply).where(_replies.c.run_id == run_id, _replies.c.message_id == message_id)
        with self._engine.begin() as connection:
            return connection.scalar(query)

    def keep_reply(self, run_id: str, message_id: str, reply: bytes) -> None:
        """Remembers a reply; before it is sent."""
        with self._engine.begin() as connection:
            connection.execute(_replies.insert().values(run_id=run_id, message_id=message_id, reply=reply))

    def replies(self, run_id: str) -> int:
        """How many replies of a run are kept."""
        query = select(func.count()).select_from(_replies).where(_replies.c.run_id == run_id)
        with self._engine.begin() as connection:
            return int(connection.scalar(query) or 0)


def _end(connection: Connection, run_id: str) -> None:
    connection.execute(_runs.update().where(_runs.c.run_id == run_id).values(ended=True))
    connection.execute(_replies.delete().where(_replies.c.run_id == run_id))
