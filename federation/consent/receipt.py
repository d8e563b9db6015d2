"""The receipt that a person gets: the consent record, the same in plain words, and the controller's signature.

Guarantees that a receipt that verifies was signed by the party that it names as issuer with a certificate of the
alliance that was valid when it was issued, and that no letter of it was changed. Two limits: the time of issue is the
issuer's word, and a certificate that was revoked later still verifies (as a signature on paper does).
It holds the person's id at the partner: it is for the person, and goes to nobody else.
"""

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from pydantic import ValidationError

from federation.consent.record import EXPIRED, GIVEN, REFUSED, SCHEMA, WITHDRAWN, Record
from federation.core.canonical import canonical_json, digest_hex
from federation.core.clock import from_text, to_text
from federation.core.errors import DataError, Reason
from federation.core.identity import Identity, Subject, verify_signed
from federation.v1 import common_pb2

KIND = "consent_receipt"
MAX_BYTES = 1 << 20
LANGUAGES = ("en", "zh")
_YES = {"en": ("yes", "no"), "zh": ("是", "否")}
_STATE = {
    "en": {GIVEN: "You agreed", WITHDRAWN: "You withdrew your consent", REFUSED: "You refused", EXPIRED: "It expired"},
    "zh": {GIVEN: "您已同意", WITHDRAWN: "您已撤回同意", REFUSED: "您已拒绝", EXPIRED: "同意已到期"},
}
_LINES = {
    "en": (
        "Receipt for your consent ({record_id})",
        "{state} on {at}{until}.",
        "What for: {description}",
        "Who decides about your data: {controller}. Questions and complaints: {contact}.",
        "Which data: {categories}.",
        "Who may receive them: {recipients}.",
        "Law: {law} ({basis}). Agreed separately: {separate}. Transfer abroad agreed: {abroad}.",
        "Kept in {stored}, processed in {processed}; deleted {days} days after the consent ends.",
        "How it was collected: {collected}. The notice you saw: {notice} ({language}).",
        "You may withdraw at any time, and it costs you nothing: {withdrawal}.",
    ),
    "zh": (
        "同意回执（{record_id}）",
        "{state}，日期 {at}{until}。",
        "用途：{description}",
        "个人信息处理者：{controller}。咨询与投诉：{contact}。",
        "涉及的个人信息：{categories}。",
        "接收方：{recipients}。",
        "适用法律：{law}（{basis}）。单独同意：{separate}。同意出境：{abroad}。",
        "存储地：{stored}，处理地：{processed}；同意终止后 {days} 天内删除。",
        "收集方式：{collected}。您看到的告知文本：{notice}（{language}）。",
        "您可随时撤回同意，且不产生任何费用：{withdrawal}。",
    ),
}
_UNTIL = {"en": ", until {0} at the latest", "zh": "，有效期至 {0}"}
_NOBODY = {"en": "nobody", "zh": "无"}


@dataclass(frozen=True)
class Verified:
    """A receipt that verifies."""

    issuer: Subject
    issued_at: datetime
    record: Record
    text: dict[str, str]


def receipt_text(record: Record, language: str) -> str:
    """A receipt in plain words, "en" or "zh"; what the partner declared in its own words stays as it is."""
    what, last = record.purposes[0], record.events[-1]
    ends = next((event.valid_until for event in reversed(record.events) if event.valid_until), None)
    until = _UNTIL[language].format(ends[:10]) if ends and record.state == GIVEN else ""
    comma = ", " if language == "en" else "、"

    def flag(value: bool) -> str:
        return _YES[language][0 if value else 1]

    values = {
        "record_id": record.record_id,
        "state": _STATE[language][record.state],
        "at": last.at[:10],
        "until": until,
        "description": what.description,
        "controller": record.pii_controller.name,
        "contact": record.pii_controller.contact,
        "categories": comma.join(what.personal_data_categories),
        "recipients": comma.join(what.recipients) or _NOBODY[language],
        "law": what.jurisdiction,
        "basis": what.legal_basis,
        "separate": flag(what.separate_consent),
        "abroad": flag(what.cross_border_consent),
        "stored": comma.join(what.storage_locations),
        "processed": comma.join(what.processing_locations),
        "days": what.retention_days,
        "collected": what.collection_method,
        "notice": record.privacy_notice.reference,
        "language": record.privacy_notice.language,
        "withdrawal": what.withdrawal_method,
    }
    return "\n".join(line.format(**values) for line in _LINES[language]) + "\n"


def sign_receipt(record: Record, identity: Identity, at: datetime) -> dict[str, Any]:
    """The receipt for a record, signed by the partner, as JSON that can be given to the person."""
    plain = record.model_dump(mode="json", exclude_none=True)
    receipt: dict[str, Any] = {
        "schema_version": SCHEMA,
        "receipt_id": digest_hex([plain, to_text(at)])[:32],
        "issued_at": to_text(at),
        "issuer": identity.subject.uri,
        "record": plain,
        "text": {language: receipt_text(record, language) for language in LANGUAGES},
    }
    signed = identity.sign(KIND, canonical_json(receipt))
    proof = {"certificate_pem": signed.certificate_pem, "value": base64.b64encode(signed.signature).decode()}
    return {"receipt": receipt, "signature": proof}


def verify_receipt(content: bytes, ca: x509.Certificate) -> Verified:
    """Checks a receipt with nothing but the alliance's CA certificate.

    Raises:
        DataError: TOO_LARGE; BAD_FIELD for what is no receipt.
        IdentityError: BAD_SIGNATURE, BAD_CERTIFICATE, CERTIFICATE_EXPIRED at the time of issue.
    """
    if len(content) > MAX_BYTES:
        raise DataError(Reason.TOO_LARGE, item="receipt")
    try:
        value = json.loads(content)
        receipt, proof = value["receipt"], value["signature"]
        signature = base64.b64decode(proof["value"], validate=True)
        issued_at, issuer = from_text(receipt["issued_at"], item="issued_at"), str(receipt["issuer"])
        payload, pem = canonical_json(receipt), str(proof["certificate_pem"])
        text = {str(language): str(words) for language, words in receipt["text"].items()}
        record = Record.model_validate(receipt["record"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ValidationError) as exc:
        raise DataError(Reason.BAD_FIELD, item="receipt", detail=type(exc).__name__) from exc
    signed = common_pb2.Signed(kind=KIND, payload=payload, signature=signature, certificate_pem=pem)
    subject = verify_signed(signed, KIND, ca, issued_at)
    if subject.uri != issuer:
        raise DataError(Reason.BAD_FIELD, item="issuer of the receipt")
    return Verified(subject, issued_at, record, text)
