"""The second index: for people who agreed to offers, which handle each partner has for the same person.

Every epoch has a database of its own, in a folder of its own. It is made beside the one that is asked, and asked from
the moment at which its epoch is the newest complete one, so a reader sees one epoch or the other; then the folder
before it goes, whole. It is keyed apart from the statistics (another hash domain and other blinding keys), so neither
can be joined to the other. Consent is asked elsewhere, at each decision: this index only says who is the same person.

A delta takes people away by their handles, which the origin gave, and adds others, in one transaction. Where a person
may have several tokens, who is one person with whom is found in a file of rows and tokens beside it, with what changed
there last: if the process dies in between, the same changes are taken from it again.
"""

import hashlib
import itertools
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Select,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateTable

from federation.core.database import open_database, reading
from federation.core.errors import OverlapError, Reason
from federation.core.files import sync_folder
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, EpochId, Handle, PartyId
from federation.overlap.blind import ZERO
from federation.overlap.plan import REMOVE, check_epoch_name
from gateway.overlap.duck import DuckFiles
from gateway.overlap.handles import HandleBatch, LinkedHandles

_META = MetaData()
_ROWS = Table(
    "switchboard",
    _META,
    Column("party", String(32), primary_key=True),
    Column("handle", LargeBinary, primary_key=True),
    Column("token", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
_BY_TOKEN = Index("switchboard_token", _ROWS.c.token, _ROWS.c.party, _ROWS.c.handle)
_APPLIED = Table(
    "switchboard_applied",
    _META,
    Column("party", String(32), primary_key=True),
    Column("sequence", Integer, nullable=False),
)
_TAKE_AWAY = delete(_ROWS).where(_ROWS.c.party == bindparam("origin"), _ROWS.c.handle == bindparam("gone"))
_ADDED = sqlite.insert(_ROWS)
_PUT = _ADDED.on_conflict_do_update(index_elements=["party", "handle"], set_={"token": _ADDED.excluded.token})
_INSERT_ROWS, _BUILD_CACHE_KB = 10_000, 64 * 1024
_UNFINISHED = "unfinished@"  # no name of an epoch holds it
_ROWS_FILE, _TOKENS_FILE = "handles.db", "tokens"


class Switchboard:
    """Token to handle, per partner. Safe to call from several threads.

    Args:
        folder: Where the files are.
        files: Opens those of tokens, which deltas to epochs of several key types need.
        newest: Gives the newest complete epoch, the one that is asked.
    """

    def __init__(self, folder: Path, files: DuckFiles, newest: Callable[[], EpochId | None]) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._files, self._newest = folder, files, newest
        self._opened: dict[str, Engine] = {}
        self._opening = threading.RLock()  # also while somebody reads: a file that was removed is not made again

    def build(self, epoch: str, batches: Iterable[HandleBatch], key_types: int = 1) -> None:
        """Makes the file of an epoch, whole or not at all; making it again replaces it.

        A point of low order is nobody. A handle that a partner sent twice keeps its first token. With several points a
        row, rows that share any are one person, and its token is a digest of that person's first row.
        """
        self.remove(epoch)
        folder = self._folder / f"{_UNFINISHED}{epoch}"
        folder.mkdir(mode=0o700)
        try:
            if key_types == 1:
                _write(folder, ((batch.origin, *pair) for batch in batches for pair in _pairs(batch)))
            else:
                with self._files.open(folder / _TOKENS_FILE) as db:
                    linked = LinkedHandles(db)
                    linked.build(batches)
                    _write(folder, ((p, _name(epoch, root), handle) for p, handle, root in linked.everybody()))
            sync_folder(folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        folder.rename(self._folder / epoch)
        sync_folder(self._folder)

    def apply(self, epoch: str, origin: str, sequence: int, batches: Iterable[HandleBatch], key_types: int = 1) -> None:
        """Applies a delta of one origin to an epoch; one that was applied is not applied again.

        Raises:
            OverlapError: UNKNOWN_EPOCH; OUT_OF_SEQUENCE; BAD_FIELD for handles to take away that are not there.
        """
        if key_types > 1:
            self._apply_linked(epoch, origin, sequence, batches)
            return
        gone: list[bytes] = []
        decoys = 0
        people: list[tuple[PartyId, bytes, bytes]] = []
        for batch in batches:
            if batch.operation == REMOVE:
                gone += _handles_of(batch)
                decoys += batch.decoys
            else:
                people += [(batch.origin, *pair) for pair in _pairs(batch)]
        self._change(epoch, (origin, sequence), gone, len(gone) - decoys, people)

    def _apply_linked(self, epoch: str, origin: str, sequence: int, batches: Iterable[HandleBatch]) -> None:
        tokens = self._folder / check_epoch_name(epoch) / _TOKENS_FILE
        if not tokens.exists():
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{epoch} holds no tokens")
        with self._files.open(tokens) as opened:
            linked = LinkedHandles(opened)
            self._take_over(epoch, linked)  # the last delta, of whatever origin, if the process died before it was here
            with self._database(epoch).begin() as db:
                due = _is_due(db, origin, sequence)
            if due:
                linked.change(origin, sequence, batches)
                self._take_over(epoch, linked)

    def _take_over(self, epoch: str, linked: LinkedHandles) -> None:
        last = linked.last()
        if last is not None:
            gone = linked.gone()
            people = [(party, _name(epoch, root), handle) for party, handle, root in linked.moved()]
            self._change(epoch, last, gone, len(gone), people)

    def _change(
        self,
        epoch: str,
        delta: tuple[str, int],
        gone: list[bytes],
        wanted: int,
        people: list[tuple[PartyId, bytes, bytes]],
    ) -> None:
        origin, sequence = delta
        with self._database(epoch).begin() as db:
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

    def remove(self, epoch: str) -> None:
        """Removes everything of an epoch, which must not be the one that is asked or changed, nor being built."""
        name = check_epoch_name(epoch)
        with self._opening:
            if (engine := self._opened.pop(epoch, None)) is not None:
                engine.dispose()
            for folder in (self._folder / name, self._folder / f"{_UNFINISHED}{name}"):
                if folder.exists():
                    shutil.rmtree(folder)

    def handles(self, party: PartyId, handle: Handle, most: int) -> list[tuple[PartyId, Handle]]:
        """Every handle, at any partner, of the person that a partner calls by one; at most so many, in order.

        Read in one go, so all are of one epoch. Empty for a handle that is not in the epoch.
        """
        token = select(_ROWS.c.token).where(_ROWS.c.party == party, _ROWS.c.handle == handle).scalar_subquery()
        query = select(_ROWS.c.party, _ROWS.c.handle).where(_ROWS.c.token == token)
        rows = self._read(query.order_by(_ROWS.c.party, _ROWS.c.handle).limit(most))
        return [(PartyId(row.party), Handle(row.handle)) for row in rows]

    def _read(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self._opening:
            while (newest := self._newest()) is not None:
                try:
                    with reading(self._database(newest)).begin() as db:
                        return db.execute(query).all()
                except (OverlapError, OperationalError):
                    if newest == self._newest():  # else another process completed one, and removed this
                        raise
            return []

    def _database(self, epoch: str) -> Engine:
        path = self._folder / check_epoch_name(epoch) / _ROWS_FILE
        with self._opening:
            if epoch not in self._opened:
                if not path.exists():
                    item = f"{epoch} has no switchboard"
                    raise OverlapError(Reason.UNKNOWN_EPOCH, item=item, fix="Build a new epoch.")
                for other in list(self._opened):  # another process may have removed it
                    self._opened.pop(other).dispose()
                self._opened[epoch] = open_database(path)
            return self._opened[epoch]


def _write(folder: Path, people: Iterable[tuple[PartyId, bytes, bytes]]) -> None:
    engine = open_database(folder / _ROWS_FILE)
    try:
        with engine.begin() as db:
            db.exec_driver_sql(f"PRAGMA cache_size = -{_BUILD_CACHE_KB}")  # rows come in no order
            for table in (_ROWS, _APPLIED):
                db.execute(CreateTable(table))
            rows = iter(people)
            while some := list(itertools.islice(rows, _INSERT_ROWS)):
                db.exec_driver_sql("INSERT OR IGNORE INTO switchboard (party, token, handle) VALUES (?, ?, ?)", some)
            _BY_TOKEN.create(db)  # in one go, not row by row
    finally:
        engine.dispose()  # the last to close it takes in the write-ahead log


def _is_due(db: Connection, origin: str, sequence: int) -> bool:
    """Whether a delta is the next one of its origin; not if it was applied. Raises OverlapError (OUT_OF_SEQUENCE)."""
    known = db.execute(select(_APPLIED.c.sequence).where(_APPLIED.c.party == origin)).scalar() or 0
    if known < sequence - 1:
        raise OverlapError(Reason.OUT_OF_SEQUENCE, item=f"delta {sequence} of {origin}")
    return known < sequence


def _pairs(batch: HandleBatch) -> Iterator[tuple[bytes, bytes]]:
    """Token and handle of every row of one point."""
    for chunk, handles in batch.rows:
        for row in range(len(chunk) // POINT_BYTES):
            token = chunk[row * POINT_BYTES : (row + 1) * POINT_BYTES]
            if token != ZERO:
                yield token, handles[row * HANDLE_BYTES : (row + 1) * HANDLE_BYTES]


def _handles_of(batch: HandleBatch) -> list[bytes]:
    """Every handle of a batch."""
    found: list[bytes] = []
    for _, handles in batch.rows:
        found += [handles[at : at + HANDLE_BYTES] for at in range(0, len(handles), HANDLE_BYTES)]
    return found


def _name(epoch: str, root: int) -> bytes:
    """The token of a person of several: no other component of the epoch has this root at the same time."""
    return hashlib.sha256(f"{epoch}/{root}".encode()).digest()
