"""Finds identifiers in free text before it may pass. Errs towards finding one: refusing a slogan costs little.

Text is read as a person reads it: in NFKC, without invisible characters, digits of every script as digits. Numbers that
carry a checksum (cards, IBAN, identity numbers of China and Singapore) are found by it, also inside of longer words;
telephone numbers by how many digits stand together, whatever marks stand between them, and how many there are in the
whole text. Dates, times and the noughts of round amounts do not count. It does not find names, nor what is spelt out in
words, nor a short number among words.
Source: ISO/IEC 7812-1 (Luhn), ISO 13616 (IBAN, modulo 97), GB 11643-1999 (identity number of China, ISO 7064 MOD 11-2).
"""

import re
import unicodedata
from typing import Final

MAX_SCAN_CHARS: Final = 4_096
MIN_DIGITS: Final = 8
"""Of a telephone number; one with a plus may have one less. Eight are the numbers of Singapore, Norway and others."""
MIN_DIGITS_IN_ALL: Final = 12
"""From so many on, digits are a number that was taken to pieces; two prices and a term have fewer."""
_BAND: Final = re.compile(r"([1-9][0-9]{0,5}00)-([1-9][0-9]{0,5}99)")
"""A band of large amounts such as 5000-19999, which has as many digits as a telephone number."""
_EMAIL: Final = re.compile(
    r"[^\s@<>(),;:\"]{1,64}@[^\s@<>(),;:\"]{1,190}"
    r"|[^\s@<>(),;:\"]{1,64}\s{0,3}@\s{0,3}[^\s@<>(),;:.\"]{1,64}\.[^\s@<>(),;:\"]{2,126}"
)
_DATE_OR_TIME: Final = re.compile(
    r"(?<![0-9])(?:[12][0-9]{3}[-/.][01]?[0-9][-/.][0-3]?[0-9]|[0-3]?[0-9][-/.][01]?[0-9][-/.](?:19|20)[0-9]{2}"
    r"|(?:19|20)[0-9]{2}[-/\u2013](?:19|20)[0-9]{2}|[0-2]?[0-9]:[0-5][0-9])(?![0-9])"
)
_ROUND: Final = re.compile(
    r"(?<![0-9])(?:([0-9]{1,3}(?:[.,][0-9]{3})*?)(?:[.,]000)+|([0-9]{1,3})(?: 000)+)(?:[.,]00)?(?![0-9])"
)
"""An amount in thousands: 10,000,000 or 10 000 000; of the second kind none that leaves more than three digits."""
_RUN: Final = re.compile(r"\+?[0-9](?:[\W_]{0,3}[0-9])*")
_CN_ID: Final = re.compile(r"(?<![0-9])(?=([1-9][0-9]{5}[12][0-9]{3}[01][0-9][0-3][0-9]{4}[0-9Xx])(?![0-9]))")
_SG_ID: Final = re.compile(r"(?<![A-Za-z0-9])[STFGMstfgm][0-9]{7}[A-Za-z](?![A-Za-z0-9])")
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]){11,30}))")
_INVISIBLE: Final = frozenset({"Cf", "Cc", "Mn"})
_CN_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def identifiers(text: str) -> tuple[str, ...]:
    """Kinds of identifiers in a text, in words that may be shown: ``e-mail address``, ``telephone number`` and so on.

    Args:
        text: At most MAX_SCAN_CHARS characters; a longer one is not read and counts as holding something.
    """
    if len(text) > MAX_SCAN_CHARS:
        return ("text that is too long to be searched",)
    if _is_band(text):
        return ()
    plain = _as_read(text)
    if "@" not in plain and not _digits(plain)[MIN_DIGITS - 2 :]:
        return ()
    found: list[str] = []
    if _EMAIL.search(plain):
        found.append("e-mail address")
    if any(_is_cn_id(match[1]) for match in _CN_ID.finditer(plain)):
        found.append("identity number of China")
    if any(_is_sg_id(match[0]) for match in _SG_ID.finditer(plain)):
        found.append("identity number of Singapore")
    if any(_holds_iban(match[1]) for match in _IBAN.finditer(plain)):
        found.append("IBAN")
    counted = _ROUND.sub(lambda amount: amount[1] or amount[2], _DATE_OR_TIME.sub(" ", plain))
    runs = [match[0] for match in _RUN.finditer(counted)]
    if any(_holds_card(_digits(run)) for run in runs):
        found.append("card number")
    # No upper limit: two numbers side by side read as one long one.
    together = any(len(_digits(run)) >= MIN_DIGITS - run.startswith("+") for run in runs)
    if together or len(_digits(counted)) >= MIN_DIGITS_IN_ALL:
        found.append("telephone number")
    return tuple(found)


def _is_band(text: str) -> bool:
    """The whole text is a rising range between round numbers: what the mask of that name makes of an amount."""
    match = _BAND.fullmatch(text)
    return match is not None and int(match[1]) < int(match[2])


def _as_read(text: str) -> str:
    """NFKC, digits of every script as ASCII, nothing invisible."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) not in _INVISIBLE)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in shown)


def _digits(text: str) -> str:
    return "".join(c for c in text if "0" <= c <= "9")


def _holds_card(digits: str) -> bool:
    """Whether 13 to 19 digits in a row of a run have a Luhn checksum and begin as cards do."""
    sizes = range(13, min(19, len(digits)) + 1)
    return any(
        digits[start] in "23456" and _luhn(digits[start : start + size])
        for size in sizes
        for start in range(len(digits) - size + 1)
        if start == 0 or size in {15, 16}
    )


def _luhn(digits: str) -> bool:
    doubled = (int(d) * (2 if place % 2 else 1) for place, d in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _is_cn_id(number: str) -> bool:
    rest = sum(int(digit) * weight for digit, weight in zip(number, _CN_WEIGHTS, strict=False)) % 11
    return "10X98765432"[rest] == number[17].upper()


def _is_sg_id(number: str) -> bool:
    """The check letter of NRIC and FIN. Source: the weights in public use; the authority does not publish them."""
    number = number.upper()
    total = sum(int(d) * weight for d, weight in zip(number[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True))
    letters, shift = {
        "S": ("JZIHGFEDCBA", 0),
        "T": ("JZIHGFEDCBA", 4),
        "F": ("XWUTRQPNMLK", 0),
        "G": ("XWUTRQPNMLK", 4),
        "M": ("KLJNPQRTUWX", 3),
    }[number[0]]
    rest = (total + shift) % 11
    return letters[10 - rest if number[0] == "M" else rest] == number[8]


def _holds_iban(text: str) -> bool:
    """Whether a beginning of the text is an IBAN of some length."""
    number = text.replace(" ", "").upper()
    return any(_mod_97(number[:size]) for size in range(15, min(34, len(number)) + 1))


def _mod_97(number: str) -> bool:
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1
