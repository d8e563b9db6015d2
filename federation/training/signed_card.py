"""A finished model as files: weights, and a card that the gateway signed. Reading one believes nothing but the CA.

Needs neither numpy nor safetensors, so that an auditor can verify a model with the smallest installation.

``model.safetensors`` holds the weights. ``card.json`` holds the card, the signature over its canonical form and the
certificate of the key. Guarantees that a model which was read is the one that the card describes, byte for byte, and
that a gateway of the alliance whose CA is given signed that card with a certificate that was valid when the card was
made. Two limits, as with a signature on paper: when the card was made is the gateway's word, and so is what it says of
metrics; a certificate that was revoked later still verifies.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from federation.core.canonical import canonical_json
from federation.core.clock import from_text
from federation.core.errors import DataError, IdentityError, Reason
from federation.core.identity import Identity, Role, Subject, verify_signed
from federation.v1.common_pb2 import Signed

KIND = "model-card"
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "card.json"
MAX_CARD_BYTES = MAX_MODEL_BYTES = 4 << 20


@dataclass(frozen=True)
class SignedModel:
    """A model whose card verified; what is in its weights was not looked at."""

    card: dict[str, Any]
    signer: Subject
    data: bytes
    """The weights' file."""
    signed: Signed

    @property
    def run_id(self) -> str:
        """The run that gave it."""
        return str(self.card["run_id"])

    @property
    def digest(self) -> str:
        """SHA-256 of the weights' file, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def sign_card(card_json: str, identity: Identity) -> Signed:
    """Signs a card.

    Args:
        card_json: Canonical JSON.
        identity: The gateway's.
    """
    return identity.sign(KIND, card_json.encode())


def verify_card(data: bytes, signed: Signed, ca: x509.Certificate) -> SignedModel:
    """Checks card and weights with nothing but the alliance's CA certificate.

    Args:
        data: The weights' file.
        signed: The card.
        ca: Of the alliance.

    Raises:
        DataError: TOO_LARGE; BAD_FIELD for what is no card; DIGEST_MISMATCH for other weights than the card's.
        IdentityError: BAD_SIGNATURE, BAD_CERTIFICATE, CERTIFICATE_EXPIRED when the card was made, ROLE_NOT_ALLOWED for
            a signature that is no gateway's.
    """
    if len(signed.payload) > MAX_CARD_BYTES or len(data) > MAX_MODEL_BYTES:
        raise DataError(Reason.TOO_LARGE, item="model or card")
    try:
        card = json.loads(signed.payload)
        made_at = from_text(card["trained_at"], item="trained_at of the card")
        alliance, digest = str(card["alliance"]), str(card["weights_sha256"])
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise DataError(Reason.BAD_FIELD, item="model card", detail=type(exc).__name__) from exc
    signer = verify_signed(signed, KIND, ca, made_at)
    if signer.role is not Role.GATEWAY or signer.alliance != alliance:
        raise IdentityError(Reason.ROLE_NOT_ALLOWED, item=f"card signed by {signer.uri}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(Reason.DIGEST_MISMATCH, item=f"{WEIGHTS_FILE}: not the weights of the card")
    return SignedModel(card, signer, data, signed)


def save_model(model: SignedModel, folder: Path) -> None:
    """Writes both files, the card readable and still verifiable; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    proof = {"certificate_pem": model.signed.certificate_pem, "value": _encode(model.signed.signature)}
    (folder / WEIGHTS_FILE).write_bytes(model.data)
    (folder / CARD_FILE).write_text(json.dumps({"card": model.card, "signature": proof}, indent=1, ensure_ascii=False))


def read_folder(folder: Path, ca: x509.Certificate) -> SignedModel:
    """Reads and checks both files of a folder.

    Raises:
        DataError: MISSING_FILE, and see ``verify_card``.
        IdentityError: see ``verify_card``.
    """
    data, text = _read(folder / WEIGHTS_FILE, MAX_MODEL_BYTES), _read(folder / CARD_FILE, 2 * MAX_CARD_BYTES)
    try:
        value = json.loads(text)
        payload, proof = canonical_json(value["card"]), value["signature"]
        signature, pem = base64.b64decode(proof["value"], validate=True), str(proof["certificate_pem"])
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise DataError(Reason.BAD_FIELD, item=f"{folder / CARD_FILE}", detail=type(exc).__name__) from exc
    return verify_card(data, Signed(kind=KIND, payload=payload, signature=signature, certificate_pem=pem), ca)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as exc:
        fix = "Save a model with: entente train show --save DIR."
        raise DataError(Reason.MISSING_FILE, item=str(path), detail=exc.strerror or "", fix=fix) from exc
    if len(content) > max_bytes:
        raise DataError(Reason.TOO_LARGE, item=str(path))
    return content


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
