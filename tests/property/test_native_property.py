"""The kernel and the portable path give the same answers, whatever the bytes."""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from federation.core.ids import POINT_BYTES
from federation.overlap.blind import blind, low_order_rows
from federation.overlap.hash_to_curve import hash_to_curve, hash_to_field, map_to_curve
from tests.kits.native import need_kernel, taking

P = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
NEAR = [base + step for base in (0, P, 2 * P, 2**255, 2**256 - 1) for step in (-19, -2, -1, 0, 1, 2, 18, 19)]
EDGES = [*NEAR, *ORDER_8, *(u + 2**255 for u in ORDER_8), *(2 ** (51 * k) - 1 for k in range(1, 6))]
edge_rows = st.sampled_from([u.to_bytes(POINT_BYTES, "little") for u in EDGES if 0 <= u < 2**256])
rows = st.lists(st.binary(min_size=POINT_BYTES, max_size=POINT_BYTES) | edge_rows, max_size=40).map(b"".join)


@given(points=rows, scalar=st.binary(min_size=32, max_size=32))
def test_blinding(points: bytes, scalar: bytes) -> None:
    need_kernel()
    key = X25519PrivateKey.from_private_bytes(scalar)
    with taking("native"):
        native = blind(points, key)
    with taking("portable"):
        assert blind(points, key) == native
    assert native.low_order_rows == tuple(low_order_rows(points))


@given(messages=st.lists(st.binary(max_size=400), max_size=40), dst=st.binary(max_size=255))
def test_hashing_to_the_curve(messages: list[bytes], dst: bytes) -> None:
    need_kernel()
    with taking("native"):
        native = hash_to_curve(messages, dst)
    with taking("portable"):
        assert hash_to_curve(messages, dst) == native
    assert native == b"".join(hash_to_curve([message], dst) for message in messages)


@given(elements=rows)
def test_mapping_of_any_element(elements: bytes) -> None:
    kernel = need_kernel()
    numbers = [int.from_bytes(elements[at : at + 32], "little") % 2**255 for at in range(0, len(elements), 32)]
    expected = b"".join(u.to_bytes(32, "little") for u in map_to_curve(numbers))
    assert kernel.map_to_curve(elements) == expected


@given(message=st.binary(max_size=300))
def test_a_field_element_is_below_p(message: bytes) -> None:
    assert 0 <= hash_to_field(message, b"dst") < P
