"""Durable state in SQLite, opened one way everywhere: write-ahead log, full synchronous, immediate transactions.

A transaction that returned from ``begin`` without an error is on disk (``synchronous=FULL`` in WAL mode syncs at each
commit). Writers queue for at most ``BUSY_TIMEOUT_MS``.
Source: https://www.sqlite.org/pragma.html#pragma_synchronous
"""

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

BUSY_TIMEOUT_MS = 10_000
_READ = "entente_read"
_MAX_PARAMETERS = 990  # SQLite allows 999 in old builds


def open_database(path: Path | None) -> Engine:
    """Opens (and makes, readable by the owner only) a database file; None gives one in memory, for tests.

    What an error of it says has the statement in it, never the values: these may be counts or people.
    """
    if path is None:
        shared = {"check_same_thread": False}
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=shared, hide_parameters=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we emit BEGIN ourselves, below
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        # A deferred transaction that later writes can fail with SQLITE_BUSY at once; an immediate one waits its turn.
        reads = connection.get_execution_options().get(_READ, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def reading(engine: Engine) -> Engine:
    """The same database for transactions that only read: they see what is committed and wait for no writer."""
    return engine.execution_options(**{_READ: True})


def is_busy(exc: BaseException) -> bool:
    """Whether an error says that others kept the database to themselves for too long; nothing was done then."""
    code = getattr(exc.orig, "sqlite_errorcode", None) if isinstance(exc, OperationalError) else None
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def rows_with(
    connection: Connection, table: Table, key: Sequence[str], values: Sequence[Sequence[Any]]
) -> Iterator[Row[Any]]:
    """The rows of a table of which some columns have one of some values, each looked up in an index over these columns.

    For ``(a, b) IN (...)`` SQLite goes through all rows that there are. The rows are as the driver gives them: a truth
    value is 0 or 1.

    Args:
        connection: In a transaction.
        table: With an index, or a primary key, that begins with the columns.
        key: The columns.
        values: A value for each of them; a row that is wanted twice comes twice.
    """
    size, on = _MAX_PARAMETERS // len(key), " AND ".join(f"t.{name} = wanted.{name}" for name in key)
    for start in range(0, len(values), size):
        part = values[start : start + size]
        rows = ", ".join([f"({', '.join('?' * len(key))})"] * len(part))
        # Names of our own tables and columns. CROSS JOIN: the order in which SQLite is to look.
        query = (
            f"WITH wanted ({', '.join(key)}) AS (VALUES {rows}) "  # noqa: S608
            f"SELECT t.* FROM wanted CROSS JOIN {table.name} AS t ON {on}"
        )
        yield from connection.exec_driver_sql(query, tuple(itertools.chain(*part)))
