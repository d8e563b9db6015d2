"""Which certificates the gateway knows, and which were struck off: in force for the next call in every process.

A certificate is known from when the operator hands it in, or from the first call that is made with it. Both tables only
grow, so what is kept in memory is compared with their sizes at each check at which the database is another than before.

A serial number is struck off together with every other certificate of the same key: whoever has the key has them all.
Once a party was struck off, only what the operator hands in after that counts. No clock has a say in it, the CA's above
all, which is another machine's: a certificate made before is not saved by a date that is ahead.
"""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Boolean, Column, ColumnElement, Connection, Engine, MetaData, String, Table, Text, func, select
from sqlalchemy.dialects.sqlite import insert

from federation.core.clock import to_text
from federation.core.database import reading
from federation.core.errors import DataError, IdentityError, Reason
from federation.core.identity import Subject, request_id_of
from gateway.changes import Changes, Stamp

META = MetaData()
_CERTIFICATES = Table(
    "certificate",
    META,
    Column("serial", String(40), primary_key=True),
    Column("party", String(32), nullable=False),
    Column("key_id", String(32), nullable=False),  # as the request for it is called: of key and subject
    Column("expires_at", String(40), nullable=False),
    Column("handed_in", Boolean, nullable=False),  # by the operator; else it was met in a call, or made by init
)
_REVOCATIONS = Table(
    "revocation",
    META,
    Column("serial", String(64), primary_key=True),  # "" with a party: all that it had by then, known here or not
    Column("party", String(32), primary_key=True),
    Column("at", String(40), primary_key=True),
    Column("reason", Text, nullable=False),
)
_SIZES = select(
    select(func.count()).select_from(_CERTIFICATES).scalar_subquery(),
    select(func.count()).where(_CERTIFICATES.c.handed_in).scalar_subquery(),
    select(func.count()).select_from(_REVOCATIONS).scalar_subquery(),
)
_SERIAL = re.compile(r"(?:serial=)?(?:0x)?([0-9a-f]{1,64})")
MAX_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Known:
    """A certificate that the gateway knows."""

    serial: str
    party: str
    key_id: str
    expires_at: str


def serial_text(number: int) -> str:
    """A serial number as it is kept: hexadecimal, lower case, without leading zeros."""
    return f"{number:x}"


def read_serial(text: str) -> str:
    """A serial number as people and OpenSSL write it: any case, leading zeros, ``0x``, ``serial=``, colons, spaces.

    Raises:
        DataError: BAD_FIELD when it is no hexadecimal number.
    """
    found = _SERIAL.fullmatch(re.sub(r"[\s:]", "", text.lower()))
    if found is None:
        raise DataError(Reason.BAD_FIELD, item=f"serial {text[:MAX_SHOWN]!r}, expected a hexadecimal number")
    return serial_text(int(found[1], 16))


class Certificates:
    """Safe to use from several threads.

    Args:
        engine: From ``open_database``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading, self._changes = engine, reading(engine), Changes(engine)
        META.create_all(engine)
        self._lock = threading.Lock()
        self._seen: Stamp | None = None  # of the database, when the tables were read
        self._sizes: tuple[int, ...] = (0, 0, 0)
        self._known: frozenset[str] = frozenset()
        self._struck: frozenset[str] = frozenset()
        self._handed_in: frozenset[str] = frozenset()
        self._struck_parties: frozenset[str] = frozenset()
        self.refresh()

    def refresh(self) -> None:
        """Takes in what any process came to know or struck off."""
        with self._lock:
            stamp = self._changes.stamp()
            if stamp == self._seen:
                return
            with self._reading.begin() as db:
                sizes = tuple(db.execute(_SIZES).one())
                if sizes != self._sizes:
                    self._read(db)
                    self._sizes = sizes
            self._seen = stamp

    def _read(self, db: Connection) -> None:
        self._known = frozenset(db.scalars(select(_CERTIFICATES.c.serial)))
        self._handed_in = frozenset(db.scalars(select(_CERTIFICATES.c.serial).where(_CERTIFICATES.c.handed_in)))
        struck = db.execute(select(_REVOCATIONS.c.serial, _REVOCATIONS.c.party)).all()
        self._struck = frozenset(row.serial for row in struck if row.serial)
        self._struck_parties = frozenset(row.party for row in struck if not row.serial)

    def add(self, db: Connection, certificate: x509.Certificate, subject: Subject, *, handed_in: bool) -> None:
        """Knows a certificate from now on."""
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise IdentityError(Reason.BAD_CERTIFICATE, item="key type")
        values = {
            "serial": serial_text(certificate.serial_number),
            "party": subject.party,
            "key_id": request_id_of(key, subject),
            "expires_at": to_text(certificate.not_valid_after_utc),
        }
        statement = insert(_CERTIFICATES).values(**values, handed_in=handed_in)
        if handed_in:
            statement = statement.on_conflict_do_update(index_elements=["serial"], set_={"handed_in": True})
        db.execute(statement if handed_in else statement.on_conflict_do_nothing())

    def meet(self, certificate: x509.Certificate, subject: Subject) -> str:
        """Its serial number, after the first call with it made it known, so that it can be struck off."""
        serial = serial_text(certificate.serial_number)
        if serial not in self._known:
            with self._engine.begin() as db:
                self.add(db, certificate, subject, handed_in=False)
        return serial

    def check(self, serial: str, party: str) -> None:
        """Raises IdentityError (CERTIFICATE_REVOKED). Cheap enough for every message of a stream."""
        self.refresh()
        if serial in self._struck or (party in self._struck_parties and serial not in self._handed_in):
            raise IdentityError(Reason.CERTIFICATE_REVOKED, item=f"serial {serial}")

    def check_within(self, db: Connection, serial: str, party: str) -> None:
        """The same, in a transaction that writes: no revocation comes between this and what it writes."""
        gone = set(db.scalars(select(_REVOCATIONS.c.serial).where(_REVOCATIONS.c.party == party)))
        handed_in = select(_CERTIFICATES.c.handed_in).where(_CERTIFICATES.c.serial == serial)
        if serial in gone or ("" in gone and not db.scalar(handed_in)):
            raise IdentityError(Reason.CERTIFICATE_REVOKED, item=f"serial {serial}")

    def check_key(self, db: Connection, key_id: str) -> None:
        """A key of which a certificate was struck off gets no other. Raises IdentityError (CERTIFICATE_REVOKED)."""
        same = _CERTIFICATES.c.serial == _REVOCATIONS.c.serial
        struck = select(_REVOCATIONS.c.serial).join(_CERTIFICATES, same).where(_CERTIFICATES.c.key_id == key_id)
        if db.scalar(struck.limit(1)) is not None:
            fix = "Make a new key: move identity/key.pem away and enrol with a new invitation."
            raise IdentityError(Reason.CERTIFICATE_REVOKED, item=f"another one of the key of request {key_id}", fix=fix)

    def struck(self, db: Connection, party: str) -> bool:
        """Whether a party was ever struck off."""
        row = select(_REVOCATIONS.c.at).where(_REVOCATIONS.c.serial == "", _REVOCATIONS.c.party == party)
        return db.scalar(row.limit(1)) is not None

    def find(self, db: Connection, serial: str, party: str) -> list[Known]:
        """The certificate of a serial number with all others of its key; without a number, all of a party.

        Raises:
            IdentityError: UNKNOWN_CERTIFICATE; PARTY_MISMATCH where it is not the named party's.
        """
        table = _CERTIFICATES.c
        if not serial:
            return self._where(db, table.party == party)
        found = self._where(db, table.serial == serial)
        if not found:
            fix = "Name the party, and all of its certificates are struck off."
            raise IdentityError(Reason.UNKNOWN_CERTIFICATE, item=f"serial {serial}", fix=fix)
        if party not in ("", found[0].party):
            item = f"serial {serial} is of {found[0].party}, not of {party[:MAX_SHOWN]!r}"
            raise IdentityError(Reason.PARTY_MISMATCH, item=item)
        return self._where(db, table.key_id == found[0].key_id)

    def _where(self, db: Connection, condition: ColumnElement[bool]) -> list[Known]:
        rows = db.execute(select(_CERTIFICATES).where(condition).order_by(_CERTIFICATES.c.serial))
        return [Known(row.serial, row.party, row.key_id, row.expires_at) for row in rows]

    def strike(self, db: Connection, found: Iterable[Known], party: str, at: datetime, reason: str) -> list[str]:
        """Strikes certificates off, and with a party all others that it has by now; serials that worked until now."""
        gone = set(db.scalars(select(_REVOCATIONS.c.serial)))
        fresh = [one for one in found if one.serial not in gone]
        rows = [(one.serial, one.party) for one in fresh] + ([("", party)] if party else [])
        for serial, whose in rows:
            values = {"serial": serial, "party": whose, "at": to_text(at), "reason": reason}
            db.execute(insert(_REVOCATIONS).values(**values).on_conflict_do_nothing())
        return [one.serial for one in fresh if one.expires_at > to_text(at)]
