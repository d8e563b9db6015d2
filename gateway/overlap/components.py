"""Connected components of rows that share tokens, in DuckDB, so that memory is bounded by its limit and not by the set.

Rows that share a token form a group, named by the smallest of them, and a row starts with the smallest group that it is
in as its root: where all rows of a person agree, that is the answer. A round gives each row, and the root it had, the
smallest root of all its groups, and then lets it skip to its root's root. Roots only fall, and when every group has one
root, it is the smallest row of its component. Hooking the old roots as well keeps the rounds few for long chains too;
what somebody chained so that they are not is refused after ``MAX_ROUNDS``.
When rows come and go later, only components that they touch are found anew: whoever shares no token with a row that
comes or goes, even through others, keeps its component. A component may grow together from several, or fall apart.
Source: Zhang, Azad, Hu: FastSV: a distributed-memory connected component algorithm with fast convergence, SIAM PP 2020.
"""

import duckdb
import numpy as np
from numpy.typing import NDArray

from federation.core.errors import OverlapError, Reason
from gateway.overlap.duck import halves_of, make_room, table_of

MAX_ROUNDS = 100


def create_links(db: duckdb.DuckDBPyConnection, table: str = "links") -> None:
    """Makes a table of which row has which token; the others are scratch, and go with the connection."""
    scratch = "" if table == "links" else "TEMP"
    db.execute(f"CREATE {scratch} TABLE {table} (row UBIGINT, high UBIGINT, low UBIGINT)")


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
    real, high, low = halves_of(chunk)
    row = np.repeat(np.arange(len(real) // key_types, dtype=np.uint64) + np.uint64(first_row), key_types)[real]
    # Not registered under a name: the transaction would hold on to every one of them until it ends.
    db.from_arrow(table_of(row=row, high=high, low=low)).insert_into(table)
    return row[np.concatenate(([True], row[1:] != row[:-1]))] if len(row) else row


def find_components(db: duckdb.DuckDBPyConnection, links: str = "links") -> None:
    """Makes ``components (row, root)`` of every row that shares a token with another; ``root`` is its smallest row.

    Raises:
        OverlapError: BAD_FIELD where the rounds do not end.
    """
    [[points]] = db.execute(f"SELECT count(*) FROM {links}").fetchall()  # noqa: S608 - our own name
    make_room(db, int(points), joins=True)
    # Tokens with the same smallest row are one group: that row joins them.
    db.execute(
        f"CREATE TEMP TABLE shared AS SELECT DISTINCT row, first FROM {links} JOIN "  # noqa: S608 - our own name
        f"(SELECT high, low, min(row) AS first FROM {links} GROUP BY high, low HAVING min(row) != max(row)) "
        "USING (high, low)"
    )
    db.execute("CREATE TEMP TABLE components AS SELECT row, min(first) AS root FROM shared GROUP BY row")
    for _ in range(MAX_ROUNDS):
        db.execute(
            "CREATE TEMP TABLE lowest AS SELECT first, min(root) AS root, max(root) AS highest "
            "FROM shared JOIN components USING (row) GROUP BY first"
        )
        if not db.execute("SELECT 1 FROM lowest WHERE root != highest LIMIT 1").fetchall():
            db.execute("DROP TABLE lowest")
            db.execute("DROP TABLE shared")
            return
        db.execute(
            "CREATE TEMP TABLE nearest AS SELECT row, min(root) AS root "
            "FROM shared JOIN lowest USING (first) GROUP BY row"
        )
        db.execute(
            "CREATE TEMP TABLE hooked AS SELECT row, min(root) AS root FROM (SELECT row, root FROM nearest "
            "UNION ALL SELECT c.root AS row, n.root FROM components c JOIN nearest n USING (row)) GROUP BY row"
        )
        db.execute("DROP TABLE components")
        db.execute(
            "CREATE TEMP TABLE components AS SELECT h.row, least(h.root, up.root) AS root "
            "FROM hooked h JOIN hooked up ON up.row = h.root"
        )
        for table in ("lowest", "nearest", "hooked"):
            db.execute(f"DROP TABLE {table}")
    raise OverlapError(Reason.BAD_FIELD, item=f"identifiers chained over {MAX_ROUNDS} rounds")


def settle_roots(db: duckdb.DuckDBPyConnection) -> None:
    """Finds the components of ``links``; makes ``tokens`` of ``rows``, each with its root: itself where it is alone."""
    find_components(db)
    db.execute(
        "CREATE TABLE tokens AS SELECT rows.*, coalesce(c.root, row) AS root "
        "FROM rows LEFT JOIN components c USING (row)"
    )


def relink(db: duckdb.DuckDBPyConnection) -> None:
    """Takes rows away and adds others, and finds the components that this touches anew.

    Needs ``tokens (row, ..., root)``, ``links``, ``gone (row)``, ``came`` (as ``tokens`` without roots, with new
    numbers) and ``came_links``. Leaves the touched rows as they were in ``before`` and as they are in ``after``.
    """
    db.execute(
        "CREATE TEMP TABLE touched AS SELECT DISTINCT root FROM tokens SEMI JOIN gone USING (row) UNION "
        "SELECT DISTINCT t.root FROM came_links c JOIN links l USING (high, low) JOIN tokens t ON t.row = l.row"
    )
    db.execute("CREATE TEMP TABLE before AS SELECT * FROM tokens SEMI JOIN touched USING (root)")
    db.execute("CREATE TEMP TABLE stays AS SELECT * FROM before ANTI JOIN gone USING (row) UNION ALL BY NAME FROM came")
    db.execute("DELETE FROM links WHERE row IN (SELECT row FROM gone)")
    db.execute("INSERT INTO links FROM came_links")
    db.execute("CREATE TEMP TABLE stays_links AS SELECT * FROM links SEMI JOIN stays USING (row)")
    find_components(db, "stays_links")
    db.execute(
        "CREATE TEMP TABLE after AS SELECT stays.* EXCLUDE (root), coalesce(c.root, row) AS root "
        "FROM stays LEFT JOIN components c USING (row)"
    )
    db.execute("DELETE FROM tokens WHERE root IN (SELECT root FROM touched)")
    db.execute("INSERT INTO tokens BY NAME FROM after")
