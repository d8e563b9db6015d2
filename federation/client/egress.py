"""The partner's own record of every byte that left it.

Each message is recorded (time, method, size, SHA-256) and on disk before it is handed to the network, so the record can
be longer than what left, never shorter. Where ``tap`` names a folder, the messages themselves are kept too, for an
inspection; what they hold is what the partner sent, so guard it like the partner's own data.
"""

import hashlib
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, func, insert, select

from federation.core.clock import Clock, to_text

_META = MetaData()
_EGRESS = Table(
    "egress",
    _META,
    Column("id", Integer, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("method", String(120), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
)
_PUT = insert(_EGRESS)


class EgressLedger:
    """Records messages; ``summary`` says how much went where."""

    def __init__(self, engine: Engine, clock: Clock, tap: Path | None = None) -> None:
        self._engine, self._clock, self._tap = engine, clock, tap
        self._lock = threading.Lock()
        _META.create_all(engine)
        if tap is not None:
            tap.mkdir(parents=True, exist_ok=True, mode=0o700)

    def record(self, method: str, message: bytes) -> None:
        """Records one message; raises if it cannot, and then the message does not leave."""
        row = {"at": to_text(self._clock.now()), "method": method, "size_bytes": len(message)}
        digest = hashlib.sha256(message).hexdigest()
        with self._lock, self._engine.begin() as db:
            number = db.execute(_PUT, {**row, "sha256": digest}).inserted_primary_key
            if self._tap is not None and number is not None:
                name = f"{number[0]:09d}-{method.strip('/').replace('/', '.')}.bin"
                (self._tap / name).write_bytes(message)

    def summary(self) -> list[dict[str, Any]]:
        """Messages and bytes by method."""
        count, size = func.count(), func.coalesce(func.sum(_EGRESS.c.size_bytes), 0)
        query = select(_EGRESS.c.method, count, size).group_by(_EGRESS.c.method).order_by(_EGRESS.c.method)
        with self._engine.begin() as db:
            rows = db.execute(query).all()
        return [{"method": method, "messages": n, "bytes": total} for method, n, total in rows]
