"""Statements over tables that grow with people or time go by an index, whatever driver is asked what."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

GROWING = "consents|offers|audit_nodes|audit_entries|transfers"
EVERY_HOUR = "DELETE FROM offers WHERE offers.number IN"
"""What looks for rows that are old may look at all."""


@pytest.fixture(autouse=True)
def no_statement_looks_at_every_row() -> Iterator[None]:
    """Asks SQLite for its plan of every statement."""
    found = set[str]()

    def explain(*about: Any) -> None:
        connection, _, statement, parameters, _, many = about
        if not re.match("SELECT|UPDATE|DELETE|WITH", statement):
            return
        first = parameters[0] if many else parameters
        plan = connection.connection.dbapi_connection.execute(f"EXPLAIN QUERY PLAN {statement}", first)
        if any(re.match(f"SCAN ({GROWING}|t)$", step[3]) for step in plan) and not statement.startswith(EVERY_HOUR):
            found.add(statement)

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", explain)
    assert not found
