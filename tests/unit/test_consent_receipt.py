"""Consent records and receipts: every mandatory field or nothing, and not one letter changed."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from federation.client.consent.book import ConsentBook
from federation.consent.receipt import receipt_text, sign_receipt, verify_receipt
from federation.consent.record import Record, build_record, state_of
from federation.consent.terms import ConsentTerms, PurposeTerms
from federation.core.clock import FixedClock
from federation.core.errors import DataError, EntenteError, Reason
from federation.core.identity import Identity, Role, Subject, new_key
from federation.core.ids import PartyId
from gateway.identity.authority import Authority
from tests.conftest import NOW
from tests.kits.offers import BANK, FakePolicy, Partner, customer, given

PURPOSE = PurposeTerms(
    id="offer_sharing",
    dpv="dpv:DirectMarketing",
    description="A partner lets another offer its product.",
    legal_basis={"GDPR": "eu-gdpr:A6-1-a", "PIPL": "cn-pipl:13-1"},
)
TERMS = ConsentTerms.model_validate(
    {
        "controller": {"name": "First Bank", "contact": "privacy@bank.example"},
        "notice": {"reference": "https://bank.example/privacy", "language": "pt"},
        "data_categories": {"offer_sharing": ["a handle", "age band"]},
        "storage_locations": ["PT"],
        "processing_locations": ["PT", "SG"],
        "retention_days": 730,
        "collection_method": "form at the branch",
        "withdrawal_method": "write to privacy@bank.example",
    }
)


def build(*statements: Any, **changed: Any) -> Record:
    arguments: dict[str, Any] = {"purpose": PURPOSE, "terms": TERMS, "at": NOW, "record_id": "r1"}
    return build_record("C1", statements or (given(),), **(arguments | changed))


@pytest.fixture
def signer() -> tuple[Identity, Authority]:
    authority, key = Authority.create("skyline", NOW), new_key()
    subject = Subject("skyline", Role.PARTNER, PartyId("bank"))
    pem = authority.issue(key.public_key(), subject, NOW)
    return Identity(subject, key, pem, authority.certificate), authority


def test_a_record_has_what_the_standard_demands() -> None:
    record = build().model_dump(mode="json", exclude_none=True)
    assert record["schema_version"] == "ISO/IEC TS 27560:2023"
    assert (record["record_id"], record["pii_principal_id"]) == ("r1", "C1")
    [processing] = record["purposes"]
    assert processing["legal_basis"] == "eu-gdpr:A6-1-a"
    assert processing["recipients"] == ["airline", "bank", "insurer"]
    [event] = record["events"]
    assert (event["state"], event["actor"]) == ("dpv:ConsentGiven", "pii_principal")
    assert event["valid_until"].startswith("2027-02-09")


def test_the_events_tell_the_story_and_time_adds_to_it() -> None:
    assert build(given(), given(status="withdrawn", given_at=NOW)).state == "dpv:ConsentWithdrawn"
    assert build(given(status="refused")).state == "dpv:ConsentRefused"
    record = build(at=NOW + timedelta(days=200))
    assert [event.state for event in record.events] == ["dpv:ConsentGiven", "dpv:ConsentExpired"]
    assert record.events[-1].actor == "pii_controller"
    assert state_of(given(status=None), NOW) == "dpv:ConsentUnknown"


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("given_at", "time of the statement"),
        ("expires_at", "expires_at"),
        ("recipients", "recipients"),
        ("separate", "separate"),
        ("cross_border", "cross_border"),
        ("jurisdiction", "jurisdiction"),
        ("status", "status"),
    ],
)
def test_a_record_that_lacks_a_field_is_none(field: str, named: str) -> None:
    with pytest.raises(DataError) as caught:
        build(replace(given(), **{field: None}))
    assert (caught.value.reason, named in caught.value.item) == (Reason.BAD_FIELD, True)


@pytest.mark.parametrize("field", sorted(ConsentTerms.model_fields))
def test_nothing_of_what_a_partner_declares_may_be_missing(field: str) -> None:
    declared = TERMS.model_dump()
    del declared[field]
    with pytest.raises(ValueError, match=field):
        ConsentTerms.model_validate(declared)


def test_without_declared_terms_or_a_legal_basis_there_is_no_record() -> None:
    for changed in ({"terms": None}, {"purpose": PURPOSE.model_copy(update={"id": "model_training"})}):
        with pytest.raises(DataError, match="consent"):
            build(**changed)
    with pytest.raises(DataError, match="legal basis"):
        build(given(jurisdiction="PDPA"))
    with pytest.raises(DataError, match="an event"):
        build_record("C1", [], purpose=PURPOSE, terms=TERMS, at=NOW)


def test_a_consent_without_a_complete_record_does_not_count_but_an_end_does(tmp_path: Any) -> None:
    partner = Partner(tmp_path, BANK, FixedClock(NOW), FakePolicy())
    partner.write([1, 2])
    partner.book.withdraw(customer(2), "offer_sharing")
    book = ConsentBook(tmp_path / "consents.csv", partner.engine, partner.clock, lambda purpose: purpose == "other")
    found = book.for_purpose("offer_sharing")
    assert [found.get(customer(n)).status for n in (1, 2)] == [None, "withdrawn"]
    assert book.lookup(customer(1), "offer_sharing") == found.get(customer(1))


@pytest.mark.parametrize(("purpose", "covered"), [("offer_sharing", True), ("model_training", False)])
def test_what_terms_cover(purpose: str, covered: bool) -> None:
    assert TERMS.covers(purpose) is TERMS.covers(purpose + "_sensitive") is covered
    assert TERMS.covers("automated_marketing")  # an objection counts however little is known


def test_a_receipt_verifies_and_reads_well(signer: tuple[Identity, Authority]) -> None:
    identity, authority = signer
    receipt = sign_receipt(build(), identity, NOW)
    found = verify_receipt(json.dumps(receipt, indent=2).encode(), authority.certificate)
    assert (found.issuer.party, found.issued_at, found.record) == ("bank", NOW, build())
    english, chinese = found.text["en"], found.text["zh"]
    for words in ("You agreed on 2026-10-22, until 2027-02-09", "privacy@bank.example", "withdraw at any time"):
        assert words in english
    for words in ("您已同意", "可随时撤回", "PT、SG"):
        assert words in chinese
    withdrawn = build(given(), given(status="withdrawn", given_at=NOW))
    assert "You withdrew your consent on 2026-11-01.\n" in receipt_text(withdrawn, "en")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("receipt", "issued_at"), "2026-11-02T00:00:00+00:00"),
        (("receipt", "issuer"), "entente://skyline/partner/insurer"),
        (("receipt", "text", "en"), "You agreed to everything."),
        (("receipt", "record", "purposes", 0, "recipients"), ["everybody"]),
        (("receipt", "record", "events", 0, "state"), "dpv:ConsentWithdrawn"),
        (("receipt", "record", "extra"), "x"),
        (("signature", "value"), "AAAA"),
        (("signature", "certificate_pem"), ""),
        (("receipt",), None),
    ],
)
def test_any_change_is_found(signer: tuple[Identity, Authority], where: tuple[Any, ...], value: Any) -> None:
    identity, authority = signer
    receipt = sign_receipt(build(), identity, NOW)
    part: Any = receipt
    for step in where[:-1]:
        part = part[step]
    part[where[-1]] = value
    with pytest.raises(EntenteError):
        verify_receipt(json.dumps(receipt).encode(), authority.certificate)


def test_neither_another_alliance_nor_an_old_certificate_signs(signer: tuple[Identity, Authority]) -> None:
    identity, authority = signer
    receipt = json.dumps(sign_receipt(build(), identity, NOW)).encode()
    with pytest.raises(EntenteError):
        verify_receipt(receipt, Authority.create("skyline", NOW).certificate)
    late = json.dumps(sign_receipt(build(), identity, NOW + timedelta(days=400))).encode()
    with pytest.raises(EntenteError) as caught:
        verify_receipt(late, authority.certificate)
    assert caught.value.reason is Reason.CERTIFICATE_EXPIRED
    for content in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"x" * (1 << 21)):
        with pytest.raises(DataError):
            verify_receipt(content, authority.certificate)
