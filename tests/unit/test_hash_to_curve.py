"""Hash to curve against the RFC's vectors, and the properties that the protocol leans on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.core.errors import OverlapError, Reason
from federation.overlap.blind import blind
from federation.overlap.hash_to_curve import domain, hash_to_curve, hash_to_field, map_to_curve
from federation.overlap.plan import STATISTICS, SWITCHBOARD
from federation.v1 import overlap_pb2 as pb
from tests.kits.native import PATHS, taking

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "rfc9380.json").read_text())
P, A = 2**255 - 19, 486662
PLAN = pb.EpochPlan(alliance="skyline", epoch="2026-11-01.1", key_type="email", rules="1", partners=["bank", "insurer"])


@pytest.fixture(params=PATHS, autouse=True)
def _path(request: pytest.FixtureRequest) -> Iterator[None]:
    with taking(request.param):
        yield


def times_eight(u: int) -> int:
    """[8]u by three doublings on the Montgomery curve (RFC 7748, section 5), written down a second time."""
    x, z = u, 1
    for _ in range(3):
        plus, minus = (x + z) ** 2 % P, (x - z) ** 2 % P
        gap = plus - minus
        x, z = plus * minus % P, gap * (plus + (A - 2) // 4 * gap) % P
    return x * pow(z, -1, P) % P


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["msg"][:16] or "empty")
def test_rfc_9380_vectors(vector: dict[str, str]) -> None:
    message, dst = vector["msg"].encode(), VECTORS["dst"].encode()
    element = hash_to_field(message, dst)
    assert element == int(vector["u"], 16)
    assert map_to_curve([element]) == [int(vector["q_x"], 16)]
    assert times_eight(int.from_bytes(hash_to_curve([message], dst), "little")) == int(vector["p_x"], 16)


def test_a_batch_is_the_same_as_one_at_a_time() -> None:
    messages = [b"%d@example.com" % n for n in range(600)]  # more than two shared inversions
    assert hash_to_curve(messages, b"dst") == b"".join(hash_to_curve([m], b"dst") for m in messages)
    assert hash_to_curve([], b"dst") == b""


def test_every_point_is_on_the_curve_and_never_on_its_twist() -> None:
    points = hash_to_curve([b"%d" % n for n in range(300)], b"dst")
    for start in range(0, len(points), 32):
        u = int.from_bytes(points[start : start + 32], "little")
        assert pow(u * (u * (u + A) + 1) % P, (P - 1) // 2, P) in {0, 1}


def test_raw_hash_bytes_would_show_which_side_they_are_on_through_any_blinding() -> None:
    """The reason for this module: what a naive mapping leaks is still there after three keys."""
    key = [X25519PrivateKey.generate() for _ in range(3)]
    for n in range(8):
        u = int.from_bytes(n.to_bytes(1, "big") * 31, "little")
        point = u.to_bytes(32, "little")
        for one in key:
            point = blind(point, one).points
        v = int.from_bytes(point, "little")
        side = [pow(x * (x * (x + A) + 1) % P, (P - 1) // 2, P) for x in (u, v)]
        assert n == 0 or side[0] == side[1]


def test_domains_differ_in_every_part() -> None:
    changed = [{"alliance": "other"}, {"epoch": "2026-11-01.2"}, {"key_type": "phone"}, {"rules": "2"}]
    plans = [PLAN] + [pb.EpochPlan.FromString(PLAN.SerializeToString()) for _ in changed]
    for plan, change in zip(plans[1:], changed, strict=True):
        plan.MergeFrom(pb.EpochPlan(**change))
    tags = {domain(plan, index) for plan in plans for index in (STATISTICS, SWITCHBOARD)}
    assert len(tags) == 2 * len(plans)


def test_a_domain_that_could_be_read_two_ways_is_refused() -> None:
    for plan in (pb.EpochPlan(alliance="a/b", epoch="c"), pb.EpochPlan(alliance="a", epoch="e" * 255)):
        with pytest.raises(OverlapError) as caught:
            domain(plan, STATISTICS)
        assert caught.value.reason is Reason.BAD_FIELD
    with pytest.raises(OverlapError):
        domain(PLAN, pb.INDEX_UNSPECIFIED)
