"""The tokens of an epoch's statistics in a DuckDB database, and the people that they make, folded into regions.

With one key type a person is a token, and there is one row for each. With several it is a connected component of rows
(``components``), and every row knows the root of its own. Either way a row has a column for every partner: the label
that the person has there, or nothing where it is nobody's customer. A person that a partner sent twice has the first of
its labels there, and counts once.

A delta takes away rows of its own origin, found by their tokens, and adds others. All rows it takes away must be there:
an origin whose account differs from what it sent is refused, because what else it says cannot be right either. The rest
of the people are not looked at, and regions change by what the touched ones were and are.

Decoys are subtracted as their origin declared them, whatever is there: a cell may come out below zero. Whether it does
depends on who else has the origin's people, so it must have no effect that the origin could see: a batch that was
refused for it, or not, would tell the exact number to whoever chose the batch. What is refused here depends on the
origin's own rows alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from federation.core.errors import OverlapError, Reason
from federation.core.ids import POINT_BYTES
from federation.overlap.plan import BASE, REMOVE
from gateway.overlap.components import create_links, insert_links, relink, settle_roots
from gateway.overlap.duck import columns_of, halves_of, make_room, stream, table_of

_ARRIVED = pa.schema(
    [("high", pa.uint64()), ("low", pa.uint64()), ("gone", pa.uint8()), ("partner", pa.uint8()), ("label", pa.uint16())]
)


@dataclass(frozen=True)
class TokenBatch:
    """One batch at the end of its way."""

    origin: str
    label: str
    decoys: int
    chunks: Iterable[bytes]
    operation: int = BASE
    rows: int = 0  # as declared, to make room for them


class People:
    """Tokens and regions of one epoch.

    Args:
        db: Holds them. Scratch tables are the connection's own.
        labels: For every partner of the epoch, in the order of the ring, all labels it may use.
        key_types: Points a row.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, labels: Mapping[str, Sequence[str]], key_types: int) -> None:
        self._db, self._labels, self._key_types = db, labels, key_types
        self._partners = list(labels)
        self._places = [f"label_{at}" for at in range(len(labels))]
        self._several = key_types > 1

    def build(self, batches: Iterable[TokenBatch]) -> None:
        """Makes the tables from every batch of the base. Raises OverlapError (BAD_FIELD: labels)."""
        every = self._checked(batches)
        if self._several:
            create_links(self._db)
            self._insert_rows("rows", "links", every, 0)
            settle_roots(self._db)
        else:
            make_room(self._db, sum(batch.rows for batch in every), joins=False)
            first = ", ".join(f"min(label) FILTER (partner = {at}) AS {name}" for at, name in enumerate(self._places))
            self._read(every, f"CREATE TABLE tokens AS SELECT high, low, {first} FROM arrived GROUP BY high, low")  # noqa: S608
        self._fill_decoys(every)
        self._db.execute(f"CREATE TABLE regions AS {self._sum_of(self._fold('tokens'), 'FROM decoys')}")

    def change(self, origin: str, batches: Iterable[TokenBatch]) -> None:
        """Applies a delta of one origin, within the caller's transaction.

        Raises:
            OverlapError: BAD_FIELD for rows of the origin to take away that are not there, and labels that the epoch
                does not have.
        """
        db, every = self._db, self._checked(batches)
        if self._several:
            self._relink(origin, every)
        else:
            self._replace(origin, every)
        self._fill_decoys(every)
        whole = self._sum_of("FROM regions", self._fold("after"), self._fold("before", sign="-"), "FROM decoys")
        db.execute(f"CREATE TEMP TABLE changed AS {whole}")
        db.execute("DROP TABLE regions")
        db.execute("CREATE TABLE regions AS FROM changed")

    def _checked(self, batches: Iterable[TokenBatch]) -> list[TokenBatch]:
        every = list(batches)
        for batch in every:
            if batch.operation != REMOVE and batch.label not in self._labels[batch.origin]:
                item = f"label {batch.label!r} of {batch.origin}, not of this epoch"
                raise OverlapError(Reason.BAD_FIELD, item=item)
        return every

    def _read(self, batches: Sequence[TokenBatch], statement: str) -> int:
        """Runs a statement that reads every token as ``arrived``; returns how many it was to take away."""
        away = 0

        def parts() -> Iterator[pa.RecordBatch]:
            nonlocal away
            for batch in batches:
                gone, partner, label = (
                    batch.operation == REMOVE,
                    self._partners.index(batch.origin),
                    self._number(batch),
                )
                for chunk in batch.chunks:
                    _, high, low = halves_of(chunk)
                    count = len(high)
                    away += count if gone else 0
                    about = {"gone": np.full(count, gone, np.uint8), "partner": np.full(count, partner, np.uint8)}
                    yield columns_of(high=high, low=low, **about, label=np.full(count, label, np.uint16))

        self._db.register("arrived", stream(_ARRIVED, parts()))
        self._db.execute(statement)
        self._db.unregister("arrived")
        return away

    def _replace(self, origin: str, batches: Sequence[TokenBatch]) -> None:
        """Takes rows away and adds others, where a person is a token.

        Leaves who was touched, as they were in ``before`` and as they are in ``after``.
        """
        db, place = self._db, self._places[self._partners.index(origin)]
        away = self._read(
            batches,
            "CREATE TEMP TABLE wanted AS SELECT high, low, max(gone) = 1 AS gone, min(label) FILTER (gone = 0) AS came "
            "FROM arrived GROUP BY high, low",
        )
        # The one look at everybody: by half of the token first, which takes half the time.
        db.execute(
            "CREATE TEMP TABLE before AS SELECT * FROM "
            "(SELECT rowid AS number, * FROM tokens SEMI JOIN wanted USING (high)) SEMI JOIN wanted USING (high, low)"
        )
        [[found]] = db.execute(
            f"SELECT count(*) FROM before JOIN wanted USING (high, low) WHERE gone AND {place} IS NOT NULL"  # noqa: S608
        ).fetchall()
        _check_found(origin, batches, away, found)
        now = [f"CASE WHEN gone THEN came ELSE least({one}, came) END" if one == place else one for one in self._places]
        columns = ", ".join(f"{value} AS {name}" for name, value in zip(self._places, now, strict=True))
        db.execute(
            f"CREATE TEMP TABLE after AS SELECT * FROM (SELECT high, low, {columns} FROM wanted "  # noqa: S608
            f"LEFT JOIN before USING (high, low)) WHERE coalesce({', '.join(self._places)}) IS NOT NULL"
        )
        db.execute("DELETE FROM tokens WHERE rowid IN (SELECT number FROM before)")
        db.execute("INSERT INTO tokens FROM after")

    def _relink(self, origin: str, batches: Sequence[TokenBatch]) -> None:
        """The same where a person is a component."""
        db, place = self._db, self._places[self._partners.index(origin)]
        for links in ("came_links", "away_links"):
            create_links(db, links)
        [[first]] = db.execute("SELECT coalesce(max(row) + 1, 0) FROM tokens").fetchall()
        self._insert_rows("came", "came_links", [one for one in batches if one.operation != REMOVE], int(first))
        away = self._insert_rows("away", "away_links", [one for one in batches if one.operation == REMOVE], 0)
        db.execute(  # a row is found by all of its tokens
            "CREATE TEMP TABLE gone AS SELECT DISTINCT found.row FROM "  # noqa: S608 - our own names
            "(SELECT a.row AS asked, l.row, count(*) AS same FROM away_links a JOIN links l USING (high, low) "
            f"JOIN tokens t ON t.row = l.row AND t.{place} IS NOT NULL GROUP BY ALL) found "
            "JOIN (SELECT row, count(*) AS size FROM away_links GROUP BY row) a ON a.row = asked AND a.size = same "
            "JOIN (SELECT row, count(*) AS size FROM links SEMI JOIN away_links USING (high, low) GROUP BY row) l "
            "ON l.row = found.row AND l.size = same",
        )
        [[found]] = db.execute("SELECT count(*) FROM gone").fetchall()
        _check_found(origin, batches, away, found)
        relink(db)

    def _insert_rows(self, table: str, links: str, batches: Sequence[TokenBatch], first_row: int) -> int:
        """Makes a table of rows, numbered from ``first_row`` on, and adds their tokens; returns how many have any."""
        columns = ", ".join(f"{name} USMALLINT" for name in self._places)
        self._db.execute(f"CREATE TEMP TABLE {table} (row UBIGINT, {columns})")
        real = 0
        for batch in batches:
            row_of = f"row, {self._values(batch)}"
            for chunk in batch.chunks:
                row = insert_links(self._db, chunk, first_row, self._key_types, links)
                self._db.from_arrow(table_of(row=row)).project(row_of).insert_into(table)
                first_row += len(chunk) // (POINT_BYTES * self._key_types)
                real += len(row)
        return real

    def _number(self, batch: TokenBatch) -> int:
        return 0 if batch.operation == REMOVE else list(self._labels[batch.origin]).index(batch.label)

    def _values(self, batch: TokenBatch) -> str:
        """What a row of a batch has in the columns of labels: its own at its origin, nothing elsewhere."""
        mine = self._partners.index(batch.origin)
        return ", ".join(str(self._number(batch)) if at == mine else "NULL" for at in range(len(self._places)))

    def _fold(self, table: str, sign: str = "") -> str:
        """The query of regions."""
        labels = ", ".join(self._places)
        if self._several:
            first = ", ".join(f"min({name}) AS {name}" for name in self._places)
            table = f"(SELECT {first} FROM {table} GROUP BY root)"  # noqa: S608
        bits = " | ".join(f"if({name} IS NULL, 0, {1 << at})" for at, name in enumerate(self._places))
        counted = f"SELECT {labels}, {sign}count(*)::BIGINT AS people FROM {table} GROUP BY ALL"  # noqa: S608
        return f"SELECT ({bits})::USMALLINT AS bits, {labels}, people FROM ({counted})"  # noqa: S608

    def _sum_of(self, *regions: str) -> str:
        """The query of regions that are the sum of others."""
        labels, every = ", ".join(self._places), " UNION ALL ".join(f"({one})" for one in regions)
        summed = f"SELECT bits, {labels}, sum(people)::BIGINT AS people FROM ({every}) GROUP BY ALL"  # noqa: S608
        return f"{summed} HAVING sum(people) != 0"

    def _fill_decoys(self, batches: Sequence[TokenBatch]) -> None:
        """Makes a table of what decoys take out of the cells where they are: at their partner alone, with the label."""
        columns, rows = ", ".join(f"{name} USMALLINT" for name in self._places), []
        for batch in batches:
            if batch.decoys and batch.operation != REMOVE:
                bits = 1 << self._partners.index(batch.origin)
                rows.append(f"({bits}, {self._values(batch)}, {-batch.decoys})")
        self._db.execute(f"CREATE TEMP TABLE decoys (bits USMALLINT, {columns}, people BIGINT)")
        if rows:
            self._db.execute(f"INSERT INTO decoys VALUES {', '.join(rows)}")  # noqa: S608 - our own numbers


def _check_found(origin: str, batches: Sequence[TokenBatch], away: int, found: int) -> None:
    """Padding alone is not there."""
    if found != away - sum(batch.decoys for batch in batches if batch.operation == REMOVE):
        raise OverlapError(Reason.BAD_FIELD, item=f"delta of {origin}: rows to take away that are not there")
