"""Blinding: X25519 as the RFC has it, and what becomes of points that are not what they should be."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.core.errors import OverlapError, Reason
from federation.overlap.blind import ZERO, blind, low_order_rows
from federation.overlap.hash_to_curve import hash_to_curve
from tests.kits.native import PATHS, taking

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "rfc7748.json").read_text())
P = 2**255 - 19
ORDER_8 = (
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
)  # https://cr.yp.to/ecdh.html#validate
KEY = X25519PrivateKey.from_private_bytes(b"\x42" * 32)


@pytest.fixture(params=PATHS, autouse=True)
def _path(request: pytest.FixtureRequest) -> Iterator[None]:
    with taking(request.param):
        yield


def le(u: int) -> bytes:
    return u.to_bytes(32, "little")


LOW = [le(0), le(1), *map(bytes.fromhex, ORDER_8), le(P - 1), le(P), le(P + 1)]


def high(point: bytes) -> bytes:
    return point[:-1] + bytes([point[-1] | 0x80])


def times(scalar: bytes, point: bytes) -> bytes:
    return blind(point, X25519PrivateKey.from_private_bytes(scalar)).points


@pytest.mark.parametrize("vector", VECTORS["multiplications"])
def test_rfc_7748_vectors(vector: dict[str, str]) -> None:
    assert times(bytes.fromhex(vector["scalar"]), bytes.fromhex(vector["u"])).hex() == vector["out"]


def test_rfc_7748_a_thousand_iterations() -> None:
    scalar = point = bytes.fromhex(VECTORS["iterated"]["start"])
    for round_ in range(1000):
        scalar, point = times(scalar, point), scalar
        if round_ == 0:
            assert scalar.hex() == VECTORS["iterated"]["1"]
    assert scalar.hex() == VECTORS["iterated"]["1000"]


def test_low_order_points_are_reported_by_row_and_stay_zero() -> None:
    good = hash_to_curve([b"a", b"b"], b"dst")
    rows = good[:32] + b"".join(LOW) + b"".join(map(high, LOW)) + good[32:]
    expected = tuple(range(1, 1 + 2 * len(LOW)))
    once = blind(rows, KEY)
    assert once.low_order_rows == expected == tuple(low_order_rows(rows))
    assert all(once.points[32 * row : 32 * row + 32] == ZERO for row in expected)
    assert blind(once.points, KEY).low_order_rows == expected
    assert ZERO not in (once.points[:32], once.points[-32:])


def test_other_spellings_of_a_point_become_one_token() -> None:
    point = hash_to_curve([b"a"], b"dst")
    small = le(9)  # the only points with a second spelling below 2^255 are below 19
    twins = blind(point + high(point) + small + le(9 + P) + high(le(9 + P)), KEY).points
    tokens = [twins[at : at + 32] for at in range(0, len(twins), 32)]
    assert len(set(tokens[:2])) == 1
    assert len(set(tokens[2:])) == 1


def test_the_order_of_keys_does_not_matter() -> None:
    keys = [X25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3)]
    forth = back = hash_to_curve([b"a", b"b"], b"dst")
    for first, last in zip(keys, reversed(keys), strict=True):
        forth, back = blind(forth, first).points, blind(back, last).points
    assert forth == back


def test_a_point_that_is_cut_short_is_named() -> None:
    for act in (low_order_rows, lambda points: blind(points, KEY)):
        with pytest.raises(OverlapError) as caught:
            act(bytes(32 * 3 + 31))
        assert caught.value.reason is Reason.BAD_POINT
        assert "row 3" in caught.value.item
