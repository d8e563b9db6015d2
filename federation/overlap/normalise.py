"""One spelling for one identifier, so that two partners' records of a person hash alike.

The rules are versioned by ``plan.RULES``, which is part of the hash domain: partners with different rules overlap at
zero instead of wrongly. Nothing here is logged or put into an error: the input is personal data, and an unusable
identifier is ``None``.

E-mail: NFKC, trimmed, casefolded; dots in the local part of a Gmail address are dropped, because Gmail ignores them.
Phone: E.164 by the partner's region; a leading 00 means +.
National id: NFKC, upper case, letters and digits only, 5 to 32 of them. No country's checksum is asked: a rule that
only one side can apply would part equal people. Two countries
with one format can give two people one id: use this key type where partners record ids of the same country.
"""

import re
import unicodedata
from typing import Literal

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from federation.overlap.plan import KEY_TYPES

MAX_EMAIL_CHARS = 254  # RFC 5321, section 4.5.3.1.3, less the angle brackets
MAX_LOCAL_CHARS = 64  # section 4.5.3.1.1
MAX_PHONE_CHARS = 64
MIN_ID_CHARS, MAX_ID_CHARS = 5, 32
_GMAIL = frozenset({"gmail.com", "googlemail.com"})
_DIGIT = re.compile(r"[0-9]")
_E164 = re.compile(r"\+[1-9][0-9]{7,14}")
_LABEL = re.compile(r"[^\W_]([\w-]*[^\W_])?")
# What needs no more than lower or upper case to be normal; each is narrower than what is accepted.
_USUAL_DOMAIN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_USUAL_EMAIL = rf"^[!-?A-~]{{1,{MAX_LOCAL_CHARS}}}@{_USUAL_DOMAIN}(?:\.{_USUAL_DOMAIN})+$"
_GMAIL_ENDING = r"@(?:gmail|googlemail)\.com$"
_USUAL_ID = rf"^[A-Z0-9]{{{MIN_ID_CHARS},{MAX_ID_CHARS}}}$"
_NOT_IN_ID = r"[^A-Z0-9]"
_ONE_CHARACTER = "^(?:" + "|".join(f"{character}+" for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") + ")$"
PhoneMode = Literal["valid", "possible"]


def normalise_email(raw: str) -> str | None:
    """The normal form of an e-mail address, or None if it cannot be one.

    Args:
        raw: As the partner has it.
    """
    if len(raw) > 4 * MAX_EMAIL_CHARS:
        return None
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raw).casefold()).strip()
    local, _, domain = text.rpartition("@")
    if domain in _GMAIL:
        local = local.replace(".", "")
    labels = domain.split(".")
    usable = (
        0 < len(local) <= MAX_LOCAL_CHARS
        and len(local) + 1 + len(domain) <= MAX_EMAIL_CHARS
        and "@" not in local
        and not any(character.isspace() or not character.isprintable() for character in local)
        and len(labels) > 1
        and all(len(label) <= 63 and _LABEL.fullmatch(label) for label in labels)
    )
    return f"{local}@{domain}" if usable else None


def normalise_phone(raw: str, *, region: str, mode: PhoneMode = "valid") -> str | None:
    """A phone number as E.164, or None if it cannot be one.

    Args:
        raw: As the partner has it.
        region: ISO 3166-1 alpha-2; the country of numbers that are written without one.
        mode: "valid" takes numbers that can be assigned; "possible" all of a right length, for fictional numbers.
    """
    text = unicodedata.normalize("NFKC", raw).strip()
    if not text or len(text) > MAX_PHONE_CHARS:
        return None
    if text.startswith("00"):
        text = "+" + text[2:]
    normal = _e164(text, region, mode)
    # Of "+95 00000000" the library takes one leading 0 away at each reading; what has no fixed form matches nothing.
    return normal if normal is not None and _e164(normal, region, mode) == normal else None


def _e164(text: str, region: str, mode: PhoneMode) -> str | None:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as exc:
        # The library knows no lengths for a country code that is not assigned; E.164 itself allows 15 digits.
        digits = "+" + "".join(_DIGIT.findall(text))
        unassigned = exc.error_type == exc.INVALID_COUNTRY_CODE and text.startswith("+") and _E164.fullmatch(digits)
        return digits if mode == "possible" and unassigned else None
    good = phonenumbers.is_valid_number if mode == "valid" else phonenumbers.is_possible_number
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)) if good(number) else None


def normalise_national_id(raw: str) -> str | None:
    """A national id by a rule that no country is needed for, or None if it cannot be one.

    Args:
        raw: As the partner has it; spaces, dots, dashes and slashes are only how people write it.
    """
    if len(raw) > 4 * MAX_ID_CHARS:
        return None
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raw).upper())
    kept = "".join(character for character in text if character.isalnum())
    usable = kept.isascii() and MIN_ID_CHARS <= len(kept) <= MAX_ID_CHARS
    # One character repeated, 0000000 or XXXXX, stands for "none" in every system that insists on a value.
    return kept if usable and len(set(kept)) > 1 else None


def normalise(raw: str, key_type: str, *, region: str, mode: PhoneMode = "valid") -> str | None:
    """The normal form of an identifier of one key type, or None. Raises ValueError for an unknown key type."""
    if key_type not in KEY_TYPES:
        raise ValueError(f"key type {key_type!r}")
    if key_type == "phone":
        return normalise_phone(raw, region=region, mode=mode)
    return normalise_email(raw) if key_type == "email" else normalise_national_id(raw)


def normalise_column(values: pa.Array, key_type: str, *, region: str, mode: PhoneMode = "valid") -> pa.Array:
    """``normalise`` of each text; null where it is None.

    What is written as nearly everybody writes it is done for all rows at once, the rest by ``normalise``, each distinct
    text once.

    Args:
        values: Texts, none of them null.
        key_type: One of ``KEY_TYPES``.
        region: See ``normalise_phone``.
        mode: See ``normalise_phone``.

    Raises:
        ValueError: an unknown key type.
    """
    if key_type == "email":
        # ASCII has one form under NFKC, and its case folding is lower case.
        plain = pc.ascii_lower(pc.ascii_trim(values, " "))
        usual = pc.and_(
            pc.match_substring_regex(plain, _USUAL_EMAIL), pc.less_equal(pc.binary_length(plain), MAX_EMAIL_CHARS)
        )
        usual = pc.and_(usual, pc.less_equal(pc.binary_length(values), 4 * MAX_EMAIL_CHARS))
        usual = pc.and_not(usual, pc.match_substring_regex(plain, _GMAIL_ENDING))
    elif key_type == "national_id":
        plain = pc.replace_substring_regex(pc.ascii_upper(values), _NOT_IN_ID, "")
        usual = pc.and_(pc.string_is_ascii(values), pc.match_substring_regex(plain, _USUAL_ID))
        usual = pc.and_(usual, pc.less_equal(pc.binary_length(values), 4 * MAX_ID_CHARS))
        usual = pc.and_not(usual, pc.match_substring_regex(plain, _ONE_CHARACTER))
    else:
        plain, usual = values, pa.array(np.zeros(len(values), bool))
    rest = values.filter(pc.invert(usual)).dictionary_encode()
    slow = [normalise(text, key_type, region=region, mode=mode) for text in rest.dictionary.to_pylist()]
    odd = pa.array(slow, pa.string()).take(rest.indices)
    return pc.replace_with_mask(plain, pc.invert(usual), odd) if len(odd) else plain
