"""Handles of people with several identifiers: which rows share a token, in a DuckDB file, for the switchboard alone.

The file holds the tokens (128 bits each) of everybody on the switchboard for as long as the epoch is held, and what the
last delta changed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import duckdb
import numpy as np

from federation.core.errors import OverlapError, Reason
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, PartyId
from federation.overlap.plan import BASE, REMOVE
from gateway.overlap.components import create_links, insert_links, relink, settle_roots
from gateway.overlap.duck import table_of, transaction

_FETCH_ROWS = 10_000
_COLUMNS = "(row UBIGINT, party VARCHAR, head UBIGINT, tail UBIGINT)"


@dataclass(frozen=True)
class HandleBatch:
    """A partner's tokens at the end of their way, and its handles in the same order."""

    origin: PartyId
    rows: Iterable[tuple[bytes, bytes]]  # points of some rows, and the handles of as many
    operation: int = BASE
    decoys: int = 0


class LinkedHandles:
    """Rows of the switchboard with their tokens.

    Args:
        db: Holds them. Scratch tables are the connection's own.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self._db = db

    def build(self, batches: Iterable[HandleBatch]) -> None:
        """Takes the base. A handle that a partner sent twice keeps its first row."""
        db, first = self._db, 0
        with transaction(db):
            create_links(db)
            db.execute(f"CREATE TEMP TABLE rows {_COLUMNS}")
            for batch in batches:
                first += self._insert(batch, "rows", "links", first)
            settle_roots(db)
            db.execute("CREATE TABLE applied (party VARCHAR, sequence UINTEGER)")
            db.execute("CREATE TABLE lost (head UBIGINT, tail UBIGINT)")
            db.execute("CREATE TABLE latest AS FROM tokens LIMIT 0")

    def change(self, origin: str, sequence: int, batches: Iterable[HandleBatch]) -> None:
        """Applies a delta in one transaction. Raises OverlapError (BAD_FIELD)."""
        with transaction(self._db):
            self._change(origin, batches)
            self._db.execute("DELETE FROM applied")  # what the tables of changes speak of
            self._db.execute("INSERT INTO applied VALUES (?, ?)", [origin, sequence])

    def last(self) -> tuple[str, int] | None:
        """Origin and number of the last delta, of which ``gone`` and ``moved`` speak."""
        row = self._db.execute("SELECT party, sequence FROM applied").fetchone()
        return (row[0], row[1]) if row else None

    def gone(self) -> list[bytes]:
        """The handles that the last delta took away."""
        rows = self._db.execute("SELECT head, tail FROM lost").fetchall()
        return [_handle(head, tail) for head, tail in rows]

    def moved(self) -> list[tuple[PartyId, bytes, int]]:
        """Party, handle and root of everybody whom the last delta touched and who is still there."""
        rows = self._db.execute("SELECT party, head, tail, root FROM latest ORDER BY row").fetchall()
        return [(PartyId(party), _handle(head, tail), root) for party, head, tail, root in rows]

    def everybody(self) -> Iterator[tuple[PartyId, bytes, int]]:
        """Party, handle and root of every row, the oldest first."""
        found = self._db.execute("SELECT party, head, tail, root FROM tokens ORDER BY row")
        for some in iter(lambda: found.fetchmany(_FETCH_ROWS), []):
            yield from ((PartyId(party), _handle(head, tail), root) for party, head, tail, root in some)

    def _change(self, origin: str, batches: Iterable[HandleBatch]) -> None:
        db = self._db
        for table in ("came", "away"):
            db.execute(f"CREATE TEMP TABLE {table} {_COLUMNS}")
            create_links(db, f"{table}_links")
        [[first]] = db.execute("SELECT coalesce(max(row) + 1, 0) FROM tokens").fetchall()
        came, away, decoys = int(first), 0, 0
        for batch in batches:
            if batch.operation == REMOVE:
                away += self._insert(batch, "away", "away_links", away)
                decoys += batch.decoys
            else:
                came += self._insert(batch, "came", "came_links", came)
        db.execute("CREATE TEMP TABLE gone AS SELECT row FROM tokens SEMI JOIN away USING (party, head, tail)")
        [[found]] = db.execute(
            "SELECT count(*) FROM (SELECT DISTINCT head, tail FROM tokens SEMI JOIN gone USING (row))"
        ).fetchall()
        if found != away - decoys:
            raise OverlapError(Reason.BAD_FIELD, item=f"delta of {origin}: handles to take away that are not there")
        db.execute("DELETE FROM lost")
        db.execute("INSERT INTO lost SELECT DISTINCT head, tail FROM tokens SEMI JOIN gone USING (row)")
        relink(db)
        db.execute("DELETE FROM latest")
        db.execute("INSERT INTO latest BY NAME FROM after")

    def _insert(self, batch: HandleBatch, table: str, links: str, first_row: int) -> int:
        """Adds the rows of a batch; returns how many it has, those of low order too."""
        total = 0
        for chunk, handles in batch.rows:
            key_types = len(chunk) // POINT_BYTES // (len(handles) // HANDLE_BYTES)
            row = insert_links(self._db, chunk, first_row + total, key_types, links)
            words = np.frombuffer(handles, dtype="<u8").reshape(-1, 2)[row - np.uint64(first_row + total)]
            head, tail = np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])
            rows = self._db.from_arrow(table_of(row=row, head=head, tail=tail))
            rows.project(f"row, '{batch.origin}', head, tail").insert_into(table)
            total += len(handles) // HANDLE_BYTES
        return total


def _handle(head: int, tail: int) -> bytes:
    return head.to_bytes(8, "little") + tail.to_bytes(8, "little")
