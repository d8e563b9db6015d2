"""Batches on disk while they go round: a batch is there whole, with the digest that was signed, or not at all.

Rows are written under a scratch name, counted and hashed as they come, synced, and renamed only when count and digest
are right. Scratch files of a process that died are removed at the next start.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from federation.core.errors import OverlapError, Reason
from federation.core.ids import HANDLE_BYTES, POINT_BYTES
from federation.overlap.blind import CHUNK_ROWS, low_order_rows, row_count

MAX_NAMED_ROWS = 100  # rejected rows that an answer names
_SCRATCH = ".unfinished"


class Incoming:
    """One batch that is arriving.

    Args:
        target: Path of the finished points file.
        count: Rows that its manifest declares.
        handles: Whether 16 bytes a row of handles come along.
        look_for_low_order: Whether to look for points of low order; only an origin's rows need it.
    """

    def __init__(self, target: Path, count: int, *, handles: bool, look_for_low_order: bool) -> None:
        self._target, self._count, self._look = target, count, look_for_low_order
        self.rows = 0
        self.low_order: list[int] = []
        self._hash = hashlib.sha256()
        self._scratch = target.with_name(f"{target.name}.{secrets.token_hex(8)}{_SCRATCH}")
        self._points: BinaryIO = _create(self._scratch)
        self._handles: BinaryIO | None = _create(_handles(self._scratch)) if handles else None

    def add(self, points: bytes, handles: bytes) -> None:
        """Takes the next rows.

        Raises:
            OverlapError: BAD_POINT, BAD_FIELD (handles that do not fit), TOO_LARGE (a chunk, or more than declared).
        """
        rows = row_count(points)
        if rows > CHUNK_ROWS:
            raise OverlapError(Reason.TOO_LARGE, item=f"chunk of {rows} rows, at most {CHUNK_ROWS}")
        if self.rows + rows > self._count:
            raise OverlapError(Reason.TOO_LARGE, item=f"more rows than the declared {self._count}")
        if len(handles) != (rows * HANDLE_BYTES if self._handles is not None else 0):
            raise OverlapError(Reason.BAD_FIELD, item="field handles")
        if self._look:
            self.low_order += (self.rows + row for row in low_order_rows(points))
        self._points.write(points)
        self._hash.update(points)
        if self._handles is not None:
            self._handles.write(handles)
        self.rows += rows

    def check(self, digest: bytes) -> None:
        """Checks, once all rows were added, that they are those that were signed.

        Raises:
            OverlapError: TRUNCATED_STREAM or DIGEST_MISMATCH.
        """
        if self.rows != self._count:
            raise OverlapError(Reason.TRUNCATED_STREAM, item=f"{self.rows} rows, expected {self._count}")
        if self._hash.digest() != digest:
            raise OverlapError(Reason.DIGEST_MISMATCH, item="batch")

    def keep(self) -> None:
        """Makes the batch durable under its name; the points come last, so that they vouch for the handles."""
        _sync_and_close(self._points)
        if self._handles is not None:
            _sync_and_close(self._handles)
            _handles(self._scratch).replace(_handles(self._target))
        self._scratch.replace(self._target)
        folder = os.open(self._target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Removes what has not been kept; harmless after ``keep``."""
        self._points.close()
        self._scratch.unlink(missing_ok=True)
        if self._handles is not None:
            self._handles.close()
            _handles(self._scratch).unlink(missing_ok=True)


class Spool:
    """A folder of batches, each in one file per stage (how many hops it has passed)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob(f"*{_SCRATCH}*"):
            left.unlink()

    def receive(self, batch_id: str, stage: int, count: int, *, handles: bool) -> Incoming:
        """Starts to take a batch; the caller ends with ``check`` and ``keep``, and ``discard`` in any case."""
        return Incoming(self._path(batch_id, stage), count, handles=handles, look_for_low_order=stage == 0)

    def chunks(self, batch_id: str, stage: int) -> Iterator[bytes]:
        """The points of a batch at a stage, at most ``CHUNK_ROWS`` at a time."""
        with self._path(batch_id, stage).open("rb") as file:
            while chunk := file.read(CHUNK_ROWS * POINT_BYTES):
                yield chunk

    def handles(self, batch_id: str) -> bytes:
        """The origin's handles, 16 bytes a row in the order of the points."""
        return _handles(self._path(batch_id, 0)).read_bytes()

    def remove(self, batch_id: str, stage: int) -> None:
        """Removes the points of a stage that nobody will ask for again."""
        self._path(batch_id, stage).unlink(missing_ok=True)

    def clear(self, batch_id: str) -> None:
        """Removes everything of a batch."""
        for path in self._folder.glob(f"{batch_id}.*"):
            path.unlink(missing_ok=True)

    def retain(self, batch_ids: set[str]) -> None:
        """Removes everything of other batches than these."""
        for path in self._folder.iterdir():
            if path.name.partition(".")[0] not in batch_ids:
                path.unlink()

    def _path(self, batch_id: str, stage: int) -> Path:
        return self._folder / f"{batch_id}.{stage}"


def _handles(points: Path) -> Path:
    return points.with_name(f"{points.name}.handles")


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sync_and_close(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
