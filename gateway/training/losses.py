"""The log loss of a run's model after each round, on public rows: what the curve of a run is drawn from.

A model between rounds is made of noisy sums that are paid for, so its loss on public rows costs nothing. Durable when
a call returns, so that a run that goes on after a restart has its whole curve.
"""

from typing import Protocol

from sqlalchemy import Column, Engine, Float, Integer, MetaData, String, Table, select
from sqlalchemy.dialects.sqlite import insert


class LossStore(Protocol):
    """Keeps losses by run and round."""

    def keep(self, run_id: str, number: int, loss: float) -> None:
        """Keeps the loss after a round; the last word counts."""
        ...

    def read(self, run_id: str) -> list[tuple[int, float]]:
        """Round and loss, in the order of rounds."""
        ...


_metadata = MetaData()
_losses = Table(
    "gateway_training_losses",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("loss", Float, nullable=False),
)


class SqlLossStore:
    """Losses in SQLite.

    Args:
        engine: From ``open_database``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _metadata.create_all(engine)

    def keep(self, run_id: str, number: int, loss: float) -> None:
        """See LossStore."""
        said = insert(_losses).values(run_id=run_id, number=number, loss=loss)
        with self._engine.begin() as connection:
            connection.execute(
                said.on_conflict_do_update(index_elements=["run_id", "number"], set_={"loss": said.excluded.loss})
            )

    def read(self, run_id: str) -> list[tuple[int, float]]:
        """See LossStore."""
        query = select(_losses.c.number, _losses.c.loss).where(_losses.c.run_id == run_id).order_by(_losses.c.number)
        with self._engine.begin() as connection:
            return [(row.number, row.loss) for row in connection.execute(query)]
