"""Who a party is: an X.509 certificate of the alliance CA whose only URI names alliance, role and party.

    entente://<alliance>/<role>/<party>

Guarantees that a verified ``Signed`` was made with the key of the certificate it carries, that this certificate was
issued by the given CA, is valid at the given time and names the party. It does not know about revocation: the gateway
refuses revoked certificates at its door; a hop that verifies another partner's signature relies on short lifetimes.
"""

import functools
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.core.errors import ConfigError, IdentityError, Reason
from federation.core.ids import PartyId
from federation.v1 import common_pb2

PARTY_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,31}")
SCHEME = "entente"


class Role(StrEnum):
    """What a certificate lets its holder do."""

    PARTNER = "partner"
    MARKETING = "marketing"
    COMPLIANCE = "compliance"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class Subject:
    """What a certificate says about its holder."""

    alliance: str
    role: Role
    party: PartyId

    @property
    def uri(self) -> str:
        """The subject as the certificate writes it."""
        return f"{SCHEME}://{self.alliance}/{self.role}/{self.party}"


def parse_uri(uri: str) -> Subject:
    """Reads ``entente://alliance/role/party``. Raises IdentityError (BAD_CERTIFICATE)."""
    match = re.fullmatch(rf"{SCHEME}://([^/]+)/([^/]+)/([^/]+)", uri)
    if match is None or not all(PARTY_PATTERN.fullmatch(match[i]) for i in (1, 3)) or match[2] not in set(Role):
        raise IdentityError(Reason.BAD_CERTIFICATE, item="subject URI")
    return Subject(match[1], Role(match[2]), PartyId(match[3]))


def subject_of(extensions: x509.Extensions) -> Subject:
    """The one URI among the subject alternative names of a certificate or request. Raises IdentityError."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as exc:
        raise IdentityError(Reason.BAD_CERTIFICATE, item="subject alternative name") from exc
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityError(Reason.BAD_CERTIFICATE, item="subject URI")
    return parse_uri(uris[0])


def verify_certificate(pem: bytes, ca: x509.Certificate, at: datetime) -> tuple[x509.Certificate, Subject]:
    """Checks that the CA issued a certificate that is valid at a time, and reads whom it names.

    Raises:
        IdentityError: BAD_CERTIFICATE, BAD_SIGNATURE, CERTIFICATE_EXPIRED.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        _check_issued(certificate, ca)
    except InvalidSignature as exc:
        raise IdentityError(Reason.BAD_SIGNATURE, item="certificate") from exc
    except (ValueError, TypeError) as exc:
        raise IdentityError(Reason.BAD_CERTIFICATE, detail=str(exc)) from exc
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise IdentityError(Reason.CERTIFICATE_EXPIRED, item=f"serial {certificate.serial_number:x}")
    return certificate, subject_of(certificate.extensions)


@functools.lru_cache(maxsize=128)
def _check_issued(certificate: x509.Certificate, ca: x509.Certificate) -> None:
    """Raises unless the CA issued it: of the same two for ever so, unlike its validity. Failures are not kept."""
    certificate.verify_directly_issued_by(ca)


def signed_bytes(kind: str, payload: bytes) -> bytes:
    """What a signature covers; the prefix keeps it apart from every other use of the key, TLS included."""
    return b"entente/v1/" + kind.encode() + b"\0" + payload


@dataclass(frozen=True)
class Identity:
    """A party's key, certificate and the CA it trusts."""

    subject: Subject
    key: ec.EllipticCurvePrivateKey
    certificate_pem: bytes
    ca: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """The private key, for the TLS library only."""
        return private_pem(self.key)

    @property
    def ca_pem(self) -> bytes:
        """The alliance CA's certificate."""
        return self.ca.public_bytes(serialization.Encoding.PEM)

    @property
    def valid_until(self) -> datetime:
        """When the certificate expires."""
        return x509.load_pem_x509_certificate(self.certificate_pem).not_valid_after_utc

    def sign(self, kind: str, payload: bytes) -> common_pb2.Signed:
        """Signs a payload as this party. Source: FIPS 186-5 (ECDSA), P-256 with SHA-256."""
        signature = self.key.sign(signed_bytes(kind, payload), ec.ECDSA(hashes.SHA256()))
        pem = self.certificate_pem.decode()
        return common_pb2.Signed(kind=kind, payload=payload, signature=signature, certificate_pem=pem)


def verify_signed(signed: common_pb2.Signed, kind: str, ca: x509.Certificate, at: datetime) -> Subject:
    """Checks an envelope of the expected kind and says who signed it; only then parse the payload.

    Raises:
        IdentityError: BAD_SIGNATURE, BAD_CERTIFICATE, CERTIFICATE_EXPIRED.
    """
    if signed.kind != kind:
        raise IdentityError(Reason.BAD_SIGNATURE, item=f"kind {signed.kind[:32]!r}, expected {kind!r}")
    certificate, subject = verify_certificate(signed.certificate_pem.encode(), ca, at)
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IdentityError(Reason.BAD_CERTIFICATE, item="key type")
    try:
        public_key.verify(signed.signature, signed_bytes(kind, signed.payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as exc:
        raise IdentityError(Reason.BAD_SIGNATURE, item=f"{kind} of {subject.party}") from exc
    return subject


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key from the operating system's generator."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, unencrypted: keep it in a file that only its owner can read."""
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*kinds)


def certificate_request(key: ec.EllipticCurvePrivateKey, subject: Subject) -> bytes:
    """A PKCS#10 request, PEM, for a subject."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.party)])
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(uri, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request_id_of(key: ec.EllipticCurvePublicKey, subject: Subject) -> str:
    """Names a certificate request by what it asks: 128 bits of SHA-256 over public key and subject.

    The party computes it from its own key and tells it to the operator, who recomputes it from the request. A gateway
    that puts another key into a request changes the id.
    """
    kinds = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(*kinds) + subject.uri.encode()).hexdigest()[:32]


def load_identity(folder: Path) -> Identity:
    """Reads ``key.pem``, ``certificate.pem`` and ``ca.pem`` of a party.

    Raises:
        ConfigError: MISSING_FILE, or BAD_CONFIG where a file is not what it should be.
        IdentityError: the certificate names no party.
    """
    files = {}
    for name in ("key.pem", "certificate.pem", "ca.pem"):
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as exc:
            fix = "Enrol first: entente partner enrol --help."
            raise ConfigError(Reason.MISSING_FILE, item=str(folder / name), fix=fix) from exc
    try:
        key = serialization.load_pem_private_key(files["key.pem"], None)
        certificate = x509.load_pem_x509_certificate(files["certificate.pem"])
        ca = x509.load_pem_x509_certificate(files["ca.pem"])
    except (ValueError, TypeError) as exc:
        raise ConfigError(Reason.BAD_CONFIG, item=f"PEM files in {folder}", detail=str(exc)) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(Reason.BAD_CONFIG, item=f"key in {folder} does not belong to its certificate")
    return Identity(subject_of(certificate.extensions), key, files["certificate.pem"], ca)
