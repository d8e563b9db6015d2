"""One spelling for one identifier."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.overlap.normalise import normalise, normalise_email, normalise_national_id, normalise_phone

EMAILS = {
    "Person5@Example.COM": "person5@example.com",
    "  person5@example.com\t": "person5@example.com",
    "ｐｅｒｓｏｎ５＠ｅｘａｍｐｌｅ．ｃｏｍ": "person5@example.com",
    "j.o.h.n@gmail.com": "john@gmail.com",
    "J.Ohn@GoogleMail.com": "john@googlemail.com",
    "j.ohn@example.com": "j.ohn@example.com",
    "straße@example.de": "strasse@example.de",
    "a+tag@example.com": "a+tag@example.com",
}
NOT_EMAILS = [
    *("", " ", "person", "@example.com", "a@", "a@b", "a@@b.com", "a@b@c.com", "...@gmail.com", "x" * 5000),
    *("a b@example.com", "a@exa mple.com", "a\0@example.com", "x" * 65 + "@example.com"),
    *("a@.com", "a@b..com", "a@-b.com", "a@b.com.", "a@" + "b." * 130 + "com"),
]


@pytest.mark.parametrize(("raw", "normal"), EMAILS.items())
def test_email(raw: str, normal: str) -> None:
    assert normalise_email(raw) == normal


@pytest.mark.parametrize("raw", NOT_EMAILS)
def test_what_cannot_be_an_email_is_nothing(raw: str) -> None:
    assert normalise_email(raw) is None


@given(st.one_of(st.emails(), st.text(max_size=40), st.from_regex(r"\A[^@]{1,20}@[^@]{1,20}\.com\Z")))
def test_normalising_again_changes_nothing(raw: str) -> None:
    normal = normalise_email(raw)
    assert normal is None or normalise_email(normal) == normal


@pytest.mark.parametrize(
    "raw",
    [
        "+12015550123",
        "0012015550123",
        "+1 (201) 555-0123",
        "+1-201-555-0123",
        "201-555-0123",
        "１ (201) 555 0123",
        "201-555-0123 ext. 7",
    ],
)
def test_phone_spellings_are_one_number(raw: str) -> None:
    assert normalise_phone(raw, region="US", mode="possible") == "+12015550123"


def test_a_region_says_what_a_local_number_is() -> None:
    assert normalise_phone("030 901820", region="DE") == "+4930901820"
    assert normalise_phone("030 901820", region="US") is None


def test_valid_is_stricter_than_possible() -> None:
    fictional = "+12005550123"  # no such area code
    assert normalise_phone(fictional, region="US") is None
    assert normalise_phone(fictional, region="US", mode="possible") == fictional


def test_an_unassigned_country_code_is_possible_and_not_valid() -> None:
    assert normalise_phone("+999 00000012345", region="US", mode="possible") == "+99900000012345"
    assert normalise_phone("+99900000012345", region="US") is None
    assert normalise_phone("+9990", region="US", mode="possible") is None


@pytest.mark.parametrize(
    "raw", ["", "  ", "hello", "12", "+", "00", "+1201555012345678901234", "1" * 100, "+9500000000"]
)
def test_what_cannot_be_a_phone_is_nothing(raw: str) -> None:
    assert normalise_phone(raw, region="US", mode="possible") is None


@given(st.text(max_size=30) | st.from_regex(r"\A\+?[0-9 ()./-]{3,20}\Z"))
def test_phone_never_raises_and_is_stable(raw: str) -> None:
    normal = normalise_phone(raw, region="US", mode="possible")
    assert normal is None or normalise_phone(normal, region="US", mode="possible") == normal


def test_an_unknown_key_type_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="key type"):
        normalise("x", "passport", region="US")


IDS = {
    "12-34.567 / 8": "12345678",
    "ab 123 456 c": "AB123456C",
    "ＡＢ１２３４５６": "AB123456",
    "12345": "12345",
    "x" * 16 + "y" * 16: "X" * 16 + "Y" * 16,
}


@pytest.mark.parametrize(("raw", "normal"), IDS.items())
def test_national_id(raw: str, normal: str) -> None:
    assert normalise_national_id(raw) == normal
    assert normalise(raw, "national_id", region="XX") == normal


@pytest.mark.parametrize("raw", ["", "1234", "12-34", "0000000", "XXXXX", "-----", "ab123" * 7, "1234é", "x" * 1000])
def test_not_a_national_id(raw: str) -> None:
    assert normalise_national_id(raw) is None


@given(st.text(max_size=60))
def test_a_national_id_has_one_normal_form(raw: str) -> None:
    normal = normalise_national_id(raw)
    assert normal is None or normalise_national_id(normal.lower()) == normal
