"""What a partner sends under its own key is, once converted, what it would be under its key as a hop."""

import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.overlap.blind import ZERO, blind
from federation.overlap.hash_to_curve import hash_to_curve
from federation.overlap.own_key import ORDER, OwnKey, _clamped, make_own_key, renewed

KEYS = st.binary(min_size=32, max_size=32)
EDGES = st.sampled_from([bytes(32), b"\xff" * 32, (1).to_bytes(32, "little"), ORDER.to_bytes(32, "little")])


@settings(max_examples=200, deadline=None)
@given(KEYS | EDGES, KEYS | EDGES, st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_converted_rows_are_under_the_key_of_a_hop(hop_key: bytes, other: bytes, texts: list[bytes]) -> None:
    hop, own = X25519PrivateKey.from_private_bytes(hop_key), OwnKey.from_bytes(make_own_key(hop_key, os.urandom))
    points = hash_to_curve(texts, b"dst") + ZERO  # of which some have a part of small order
    through = X25519PrivateKey.from_private_bytes(other)
    conversion = X25519PrivateKey.from_private_bytes(own.conversion)
    sent = blind(points, own.key).points
    assert sent != blind(points, hop).points
    assert blind(blind(sent, through).points, conversion).points == blind(blind(points, hop).points, through).points


@given(KEYS | EDGES)
def test_a_conversion_is_a_clamped_scalar_that_leads_from_one_key_to_the_other(hop_key: bytes) -> None:
    made = make_own_key(hop_key, os.urandom)
    own, ratio = _clamped(made[:32]), int.from_bytes(made[32:], "little")
    assert ratio == _clamped(made[32:])
    assert (own * ratio - _clamped(hop_key)) % ORDER == 0
    assert make_own_key(hop_key, os.urandom) != made


@settings(max_examples=200, deadline=None)
@given(KEYS | EDGES, st.booleans(), st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_rows_that_are_sent_again_are_other_points_and_become_the_same(
    hop_key: bytes, two_partners: bool, texts: list[bytes]
) -> None:
    hop = X25519PrivateKey.from_private_bytes(hop_key)
    own = OwnKey(hop) if two_partners else OwnKey.from_bytes(make_own_key(hop_key, os.urandom))
    again = renewed(own, os.urandom)
    first = blind(hash_to_curve(texts, b"dst"), own.key).points
    second = blind(first, again.key).points
    assert not {first[at : at + 32] for at in range(0, len(first), 32)} & {second[:32]}
    converted = blind(second, X25519PrivateKey.from_private_bytes(again.conversion)).points
    assert converted == blind(hash_to_curve(texts, b"dst"), hop).points
