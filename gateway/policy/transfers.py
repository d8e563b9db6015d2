"""How many people's data each party has sent out of a region in a year: counted on disk, exactly, before it is sent.

A person is what the exporting party calls a person: its handle, which stays the same from epoch to epoch. Two handles
of one person count twice, which errs on the strict side. Every transfer of the party counts together, whoever receives
it and whatever for, so that splitting gains nothing.

Data goes when it is handed to the recipient. It is counted before that already, when it is decided, so that decisions
between the two know of it; and again when it is handed out, which counts nobody twice in a year, and in a new year is
the first count. An offer that waits over New Year so counts in both, on the strict side.

Guarantees: a person counts once a year, however often and by however many processes the data is sent; the count is
durable before the transfer, so a crash in between leaves one person too many in it and never one too few; and nobody is
counted on the strength of a decision that other transfers have made stale (``count`` compares before it writes).
"""

from typing import Any, Protocol

from sqlalchemy import Boolean, Column, Connection, Engine, Integer, LargeBinary, MetaData, String, Table, select

from federation.core.database import reading
from federation.core.ids import HANDLE_BYTES, Handle, PartyId
from federation.policy.facts import TransferCounts
from federation.policy.transfers import Export

_METADATA = MetaData()
_PEOPLE = Table(
    "transfer_people",
    _METADATA,
    Column("party", String, primary_key=True),
    Column("region", String, primary_key=True),
    Column("year", Integer, primary_key=True),
    Column("handle", LargeBinary(HANDLE_BYTES), primary_key=True),
    Column("sensitive", Boolean, nullable=False),
)
_TOTALS = Table(  # of transfer_people, kept in the same transaction: counting a million rows takes too long
    "transfer_totals",
    _METADATA,
    Column("party", String, primary_key=True),
    Column("region", String, primary_key=True),
    Column("year", Integer, primary_key=True),
    Column("people", Integer, nullable=False),
    Column("sensitive", Integer, nullable=False),
)


class TransferStore(Protocol):
    """Counts people; durable when a call returns. Safe to call from several threads and processes."""

    def counts(self, party: PartyId, handle: Handle, export: Export) -> TransferCounts:
        """What the counts would be with this person; changes nothing."""
        ...

    def counted(self, party: PartyId, handle: Handle, export: Export) -> bool:
        """Whether the person is counted already, and as sensitive where the transfer is."""
        ...

    def count(self, party: PartyId, handle: Handle, export: Export, decided_on: TransferCounts) -> bool:
        """Counts the person, if the counts with the person are still those that were decided on.

        It writes also where the person was counted before, so that how long it takes does not tell.

        Returns:
            False where they are not: then nothing was counted, and the transfer must be decided anew.
        """
        ...


class SqlTransfers:
    """TransferStore on SQLAlchemy."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading = engine, reading(engine)
        _METADATA.create_all(engine)

    def counts(self, party: PartyId, handle: Handle, export: Export) -> TransferCounts:
        """See TransferStore."""
        with self._reading.begin() as db:
            return _with(db, party, handle, export)[0]

    def counted(self, party: PartyId, handle: Handle, export: Export) -> bool:
        """See TransferStore."""
        with self._reading.begin() as db:
            known = _with(db, party, handle, export)[1]
        return known is not None and known >= export.sensitive

    def count(self, party: PartyId, handle: Handle, export: Export, decided_on: TransferCounts) -> bool:
        """See TransferStore."""
        with self._engine.begin() as db:
            after, known = _with(db, party, handle, export)
            if after != decided_on:
                return False
            year = {"party": party, "region": export.region, "year": export.year}
            for table, values in (
                (_PEOPLE, {"handle": handle, "sensitive": export.sensitive or bool(known)}),
                (_TOTALS, {"people": after.people, "sensitive": after.sensitive}),
            ):
                row: dict[str, Any] = {**year, **values}
                db.execute(table.delete().where(*(column == row[column.name] for column in table.primary_key)))
                db.execute(table.insert().values(**row))
            return True


def _with(db: Connection, party: PartyId, handle: Handle, export: Export) -> tuple[TransferCounts, bool | None]:
    """The counts with a person, and whether the person is counted already (and as sensitive); None if not at all."""

    def of(table: Table) -> list[Any]:
        return [table.c.party == party, table.c.region == export.region, table.c.year == export.year]

    known = db.scalar(select(_PEOPLE.c.sensitive).where(*of(_PEOPLE), _PEOPLE.c.handle == handle))
    total = db.execute(select(_TOTALS.c.people, _TOTALS.c.sensitive).where(*of(_TOTALS))).first()
    people, sensitive = (total.people, total.sensitive) if total is not None else (0, 0)
    return (
        TransferCounts(export.year, people + (known is None), sensitive + (export.sensitive and not known)),
        known,
    )
