"""DuckDB files of one folder, opened by one engine whose memory does not grow with them.

What does not fit is spilled to a private folder beside the files. It goes with its process; what a process that was
killed left there, the next one removes when it starts. Other processes may work in the same folder at the same time.

An engine is kept, because to make one takes longer than most of what is asked of it. A file is open only while it is
used: DuckDB lets one process at a time change it.
"""

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from federation.core.ids import POINT_BYTES

MEMORY_MB = 128
"""Enough for three times ten million people with one key type, which with 96 MB take as long and with 64 MB fail."""
JOINING_MEMORY_MB = 512
"""For several key types: a join of all tokens with themselves spills less well than groups do."""
BYTES_PER_POINT = 8
"""For more points than these limits have room for: four times as many bytes as a point was seen to need."""
THREADS = 2
"""Each needs buffers of its own within the limit: with four, three times ten million people take 128 MB and not 96."""
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MAKING_ROOM = threading.Lock()
_SPILL = "spill-"
_TYPES = {np.dtype(np.uint64): pa.uint64(), np.dtype(np.uint16): pa.uint16(), np.dtype(np.uint8): pa.uint8()}


class DuckFiles:
    """One engine. Safe to use from several threads.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        spill, held = _take_spill(folder)
        self._engine = duckdb.connect(
            config={
                "memory_limit": f"{MEMORY_MB}MB",
                "threads": min(THREADS, os.cpu_count() or 1),
                "temp_directory": str(spill),
                "preserve_insertion_order": False,  # keeping it would hold rows back in memory
            }
        )
        self._names, self._lock = itertools.count(), threading.Lock()
        weakref.finalize(self, _give_up, spill, held)

    @contextlib.contextmanager
    def open(self, path: Path, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to one file, which is closed and whole on disk at the end."""
        with self._lock:
            db = self._engine.cursor()
        with contextlib.closing(db), self.attached(db, path, read_only=read_only) as name:
            db.execute(f"USE {name}")
            try:
                yield db
            finally:
                db.execute("USE memory")

    @contextlib.contextmanager
    def attached(self, db: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool = False) -> Iterator[str]:
        """Another file at a connection, under the name that this gives."""
        name, quoted = f"file_{next(self._names)}", str(path).replace("'", "''")
        db.execute(f"ATTACH '{quoted}' AS {name} {'(READ_ONLY)' if read_only else ''}")
        try:
            yield name
            if not read_only:  # it may be renamed then: nothing may be left to be written when the engine lets go of it
                db.execute(f"CHECKPOINT {name}")
        finally:
            db.execute(f"DETACH {name}")


@contextlib.contextmanager
def transaction(db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Everything in it, or nothing."""
    db.begin()
    try:
        yield
    except BaseException:
        db.rollback()
        raise
    db.commit()


def make_room(db: duckdb.DuckDBPyConnection, points: int, *, joins: bool) -> None:
    """Lets the engine use, from now on, what so many points need; never less than it may use already.

    The limit is the engine's, and something larger may be at work beside this.
    """
    wanted_mb = max(JOINING_MEMORY_MB if joins else MEMORY_MB, points * BYTES_PER_POINT // 10**6)
    with _MAKING_ROOM:
        [[limit]] = db.execute("SELECT current_setting('memory_limit')").fetchall()
        number, unit = limit.split()
        if wanted_mb * 10**6 > (float(number) + 0.1) * _UNITS[unit]:  # of the number, further digits are cut off
            db.execute(f"SET memory_limit = '{wanted_mb}MB'")


def halves_of(chunk: bytes) -> tuple[NDArray[np.bool_], NDArray[np.uint64], NDArray[np.uint64]]:
    """Which points of a chunk are tokens, and the two words of each token; zeros were points of low order."""
    words = np.frombuffer(chunk, dtype=np.uint64).reshape(-1, POINT_BYTES // 8)
    real = words[:, 0] != 0
    if not real.all():  # hardly ever: a sum over rows is ten times as slow
        real = words.any(axis=1)
        words = words[real]
    return real, np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])


def columns_of(**arrays: NDArray[np.unsignedinteger]) -> pa.RecordBatch:
    """Arrays as DuckDB reads them, not copied."""
    # Not ``pa.array``: at its first call it imports pandas, which nothing else here needs.
    columns = [
        pa.Array.from_buffers(_TYPES[array.dtype], len(array), [None, pa.py_buffer(array)]) for array in arrays.values()
    ]
    return pa.RecordBatch.from_arrays(columns, names=list(arrays))


def table_of(**arrays: NDArray[np.unsignedinteger]) -> pa.Table:
    """The same as a table."""
    return pa.Table.from_batches([columns_of(**arrays)])


def stream(schema: pa.Schema, parts: Iterable[pa.RecordBatch]) -> pa.RecordBatchReader:
    """Parts that one statement reads one after another, each when it needs it."""
    return pa.RecordBatchReader.from_batches(schema, parts)


def _take_spill(folder: Path) -> tuple[Path, int]:
    """A folder of this process and the lock on it, which says that the process lives; removes those of dead ones."""
    with _locked(folder):
        for left in folder.glob(f"{_SPILL}*"):
            held = os.open(left, os.O_RDONLY)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            os.close(held)
        own = Path(tempfile.mkdtemp(prefix=_SPILL, dir=folder))
        held = os.open(own, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
    return own, held


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _give_up(spill: Path, held: int) -> None:
    shutil.rmtree(spill, ignore_errors=True)
    os.close(held)
