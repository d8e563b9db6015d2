"""Connected components of rows that share tokens, in DuckDB, so that memory is bounded by its limit and not by the set.

Every row starts as its own root. A round gives each row, and the root it had, the smallest root among all rows that
share a token with it, and then lets it skip to its root's root. Roots only fall, and when a round changes nothing,
rows that share a token have one root. Hooking the old roots as well keeps the rounds few for long chains too; what
somebody chained so that they are not is refused after ``MAX_ROUNDS``.
When rows come and go later, only components that they touch are found anew: whoever shares no token with a row that
comes or goes, even through others, keeps its component. A component may grow together from several, or fall apart.
Source: Zhang, Azad, Hu: FastSV: a distributed-memory connected component algorithm with fast convergence, SIAM PP 2020.
"""

import duckdb
import numpy as np
from numpy.typing import NDArray

from federation.core.errors import OverlapError, Reason
from federation.core.ids import POINT_BYTES

MAX_ROUNDS = 100


def create_links(db: duckdb.DuckDBPyConnection, table: str = "links") -> None:
    """Makes a table of which row has which token."""
    db.execute(f"CREATE TABLE {table} (row UBIGINT, high UBIGINT, low UBIGINT)")


def insert_links(
    db: duckdb.DuckDBPyConnection, chunk: bytes, first_row: int, key_types: int, table: str = "links"
) -> NDArray[np.uint64]:
    """Adds the tokens of a chunk of rows.

    Args:
        db: Has the table.
        chunk: Points, so many a row.
        first_row: Number of the chunk's first row.
        key_types: Points a row.
        table: As ``create_links`` made it.

    Returns:
        The numbers of rows that have a token at all; a point of zeros was one of low order and is none.
    """
    words = np.frombuffer(chunk, dtype=np.uint64).reshape(-1, POINT_BYTES // 8)
    row = np.repeat(np.arange(len(words) // key_types, dtype=np.uint64) + np.uint64(first_row), key_types)
    real = words.any(axis=1)
    arrived = {
        "row": row[real],
        "high": np.ascontiguousarray(words[real, 0]),
        "low": np.ascontiguousarray(words[real, 1]),
    }
    db.register("arrived", arrived)
    db.execute(f"INSERT INTO {table} SELECT row, high, low FROM arrived")  # noqa: S608 - our own name
    db.unregister("arrived")
    return np.unique(row[real])


def find_components(db: duckdb.DuckDBPyConnection, links: str = "links") -> None:
    """Makes ``components (row, root)`` of every row that shares a token with another; ``root`` is its smallest row.

    Raises:
        OverlapError: BAD_FIELD where the rounds do not end.
    """
    db.execute(
        f"CREATE TABLE shared AS SELECT row, high, low FROM {links} "  # noqa: S608 - our own name
        "WINDOW same AS (PARTITION BY high, low) QUALIFY min(row) OVER same != max(row) OVER same"
    )
    db.execute("CREATE TABLE components AS SELECT DISTINCT row, row AS root FROM shared")
    for _ in range(MAX_ROUNDS):
        db.execute(
            "CREATE TABLE nearest AS SELECT s.row, min(t.root) AS root FROM shared s JOIN "
            "(SELECT high, low, min(root) AS root FROM shared JOIN components USING (row) GROUP BY high, low) t "
            "USING (high, low) GROUP BY s.row"
        )
        db.execute(
            "CREATE TABLE hooked AS SELECT row, min(root) AS root FROM (SELECT row, root FROM nearest "
            "UNION ALL SELECT c.root AS row, n.root FROM components c JOIN nearest n USING (row)) GROUP BY row"
        )
        db.execute(
            "CREATE TABLE jumped AS SELECT h.row, least(h.root, up.root) AS root "
            "FROM hooked h JOIN hooked up ON up.row = h.root"
        )
        [changed] = db.execute(
            "SELECT count(*) FROM components c JOIN jumped j USING (row) WHERE c.root != j.root"
        ).fetchone() or (0,)
        for table in ("components", "nearest", "hooked"):
            db.execute(f"DROP TABLE {table}")
        db.execute("ALTER TABLE jumped RENAME TO components")
        if not changed:
            db.execute("DROP TABLE shared")
            return
    raise OverlapError(Reason.BAD_FIELD, item=f"identifiers chained over {MAX_ROUNDS} rounds")


def settle_roots(db: duckdb.DuckDBPyConnection) -> None:
    """Finds the components of ``links`` and sets the root of every row of ``tokens``: itself where it is alone."""
    find_components(db)
    db.execute(
        "CREATE TABLE rooted AS SELECT tokens.* EXCLUDE (root), coalesce(c.root, row) AS root "
        "FROM tokens LEFT JOIN components c USING (row)"
    )
    db.execute("DROP TABLE tokens")
    db.execute("ALTER TABLE rooted RENAME TO tokens")
    db.execute("DROP TABLE components")


def relink(db: duckdb.DuckDBPyConnection) -> None:
    """Takes rows away and adds others, and finds the components that this touches anew.

    Needs ``tokens (row, ..., root)``, ``links``, ``gone (row)``, ``came`` (as ``tokens``, with new numbers) and
    ``came_links``. Leaves the touched rows as they were in ``before`` and as they are in ``after``.
    """
    db.execute(
        "CREATE TABLE touched AS SELECT DISTINCT root FROM tokens SEMI JOIN gone USING (row) UNION "
        "SELECT DISTINCT t.root FROM came_links c JOIN links l USING (high, low) JOIN tokens t ON t.row = l.row"
    )
    db.execute("CREATE TABLE before AS SELECT * FROM tokens SEMI JOIN touched USING (root)")
    db.execute("CREATE TABLE stays AS SELECT * FROM before ANTI JOIN gone USING (row) UNION ALL BY NAME FROM came")
    db.execute("DELETE FROM links WHERE row IN (SELECT row FROM gone)")
    db.execute("INSERT INTO links FROM came_links")
    db.execute("CREATE TABLE stays_links AS SELECT * FROM links SEMI JOIN stays USING (row)")
    find_components(db, "stays_links")
    db.execute(
        "CREATE TABLE after AS SELECT stays.* EXCLUDE (root), coalesce(c.root, row) AS root "
        "FROM stays LEFT JOIN components c USING (row)"
    )
    db.execute("DELETE FROM tokens WHERE root IN (SELECT root FROM touched)")
    db.execute("INSERT INTO tokens BY NAME FROM after")
    for table in ("touched", "stays", "stays_links", "components"):
        db.execute(f"DROP TABLE {table}")
