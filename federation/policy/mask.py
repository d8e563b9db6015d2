"""Masks: how much of a value a recipient may see.

Every mask is idempotent, and shows nothing that its input does not hold. ``phone``, ``email``, ``card``, ``id_number``,
``name``, ``year``, ``country`` are never longer than their input; ``band`` tells only between which edges a number
lies; ``pseudonym`` is a keyed digest. A value that a mask cannot read is dropped, never passed.
"""

import hashlib
import hmac
import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Final

from federation.core.errors import PolicyError, Reason
from federation.policy.facts import Obligations
from federation.policy.scan import identifiers

KEEP: Final = "keep"
PSEUDONYM: Final = "pseudonym"
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{48}")
DEFAULT_EDGES: Final = (0, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
MAX_VALUE_CHARS: Final = 256
_BAND: Final = re.compile(r"band(?:\((-?\d{1,12}(?:,-?\d{1,12})*)\))?")
_ISO_DATE: Final = re.compile(r"([12][0-9]{3})(?:-[01][0-9](?:-[0-3][0-9](?:[T ][0-9:.+Z-]*)?)?)?")
_OTHER_DATE: Final = re.compile(r"([12][0-9]{3})[/.年][01]?[0-9][/.月][0-3]?[0-9]日?")
_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,95}")


def _keep_ends(value: str, head: int, tail: int, shortest: int) -> str | None:
    """The first and last characters with stars between, or only stars when that would show too much of the value."""
    if len(value) < shortest:
        return "*" * len(value) or None
    return value[:head] + "*" * (len(value) - head - tail) + value[-tail:]


def _digits(value: str) -> str:
    """Decimal digits of any script as ASCII, and stars; nothing else."""
    return "".join("*" if c == "*" else str(unicodedata.decimal(c)) for c in value if c == "*" or c.isdecimal())


def _phone(value: str) -> str | None:
    return _keep_ends(_digits(value), 3, 4, 11)


def _card(value: str) -> str | None:
    return _keep_ends(_digits(value), 6, 4, 13)


def _id_number(value: str) -> str | None:
    return _keep_ends("".join(c for c in value if c == "*" or (c.isascii() and c.isalnum())), 3, 4, 12)


def _first(value: str) -> str:
    """The first character where it is a letter or digit; a mark, an emoji or an invisible one shows nothing."""
    return value[0] if unicodedata.category(value[0])[0] in "LN" else ""


def _email(value: str) -> str | None:
    value = value.strip()
    local, at, _ = value.partition("@")
    head = _first(local) if at and len(local) > 2 else ""
    return head + "*" * min(3, len(value) - len(head) - len(at)) + at or None


def _name(value: str) -> str | None:
    value = value.strip()
    head = _first(value) if len(value) > 1 else ""
    return head + "*" * min(3, len(value) - len(head)) or None


def _year(value: str) -> str | None:
    """Of a date that begins with its year, ``1984-05-31``, ``1984/5/31``, ``1984年5月31日``; others are ambiguous."""
    value = unicodedata.normalize("NFKC", value.strip())
    match = _ISO_DATE.fullmatch(value) or _OTHER_DATE.fullmatch(value)
    return match[1] if match else None


def _country(value: str) -> str | None:
    match = re.fullmatch(r"([A-Za-z]{2})(?:-[A-Za-z0-9]{1,3})?", value.strip())
    return match[1].upper() if match else None


def _band(value: str, edges: tuple[int, ...]) -> str | None:
    """Between which edges a number lies: ``<18``, ``18-29``, ``75+``. A band in, the narrowest band around it out."""
    value = value.strip()
    if match := re.fullmatch(r"<(-?[0-9]{1,15})", value):
        low, high = 0, bisect_left(edges, int(match[1]))
    elif match := re.fullmatch(r"(-?[0-9]{1,15})\+", value):
        low, high = bisect_right(edges, int(match[1])), len(edges)
    elif match := re.fullmatch(r"(-?[0-9]{1,15})-(-?[0-9]{1,15})", value):
        low, high = bisect_right(edges, int(match[1])), bisect_right(edges, int(match[2]))
    elif re.fullmatch(r"[-+]?[0-9]{1,15}(\.[0-9]{1,15})?", value):
        low = high = bisect_right(edges, float(value))
    else:
        return None
    if low > high or (low == 0 and high == len(edges)):
        return None
    if low == 0:
        return f"<{edges[high]}"
    if high == len(edges):
        return f"{edges[low - 1]}+"
    return f"{edges[low - 1]}-{edges[high] - 1}"


def is_pseudonym(value: str) -> bool:
    """Whether a value has the form of a pseudonym; without the key nobody can say more."""
    return _PSEUDONYM.fullmatch(value) is not None


def _pseudonym(value: str, key: bytes) -> str | None:
    """HMAC-SHA256 under the recipient's key. The last 16 digits prove that it is one already under this key."""
    if len(key) < 16:
        raise PolicyError(Reason.OBLIGATION_FAILED, item="mask pseudonym", detail="no key for the recipient")

    def tag(body: str) -> str:
        return hmac.new(key, b"entente/pseudonym/tag\x00" + body.encode(), hashlib.sha256).hexdigest()[:16]

    if is_pseudonym(value) and hmac.compare_digest(value[32:], tag(value[:32])):
        return value
    data = b"entente/pseudonym/value\x00" + value.encode("utf-8", "surrogatepass")
    body = hmac.new(key, data, hashlib.sha256).hexdigest()[:32]
    return body + tag(body)


_SIMPLE: Final[Mapping[str, Callable[[str], str | None]]] = {
    "phone": _phone,
    "card": _card,
    "id_number": _id_number,
    "email": _email,
    "name": _name,
    "year": _year,
    "country": _country,
    "drop": lambda _: None,
    KEEP: lambda value: value,
}


@lru_cache(maxsize=256)
def _edges(mask: str) -> tuple[int, ...] | None:
    """Edges of a band mask in rising order; None for another mask."""
    match = _BAND.fullmatch(mask)
    if match is None:
        return None
    edges = tuple(int(edge) for edge in match[1].split(",")) if match[1] else DEFAULT_EDGES
    return edges if list(edges) == sorted(set(edges)) else None


def shown_as_it_is(mask: str) -> int | None:
    """A whole number that a band mask shows as it is, because the band holds nothing else; None for none."""
    edges = _edges(mask) or ()
    return next((low for low, after in pairwise(edges) if after == low + 1), None)


def check_mask(mask: str) -> None:
    """Raises PolicyError (OBLIGATION_FAILED) for a mask that we do not have."""
    if mask not in _SIMPLE and mask != PSEUDONYM and _edges(mask) is None:
        raise PolicyError(Reason.OBLIGATION_FAILED, item="unknown mask")


def apply(mask: str, value: str, key: bytes = b"") -> str | None:
    """Masks one value.

    Args:
        mask: ``keep``, ``drop``, ``band``, ``band(18,30,45)``, ``country``, ``year``, ``phone``, ``email``, ``card``,
            ``id_number``, ``name`` or ``pseudonym``.
        value: At most MAX_VALUE_CHARS characters.
        key: At least 16 bytes, one per recipient, for ``pseudonym`` only; see ``recipient_key``.

    Returns:
        The masked value, or None when nothing of it may pass.

    Raises:
        PolicyError: OBLIGATION_FAILED for an unknown mask, a value that is too long, or a missing key.
    """
    if not isinstance(value, str) or len(value) > MAX_VALUE_CHARS:
        raise PolicyError(Reason.OBLIGATION_FAILED, item="a value that is no text or too long to mask")
    if simple := _SIMPLE.get(mask):
        return simple(value)
    if mask == PSEUDONYM:
        return _pseudonym(value, key)
    edges = _edges(mask)
    if edges is None:
        raise PolicyError(Reason.OBLIGATION_FAILED, item="unknown mask")
    return _band(value, edges)


def apply_obligations(attributes: Mapping[str, str], obligations: Obligations, key: bytes = b"") -> dict[str, str]:
    """Masks the fields of a request; a field that the permit does not name is refused, not dropped.

    A field that passes as it is is searched for identifiers, and refused with its name where it holds one.

    Args:
        attributes: Field name to value.
        obligations: Of the decision that permitted the request.
        key: See ``apply``.

    Returns:
        The fields that remain, masked.

    Raises:
        PolicyError: OBLIGATION_FAILED.
    """
    masked: dict[str, str] = {}
    for name, value in attributes.items():
        mask = obligations.mask.get(name)
        if mask is None:
            shown = name if _NAME.fullmatch(name) else "with an unusual name"
            raise PolicyError(Reason.OBLIGATION_FAILED, item=f"field {shown}, which the permit does not name")
        capped = _capped(value, obligations.cap.get(name))
        result = None if capped is None else apply(mask, capped, key)
        if mask == KEEP and result is not None and (held := identifiers(result)):
            raise PolicyError(Reason.OBLIGATION_FAILED, item=f"field {name}, which holds: {', '.join(held)}")
        if result is not None:
            masked[name] = result
    return masked


def _capped(value: str, cap: float | None) -> str | None:
    """The value, at most the cap; with a cap, what is no number is dropped."""
    if cap is None:
        return value
    number = _number(value)
    if number is None:
        return None
    return f"{cap:.15g}" if number > cap else value


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def recipient_key(master: bytes, recipient: str) -> bytes:
    """The pseudonym key of one recipient, so that two recipients cannot join what they got.

    Args:
        master: At least 32 secret bytes of the sender.
        recipient: Party id.

    Returns:
        32 bytes.
    """
    if len(master) < 32:
        raise PolicyError(Reason.OBLIGATION_FAILED, item="pseudonym key shorter than 32 bytes")
    return hmac.new(master, b"entente/pseudonym/key\x00" + recipient.encode(), hashlib.sha256).digest()
