"""Blinding: many points times one secret scalar, by X25519.

The C kernel does the arithmetic where it can (see ``native``), ``cryptography`` (OpenSSL) elsewhere, both in constant
time and with the same answers. X25519 ignores the high bit of u and takes u mod p
(RFC 7748, section 5), and what it returns is canonical: so a point's non-canonical spellings and high-bit twins become
one and the same blinded point, and collapse when tokens are counted.

A point of low order times a clamped scalar is zero, whatever the scalar. It would let whoever sent it mark a row, so it
is reported by row number, stays a row of zeros through every later hop (the row count is signed) and never counts.
"""

from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from federation.core.errors import OverlapError, Reason
from federation.core.ids import POINT_BYTES
from federation.overlap.native import load_kernel

CHUNK_ROWS = 1 << 15
ZERO = bytes(POINT_BYTES)
_P = 2**255 - 19
_ORDER_8 = (
    0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
)
# Every 255-bit spelling of u in {0, 1, -1, the two of order 8}; only 0 and 1 have a second one below 2^255.
_LOW_ORDER = frozenset(u.to_bytes(POINT_BYTES, "little") for u in (0, 1, *_ORDER_8, _P - 1, _P, _P + 1))
_LOW_ORDER_WORDS = np.array([int.from_bytes(point[:8], "little") for point in _LOW_ORDER], np.uint64)


@dataclass(frozen=True)
class Blinded:
    """Blinded points, and which rows were of low order and are now zero."""

    points: bytes
    low_order_rows: tuple[int, ...]


def row_count(points: bytes) -> int:
    """Rows of a byte string of points. Raises OverlapError (BAD_POINT) where a point is cut short."""
    if len(points) % POINT_BYTES:
        raise OverlapError(Reason.BAD_POINT, item=f"row {len(points) // POINT_BYTES}: wrong length")
    return len(points) // POINT_BYTES


def low_order_rows(points: bytes) -> list[int]:
    """Rows, from 0, whose point has low order in any spelling. Raises OverlapError (BAD_POINT) as ``row_count``."""
    row_count(points)
    first_words = np.frombuffer(points, "<u8")[:: POINT_BYTES // 8]
    # Few points share even the first eight bytes with one of low order.
    suspects = np.flatnonzero(np.isin(first_words, _LOW_ORDER_WORDS)).tolist()
    return [row for row in suspects if _without_high_bit(points, row) in _LOW_ORDER]


def _without_high_bit(points: bytes, row: int) -> bytes:
    *rest, last = points[row * POINT_BYTES : (row + 1) * POINT_BYTES]
    return bytes([*rest, last & 0x7F])


def blind(points: bytes, key: X25519PrivateKey) -> Blinded:
    """Multiplies each point by a key.

    Args:
        points: 32 bytes a row, in any spelling.
        key: The partner's key for one index of one epoch.

    Returns:
        As many rows, in the same order, each canonical.

    Raises:
        OverlapError: BAD_POINT where the last point is cut short.
    """
    row_count(points)
    kernel = load_kernel()
    if kernel is None:
        return _blind_portably(points, key)
    blinded, low_order = kernel.blind(points, key.private_bytes_raw())
    return Blinded(blinded, tuple(low_order))


def _blind_portably(points: bytes, key: X25519PrivateKey) -> Blinded:
    """One point after another; threads would not help, because the library keeps the interpreter's lock."""
    load, exchange = X25519PublicKey.from_public_bytes, key.exchange
    blinded, low_order = bytearray(), []
    for row in range(len(points) // POINT_BYTES):
        try:
            blinded += exchange(load(points[row * POINT_BYTES : (row + 1) * POINT_BYTES]))
        except ValueError:  # the library's answer to an all-zero result
            blinded += ZERO
            low_order.append(row)
    return Blinded(bytes(blinded), tuple(low_order))
