"""Tells whether anything in a SQLite database changed, by whatever process, without asking for it again."""

import threading
from typing import Any

from sqlalchemy import Engine

Stamp = tuple[int, int]


class Changes:
    """A connection that is kept, because what SQLite tells is for one connection. Safe to use from several threads.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._held, self._lock = engine.raw_connection(), threading.Lock()

    def stamp(self) -> Stamp:
        """Another value after every commit; to be taken before one reads what is to be kept until it changes.

        ``data_version`` counts what other connections committed, ``total_changes`` what this one wrote: a database in
        memory has no other.
        Source: https://www.sqlite.org/pragma.html#pragma_data_version
        """
        connection: Any = self._held.driver_connection
        with self._lock:
            [[version]] = connection.execute("PRAGMA data_version").fetchall()  # to the end: nothing stays open
            return version, connection.total_changes
