"""The tokens of an epoch's statistics in a DuckDB database, and the people that they make, folded into regions.

With one key type a person is a token. With several it is a connected component of rows (``components``), and every row
knows the root of its own. A person is at the partners whose rows it has, with the first label of each, and counts once.

A delta takes away rows of its own origin, found by their tokens, and adds others. All rows it takes away must be there:
an origin whose account differs from what it sent is refused, because what else it says cannot be right either. The rest
of the people are not looked at, and regions change by what the touched ones were and are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from federation.core.errors import OverlapError, Reason
from federation.core.ids import POINT_BYTES
from federation.overlap.plan import BASE, REMOVE
from gateway.overlap.components import create_links, insert_links, relink, settle_roots


@dataclass(frozen=True)
class TokenBatch:
    """One batch at the end of its way."""

    origin: str
    label: str
    padding: int
    chunks: Iterable[bytes]
    operation: int = BASE


class People:
    """Tokens and regions of one epoch.

    Args:
        db: Holds them.
        labels: For every partner of the epoch, in the order of the ring, all labels it may use.
        key_types: Points a row.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, labels: Mapping[str, Sequence[str]], key_types: int) -> None:
        self._db, self._labels, self._key_types = db, labels, key_types
        self._partners = list(labels)
        self._person = "high, low" if key_types == 1 else "root"
        known = "high UBIGINT, low UBIGINT" if key_types == 1 else "row UBIGINT, root UBIGINT"
        self._columns = f"({known}, partner UTINYINT, label USMALLINT)"

    def build(self, batches: Iterable[TokenBatch]) -> None:
        """Makes the tables from every batch of the base. Raises OverlapError (BAD_FIELD: padding)."""
        self._create("tokens", "links")
        rows, paddings = 0, []
        for batch in batches:
            rows += self._insert(batch, "tokens", "links", rows).total
            paddings.append(batch)
        if self._key_types > 1:
            settle_roots(self._db)
        self._db.execute(f"CREATE TABLE regions AS {self._fold('tokens')}")
        for batch in paddings:
            self._subtract(batch)
        self._db.execute("DELETE FROM regions WHERE people = 0")

    def change(self, origin: str, batches: Iterable[TokenBatch]) -> None:
        """Applies a delta of one origin, within the caller's transaction.

        Raises:
            OverlapError: BAD_FIELD for padding that cannot be, rows to take away that are not there, and labels that
                the epoch does not have.
        """
        db, partner = self._db, self._partners.index(origin)
        self._create("came", "came_links")
        self._create("away", "away_links")
        came, away, wanted, paddings = self._next_row(), 0, 0, []
        for batch in batches:
            if batch.operation == REMOVE:
                found = self._insert(batch, "away", "away_links", away)
                away += found.total
                wanted += found.real - batch.padding
                continue
            came += self._insert(batch, "came", "came_links", came).total
            paddings.append(batch)
        if self._find(partner) != wanted:
            raise OverlapError(Reason.BAD_FIELD, item=f"delta of {origin}: rows to take away that are not there")
        if self._several:
            relink(db)
        else:
            self._replace(partner)
        moved = f"{self._fold('after')} UNION ALL {self._fold('before', sign='-')}"
        labels = self._label_columns()
        db.execute(
            f"CREATE TABLE changed AS SELECT bits, {labels}, sum(people)::BIGINT AS people FROM "  # noqa: S608
            f"(SELECT bits, {labels}, people FROM regions UNION ALL {moved}) GROUP BY ALL HAVING sum(people) != 0"
        )
        db.execute("DROP TABLE regions")
        db.execute("ALTER TABLE changed RENAME TO regions")
        for batch in paddings:
            self._subtract(batch)
        db.execute("DELETE FROM regions WHERE people = 0")
        if db.execute("SELECT 1 FROM regions WHERE people < 0 LIMIT 1").fetchall():
            raise OverlapError(Reason.BAD_FIELD, item=f"delta of {origin}: fewer than nobody")
        used = ("came", "away", "gone", "before", "after", "came_links", "away_links")
        for table in used if self._several else used[:5]:
            db.execute(f"DROP TABLE {table}")

    @property
    def _several(self) -> bool:
        return self._key_types > 1

    def _next_row(self) -> int:
        """A number that no row has; where rows have none, 0."""
        if not self._several:
            return 0
        [[number]] = self._db.execute("SELECT coalesce(max(row) + 1, 0) FROM tokens").fetchall()
        return int(number)

    def _create(self, table: str, links: str) -> None:
        self._db.execute(f"CREATE TABLE {table} {self._columns}")
        if self._several:
            create_links(self._db, links)

    def _insert(self, batch: TokenBatch, table: str, links: str, first_row: int) -> "_Rows":
        """Adds the rows of a batch; rows of zeros were points of low order and are nobody."""
        if batch.operation != REMOVE and batch.label not in self._labels[batch.origin]:
            raise OverlapError(Reason.BAD_FIELD, item=f"label {batch.label!r} of {batch.origin}, not of this epoch")
        partner = self._partners.index(batch.origin)
        label = 0 if batch.operation == REMOVE else list(self._labels[batch.origin]).index(batch.label)
        total = real = 0
        for chunk in batch.chunks:
            if self._several:
                row = insert_links(self._db, chunk, first_row + total, self._key_types, links)
                arrived, chosen = {"row": row}, "row, row"
            else:
                words = np.frombuffer(chunk, dtype=np.uint64).reshape(-1, POINT_BYTES // 8)
                words = words[words.any(axis=1)]
                arrived = {"high": np.ascontiguousarray(words[:, 0]), "low": np.ascontiguousarray(words[:, 1])}
                row, chosen = words[:, 0], "high, low"
            self._db.register("arrived", arrived)
            self._db.execute(f"INSERT INTO {table} SELECT {chosen}, ?, ? FROM arrived", [partner, label])  # noqa: S608
            self._db.unregister("arrived")
            total += len(chunk) // (POINT_BYTES * self._key_types)
            real += len(row)
        return _Rows(total, real)

    def _find(self, partner: int) -> int:
        """Makes ``gone``: what the rows of ``away`` are in ``tokens``; returns how many different ones were found."""
        if not self._several:
            self._db.execute(
                "CREATE TABLE gone AS SELECT DISTINCT high, low FROM tokens "
                "SEMI JOIN away USING (high, low) WHERE partner = ?",
                [partner],
            )
        else:  # a row is found by all of its tokens
            self._db.execute(
                "CREATE TABLE gone AS SELECT DISTINCT found.row FROM "
                "(SELECT a.row AS asked, l.row, count(*) AS same FROM away_links a JOIN links l USING (high, low) "
                "JOIN tokens t ON t.row = l.row AND t.partner = ? GROUP BY ALL) found "
                "JOIN (SELECT row, count(*) AS size FROM away_links GROUP BY row) a ON a.row = asked AND a.size = same "
                "JOIN (SELECT row, count(*) AS size FROM links SEMI JOIN away_links USING (high, low) GROUP BY row) l "
                "ON l.row = found.row AND l.size = same",
                [partner],
            )
        [[found]] = self._db.execute("SELECT count(*) FROM gone").fetchall()
        return int(found)

    def _replace(self, partner: int) -> None:
        """Takes rows away and adds others, where a person is a token."""
        db = self._db
        db.execute("CREATE TABLE touched AS SELECT high, low FROM gone UNION SELECT high, low FROM came")
        db.execute("CREATE TABLE before AS SELECT * FROM tokens SEMI JOIN touched USING (high, low)")
        db.execute(
            "DELETE FROM tokens USING gone WHERE tokens.high = gone.high AND tokens.low = gone.low AND partner = ?",
            [partner],
        )
        db.execute("INSERT INTO tokens FROM came")
        db.execute("CREATE TABLE after AS SELECT * FROM tokens SEMI JOIN touched USING (high, low)")
        db.execute("DROP TABLE touched")

    def _label_columns(self) -> str:
        return ", ".join(f"label_{at}" for at in range(len(self._partners)))

    def _fold(self, table: str, sign: str = "") -> str:
        """The query of regions: a person that a partner sent twice is one person, with the first of its labels."""
        labels = ", ".join(f"min(label) FILTER (partner = {at}) AS label_{at}" for at in range(len(self._partners)))
        people = f"SELECT bit_or(1::USMALLINT << partner) AS bits, {labels} FROM {table} GROUP BY {self._person}"  # noqa: S608
        columns = self._label_columns()
        return f"SELECT bits, {columns}, {sign}count(*)::BIGINT AS people FROM ({people}) GROUP BY ALL"  # noqa: S608

    def _subtract(self, batch: TokenBatch) -> None:
        """Takes padding out of the cell where it must be: at its partner alone, with its batch's label."""
        if not batch.padding:
            return
        partner, labels = self._partners.index(batch.origin), list(self._labels[batch.origin])
        changed = self._db.execute(
            f"UPDATE regions SET people = people - ? WHERE bits = ? AND label_{partner} = ? AND people >= ?",  # noqa: S608
            [batch.padding, 1 << partner, labels.index(batch.label), batch.padding],
        ).fetchone()
        if changed is None or changed[0] != 1:
            raise OverlapError(Reason.BAD_FIELD, item=f"padding of {batch.origin}, label {batch.label!r}")


@dataclass(frozen=True)
class _Rows:
    total: int
    real: int  # that have a token
