"""Invitations, certificate requests and revocations, durable.

A revocation is in force for the next call in every process that works on the same database: what is kept in memory is
compared with the table at each check at which the database is another than before, and the table only grows.

The registry signs nothing: it holds requests until the operator brings the certificate that the CA signed for them.
An invitation names party and role, works for one key only, and is stored as a hash.
"""

import hashlib
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from sqlalchemy import Column, Connection, Engine, MetaData, Row, String, Table, Text, func, insert, select, update

from federation.core.clock import Clock, from_text, to_text
from federation.core.database import reading
from federation.core.errors import IdentityError, Reason
from federation.core.identity import PARTY_PATTERN, Role, Subject, request_id_of, verify_certificate
from federation.core.ids import PartyId
from gateway.changes import Changes, Stamp
from gateway.identity.authority import SKEW, read_csr
from gateway.identity.caller import Caller

INVITATION_DAYS = 14
_META = MetaData()
_INVITATIONS = Table(
    "invitation",
    _META,
    Column("code_hash", String(64), primary_key=True),
    Column("party", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("expires_at", String(40), nullable=False),
    Column("request_id", String(64)),  # the one request that used it
)
_REQUESTS = Table(
    "certificate_request",
    _META,
    Column("id", String(64), primary_key=True),
    Column("party", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("csr_pem", Text, nullable=False),
    Column("requested_at", String(40), nullable=False),
    Column("certificate_pem", Text, nullable=False, default=""),
)
_REVOCATIONS = Table(
    "revocation",
    _META,
    Column("serial", String(64), primary_key=True),  # "" with a party: all its certificates issued until then
    Column("party", String(32), primary_key=True),
    Column("at", String(40), primary_key=True),
    Column("reason", Text, nullable=False),
)
_COUNT = select(func.count()).select_from(_REVOCATIONS)


@dataclass(frozen=True)
class PendingRequest:
    """A request that waits for the operator."""

    request_id: str
    party: PartyId
    role: Role
    csr_pem: str
    requested_at: str


class Registry:
    """Who was invited, who asked, who was struck off."""

    def __init__(self, engine: Engine, alliance: str, ca: x509.Certificate, clock: Clock) -> None:
        self._engine, self._alliance, self._ca, self._clock = engine, alliance, ca, clock
        _META.create_all(engine)
        self._reading, self._changes, self._lock = reading(engine), Changes(engine), threading.Lock()
        self._seen: Stamp | None = None  # of the database, when revocations were read
        self._known = 0  # revocations in memory
        self._revoked_serials: set[str] = set()
        self._revoked_until: dict[str, datetime] = {}
        self._read_revocations()

    def invite(self, party: PartyId, role: Role) -> str:
        """Makes a one-time code of 160 bits for a party."""
        if not PARTY_PATTERN.fullmatch(party) or role is Role.GATEWAY:
            raise IdentityError(Reason.BAD_CSR, item=f"{role} {party[:32]!r}")
        code = secrets.token_urlsafe(20)
        expires_at = to_text(self._clock.now() + timedelta(days=INVITATION_DAYS))
        row = {"code_hash": _hash(code), "party": party, "role": str(role), "expires_at": expires_at}
        with self._engine.begin() as db:
            db.execute(insert(_INVITATIONS).values(**row))
        return code

    def request(self, csr_pem: str, invitation: str, caller: Caller | None) -> tuple[str, str]:
        """Takes a request, from an invitation or from the party itself; returns its id and the certificate or "".

        Raises:
            IdentityError: BAD_CSR; BAD_INVITATION for a code that is unknown, expired, used for another key, or of
                another party; PARTY_MISMATCH when a caller asks for another subject than its own.
        """
        key, subject = read_csr(csr_pem)
        if subject.alliance != self._alliance:
            raise IdentityError(Reason.BAD_CSR, item="alliance")
        request_id = request_id_of(key, subject)
        if caller is not None and (caller.party, caller.role) != (subject.party, subject.role):
            raise IdentityError(Reason.PARTY_MISMATCH, item="certificate request")
        with self._engine.begin() as db:
            if caller is None:
                self._use_invitation(db, invitation, subject, request_id)
            row = db.execute(select(_REQUESTS).where(_REQUESTS.c.id == request_id)).one_or_none()
            if row is not None:
                return request_id, row.certificate_pem
            values = {"id": request_id, "party": subject.party, "role": str(subject.role), "csr_pem": csr_pem}
            requested_at = to_text(self._clock.now())
            db.execute(insert(_REQUESTS).values(**values, requested_at=requested_at, certificate_pem=""))
        return request_id, ""

    def _use_invitation(self, db: Connection, invitation: str, subject: Subject, request_id: str) -> None:
        row = db.execute(select(_INVITATIONS).where(_INVITATIONS.c.code_hash == _hash(invitation))).one_or_none()
        if row is None or (row.party, row.role) != (subject.party, subject.role):
            raise IdentityError(Reason.BAD_INVITATION)
        if row.request_id not in (None, request_id):
            raise IdentityError(Reason.BAD_INVITATION)
        if row.request_id is None:
            if self._clock.now() >= from_text(row.expires_at):
                raise IdentityError(Reason.BAD_INVITATION)
            which = _INVITATIONS.c.code_hash == row.code_hash
            db.execute(update(_INVITATIONS).where(which).values(request_id=request_id))

    def pending(self) -> list[PendingRequest]:
        """Requests without a certificate, oldest first."""
        query = select(_REQUESTS).where(_REQUESTS.c.certificate_pem == "").order_by(_REQUESTS.c.requested_at)
        with self._engine.begin() as db:
            rows = db.execute(query).all()
        return [PendingRequest(r.id, PartyId(r.party), Role(r.role), r.csr_pem, r.requested_at) for r in rows]

    def issue(self, request_id: str, certificate_pem: str) -> None:
        """Stores the certificate for a request after checking that it is the CA's, for this key and subject.

        Raises:
            IdentityError: UNKNOWN_REQUEST; BAD_CERTIFICATE or BAD_SIGNATURE when it does not fit the request.
        """
        with self._engine.begin() as db:
            row = db.execute(select(_REQUESTS).where(_REQUESTS.c.id == request_id)).one_or_none()
            if row is None:
                raise IdentityError(Reason.UNKNOWN_REQUEST)
            certificate, subject = verify_certificate(certificate_pem.encode(), self._ca, self._clock.now())
            key, wanted = read_csr(row.csr_pem)
            if subject != wanted or certificate.public_key() != key:
                raise IdentityError(Reason.BAD_CERTIFICATE, item="does not fit the request")
            db.execute(update(_REQUESTS).where(_REQUESTS.c.id == request_id).values(certificate_pem=certificate_pem))

    def revoke(self, serial: str, party: str, reason: str) -> int:
        """Strikes off one certificate, or with an empty serial all that a party holds now. In force when it returns."""
        if not serial and not party:
            raise IdentityError(Reason.BAD_CERTIFICATE, item="serial or party")
        at = self._clock.now()
        with self._engine.begin() as db:
            db.execute(insert(_REVOCATIONS).values(serial=serial, party=party, at=to_text(at), reason=reason[:400]))
        self._read_revocations()
        return 1

    def _read_revocations(self) -> None:
        """Takes in what any process struck off."""
        with self._lock:
            stamp = self._changes.stamp()
            if stamp == self._seen:
                return
            with self._reading.begin() as db:
                if db.scalar(_COUNT) != self._known:
                    self._take_in(db.execute(select(_REVOCATIONS)).all())
            self._seen = stamp

    def _take_in(self, rows: Sequence[Row[Any]]) -> None:
        for row in rows:
            if row.serial:
                self._revoked_serials.add(row.serial)
            else:
                until = from_text(row.at)
                self._revoked_until[row.party] = max(until, self._revoked_until.get(row.party, until))
        self._known = len(rows)

    def authenticate(self, certificate_pem: bytes) -> Caller:
        """Who a TLS certificate is. The TLS library checked the chain; this checks everything again, and revocation.

        Raises:
            IdentityError: BAD_CERTIFICATE, BAD_SIGNATURE, CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED.
        """
        certificate, subject = verify_certificate(certificate_pem, self._ca, self._clock.now())
        if subject.alliance != self._alliance or subject.role is Role.GATEWAY:
            raise IdentityError(Reason.BAD_CERTIFICATE, item="subject URI")
        serial = f"{certificate.serial_number:x}"
        caller = Caller(
            party=subject.party,
            role=subject.role,
            serial=serial,
            issued_at=certificate.not_valid_before_utc + SKEW,
            expires_at=certificate.not_valid_after_utc,
        )
        self.check_live(caller)
        return caller

    def check_live(self, caller: Caller) -> None:
        """Cheap enough for every message of a stream.

        Raises:
            IdentityError: CERTIFICATE_REVOKED, CERTIFICATE_EXPIRED.
        """
        self._read_revocations()
        struck = self._revoked_until.get(caller.party)
        if caller.serial in self._revoked_serials or (struck is not None and caller.issued_at <= struck):
            raise IdentityError(Reason.CERTIFICATE_REVOKED, item=f"serial {caller.serial}")
        if self._clock.now() > caller.expires_at:
            raise IdentityError(Reason.CERTIFICATE_EXPIRED, item=f"serial {caller.serial}")


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
