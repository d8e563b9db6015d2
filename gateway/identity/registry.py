"""Invitations, certificate requests and revocations, durable.

A revocation is in force for the next call in every process that works on the same database. One of something that the
gateway does not know is refused: a mistyped serial that strikes nothing off would leave a thief at work.

The registry signs nothing: it holds requests until the operator brings the certificate that the CA signed for them.
An invitation names party and role, works for one key only, and is stored as a hash.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from sqlalchemy import Column, Connection, Engine, String, Table, Text, delete, func, insert, select, tuple_, update

from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import DataError, IdentityError, Reason
from federation.core.identity import PARTY_PATTERN, Role, Subject, request_id_of, verify_certificate
from federation.core.ids import PartyId
from gateway.identity.authority import read_csr
from gateway.identity.caller import Caller
from gateway.identity.certificates import MAX_SHOWN, META, Certificates, read_serial

INVITATION_DAYS = 14
PENDING_DAYS = 14
MAX_PENDING = 4
"""Requests of one party that may wait at a time: one, and a few that were begun anew. A partner alone must not fill the
operator's list."""
RENEW_BEFORE = timedelta(days=20)
"""A certificate that is asked for again with less than this left is renewed; before that it is simply told again."""
PAGE = 100
"""Requests in one answer: at most ``MAX_CSR_BYTES`` each, they stay far under the limit of a message."""
_INVITATIONS = Table(
    "invitation",
    META,
    Column("code_hash", String(64), primary_key=True),
    Column("party", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("expires_at", String(40), nullable=False),
    Column("request_id", String(64)),  # the one request that used it
)
_REQUESTS = Table(
    "certificate_request",
    META,
    Column("id", String(64), primary_key=True),
    Column("party", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("csr_pem", Text, nullable=False),
    Column("requested_at", String(40), nullable=False),
    Column("certificate_pem", Text, nullable=False, default=""),
    Column("asked_by", String(40), nullable=False),  # serial of the certificate with which it was asked for, or ""
)


_WAITING = select(func.count()).where(_REQUESTS.c.certificate_pem == "")


@dataclass(frozen=True)
class PendingRequest:
    """A request that waits for the operator."""

    request_id: str
    party: PartyId
    role: Role
    csr_pem: str
    requested_at: str

    @property
    def place(self) -> str:
        """Where it is in the list."""
        return f"{self.requested_at} {self.request_id}"


@dataclass(frozen=True)
class Revoked:
    """What was struck off."""

    party: PartyId
    serials: tuple[str, ...]
    """Certificates that worked until now. Of a party also those are gone that the gateway has never seen."""
    requests: int = 0
    """Certificate requests that waited for the operator."""
    invitations: int = 0


class Registry:
    """Who was invited, who asked, who was struck off."""

    def __init__(self, engine: Engine, alliance: str, ca: x509.Certificate, clock: Clock) -> None:
        self._engine, self._alliance, self._ca, self._clock = engine, alliance, ca, clock
        META.create_all(engine)
        self._certificates = Certificates(engine)

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

        The same request again has the same answer, until the certificate comes to its end: then it waits for the
        operator once more. A renewal keeps key and id, so it is the key that the party once read out to the operator.

        Raises:
            IdentityError: BAD_CSR; BAD_INVITATION for a code that is unknown, expired, used for another key, or of
                another party; PARTY_MISMATCH when a caller asks for another subject than its own;
                CERTIFICATE_REVOKED for a caller that was struck off meanwhile, or a key that was; TOO_MANY_REQUESTS.
        """
        key, subject = read_csr(csr_pem)
        if subject.alliance != self._alliance:
            raise IdentityError(Reason.BAD_CSR, item="alliance")
        request_id = request_id_of(key, subject)
        if caller is not None and (caller.party, caller.role) != (subject.party, subject.role):
            raise IdentityError(Reason.PARTY_MISMATCH, item="certificate request")
        with self._engine.begin() as db:
            may_renew = True
            if caller is None:
                may_renew = self._use_invitation(db, invitation, subject, request_id)
            else:
                self._certificates.check_within(db, caller.serial, caller.party)
            self._certificates.check_key(db, request_id)
            self._expire(db)
            row = db.execute(select(_REQUESTS).where(_REQUESTS.c.id == request_id)).one_or_none()
            if row is not None and not (may_renew and self._ends_soon(row.certificate_pem)):
                return request_id, row.certificate_pem
            if (db.scalar(_WAITING.where(_REQUESTS.c.party == subject.party)) or 0) >= MAX_PENDING:
                fix = f"Let the operator approve or revoke; they are void after {PENDING_DAYS} days."
                raise IdentityError(Reason.TOO_MANY_REQUESTS, item=f"{MAX_PENDING} of {subject.party}", fix=fix)
            values = {"id": request_id, "party": subject.party, "role": str(subject.role), "csr_pem": csr_pem}
            values |= {"requested_at": to_text(self._clock.now()), "asked_by": caller.serial if caller else ""}
            db.execute(delete(_REQUESTS).where(_REQUESTS.c.id == request_id))
            db.execute(insert(_REQUESTS).values(**values, certificate_pem=""))
        return request_id, ""

    def _ends_soon(self, certificate_pem: str) -> bool:
        if not certificate_pem:
            return False  # waits for the operator
        end = x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc
        return end - self._clock.now() < RENEW_BEFORE

    def _use_invitation(self, db: Connection, invitation: str, subject: Subject, request_id: str) -> bool:
        """Whether it has not expired: one that has still tells what came of it, and nothing new."""
        row = db.execute(select(_INVITATIONS).where(_INVITATIONS.c.code_hash == _hash(invitation))).one_or_none()
        if row is None or (row.party, row.role) != (subject.party, subject.role):
            raise IdentityError(Reason.BAD_INVITATION)
        if row.request_id not in (None, request_id):
            raise IdentityError(Reason.BAD_INVITATION)
        live = self._clock.now() < from_text(row.expires_at)
        if row.request_id is None:
            if not live:
                raise IdentityError(Reason.BAD_INVITATION)
            which = _INVITATIONS.c.code_hash == row.code_hash
            db.execute(update(_INVITATIONS).where(which).values(request_id=request_id))
        return live

    def pending(self, after: str = "") -> list[PendingRequest]:
        """Requests without a certificate, oldest first, at most ``PAGE`` of them.

        Args:
            after: ``place`` of the last one on the page before.
        """
        place = tuple_(_REQUESTS.c.requested_at, _REQUESTS.c.id)
        query = select(_REQUESTS).where(_REQUESTS.c.certificate_pem == "", place > tuple(after.partition(" ")[::2]))
        with self._engine.begin() as db:
            self._expire(db)
            rows = db.execute(query.order_by(_REQUESTS.c.requested_at, _REQUESTS.c.id).limit(PAGE)).all()
        return [PendingRequest(r.id, PartyId(r.party), Role(r.role), r.csr_pem, r.requested_at) for r in rows]

    def _expire(self, db: Connection) -> None:
        """Forgets what nobody approved; whoever still wants it asks again."""
        begun = to_text(self._clock.now() - timedelta(days=PENDING_DAYS))
        db.execute(delete(_REQUESTS).where(_REQUESTS.c.certificate_pem == "", _REQUESTS.c.requested_at <= begun))

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
            self._certificates.add(db, certificate, subject, handed_in=True)

    def know(self, certificate_pem: bytes) -> None:
        """Takes note of a certificate that was issued past the registry, so that it can be struck off by its serial.

        Raises:
            IdentityError: BAD_CERTIFICATE, BAD_SIGNATURE, CERTIFICATE_EXPIRED.
        """
        self._certificates.meet(*verify_certificate(certificate_pem, self._ca, self._clock.now()))

    def revoke(self, serial: str, party: str, reason: str) -> Revoked:
        """Strikes off one certificate with all others of its key, or without a serial all that a party holds now.

        In force when it returns. Once more is no error, and strikes off nothing. Requests that wait go with it: a
        party's, with its open invitations; those of the key, or asked for with one of the certificates. Whoever stole
        a key may have asked for a certificate of another one before the theft was noticed.

        Args:
            serial: In hexadecimal, however it is written; see ``read_serial``.
            party: Whose. With a serial it may be left out, and must fit where it is not.
            reason: Kept.

        Raises:
            DataError: BAD_FIELD for neither of the two, or a serial that is no number.
            IdentityError: UNKNOWN_CERTIFICATE for a serial or party that the gateway does not know; PARTY_MISMATCH.
        """
        if not serial.strip() and not party:
            raise DataError(Reason.BAD_FIELD, item="serial or party: name one")
        number, at = read_serial(serial) if serial.strip() else "", self._clock.now()
        with self._engine.begin() as db:
            found = self._certificates.find(db, number, party)
            if not number and not found and not self._knows(db, party):
                fix = "Name it as `entente operator pending` or the agreement does."
                raise IdentityError(Reason.UNKNOWN_CERTIFICATE, item=f"party {party[:MAX_SHOWN]!r}", fix=fix)
            whole = "" if number else party
            serials = self._certificates.strike(db, found, whole, at, reason[:400])
            of_key = _REQUESTS.c.id.in_({one.key_id for one in found})
            with_them = _REQUESTS.c.asked_by.in_({one.serial for one in found})
            asked = _REQUESTS.c.party == party if whole else of_key | with_them
            requests = db.execute(delete(_REQUESTS).where(asked, _REQUESTS.c.certificate_pem == "")).rowcount
            invitations = db.execute(delete(_INVITATIONS).where(_INVITATIONS.c.party == whole)).rowcount
        self._certificates.refresh()
        return Revoked(PartyId(party or found[0].party), tuple(serials), requests, invitations)

    def _knows(self, db: Connection, party: str) -> bool:
        """Whether a party was ever invited, asked for a certificate or was struck off."""
        asked = (select(t.c.party).where(t.c.party == party).limit(1) for t in (_INVITATIONS, _REQUESTS))
        return self._certificates.struck(db, party) or any(db.scalar(query) is not None for query in asked)

    def authenticate(self, certificate_pem: bytes) -> Caller:
        """Who a TLS certificate is. The TLS library checked the chain; this checks everything again, and revocation.

        Raises:
            IdentityError: BAD_CERTIFICATE, BAD_SIGNATURE, CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED.
        """
        certificate, subject = verify_certificate(certificate_pem, self._ca, self._clock.now())
        if subject.alliance != self._alliance or subject.role is Role.GATEWAY:
            raise IdentityError(Reason.BAD_CERTIFICATE, item="subject URI")
        caller = Caller(
            party=subject.party,
            role=subject.role,
            serial=self._certificates.meet(certificate, subject),
            expires_at=certificate.not_valid_after_utc,
        )
        self.check_live(caller)
        return caller

    def check_live(self, caller: Caller) -> None:
        """Cheap enough for every message of a stream.

        Raises:
            IdentityError: CERTIFICATE_REVOKED, CERTIFICATE_EXPIRED.
        """
        self.check_standing(caller)
        if self._clock.now() > caller.expires_at:
            raise IdentityError(Reason.CERTIFICATE_EXPIRED, item=f"serial {caller.serial}")

    def check_standing(self, caller: Caller) -> None:
        """See ``CheckStanding``."""
        self._certificates.check(caller.serial, caller.party)


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
