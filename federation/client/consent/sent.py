"""Which consent states the gateway acknowledged last: a file that changed in few rows sends few states.

Kept as digests, by handle and purpose, in the partner's durable state. A state that was acknowledged and could not be
noted goes up again, which changes nothing there.
"""

import hashlib
from collections.abc import Sequence

from sqlalchemy import Column, Engine, LargeBinary, MetaData, String, Table

from federation.core.database import reading, rows_with
from federation.core.ids import HANDLE_BYTES
from federation.v1 import consent_pb2 as pb

_DIGEST_BYTES = 16
metadata = MetaData()
acknowledged = Table(
    "consent_states_acknowledged",
    metadata,
    Column("handle", LargeBinary(HANDLE_BYTES), primary_key=True),
    Column("purpose", String, primary_key=True),
    Column("digest", LargeBinary(_DIGEST_BYTES), nullable=False),
    sqlite_with_rowid=False,
)
# As text, because a base sends the states of all who agreed to offers: building statements would take most time.
_REPLACE = "INSERT OR REPLACE INTO consent_states_acknowledged VALUES (?, ?, ?)"


class SentStates:
    """The states. Safe to share between threads and processes.

    Args:
        engine: The partner's durable state.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        metadata.create_all(engine)
        self._reading = reading(engine)

    def others(self, states: Sequence[pb.ConsentState]) -> list[pb.ConsentState]:
        """Those of some states that were not acknowledged last as they are."""
        keys = [(state.handle, state.purpose) for state in states]
        with self._reading.begin() as connection:
            rows = rows_with(connection, acknowledged, ("handle", "purpose"), keys)
            known = {(row.handle, row.purpose): row.digest for row in rows}
        return [state for key, state in zip(keys, states, strict=True) if known.get(key) != _digest(state)]

    def note(self, states: Sequence[pb.ConsentState]) -> None:
        """Remembers states that were acknowledged."""
        rows = sorted((state.handle, state.purpose, _digest(state)) for state in states)
        if rows:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(_REPLACE, rows)


def _digest(state: pb.ConsentState) -> bytes:
    return hashlib.blake2b(state.SerializeToString(deterministic=True), digest_size=_DIGEST_BYTES).digest()
