"""The key under which a partner sends its own rows: not the one with which it blinds others'.

With one key k for both, two of three partners could compare a third one's customers with their own, without the
gateway: one of them has its batch, k H(y), and gets the other's batch back from it, k k' H(x), of which the other knows
k'. So a partner's own rows are under a key c of their own, which nothing else is blinded with, and the gateway alone is
given d = k / c, by which it multiplies them at the end of their way. Then they are under k as everybody else's are, and
equal people are equal tokens. Nobody without d can compare points under c with points under k (that is deciding whether
four points are a Diffie-Hellman quadruple). And d is random: it says of k no more than that k / d is a clamped scalar.

For the same reason rows can be sent twice without a hop that sees both telling that they are the same: under c, and
multiplied by a fresh r; the gateway is given d / r for the second. So are the decoys (``decoys``), and every batch of a
delta, whose rows mostly were sent before.

X25519 multiplies by clamped scalars only: multiples of eight from 2^254 on. What a scalar does to a point that was
multiplied once follows from it modulo the order of the large subgroup, so one looks for a c of which d has a clamped
spelling. Half of them do. Source: RFC 7748, section 5; Bernstein 2006 (Curve25519), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.core.ids import POINT_BYTES

KEY_BYTES = 32
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the subgroup in which every point is once it was multiplied by a clamped scalar."""
COFACTOR = 8


@dataclass(frozen=True)
class OwnKey:
    """Blinds a partner's own rows; ``conversion`` is for the gateway, "" where the key is the one of a hop."""

    key: X25519PrivateKey
    conversion: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> "OwnKey":
        """What ``make_own_key`` made."""
        return cls(X25519PrivateKey.from_private_bytes(data[:KEY_BYTES]), data[KEY_BYTES:])


def make_own_key(hop_key: bytes, random: Callable[[int], bytes]) -> bytes:
    """A fresh key for one's own rows, and behind it the scalar that leads from it to the key of a hop.

    Args:
        hop_key: 32 bytes.
        random: A CSPRNG.
    """
    return b"".join(_divided(_clamped(hop_key), random))


def renewed(own: OwnKey, random: Callable[[int], bytes]) -> OwnKey:
    """A fresh scalar for rows that are under a key already, and what leads from where they are then to a hop's key."""
    factor, conversion = _divided(_clamped(own.conversion) if own.conversion else 1, random)
    return OwnKey(X25519PrivateKey.from_private_bytes(factor), conversion)


def _divided(wanted: int, random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """A fresh scalar, and one by which points must be multiplied after it so that both together are as wanted."""
    while True:
        factor = random(KEY_BYTES)
        ratio = wanted * pow(_clamped(factor), -1, ORDER) % ORDER
        # The one number below eight times the order that is this modulo the order, and a multiple of eight.
        ratio += ORDER * (-ratio * pow(ORDER, -1, COFACTOR) % COFACTOR)
        if ratio >> 254 == 1:
            return factor, ratio.to_bytes(POINT_BYTES, "little")


def _clamped(key: bytes) -> int:
    """The number by which X25519 multiplies."""
    number = int.from_bytes(key, "little")
    return number & ~(COFACTOR - 1) & (1 << 254) - 1 | 1 << 254
