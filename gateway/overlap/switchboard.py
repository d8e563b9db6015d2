"""The second index: for people who agreed to offers, which handle each partner has for the same person.

Only the newest complete epoch is held; a new one replaces it in one transaction, so a reader sees one epoch or the
other. It is keyed apart from the statistics (another hash domain and other blinding keys), so neither can be joined to
the other. Consent is asked elsewhere, at each decision: this index only says who is the same person.

A delta takes people away by their handles, which the origin gave, and adds others, in one transaction. Where a person
may have several tokens, who is one person with whom is found in a database of rows and tokens beside this one, with
what changed there last: if the process dies in between, the same changes are taken from it again.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
)
from sqlalchemy.dialects import sqlite

from federation.core.database import reading
from federation.core.errors import OverlapError, Reason
from federation.core.files import sync_folder
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, EpochId, Handle, PartyId, Token
from federation.overlap.blind import ZERO
from federation.overlap.plan import REMOVE, check_epoch_name
from gateway.overlap.duck import DuckFiles
from gateway.overlap.handles import HandleBatch, LinkedHandles

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
_APPLIED = Table(
    "switchboard_applied",
    _META,
    Column("party", String(32), primary_key=True),
    Column("sequence", Integer, nullable=False),
)
_TAKE_AWAY = delete(_ROWS).where(_ROWS.c.party == bindparam("origin"), _ROWS.c.handle == bindparam("gone"))
_ADDED = sqlite.insert(_ROWS)
_PUT = _ADDED.on_conflict_do_update(index_elements=["party", "handle"], set_={"token": _ADDED.excluded.token})
_INSERT_ROWS = 10_000
_SUFFIX = "@handles"  # no name of an epoch holds it


class Switchboard:
    """Token to handle, per partner, in a SQL database.

    Args:
        engine: The database.
        files: Where tokens are kept for deltas to epochs of several key types.
    """

    def __init__(self, engine: Engine, files: DuckFiles) -> None:
        self._engine, self._files = engine, files
        self._reading = reading(engine)  # who only looks does not wait for an epoch that is put in its place
        _META.create_all(engine)

    def replace(self, epoch: str, batches: Iterable[HandleBatch], key_types: int = 1) -> None:
        """Puts an epoch in the place of the one before, whole or not at all.

        A point of low order is nobody. A handle that a partner sent twice keeps its first token. With several points a
        row, rows that share any are one person, and its token is a digest of that person's first row.
        """
        if key_types == 1:
            self._replace(epoch, ((batch.origin, *pair) for batch in batches for pair in _pairs(batch)))
            return
        tokens = self._tokens(epoch)
        scratch = tokens.with_name(f"{tokens.name}.unfinished")  # the statistics remove what a killed process left
        scratch.unlink(missing_ok=True)
        with self._files.open(scratch) as db:
            linked = LinkedHandles(db)
            linked.build(batches)
            self._replace(epoch, ((p, _name(epoch, root), handle) for p, handle, root in linked.everybody()))
        scratch.replace(tokens)
        sync_folder(self._files.folder)

    def apply(self, epoch: str, origin: str, sequence: int, batches: Iterable[HandleBatch], key_types: int = 1) -> None:
        """Applies a delta of one origin to the epoch that is held; one that was applied is not applied again.

        Raises:
            OverlapError: UNKNOWN_EPOCH for another epoch; OUT_OF_SEQUENCE; BAD_FIELD for handles that are not there.
        """
        if self.epoch() != epoch:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=epoch)
        if key_types > 1:
            self._apply_linked(epoch, origin, sequence, batches)
            return
        gone: list[bytes] = []
        padding = 0
        people: list[tuple[PartyId, bytes, bytes]] = []
        for batch in batches:
            if batch.operation == REMOVE:
                gone += _handles_of(batch)
                padding += batch.padding
            else:
                people += [(batch.origin, *pair) for pair in _pairs(batch)]
        self._change(origin, sequence, gone, len(gone) - padding, people)

    def _apply_linked(self, epoch: str, origin: str, sequence: int, batches: Iterable[HandleBatch]) -> None:
        if not self._tokens(epoch).exists():
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{epoch} holds no tokens")
        with self._files.open(self._tokens(epoch)) as opened:
            linked = LinkedHandles(opened)
            self._take_over(epoch, linked)  # the last delta, of whatever origin, if the process died before it was here
            with self._engine.begin() as db:
                due = _is_due(db, origin, sequence)
            if due:
                linked.change(origin, sequence, batches)
                self._take_over(epoch, linked)

    def _take_over(self, epoch: str, linked: LinkedHandles) -> None:
        last = linked.last()
        if last is not None:
            gone = linked.gone()
            people = [(party, _name(epoch, root), handle) for party, handle, root in linked.moved()]
            self._change(*last, gone, len(gone), people)

    def _change(
        self, origin: str, sequence: int, gone: list[bytes], wanted: int, people: list[tuple[PartyId, bytes, bytes]]
    ) -> None:
        with self._engine.begin() as db:
            if not _is_due(db, origin, sequence):  # asked here, so that of two processes one does it
                return
            rows = [{"origin": origin, "gone": handle} for handle in gone]
            found = db.execute(_TAKE_AWAY, rows).rowcount if rows else 0
            if found != wanted:
                raise OverlapError(Reason.BAD_FIELD, item=f"delta of {origin}: handles to take away that are not there")
            if people:
                db.execute(
                    _PUT, [{"party": party, "handle": handle, "token": token} for party, token, handle in people]
                )
            db.execute(delete(_APPLIED).where(_APPLIED.c.party == origin))
            db.execute(insert(_APPLIED).values(party=origin, sequence=sequence))

    def _replace(self, epoch: str, people: Iterable[tuple[PartyId, bytes, bytes]]) -> None:
        with self._engine.begin() as db:
            for table in (_ROWS, _EPOCH, _APPLIED):
                db.execute(delete(table))
            db.execute(insert(_EPOCH).values(epoch=epoch))
            rows = ({"party": party, "handle": handle, "token": token} for party, token, handle in people)
            while some := list(itertools.islice(rows, _INSERT_ROWS)):
                db.execute(insert(_ROWS).prefix_with("OR IGNORE", dialect="sqlite"), some)

    def retire(self, epoch: str) -> None:
        """Removes the tokens of an epoch that is not held any more."""
        if self.epoch() != epoch:
            for path in self._files.folder.glob(f"{check_epoch_name(epoch)}{_SUFFIX}*"):
                path.unlink()

    def _tokens(self, epoch: str) -> Path:
        return self._files.folder / f"{check_epoch_name(epoch)}{_SUFFIX}"

    def epoch(self) -> EpochId | None:
        """The epoch that is held."""
        with self._reading.begin() as db:
            name = db.execute(select(_EPOCH.c.epoch)).scalar()
        return EpochId(name) if name is not None else None

    def person(self, party: PartyId, handle: Handle) -> Token | None:
        """The person that a partner calls by a handle; None for a handle that is not in the epoch."""
        query = select(_ROWS.c.token).where(_ROWS.c.party == party, _ROWS.c.handle == handle)
        with self._reading.begin() as db:
            token = db.execute(query).scalar()
        return Token(token) if token is not None else None

    def handle_at(self, token: Token, party: PartyId) -> Handle | None:
        """A partner's handle of a person; of several, always the smallest."""
        query = select(_ROWS.c.handle).where(_ROWS.c.token == token, _ROWS.c.party == party)
        with self._reading.begin() as db:
            handle = db.execute(query.order_by(_ROWS.c.handle).limit(1)).scalar()
        return Handle(handle) if handle is not None else None


def _is_due(db: Connection, origin: str, sequence: int) -> bool:
    """Whether a delta is the next one of its origin; not if it was applied. Raises OverlapError (OUT_OF_SEQUENCE)."""
    known = db.execute(select(_APPLIED.c.sequence).where(_APPLIED.c.party == origin)).scalar() or 0
    if known < sequence - 1:
        raise OverlapError(Reason.OUT_OF_SEQUENCE, item=f"delta {sequence} of {origin}")
    return known < sequence


def _pairs(batch: HandleBatch) -> Iterator[tuple[bytes, bytes]]:
    """Token and handle of every row of one point."""
    for chunk, handles in zip(batch.chunks, batch.handles, strict=True):
        for row in range(len(chunk) // POINT_BYTES):
            token = chunk[row * POINT_BYTES : (row + 1) * POINT_BYTES]
            if token != ZERO:
                yield token, handles[row * HANDLE_BYTES : (row + 1) * HANDLE_BYTES]


def _handles_of(batch: HandleBatch) -> list[bytes]:
    """Every handle of a batch. Its points are read too: a stream is used up whole."""
    found: list[bytes] = []
    for _, handles in zip(batch.chunks, batch.handles, strict=True):
        found += [handles[at : at + HANDLE_BYTES] for at in range(0, len(handles), HANDLE_BYTES)]
    return found


def _name(epoch: str, root: int) -> bytes:
    """The token of a person of several: no other component of the epoch has this root at the same time."""
    return hashlib.sha256(f"{epoch}/{root}".encode()).digest()
