"""Imports a register of consents, CSV or JSON lines, of any size.

Guarantees constant memory; that a batch of rows and the place in the file after it are stored in one transaction, so a
process that is killed goes on where it was and takes nothing twice; and that the same file again, or a file that has
grown at its end, costs only what is new. The place counts only while everything before it is unchanged, which a digest
proves; else the file is read from the start, which changes nothing that stands (see ``imported``). A file that
stops at a broken row goes on at that row once it is mended.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Engine, select
from sqlalchemy.dialects.sqlite import insert

from federation.client.consent.file import Aside, Place, open_rows
from federation.client.consent.imported import imports, metadata, store
from federation.consent.statements import Statement, StatementReader
from federation.core.clock import Clock
from federation.core.errors import DataError, Reason

BATCH_ROWS = 50_000
_BLOCK_BYTES = 1 << 20


@dataclass
class Imported:
    """How far an import is; also its result."""

    size_bytes: int
    done_bytes: int = 0
    rows: int = 0
    """Statements that this run read, broken ones too; not the header and blank lines."""
    stored: int = 0
    """Statements of this run that stand now where another or none stood before."""
    broken: int = 0
    """Rows that this run set aside."""
    resumed_row: int = 0
    """The last row that an earlier run had stored, as a spreadsheet counts; 0 for a start from the top."""


class ConsentImport:
    """Imports files into the partner's durable state.

    Args:
        engine: The partner's durable state.
        clock: Dates ends that have no time of their own.
        batch_rows: Rows in one transaction.
    """

    def __init__(self, engine: Engine, clock: Clock, batch_rows: int = BATCH_ROWS) -> None:
        self._engine, self._clock, self._batch_rows = engine, clock, batch_rows
        metadata.create_all(engine)

    def run(
        self, path: Path, aside: Path | None = None, progress: Callable[[Imported], None] = lambda _: None
    ) -> Imported:
        """Imports a file, or what is new of it.

        Args:
            path: ``.jsonl`` for JSON lines, else CSV with a header; the names are those of ``consents.csv``.
            aside: Where broken rows go, one JSON object each; None stops at the first. It holds personal data.
            progress: Told after every batch.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN; BROKEN_ROW with file and row, and what stood before it is stored.
        """
        try:
            with path.open("rb") as file:
                place = self._resume(path, file)
                with Aside(aside, place.aside_bytes) as sink:
                    return self._run(path, file, place, sink, progress)
        except OSError as exc:
            raise DataError(Reason.MISSING_FILE, item=path.name, detail=f"{exc.filename}: {exc.strerror}") from exc

    def _run(
        self, path: Path, file: BinaryIO, place: Place, sink: Aside, progress: Callable[[Imported], None]
    ) -> Imported:
        done = Imported(os.fstat(file.fileno()).st_size, place.offset, resumed_row=place.rows)
        reader, first_row = StatementReader(self._clock.now()), place.rows
        batch: list[Statement] = []
        stop: DataError | None = None
        for row in open_rows(path, file, place):
            try:
                if row.values is not None:
                    batch.append(reader.read_values(row.values, row.record_id))
                elif row.why:
                    raise DataError(Reason.BROKEN_ROW, item=row.why)
            except DataError as exc:
                if not sink.is_open:
                    item = f"{path.name}, row {place.rows + 1}: {exc.item}"
                    stop = DataError(Reason.BROKEN_ROW, item=item, fix="Mend the row, or name --skip-broken FILE.")
                    break
                sink.write(place.rows + 1, exc.item, row.raw)
                done.broken += 1
            # A last row without its line's end may go on when the file grows: it is stored, and read again then.
            whole = row.raw.endswith(b"\n")
            if whole:
                place.accept(row.raw)
            done.rows += row.values is not None or bool(row.why)
            if whole and place.rows - first_row >= self._batch_rows:
                first_row = place.rows
                done.stored += self._commit(path, place, batch, sink)
                batch, done.done_bytes = [], place.offset
                progress(done)
        if batch or place.rows != first_row:
            # Also where a broken row stops it: an end before that row must not wait until somebody mends it.
            done.stored += self._commit(path, place, batch, sink)
        if stop is not None:
            raise stop
        done.done_bytes = done.size_bytes
        progress(done)
        return done

    def _resume(self, path: Path, file: BinaryIO) -> Place:
        """Where to go on: after what is stored, if the file still begins with exactly that."""
        with self._engine.begin() as connection:
            row = connection.execute(select(imports).where(imports.c.path == str(path.resolve()))).one_or_none()
        if row is None:
            return Place()
        digest, left = hashlib.sha256(), row.offset
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        if left or digest.hexdigest() != row.digest:
            file.seek(0)
            return Place()
        return Place(row.offset, row.rows, row.aside_bytes, digest)

    def _commit(self, path: Path, place: Place, batch: list[Statement], sink: Aside) -> int:
        place.aside_bytes = sink.sync()
        reached = {
            "offset": place.offset,
            "digest": place.digest.hexdigest(),
            "rows": place.rows,
            "aside_bytes": place.aside_bytes,
        }
        with self._engine.begin() as connection:
            stored = store(connection, batch)
            fresh = insert(imports).values(path=str(path.resolve()), batches=1, uploaded=0, **reached)
            more = {**reached, "batches": imports.c.batches + 1}
            connection.execute(fresh.on_conflict_do_update(index_elements=["path"], set_=more))
        return stored
