"""Identifiers are found in free text however they are written, and ordinary sentences pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import PolicyError, Reason
from federation.policy.facts import Obligations
from federation.policy.mask import apply_obligations
from federation.policy.scan import MAX_SCAN_CHARS, identifiers


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to anna.silva@example.org today", "e-mail address"),
        ("anna＠example．org", "e-mail address"),
        ("张三@例子.公司", "e-mail address"),
        ("an\u200bna@exa\u00admple.org", "e-mail address"),
        ("call +351 912 345 678", "telephone number"),
        ("电话13812341234", "telephone number"),
        ("１３８ １２３４ １２３４", "telephone number"),
        ("(030) 1234-56789", "telephone number"),
        ("١٣٨١٢٣٤١٢٣٤", "telephone number"),
        ("Call 91234567", "telephone number"),
        ("6123 4567", "telephone number"),
        ("912 345 678", "telephone number"),
        ("912.345.678", "telephone number"),
        ("912_345_678", "telephone number"),
        ("912 ~ 345 | 678", "telephone number"),
        ("9\u20111\u20112\u20113\u20114\u20115\u20116\u20117", "telephone number"),
        ("+351 2345", "telephone number"),
        ("912 then 345 then 678 and 351", "telephone number"),
        ("912 1,000 345 678", "telephone number"),
        ("912,000 345,000 678,000", "telephone number"),
        ("2026-10-01 91234567", "telephone number"),
        (b"alice@example.com +351912345678"[:24].hex(), "telephone number"),
        ("378 282 246 310 005", "card number"),
        ("4111_1111_1111_1111", "card number"),
        ("alice @ example.com", "e-mail address"),
        ("alice@ example.com", "e-mail address"),
        ("alice\t@  example.com", "e-mail address"),
        ("card 4111 1111 1111 1111", "card number"),
        ("5500-0000-0000-0004", "card number"),
        ("id4111111111111111x", "card number"),
        ("身份证11010519491231002X", "identity number of China"),
        ("ID: 11010519491231002x.", "identity number of China"),
        ("NRIC S1234567D", "identity number of Singapore"),
        ("pay to DE89 3704 0044 0532 0130 00 now", "IBAN"),
        ("PT50000201231234567890154", "IBAN"),
    ],
)
def test_an_identifier_is_found(text, kind):
    assert kind in identifiers(text)


@pytest.mark.parametrize(
    "text",
    [
        "10 % off the first year",
        "5,000 miles to start with",
        "no fee for a year, lounge access",
        "Save 1.200,50 EUR until 2027-01-31, then 99 a month.",
        "Insured up to 10,000,000 EUR from 2026-10-01 to 2027-10-01",
        "0.5 % extra interest",
        "首年九折",
        "12,500,000 EUR insured, 10 000 000 EUR abroad, 250.000,00 EUR at home",
        "3 months at 9.99 EUR, then 19.99 EUR, for 24 months",
        "Open 09:00-18:00 until 31.12.2026",
        "Season 2026-2027, 2 for 1",
        "Meet us @ the lounge",
        "100,000 points",
        "45-59",
        "services",
        "",
    ],
)
def test_an_ordinary_sentence_passes(text):
    assert identifiers(text) == ()


def test_a_checksum_that_does_not_fit_is_no_identity_number():
    assert "identity number of China" not in identifiers("110105194912310021")
    assert "identity number of Singapore" not in identifiers("S1234567A")
    assert "IBAN" not in identifiers("DE89 3704 0044 0532 0130 01")
    assert "card number" not in identifiers("4111 1111 1111 1112")


def test_what_is_too_long_to_be_searched_does_not_pass():
    assert identifiers("x" * (MAX_SCAN_CHARS + 1))


@given(st.text(max_size=60), st.text(max_size=60))
def test_an_address_is_found_wherever_it_stands(before, after):
    assert identifiers(f"{before} anna@example.org {after}")


@given(st.text(max_size=200))
def test_searching_never_fails(text):
    assert isinstance(identifiers(text), tuple)


def test_a_field_that_passes_as_it_is_is_searched():
    duties = Obligations({"note": "keep", "job": "drop"})
    assert apply_obligations({"note": "likes the sea", "job": "anna@example.org"}, duties) == {"note": "likes the sea"}
    with pytest.raises(PolicyError) as caught:
        apply_obligations({"note": "ask anna@example.org"}, duties)
    assert caught.value.reason == Reason.OBLIGATION_FAILED
    assert caught.value.item == "field note, which holds: e-mail address"


def test_a_band_of_amounts_is_no_telephone_number_but_what_only_looks_like_one_is() -> None:
    assert identifiers("5000-19999") == ()
    assert identifiers("100000-249999") == ()
    for text in ("5551-23456", "19900-5099", "0500-19999", "5000-19999 5000-19999", "call 5000-19999", "5000-199990"):
        assert identifiers(text) == ("telephone number",), text
