"""Batches on disk while they go round: a batch is there whole, with the digest that was signed, or not at all.

Rows are written beside the batch's own name as they come, synced every ``SYNC_ROWS``, and renamed only when count and
digest are right. When a connection is lost, or the process dies, the rows that are on disk stay, with the digest that
they must have in the end; the next attempt goes on after them. Rows that turn out wrong are thrown away. What a partner
can leave behind is bounded by what its manifest declares, once per batch.

Memory: a chunk at a time.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

from federation.core.errors import OverlapError, Reason
from federation.core.files import sync_folder
from federation.core.ids import HANDLE_BYTES, POINT_BYTES
from federation.overlap.batch import MAX_ROWS
from federation.overlap.blind import CHUNK_ROWS, low_order_rows, row_count

FREE_BYTES = 1 << 28
"""Room on the disk that batches leave to all else."""
MAX_NAMED_ROWS = 100  # rejected rows that an answer names
SYNC_ROWS = 1 << 17
"""Rows between two syncs: what a lost connection can cost."""
_PART = ".part"


@dataclass(frozen=True)
class Shape:
    """What a batch that arrives must be."""

    rows: int
    digest: bytes  # SHA-256 of all points
    width: int  # bytes of points a row
    handles: bool  # whether 16 bytes a row of handles come along
    look_for_low_order: bool  # only an origin's rows need it


class Incoming:
    """One batch that is arriving. Safe to use from several threads: a later connection for it takes over at any moment.

    Args:
        target: Path of the finished points file.
        shape: What it must be.
    """

    def __init__(self, target: Path, shape: Shape) -> None:
        self._target, self._shape = target, shape
        self.rows, self.durable_rows, self._synced = 0, 0, -1
        self.low_order: list[int] = []
        self._hash, self._lock, self._open = hashlib.sha256(), threading.Lock(), True
        self._part = target.with_name(f"{target.name}{_PART}")
        name = _named(self._part)
        wanted = shape.digest + shape.rows.to_bytes(8, "big") + bytes([shape.handles])
        if not name.exists() or name.read_bytes() != wanted:
            _remove(self._part)
            with _append(name) as file:  # not synced: without it, rows are sent again
                file.write(wanted)
        self._points = _append(self._part)
        self._handles = _append(_handles(self._part)) if shape.handles else None
        self._resume()

    def add(self, points: bytes, handles: bytes) -> None:
        """Takes the next rows.

        Raises:
            OverlapError: BAD_POINT, BAD_FIELD (handles that do not fit), TOO_LARGE (a chunk, or more than declared),
                UNKNOWN_BATCH (a later connection took over), NO_ROOM.
        """
        shape = self._shape
        rows, rest = divmod(row_count(points) * POINT_BYTES, shape.width)
        if rest:
            raise OverlapError(Reason.BAD_POINT, item=f"row {self.rows + rows}: wrong length")
        if rows > CHUNK_ROWS:
            raise OverlapError(Reason.TOO_LARGE, item=f"chunk of {rows} rows, at most {CHUNK_ROWS}")
        if self.rows + rows > shape.rows:
            raise OverlapError(Reason.TOO_LARGE, item=f"more rows than the declared {shape.rows}")
        if len(handles) != (rows * HANDLE_BYTES if shape.handles else 0):
            raise OverlapError(Reason.BAD_FIELD, item="field handles")
        # Again: there was room for each of several batches that come at once, and need not be for all.
        _check_room(self._target.parent, len(points) + len(handles), shape.rows)
        with self._lock:
            self._check_mine()
            self._points.write(points)
            if self._handles is not None:
                self._handles.write(handles)
            self._count(points)
            if self.rows - self.durable_rows >= SYNC_ROWS:
                self._sync()

    def check(self) -> None:
        """Checks, once all rows were added, that they are those that were signed.

        Raises:
            OverlapError: TRUNCATED_STREAM or DIGEST_MISMATCH.
        """
        if self.rows != self._shape.rows:
            raise OverlapError(Reason.TRUNCATED_STREAM, item=f"{self.rows} rows, expected {self._shape.rows}")
        if self._hash.digest() != self._shape.digest:
            raise OverlapError(Reason.DIGEST_MISMATCH, item="batch")

    def sync(self) -> None:
        """Brings what was added to disk. Raises OverlapError (UNKNOWN_BATCH) where a later connection took over."""
        with self._lock:
            self._check_mine()
            self._sync()

    def keep(self) -> None:
        """Gives the batch its name, for ``Spool.sync`` to make durable; points come last, to vouch for the handles.

        Raises:
            OverlapError: UNKNOWN_BATCH where a later connection took over: what lies there now may be of that one.
        """
        with self._lock:
            self._check_mine()
            self._sync()
            self._close()
            if self._handles is not None:
                _handles(self._part).replace(_handles(self._target))
            self._part.replace(self._target)
            _named(self._part).unlink()

    def close(self) -> None:
        """Ends this attempt and leaves what is there to the next one. Harmless when it was done before."""
        with self._lock:
            if self._open:
                self._sync()
                self._close()

    def discard(self) -> None:
        """Ends this attempt and removes what it brought: it was wrong. Harmless after ``keep`` or ``close``."""
        with self._lock:
            if self._open:
                self._close()
                _remove(self._part)

    def _check_mine(self) -> None:
        if not self._open:
            raise OverlapError(Reason.UNKNOWN_BATCH, item="a later connection took over")

    def _close(self) -> None:
        self._open = False
        self._points.close()
        if self._handles is not None:
            self._handles.close()

    def _resume(self) -> None:
        """Counts and hashes the rows that an earlier attempt left, and cuts off what is not a whole row."""
        rows = self._part.stat().st_size // self._shape.width
        if self._handles is not None:
            rows = min(rows, _handles(self._part).stat().st_size // HANDLE_BYTES)
            self._handles.truncate(rows * HANDLE_BYTES)
        rows = min(rows, self._shape.rows)
        self._points.truncate(rows * self._shape.width)
        for chunk in _chunks(self._part, self._shape.width, 0):
            self._count(chunk)
        if self.rows:
            self._sync()

    def _count(self, points: bytes) -> None:
        per_row = self._shape.width // POINT_BYTES
        if self._shape.look_for_low_order:
            found = {self.rows + point // per_row for point in low_order_rows(points)}
            self.low_order += sorted(found)
        self._hash.update(points)
        self.rows += len(points) // self._shape.width

    def _sync(self) -> None:
        if self._synced == self.rows:
            return
        for file in (self._points, self._handles):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
        self.durable_rows = self._synced = self.rows


class Spool:
    """A folder of batches, each in one file per stage (how many hops it has passed)."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._arriving: dict[Path, Incoming] = {}
        self._turns: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def receive(self, batch_id: str, stage: int, shape: Shape) -> Incoming:
        """Starts to take a batch, after the rows that an earlier attempt brought; that attempt is ended.

        The caller ends with ``check``, ``keep`` and ``sync``, or with ``discard``, or ``close``.

        Raises:
            OverlapError: NO_ROOM where the disk has no room for it: what else is written here must not fail for it.
        """
        wanted = shape.rows * (shape.width + (HANDLE_BYTES if shape.handles else 0))
        _check_room(self._folder, wanted, shape.rows)
        path = self._path(batch_id, stage)
        with self._lock:
            turn = self._turns.setdefault(path, threading.Lock())
        with turn:  # of this batch alone: the rows that are there are read, which takes a second or more where many are
            with self._lock:
                before = self._arriving.pop(path, None)
            if before is not None:
                before.close()
            incoming = Incoming(path, shape)
            with self._lock:
                self._arriving[path] = incoming
        return incoming

    def sync(self) -> None:
        """Makes the names of batches durable."""
        sync_folder(self._folder)

    def chunks(self, batch_id: str, stage: int, width: int, from_row: int = 0) -> Iterator[bytes]:
        """The points of a batch at a stage from a row on, at most ``CHUNK_ROWS`` rows at a time."""
        yield from _chunks(self._path(batch_id, stage), width, from_row)

    def handles(self, batch_id: str) -> Iterator[bytes]:
        """The origin's handles, 16 bytes a row, in chunks of as many rows as those of the points."""
        yield from _chunks(_handles(self._path(batch_id, 0)), HANDLE_BYTES, 0)

    def remove(self, batch_id: str, stage: int) -> None:
        """Removes the points of a stage that nobody will ask for again."""
        self._path(batch_id, stage).unlink(missing_ok=True)

    def clear(self, batch_id: str) -> None:
        """Removes everything of a batch."""
        with self._lock:
            for path in [path for path in self._arriving if path.name.partition(".")[0] == batch_id]:
                self._arriving.pop(path).discard()
        for path in self._folder.glob(f"{batch_id}.*"):
            path.unlink(missing_ok=True)

    def retain(self, wanted: Callable[[], set[str]]) -> None:
        """Removes what is there of other batches than are wanted now.

        Another process may take batches meanwhile. Each is wanted before a file of it is here; so files are listed
        first, and whatever is not wanted after that was done with.
        """
        there = list(self._folder.iterdir())
        batch_ids = wanted()
        for path in there:
            if path.name.partition(".")[0] not in batch_ids:
                path.unlink(missing_ok=True)

    def _path(self, batch_id: str, stage: int) -> Path:
        return self._folder / f"{batch_id}.{stage}"


def _check_room(folder: Path, wanted: int, rows: int) -> None:
    if shutil.disk_usage(folder).free < wanted + FREE_BYTES:
        item = f"{rows} rows, for which {(wanted + FREE_BYTES) >> 20} MiB must be free on the gateway's disk"
        raise OverlapError(Reason.NO_ROOM, item=item)


def _chunks(path: Path, width: int, from_row: int) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except FileNotFoundError as exc:
        raise OverlapError(Reason.UNKNOWN_BATCH, item="it was removed meanwhile") from exc
    with file:
        file.seek(min(from_row, MAX_ROWS) * width)  # a peer may name any number, also one that no file has
        while chunk := file.read(CHUNK_ROWS * width):
            yield chunk


def _handles(points: Path) -> Path:
    return points.with_name(f"{points.name}.handles")


def _named(points: Path) -> Path:
    return points.with_name(f"{points.name}.name")


def _remove(part: Path) -> None:
    for path in (_named(part), part, _handles(part)):
        path.unlink(missing_ok=True)


def _append(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab")
