"""An identifier as a point of Curve25519: the u-coordinate of RFC 9380's curve25519_XMD:SHA-512_ELL2_NU_.

Why not raw hash bytes as u: half of all u belong to the curve and half to its twist, and no multiplication moves a
point from one to the other. Every blinded token would show that bit of the identifier's hash to all who see it: a test
of any guess, right half of the time, that no key protects against. Elligator 2 only ever lands on the curve.

Why NU (one map) and not RO (the sum of two): the tokens' secrecy needs points whose discrete logarithms to each other
nobody knows and that no two identifiers share, not points that are uniform. Elligator 2 reaches about half of the
curve, and two identifiers that collide would still have to collide as 255-bit field elements, up to sign.

Why the cofactor is not cleared here: the first thing that happens to a point is X25519 by a clamped scalar, which is a
multiple of 8. That clears it, so no token carries a component of small order. Points of this module alone may; they
must never be sent or compared.

The C kernel does all of it where it can (see ``native``); the functions of this module are the portable path, with the
same answers. Neither hides an identifier from somebody who can time this process or share its caches: the partner's own
machine is trusted with its own identifiers.

Source: RFC 9380, sections 5.3.1, 6.7.1 and 8.5.
"""

import hashlib
from collections.abc import Sequence

import gmpy2
import numpy as np
import pyarrow as pa

from federation.core.errors import OverlapError, Reason
from federation.overlap.native import load_kernel
from federation.overlap.plan import INDEX_NAMES
from federation.v1 import overlap_pb2 as pb

SUITE = "curve25519_XMD:SHA-512_ELL2_NU_"
MAX_DST_BYTES = 255
_P = gmpy2.mpz(2**255 - 19)
_A = 486662
_BATCH = 256  # maps that share one inversion
_FIELD_BYTES = 48  # L of the suite
_Z_PAD = hashlib.sha512(bytes(128))


def domain(plan: pb.EpochPlan, index: int) -> bytes:
    """The domain separation tag of one index of one epoch: equal identifiers meet only where all of it is equal.

    Raises:
        OverlapError: BAD_FIELD for an unknown index or names that are too long together.
    """
    if index not in INDEX_NAMES:
        raise OverlapError(Reason.BAD_FIELD, item="field index")
    # No part can hold a slash, so no two lists of parts give the same tag.
    parts = ("ENTENTE", "V01", plan.alliance, INDEX_NAMES[index], plan.key_type, plan.rules, plan.epoch, SUITE)
    tag = "/".join(parts).encode()
    if len(tag) > MAX_DST_BYTES or any("/" in part for part in parts):
        raise OverlapError(Reason.BAD_FIELD, item="hash domain")
    return tag


def hash_to_field(message: bytes, dst: bytes) -> int:
    """One element of the field. Source: RFC 9380, section 5.2 with expand_message_xmd (5.3.1), count 1."""
    dst_prime = dst + bytes([len(dst)])
    first = _Z_PAD.copy()
    first.update(message + _FIELD_BYTES.to_bytes(2, "big") + b"\0" + dst_prime)
    uniform = hashlib.sha512(first.digest() + b"\x01" + dst_prime).digest()[:_FIELD_BYTES]
    return int.from_bytes(uniform, "big") % int(_P)


def map_to_curve(elements: Sequence[int]) -> list[int]:
    """Elligator 2 for each element; only the u-coordinate, so no square root is taken.

    x1 = -A / (1 + 2 r^2) is on the curve or else -A - x1 is. The divisors of a batch are inverted together
    (Montgomery's trick) and squareness is a Jacobi symbol. 1 + 2 r^2 is never 0, because -1/2 is not a square mod p.
    Source: RFC 9380, section 6.7.1 with Z = 2; appendix G.2.1.
    """
    points: list[int] = []
    for start in range(0, len(elements), _BATCH):
        divisors = [(1 + 2 * gmpy2.mpz(r) * r) % _P for r in elements[start : start + _BATCH]]
        products = [gmpy2.mpz(1)]
        for divisor in divisors:
            products.append(products[-1] * divisor % _P)
        inverse = gmpy2.invert(products.pop(), _P)
        batch = []
        for divisor, product in zip(reversed(divisors), reversed(products), strict=True):
            x = -_A * inverse * product % _P
            inverse = inverse * divisor % _P
            if gmpy2.legendre(x * (x * (x + _A) + 1) % _P, _P) < 0:
                x = (-_A - x) % _P
            batch.append(int(x))
        points += reversed(batch)
    return points


def hash_to_curve(messages: Sequence[bytes], dst: bytes) -> bytes:
    """Points for messages, before the cofactor is cleared.

    Args:
        messages: Normalised identifiers, UTF-8.
        dst: See ``domain``.

    Returns:
        32 bytes each, little-endian u, in the order given.

    Raises:
        OverlapError: BAD_FIELD for a tag of more than 255 bytes.
    """
    if len(dst) > MAX_DST_BYTES:
        raise OverlapError(Reason.BAD_FIELD, item="hash domain")
    kernel = load_kernel()
    if kernel is not None:
        return kernel.hash_to_curve(messages, dst)
    return b"".join(u.to_bytes(32, "little") for u in map_to_curve([hash_to_field(m, dst) for m in messages]))


def hash_column(texts: pa.Array, dst: bytes) -> bytes:
    """As ``hash_to_curve``, for a column of texts without nulls, which is not copied.

    Raises:
        OverlapError: BAD_FIELD for a tag of more than 255 bytes.
    """
    kernel = load_kernel()
    if kernel is None or len(dst) > MAX_DST_BYTES:
        return hash_to_curve([text.encode() for text in texts.to_pylist()], dst)
    _, places, data = texts.buffers()
    ends = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    first, last = (int(ends[0]), int(ends[-1])) if len(texts) else (0, 0)
    text = np.frombuffer(data, np.uint8)[first:last] if last > first else np.empty(0, np.uint8)
    return kernel.hash_texts(text, (ends[1:] - first).astype(np.uint64), dst)
