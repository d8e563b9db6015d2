"""The second index: for people who agreed to offers, which handle each partner has for the same person.

Only the newest complete epoch is held; a new one replaces it in one transaction, so a reader sees one epoch or the
other. It is keyed apart from the statistics (another hash domain and other blinding keys), so neither can be joined to
the other. Consent is asked elsewhere, at each decision: this index only says who is the same person.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Column, Engine, Index, LargeBinary, MetaData, String, Table, delete, insert, select

from federation.core.ids import HANDLE_BYTES, POINT_BYTES, EpochId, Handle, PartyId, Token
from federation.overlap.blind import ZERO

_META = MetaData()
_EPOCH = Table("switchboard_epoch", _META, Column("epoch", String(64), primary_key=True))
_ROWS = Table(
    "switchboard",
    _META,
    Column("party", String(32), primary_key=True),
    Column("handle", LargeBinary, primary_key=True),
    Column("token", LargeBinary, nullable=False),
)
Index("switchboard_token", _ROWS.c.token, _ROWS.c.party, _ROWS.c.handle)
_INSERT_ROWS = 10_000


@dataclass(frozen=True)
class HandleBatch:
    """A partner's tokens at the end of their way, and its handles in the same order."""

    origin: PartyId
    chunks: Iterable[bytes]
    handles: bytes


class Switchboard:
    """Token to handle, per partner, in a SQL database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _META.create_all(engine)

    def replace(self, epoch: str, batches: Iterable[HandleBatch]) -> None:
        """Puts an epoch in the place of the one before, whole or not at all.

        A point of low order is nobody. A handle that a partner sent twice keeps its first token.
        """
        with self._engine.begin() as db:
            db.execute(delete(_ROWS))
            db.execute(delete(_EPOCH))
            db.execute(insert(_EPOCH).values(epoch=epoch))
            for batch in batches:
                waiting: list[dict[str, object]] = []
                for token, handle in _pairs(batch):
                    waiting.append({"party": batch.origin, "handle": handle, "token": token})
                    if len(waiting) == _INSERT_ROWS:
                        db.execute(insert(_ROWS).prefix_with("OR IGNORE", dialect="sqlite"), waiting)
                        waiting = []
                if waiting:
                    db.execute(insert(_ROWS).prefix_with("OR IGNORE", dialect="sqlite"), waiting)

    def epoch(self) -> EpochId | None:
        """The epoch that is held."""
        with self._engine.begin() as db:
            name = db.execute(select(_EPOCH.c.epoch)).scalar()
        return EpochId(name) if name is not None else None

    def person(self, party: PartyId, handle: Handle) -> Token | None:
        """The person that a partner calls by a handle; None for a handle that is not in the epoch."""
        query = select(_ROWS.c.token).where(_ROWS.c.party == party, _ROWS.c.handle == handle)
        with self._engine.begin() as db:
            token = db.execute(query).scalar()
        return Token(token) if token is not None else None

    def handle_at(self, token: Token, party: PartyId) -> Handle | None:
        """A partner's handle of a person; of several, always the smallest."""
        query = select(_ROWS.c.handle).where(_ROWS.c.token == token, _ROWS.c.party == party)
        with self._engine.begin() as db:
            handle = db.execute(query.order_by(_ROWS.c.handle).limit(1)).scalar()
        return Handle(handle) if handle is not None else None


def _pairs(batch: HandleBatch) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for chunk in batch.chunks:
        for start in range(0, len(chunk), POINT_BYTES):
            token = chunk[start : start + POINT_BYTES]
            handle = batch.handles[at : at + HANDLE_BYTES]
            at += HANDLE_BYTES
            if token != ZERO:
                yield token, handle
