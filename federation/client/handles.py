"""The partner's opaque handles: 16 random bytes per customer, which alone name the customer at the gateway.

A handle is made once, is on disk before it is handed out, and says nothing about the customer. The table that links the
two never leaves the partner.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from sqlalchemy import Column, Connection, Engine, LargeBinary, MetaData, String, Table, select

from federation.core.database import reading
from federation.core.ids import HANDLE_BYTES, CustomerId, Handle

_KEYS_PER_QUERY = 500  # SQLite allows 999 parameters in old builds
# As text, because a base asks for the handles of all who agreed to offers: building the queries would take most time.
_INSERT = "INSERT INTO handles (customer_id, handle) VALUES (?, ?)"
_OF_CUSTOMERS = "SELECT customer_id, handle FROM handles WHERE customer_id IN ({})"
_OF_HANDLES = "SELECT customer_id, handle FROM handles WHERE handle IN ({})"

metadata = MetaData()
handles = Table(
    "handles",
    metadata,
    Column("customer_id", String, primary_key=True),
    Column("handle", LargeBinary(HANDLE_BYTES), nullable=False, unique=True),
)


class HandleBook:
    """Which handle stands for which customer.

    Args:
        engine: The partner's durable state.
        random: Source of randomness; os.urandom but in tests.
    """

    def __init__(self, engine: Engine, random: Callable[[int], bytes] = os.urandom) -> None:
        self._engine, self._random = engine, random
        metadata.create_all(engine)
        self._reading = reading(engine)

    def handles_for(self, ids: Sequence[CustomerId]) -> list[Handle]:
        """One handle per id, in order; missing ones are made, all in one transaction."""
        with self._engine.begin() as connection:
            known = dict(_pairs(connection, _OF_CUSTOMERS, dict.fromkeys(ids)))
            made = {i: Handle(self._random(HANDLE_BYTES)) for i in dict.fromkeys(ids) if i not in known}
            if made:
                connection.exec_driver_sql(_INSERT, sorted(made.items()))
        known |= made
        return [known[i] for i in ids]

    def existing(self, customer_id: CustomerId) -> Handle | None:
        """The customer's handle if one was ever made."""
        with self._reading.begin() as connection:
            found = connection.scalar(select(handles.c.handle).where(handles.c.customer_id == customer_id))
        return None if found is None else Handle(found)

    def known(self, ids: Sequence[CustomerId]) -> dict[CustomerId, Handle]:
        """The handles of those who have one; makes none. Whoever has none was never on the switchboard."""
        with self._reading.begin() as connection:
            return dict(_pairs(connection, _OF_CUSTOMERS, dict.fromkeys(ids)))

    def pages(self, size: int) -> Iterator[list[tuple[CustomerId, Handle]]]:
        """Everybody who has a handle, by customer id, at most ``size`` at a time."""
        after = ""
        while True:
            query = select(handles).where(handles.c.customer_id > after).order_by(handles.c.customer_id).limit(size)
            with self._reading.begin() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield [(CustomerId(row.customer_id), Handle(row.handle)) for row in rows]
            after = rows[-1].customer_id

    def named(self, some: Sequence[Handle]) -> list[tuple[CustomerId, Handle]]:
        """Those of some handles that are ours, each with whom it stands for; in no order."""
        with self._reading.begin() as connection:
            return list(_pairs(connection, _OF_HANDLES, some))

    def customer_of(self, handle: Handle) -> CustomerId | None:
        """Whom a handle stands for, or None where it is not one of ours."""
        with self._reading.begin() as connection:
            found = connection.scalar(select(handles.c.customer_id).where(handles.c.handle == handle))
        return None if found is None else CustomerId(found)


def _pairs(
    connection: Connection, query: str, keys: Iterable[CustomerId] | Iterable[Handle]
) -> Iterator[tuple[CustomerId, Handle]]:
    """The rows that have one of some keys in a column."""
    everything = tuple(keys)
    for start in range(0, len(everything), _KEYS_PER_QUERY):
        some = everything[start : start + _KEYS_PER_QUERY]
        rows = connection.exec_driver_sql(query.format(", ".join("?" * len(some))), some)
        yield from ((CustomerId(customer), Handle(handle)) for customer, handle in rows)
