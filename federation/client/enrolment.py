"""How a party gets its identity: an invitation file, a key made here, a request, and the certificate when it is signed.

The private key is made beside the data and never leaves. The invitation carries the alliance CA's certificate, so the
first connection already knows whom to trust; hand it over on a channel that you trust.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from federation.client.config import Address, Section
from federation.client.connection import Connection, translated
from federation.consent.terms import ConsentTerms, Controller, Notice
from federation.core.clock import SystemClock
from federation.core.errors import ConfigError, DataError, IdentityError, Reason, TransportError
from federation.core.files import write_secret
from federation.core.identity import (
    PARTY_PATTERN,
    Identity,
    Role,
    Subject,
    certificate_request,
    load_identity,
    new_key,
    private_pem,
    request_id_of,
    subject_of,
    verify_certificate,
)
from federation.core.ids import PartyId
from federation.policy.specs import PartySpec
from federation.v1 import enrolment_pb2, policy_pb2

POLL_S = 0.5
LOG_KEY_FILE = "log.vkey"
MAX_INVITATION_BYTES = 65_536
RETENTION_DAYS = 730


class Invitation(Section):
    """What the operator hands to a party."""

    alliance: str
    party: str
    role: Role
    gateway: Address
    enrolment: Address
    code: str
    ca_pem: str
    log_vkey: str

    def save(self, path: Path) -> None:
        """Writes it so that only the owner can read it."""
        write_secret(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False).encode())


def load_invitation(path: Path) -> Invitation:
    """Reads an invitation. Raises ConfigError (MISSING_FILE, BAD_CONFIG)."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        fix = "Ask the operator for the invitation file of your party."
        raise ConfigError(Reason.MISSING_FILE, item=str(path), fix=fix) from exc
    if len(raw) > MAX_INVITATION_BYTES:
        raise ConfigError(Reason.TOO_LARGE, item=str(path))
    try:
        return Invitation.model_validate(yaml.safe_load(raw))
    except (yaml.YAMLError, ValidationError) as exc:  # whose text may quote the invitation's code
        fix = "Take the operator's file as it came; its code is good for one party, once."
        raise ConfigError(Reason.BAD_CONFIG, item=f"{path}: not an invitation", fix=fix) from exc


def enrol(
    invitation: Invitation, folder: Path, wait_s: float, on_waiting: Callable[[str], None] = lambda _id: None
) -> Identity:
    """Gets a certificate for a key that is made (or was made by an earlier try) in ``folder``.

    Args:
        invitation: From the operator.
        folder: Receives ``key.pem``, ``certificate.pem``, ``ca.pem`` and ``log.vkey``.
        wait_s: How long to wait for the operator's signature, in seconds.
        on_waiting: Told the request's id once, when the operator has to act; it is computed here, from the key.

    Raises:
        ConfigError: BAD_CONFIG where ``folder`` holds another party's certificate, which would be overwritten.
        IdentityError, EntenteError: as the gateway answers.
        TransportError: UNAVAILABLE when the time is over; calling again continues.
    """
    subject = Subject(invitation.alliance, invitation.role, PartyId(invitation.party))
    before = folder / "certificate.pem"
    if (
        before.exists()
        and (held := subject_of(x509.load_pem_x509_certificate(before.read_bytes()).extensions)) != subject
    ):
        fix = "Name another folder by --dir."
        raise ConfigError(Reason.BAD_CONFIG, item=f"{folder} holds the certificate of {held.uri}", fix=fix)
    key = _key(folder / "key.pem")
    request_id = request_id_of(key.public_key(), subject)
    request = enrolment_pb2.RequestCertificateRequest(
        csr_pem=certificate_request(key, subject).decode(), invitation=invitation.code
    )
    write_secret(folder / "ca.pem", invitation.ca_pem.encode())
    write_secret(folder / LOG_KEY_FILE, invitation.log_vkey.encode())
    deadline = time.monotonic() + wait_s
    with Connection(invitation.enrolment, None, ca_pem=invitation.ca_pem.encode()) as connection:
        connection.wait_ready(min(wait_s, 10))
        pem = _await_certificate(connection, request, request_id, deadline, on_waiting)
    write_secret(folder / "certificate.pem", pem)
    return load_identity(folder)


def renew(
    connection: Connection, identity: Identity, folder: Path, wait_s: float, on_waiting: Callable[[str], None]
) -> Identity:
    """Gets a certificate for the same key that is valid for longer; the one at hand where that is not at its end yet.

    Args:
        connection: To the gateway, as this party: the certificate must still be valid.
        identity: The party's.
        folder: Where it is; ``certificate.pem`` there is replaced, whole.
        wait_s: How long to wait for the operator's signature, in seconds.
        on_waiting: Told the request's id once, when the operator has to act.

    Raises:
        IdentityError: as the gateway answers, or for a certificate that is not of this key, party and CA.
        TransportError: UNAVAILABLE when the time is over; calling again continues.
    """
    deadline = time.monotonic() + wait_s
    csr = certificate_request(identity.key, identity.subject).decode()
    request = enrolment_pb2.RequestCertificateRequest(csr_pem=csr)
    request_id = request_id_of(identity.key.public_key(), identity.subject)
    pem = _await_certificate(connection, request, request_id, deadline, on_waiting)
    certificate, subject = verify_certificate(pem, identity.ca, SystemClock().now())
    if subject != identity.subject or certificate.public_key() != identity.key.public_key():
        raise IdentityError(Reason.BAD_CERTIFICATE, item="from the gateway; it is not of this key and party")
    write_secret(folder / "certificate.pem", pem)
    return load_identity(folder)


def _await_certificate(
    connection: Connection,
    request: enrolment_pb2.RequestCertificateRequest,
    request_id: str,
    deadline: float,
    on_waiting: Callable[[str], None],
) -> bytes:
    """Asks again until the operator has signed. Raises TransportError (UNAVAILABLE) after the monotonic deadline."""
    told = False
    while True:
        with translated():
            answer = connection.enrolment.RequestCertificate(request, timeout=10)
        if answer.certificate_pem:
            return answer.certificate_pem.encode()
        if not told:
            on_waiting(request_id)
            told = True
        if time.monotonic() > deadline:
            fix = f"The operator has to approve request {request_id}; then run the same command again."
            raise TransportError(Reason.UNAVAILABLE, item="signature of the operator", fix=fix)
        time.sleep(POLL_S)


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of an earlier try, so that a request is not made twice, or a new one."""
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(Reason.BAD_CONFIG, item=f"{path}, expected a P-256 key")
        return key
    key = new_key()
    write_secret(path, private_pem(key))
    return key


def copy_policy(connection: Connection, folder: Path) -> str:
    """Writes the alliance's policy as the partner's own starting copy, if it has none; returns the version.

    From then on the partner edits its own copy: both it and the gateway's must permit.

    Raises:
        DataError: BAD_FIELD for a file name that is not a plain ``*.yaml`` name.
    """
    with translated():
        answer = connection.policy.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=10)
    for file in answer.files:
        stem, _, suffix = file.name.rpartition(".")
        if suffix != "yaml" or not PARTY_PATTERN.fullmatch(stem.replace("_", "-")):
            raise DataError(Reason.BAD_FIELD, item="name of a policy file")
    if not folder.exists():
        # Whole or not at all: a copy that was cut off could lack the rules that forbid.
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for file in answer.files:
            (scratch / file.name).write_text(file.yaml)
        scratch.rename(folder)
    return answer.version


def starting_terms(party: PartySpec, gateway_country: str, contact: str, notice: str) -> ConsentTerms:
    """What a new partner's consent records say until it edits ``partner.yaml``: what the agent does with the data."""
    return ConsentTerms(
        controller=Controller(name=party.display_name, contact=contact),
        notice=Notice(reference=notice),
        data_categories={
            "overlap_statistics": ("e-mail address or telephone number, blinded", "segments of the customer file"),
            "model_training": ("features of the customer file; what leaves is a model update with privacy noise",),
            "offer_sharing": ("a pseudonymous handle", "attributes of an offer, masked"),
        },
        storage_locations=(party.country,),
        processing_locations=tuple(sorted({party.country, gateway_country})),
        retention_days=RETENTION_DAYS,
        collection_method="recorded in the register of consents",
        withdrawal_method=f"write to {contact}",
    )
