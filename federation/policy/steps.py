"""The steps by which a policy version comes into force, as the people who take them sign them.

A version is proposed by one compliance officer, approved by another, activated at a time, and may be rolled back to the
version before it. A partner may veto a version until it is in force. Each step is canonical JSON, signed with the key
of the person's certificate under the kind of the step. The id of a proposal is a digest of its payload, and every later
step names it: an approval of one proposal is no approval of another, even of the same version.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from federation.core.canonical import canonical_json
from federation.core.errors import DataError, Reason
from federation.v1.common_pb2 import Signed

MAX_WORDS_CHARS = 400
MAX_SKEW = timedelta(minutes=5)
"""Between the signer's clock and the gateway's; an older signature is a repetition."""
_MAX_PAYLOAD_BYTES = 4096
_ID_CHARS = 32


class Kind(StrEnum):
    """What a step does. The first five are signed by a person; the gateway notes the others."""

    PROPOSAL = "proposal"
    APPROVAL = "approval"
    VETO = "veto"
    ACTIVATION = "activation"
    ROLLBACK = "rollback"
    IN_FORCE = "in_force"
    LAPSE = "lapse"


SIGNED = (Kind.PROPOSAL, Kind.APPROVAL, Kind.VETO, Kind.ACTIVATION, Kind.ROLLBACK)


def signing_kind(kind: Kind) -> str:
    """What a signature of this step is for, for example "policy-approval"."""
    return f"policy-{kind}"


@dataclass(frozen=True)
class Statement:
    """What a person signs."""

    step: Kind
    alliance: str
    version: str  # the version that the step is about
    base: str  # the version in force when it was proposed, or that a rollback replaces
    at: str  # RFC 3339, the signer's clock
    proposal: str = ""  # id; empty for a proposal itself and for a rollback
    words: str = ""  # message of a proposal, reason of a veto or rollback
    effective_at: str = ""  # of an activation; empty for at once

    def to_bytes(self) -> bytes:
        """What is signed."""
        return canonical_json(asdict(self))


def proposal_id(payload: bytes) -> str:
    """Names a proposal by what was signed: 128 bits of SHA-256."""
    return hashlib.sha256(payload).hexdigest()[:_ID_CHARS]


def read_statement(payload: bytes, kind: Kind) -> Statement:
    """Reads a payload whose signature was checked.

    Raises:
        DataError: BAD_FIELD, TOO_LARGE.
    """
    if len(payload) > _MAX_PAYLOAD_BYTES:
        raise DataError(Reason.TOO_LARGE, item="statement")
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise DataError(Reason.BAD_FIELD, item="statement is no JSON") from exc
    names = set(Statement.__dataclass_fields__)
    if not isinstance(value, dict) or set(value) != names or not all(isinstance(v, str) for v in value.values()):
        raise DataError(Reason.BAD_FIELD, item="fields of the statement")
    if value["step"] != kind:
        raise DataError(Reason.BAD_FIELD, item="step of the statement")
    statement = Statement(**{**value, "step": kind})
    words = statement.words
    if len(words) > MAX_WORDS_CHARS or not words.replace("\n", " ").isprintable():
        raise DataError(Reason.BAD_FIELD, item=f"message or reason: at most {MAX_WORDS_CHARS} printable characters")
    if kind in (Kind.PROPOSAL, Kind.VETO, Kind.ROLLBACK) and not words.strip():
        raise DataError(Reason.BAD_FIELD, item="message or reason is empty")
    if statement.to_bytes() != payload:
        raise DataError(Reason.NOT_CANONICAL, item="statement")
    return statement


def public_key_digest(signed: Signed) -> str:
    """SHA-256 of the public key that made a verified signature."""
    key = x509.load_pem_x509_certificate(signed.certificate_pem.encode()).public_key()
    kinds = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(*kinds)).hexdigest()
