"""The second index: for people who agreed to offers, which handle each partner has for the same person.

Only the newest complete epoch is held; a new one replaces it in one transaction, so a reader sees one epoch or the
other. It is keyed apart from the statistics (another hash domain and other blinding keys), so neither can be joined to
the other. Consent is asked elsewhere, at each decision: this index only says who is the same person.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
from sqlalchemy import Column, Engine, Index, LargeBinary, MetaData, String, Table, delete, insert, select

from federation.core.ids import HANDLE_BYTES, POINT_BYTES, EpochId, Handle, PartyId, Token
from federation.overlap.blind import ZERO
from gateway.overlap.components import create_links, find_components, insert_links

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
    handles: Iterable[bytes]  # chunks of as many rows as those of the points


class Switchboard:
    """Token to handle, per partner, in a SQL database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _META.create_all(engine)

    def replace(self, epoch: str, batches: Iterable[HandleBatch], key_types: int = 1) -> None:
        """Puts an epoch in the place of the one before, whole or not at all.

        A point of low order is nobody. A handle that a partner sent twice keeps its first token. With several points a
        row, rows that share any are one person, and its token is a digest of that person's first row.
        """
        if key_types > 1:
            with TemporaryDirectory() as folder, _joined(Path(folder), epoch, batches, key_types) as people:
                self._replace(epoch, people)
            return
        self._replace(epoch, ((batch.origin, *pair) for batch in batches for pair in _pairs(batch)))

    def _replace(self, epoch: str, people: Iterable[tuple[PartyId, bytes, bytes]]) -> None:
        with self._engine.begin() as db:
            db.execute(delete(_ROWS))
            db.execute(delete(_EPOCH))
            db.execute(insert(_EPOCH).values(epoch=epoch))
            rows = ({"party": party, "handle": handle, "token": token} for party, token, handle in people)
            while some := list(itertools.islice(rows, _INSERT_ROWS)):
                db.execute(insert(_ROWS).prefix_with("OR IGNORE", dialect="sqlite"), some)

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
    """Token and handle of every row of one point."""
    for chunk, handles in zip(batch.chunks, batch.handles, strict=True):
        for row in range(len(chunk) // POINT_BYTES):
            token = chunk[row * POINT_BYTES : (row + 1) * POINT_BYTES]
            if token != ZERO:
                yield token, handles[row * HANDLE_BYTES : (row + 1) * HANDLE_BYTES]


@contextlib.contextmanager
def _joined(
    folder: Path, epoch: str, batches: Iterable[HandleBatch], key_types: int
) -> Iterator[Iterator[tuple[PartyId, bytes, bytes]]]:
    """Party, token of the person and handle of every row of several points, joined in a scratch database."""
    with contextlib.closing(duckdb.connect(str(folder / "scratch.duckdb"), config={"memory_limit": "768MB"})) as db:
        create_links(db)
        db.execute("CREATE TABLE handles (row UBIGINT, party VARCHAR, head UBIGINT, tail UBIGINT)")
        first = 0
        for batch in batches:
            for chunk, handles in zip(batch.chunks, batch.handles, strict=True):
                rows = insert_links(db, chunk, first, key_types)
                words = np.frombuffer(handles, dtype="<u8").reshape(-1, 2)[rows - np.uint64(first)]
                head, tail = np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])
                db.register("arrived", {"row": rows, "head": head, "tail": tail})
                db.execute("INSERT INTO handles SELECT row, ?, head, tail FROM arrived", [batch.origin])
                db.unregister("arrived")
                first += len(handles) // HANDLE_BYTES
        find_components(db)
        found = db.execute(
            "SELECT party, coalesce(root, row), head, tail FROM handles LEFT JOIN components USING (row) ORDER BY row"
        )
        names = iter(lambda: found.fetchmany(_INSERT_ROWS), [])
        yield (
            (PartyId(party), hashlib.sha256(f"{epoch}/{person}".encode()).digest(), _handle(head, tail))
            for some in names
            for party, person, head, tail in some
        )


def _handle(head: int, tail: int) -> bytes:
    return head.to_bytes(8, "little") + tail.to_bytes(8, "little")
