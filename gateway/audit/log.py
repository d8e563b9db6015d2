"""The audit log: an append-only RFC 6962 Merkle tree of canonical JSON, in SQL, with signed checkpoints.

Guarantees that an index which ``append`` returned is on disk; that entries are numbered without gaps in the order of
their appending, by however many threads and processes; that whatever cannot be written is an error, so that the
caller releases nothing; and that no body has a field meant for personal data. It does not stop whoever owns the disk
from rewriting it: verifiers notice (``federation.client.audit.verifier``), because they remember the last checkpoint.
"""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    func,
    insert,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from federation.core.canonical import canonical_json
from federation.core.checkpoint import Checkpoint, sign_checkpoint, verifier_key
from federation.core.clock import Clock, to_text
from federation.core.database import reading, rows_with
from federation.core.errors import AuditError, DataError, Reason
from federation.core.merkle import (
    GrowingTree,
    NodeReader,
    Range,
    complete_nodes,
    consistency_path,
    inclusion_path,
    leaf_hash,
    range_root,
)
from gateway.audit.key import load_log_key

MAX_LEAF_BYTES = 65_535
"""An entry describes a release; what is larger belongs elsewhere, with its digest here. C2SP tiles allow no more."""
PERSONAL_KEYS = frozenset({"handle", "token", "customer_id", "email", "phone"})
_KIND = re.compile(r"[a-z][a-z0-9_]{0,47}")

_METADATA = MetaData()
_ENTRIES = Table(
    "audit_entries",
    _METADATA,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
)
# Roots of complete subtrees: written once with the entry that completes them, so proofs of any size are cheap.
_NODES = Table(
    "audit_nodes",
    _METADATA,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)
# Built once: every release appends twice.
_LAST = select(func.max(_ENTRIES.c.position))
_PUT_ENTRY, _PUT_NODES = insert(_ENTRIES), insert(_NODES)
_log = structlog.get_logger()


class SqlAuditLog:
    """The log in an SQL database.

    Args:
        engine: From ``federation.core.database.open_database``.
        key: Signs checkpoints.
        origin: Name of the log.
        clock: Dates the entries.

    Raises:
        AuditError: AUDIT_UNAVAILABLE when the tables cannot be made.
    """

    def __init__(self, engine: Engine, key: Ed25519PrivateKey, origin: str, clock: Clock) -> None:
        self._engine, self._key, self._clock = engine, key, clock
        self._verifier = verifier_key(origin, key.public_key())
        self._lock = threading.Lock()
        self._readers = reading(engine)
        # A database in memory has one connection for all; one in a file has one for each reader.
        self._read_lock = self._lock if isinstance(engine.pool, StaticPool) else nullcontext()
        with self._storage():
            _METADATA.create_all(engine)

    @property
    def verifier_key(self) -> str:
        """Public key text with which the checkpoints verify."""
        return self._verifier.text

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        """Appends an entry and returns its index once it is on disk.

        Args:
            kind: For example "intent", "outcome"; lower-case letters, digits and underscores.
            body: JSON without personal data.

        Raises:
            AuditError: AUDIT_UNAVAILABLE; BAD_FIELD for a personal field or a bad kind; NOT_CANONICAL; TOO_LARGE.
        """
        if not _KIND.fullmatch(kind):
            raise AuditError(Reason.BAD_FIELD, item="kind of an audit entry")
        content = dict(body)
        _refuse_personal(content)
        with self._transaction() as connection:
            index = _size(connection)
            try:
                leaf = canonical_json({"index": index, "at": to_text(self._clock.now()), "kind": kind, "body": content})
            except DataError as exc:
                raise AuditError(exc.reason, item=f"audit entry {kind}", detail=exc.detail) from exc
            if len(leaf) > MAX_LEAF_BYTES:
                raise AuditError(Reason.TOO_LARGE, item=f"audit entry {kind}")
            nodes = GrowingTree(index, _nodes(connection, [(0, index)])).append(leaf_hash(leaf))
            connection.execute(_PUT_ENTRY, {"position": index, "leaf": leaf})
            connection.execute(
                _PUT_NODES, [{"level": level, "position": at, "hash": value} for level, at, value in nodes]
            )
        return index

    def size(self) -> int:
        """How many entries there are. Raises AuditError."""
        with self._reading() as connection:
            return _size(connection)

    def checkpoint(self) -> str:
        """The signed tree head of this moment, as a note. Raises AuditError."""
        with self._reading() as connection:
            size = _size(connection)
            root = range_root(_nodes(connection, [(0, size)]), (0, size))
        return sign_checkpoint(Checkpoint(self._verifier.name, size, root), self._key)

    def entries(self, start: int, end: int) -> list[bytes]:
        """Leaf data of entries [start, end), which must all exist.

        Raises:
            DataError: BAD_FIELD.
            AuditError: AUDIT_UNAVAILABLE; AUDIT_BROKEN when one is missing.
        """
        with self._reading() as connection:
            if not 0 <= start <= end <= _size(connection):
                raise DataError(Reason.BAD_FIELD, item="start or end")
            wanted = (
                select(_ENTRIES.c.leaf)
                .where(_ENTRIES.c.position >= start, _ENTRIES.c.position < end)
                .order_by(_ENTRIES.c.position)
            )
            leaves = [bytes(leaf) for leaf in connection.scalars(wanted)]
        if len(leaves) != end - start:
            raise AuditError(Reason.AUDIT_BROKEN, item=f"an entry from {start} to {end - 1} is missing")
        return leaves

    def inclusion_proof(self, index: int, tree_size: int) -> list[bytes]:
        """Hashes that prove an entry to be in the tree of that size. Raises DataError (BAD_FIELD), AuditError."""
        if not 0 <= index < tree_size:
            raise DataError(Reason.BAD_FIELD, item="index or tree_size")
        return self._proof(tree_size, inclusion_path(index, tree_size))

    def consistency_proof(self, old_size: int, new_size: int) -> list[bytes]:
        """Hashes that prove one tree to be a prefix of another. Raises DataError (BAD_FIELD), AuditError."""
        if not 0 <= old_size <= new_size:
            raise DataError(Reason.BAD_FIELD, item="old_size or new_size")
        return self._proof(new_size, consistency_path(old_size, new_size))

    def _proof(self, size: int, path: list[Range]) -> list[bytes]:
        with self._reading() as connection:
            if size > _size(connection):
                raise DataError(Reason.BAD_FIELD, item="tree size")
            node = _nodes(connection, path)
            return [range_root(node, leaves) for leaves in path]

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """One at a time in this process; the database keeps other processes out."""
        with self._lock, self._storage(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One state of the log, and no writer waits for it: whoever reads at length must not hold up releases."""
        with self._read_lock, self._storage(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as exc:
            _log.error("audit_storage_failed", error=type(exc).__name__)
            raise AuditError(Reason.AUDIT_UNAVAILABLE, detail=str(exc)) from exc


def open_audit_log(engine: Engine, folder: Path, clock: Clock) -> SqlAuditLog:
    """The log with the key that ``make_log_key`` left in the folder. Raises ConfigError, AuditError."""
    key, origin = load_log_key(folder)
    return SqlAuditLog(engine, key, origin, clock)


def _size(connection: Connection) -> int:
    last: int | None = connection.scalar(_LAST)
    return 0 if last is None else last + 1


def _nodes(connection: Connection, ranges: Iterable[Range]) -> NodeReader:
    """The complete subtrees over some ranges of leaves, read at once."""
    wanted = [node for leaves in ranges for node in complete_nodes(leaves)]
    rows = rows_with(connection, _NODES, ("level", "position"), wanted)
    found = {(row.level, row.position): bytes(row.hash) for row in rows}

    def node(level: int, index: int) -> bytes:
        if (level, index) not in found:
            raise AuditError(Reason.AUDIT_BROKEN, item=f"tree node {level}/{index} is missing")
        return found[level, index]

    return node


def _refuse_personal(value: object) -> None:
    """Walks the body; a field whose name says that it is about a person is refused, whatever it holds."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if str(name).lower().replace("-", "_") in PERSONAL_KEYS:
                raise AuditError(Reason.BAD_FIELD, item=f"field {name} may not go into the audit log")
            _refuse_personal(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _refuse_personal(part)
