"""Where imported consents are kept: one row per customer and purpose, of which the newest statement stands.

Guarantees that an older statement never replaces a newer one, and of two equally old ones the end stands, in whatever
order, how often and by however many processes they are stored: the database decides in the statement that writes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, cast

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Connection, Engine, Integer, MetaData, String, func, select

from federation.client.consent.register import NOBODY, Rows, Statements, Times, read_times
from federation.client.digests import IN_PROCESS, Table
from federation.client.files.columns import ColumnStore
from federation.consent.statements import Statement, microseconds
from federation.core.clock import from_text, to_text
from federation.core.database import reading
from federation.policy.facts import ConsentFact

_ROWS_AT_ONCE = 50_000
_KEYS_PER_QUERY = 500  # SQLite allows 999 parameters in old builds
_CACHED = 50_000
_CACHE_KIB = 128 * 1024

metadata = MetaData()
imported = sa.Table(
    "consent_imported",
    metadata,
    Column("customer_id", String, primary_key=True),
    Column("purpose", String, primary_key=True),
    Column("stated", Integer, nullable=False),  # when it was said, in microseconds since 1970
    Column("ends", Integer, nullable=False),  # 1: withdrawn or refused
    Column("status", String, nullable=False),
    Column("recipients", String),
    Column("given_at", String),
    Column("expires_at", String),
    Column("separate", Boolean),
    Column("cross_border", Boolean),
    Column("jurisdiction", String),
    Column("record_id", String, nullable=False),
    sqlite_with_rowid=False,
)
imports = sa.Table(
    "consent_imports",
    metadata,
    Column("path", String, primary_key=True),
    Column("offset", Integer, nullable=False),  # bytes that are stored
    Column("digest", String, nullable=False),  # SHA-256 of these bytes
    Column("rows", Integer, nullable=False),  # of the file, header included
    Column("aside_bytes", Integer, nullable=False),
    Column("batches", Integer, nullable=False),
    Column("uploaded", Integer, nullable=False),  # batches whose states the gateway has
)
_KEY = itemgetter(0, 1)
_SAID = ("status", "recipients", "separate", "cross_border", "jurisdiction")
_COLUMNS = tuple(column.name for column in imported.columns)
_REST = [name for name in _COLUMNS if name not in {"customer_id", "purpose"}]
UPSERT = (
    f"INSERT INTO consent_imported ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (customer_id, purpose) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in _REST)} "
    "WHERE (excluded.stated, excluded.ends) > (consent_imported.stated, consent_imported.ends)"
)


class ImportedConsents:
    """Reads what was imported. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self._reading = reading(engine)
        metadata.create_all(engine)

    def find(self, ids: Sequence[str], purpose: str) -> dict[str, ConsentFact]:
        """The imported states of some customers for one purpose."""
        found = {}
        with self._reading.begin() as connection:
            for start in range(0, len(ids), _KEYS_PER_QUERY):
                part = imported.c.customer_id.in_(ids[start : start + _KEYS_PER_QUERY])
                for row in connection.execute(select(imported).where(imported.c.purpose == purpose, part)).mappings():
                    found[row["customer_id"]] = from_row(row)
        return found

    def statements(self, purpose: str, store: ColumnStore) -> Statements:
        """All imported states for one purpose, read some thousands at a time."""
        kinds: dict[tuple[Any, ...], int] = {}
        columns = cast(tuple[Table, ...], store.together(self._columns(purpose, kinds)))
        facts = [from_row(dict(zip(_SAID, said, strict=True), given_at=None, expires_at=None)) for said in kinds]
        return Statements(Rows(*columns), facts, store, one_each=True)

    def _columns(self, purpose: str, kinds: dict[tuple[Any, ...], int]) -> Iterator[tuple[Table, ...]]:
        """Columns of ``Rows``, and the kinds that they name; no fact is made of a row, which would take most time."""
        yield (NOBODY.customers, NOBODY.kind, NOBODY.given, NOBODY.until)
        names = ("customer_id", "given_at", "expires_at", *_SAID)
        query = select(*(imported.c[name] for name in names)).where(imported.c.purpose == purpose)
        with self._reading.begin() as connection:
            found = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query)
            for some in found.partitions():
                customers, given, until, *said = (list(column) for column in zip(*some, strict=True))
                kind = [kinds.setdefault(about, len(kinds)) for about in zip(*said, strict=True)]
                yield (IN_PROCESS.of(_texts(customers)), np.array(kind, np.int32), _micros(given), _micros(until))

    def of_person(self, customer_id: str) -> dict[str, tuple[ConsentFact, str]]:
        """One customer's states with their record ids, by purpose."""
        query = select(imported).where(imported.c.customer_id == customer_id)
        with self._reading.begin() as connection:
            rows = connection.execute(query).mappings().all()
        return {row["purpose"]: (from_row(row), row["record_id"]) for row in rows}

    def changes(self) -> int:
        """A number that grows with everything that is imported."""
        with self._reading.begin() as connection:
            return int(connection.scalar(select(func.sum(imports.c.batches))) or 0)

    def not_uploaded(self) -> dict[str, int]:
        """Imports of which the gateway does not have everything: path to batches stored."""
        query = select(imports.c.path, imports.c.batches).where(imports.c.uploaded < imports.c.batches)
        with self._reading.begin() as connection:
            return {row.path: row.batches for row in connection.execute(query)}


def mark_uploaded(engine: Engine, sent: Mapping[str, int]) -> None:
    """Notes that the gateway has what ``not_uploaded`` named."""
    if not sent:
        return
    with engine.begin() as connection:
        for path, batches in sent.items():
            connection.execute(imports.update().where(imports.c.path == path).values(uploaded=batches))


def store(connection: Connection, statements: Iterable[Statement]) -> int:
    """Stores statements within a transaction; returns how many now stand where another or none stood before."""
    # A batch touches pages all over the table: with room for them each is read and written once, in order of the key.
    connection.exec_driver_sql(f"PRAGMA cache_size=-{_CACHE_KIB}")
    rows = sorted(map(_to_row, statements), key=_KEY)  # by nothing else: what is left out has no order
    return connection.exec_driver_sql(UPSERT, rows).rowcount if rows else 0


def _to_row(statement: Statement) -> tuple[Any, ...]:
    fact = statement.fact
    return (
        statement.customer_id,
        statement.purpose,
        _stated(fact.given_at),
        int(fact.status != "given"),
        fact.status,
        _names(fact.recipients),
        _text(fact.given_at),
        _text(fact.expires_at),
        fact.separate,
        fact.cross_border,
        fact.jurisdiction,
        statement.record_id,
    )


def _text(at: datetime | None) -> str | None:
    return None if at is None else to_text(at)


def _texts(some: Sequence[str | None]) -> pa.Array:
    return pa.array(some, pa.string()).fill_null("")


def _micros(times: Sequence[str | None]) -> Times:
    return read_times(_texts(times).dictionary_encode())


@lru_cache(_CACHED)
def _stated(at: datetime | None) -> int:
    return 0 if at is None else microseconds(at)


@lru_cache(_CACHED)
def _names(recipients: frozenset[str] | None) -> str | None:
    return None if recipients is None else " ".join(sorted(recipients))


def to_row(fact: ConsentFact) -> dict[str, Any]:
    """A state as the columns that all consent tables share."""
    return {
        "status": fact.status,
        "recipients": _names(fact.recipients),
        "given_at": _text(fact.given_at),
        "expires_at": _text(fact.expires_at),
        "separate": fact.separate,
        "cross_border": fact.cross_border,
        "jurisdiction": fact.jurisdiction,
    }


def from_row(row: Mapping[Any, Any]) -> ConsentFact:
    """A state from these columns."""
    return ConsentFact(
        status=row["status"],
        recipients=None if row["recipients"] is None else frozenset(row["recipients"].split()),
        given_at=None if row["given_at"] is None else from_text(row["given_at"]),
        expires_at=None if row["expires_at"] is None else from_text(row["expires_at"]),
        separate=row["separate"],
        cross_border=row["cross_border"],
        jurisdiction=row["jurisdiction"],
    )
