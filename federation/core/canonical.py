"""One byte string for one value: what is hashed, signed or logged goes through here.

JSON with sorted keys, no spaces, UTF-8, no NaN or infinity. Floats are written by ``repr``, which is the shortest form
that reads back the same; so equal values give equal bytes on every Python we support.
"""

import hashlib
import json
from typing import Any

from federation.core.errors import DataError, Reason


def canonical_json(value: Any) -> bytes:
    """Canonical bytes of a JSON-like value. Raises DataError (NOT_CANONICAL) for what JSON cannot hold."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError) as exc:
        raise DataError(Reason.NOT_CANONICAL, detail=str(exc)) from exc


def digest_hex(value: Any) -> str:
    """SHA-256 of the canonical bytes, hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
