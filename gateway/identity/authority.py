"""The alliance's certificate authority: a key that the operator keeps away from the gateway.

Guarantees that a certificate it signs names exactly the subject that its caller gives, whatever else the request asks
for. Certificates are short-lived (``PARTY_DAYS``) because hops verify each other's signatures without a list of revoked
ones.
"""

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.errors import ConfigError, IdentityError, Reason
from federation.core.files import write_secret
from federation.core.identity import Role, Subject, new_key, private_pem, subject_of

CA_DAYS = 3650
PARTY_DAYS = 30
MAX_CSR_BYTES = 8192
SKEW = timedelta(minutes=5)


def read_csr(pem: str) -> tuple[ec.EllipticCurvePublicKey, Subject]:
    """Reads a request: P-256, signed by its own key, naming one party. Raises IdentityError (BAD_CSR)."""
    if len(pem) > MAX_CSR_BYTES:
        raise IdentityError(Reason.BAD_CSR, item="size")
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = csr.public_key()
    except (ValueError, TypeError) as exc:
        raise IdentityError(Reason.BAD_CSR, item="PEM", detail=str(exc)) from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(Reason.BAD_CSR, item="key type, expected P-256")
    if not csr.is_signature_valid:
        raise IdentityError(Reason.BAD_CSR, item="signature")
    subject = subject_of(csr.extensions)
    if subject.role is Role.GATEWAY:
        raise IdentityError(Reason.BAD_CSR, item="role gateway")
    return key, subject


@dataclass(frozen=True)
class Authority:
    """A CA key with its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def create(cls, alliance: str, at: datetime) -> "Authority":
        """Makes a new CA for an alliance."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{alliance} alliance CA")])
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = _builder(name, name, key.public_key(), at, CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        """Reads ``ca.key`` and ``ca.pem``. Raises ConfigError (MISSING_FILE, BAD_CONFIG)."""
        try:
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        except OSError as exc:
            raise ConfigError(
                Reason.MISSING_FILE, item=str(exc.filename), fix="Name the operator's CA folder."
            ) from exc
        except (ValueError, TypeError) as exc:
            raise ConfigError(Reason.BAD_CONFIG, item=f"CA files in {folder}", detail=str(exc)) from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(Reason.BAD_CONFIG, item=f"CA key in {folder}, expected P-256")
        return cls(key, certificate)

    def save(self, folder: Path) -> None:
        """Writes ``ca.key`` (owner only) and ``ca.pem``."""
        write_secret(folder / "ca.key", private_pem(self.key))
        (folder / "ca.pem").write_bytes(self.pem)

    def issue(
        self, public_key: ec.EllipticCurvePublicKey, subject: Subject, at: datetime, hosts: tuple[str, ...] = ()
    ) -> bytes:
        """Signs a certificate, PEM, for a subject; ``hosts`` are the names a gateway is reached by.

        Only a gateway's certificate may serve and only a party's may call, so that neither can play the other.
        """
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.party)])
        serves = subject.role is Role.GATEWAY
        usage = ExtendedKeyUsageOID.SERVER_AUTH if serves else ExtendedKeyUsageOID.CLIENT_AUTH
        names = [x509.UniformResourceIdentifier(subject.uri), *map(_general_name, hosts)]
        builder = _builder(name, self.certificate.subject, public_key, at, PARTY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, at: datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(at - SKEW).not_valid_after(at + timedelta(days=days))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
