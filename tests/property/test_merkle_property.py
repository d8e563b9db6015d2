"""Every proof of every small tree verifies, and nothing else does."""

from hypothesis import given
from hypothesis import strategies as st

from federation.client.audit.check import node_reader
from federation.core.merkle import (
    GrowingTree,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    range_root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

MAX_SIZE = 70
LEAVES = [leaf_hash(bytes([index])) for index in range(MAX_SIZE)]
NODE = node_reader(LEAVES)
ROOTS = [root_of(LEAVES[:size]) for size in range(MAX_SIZE + 1)]


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(recursive_root(leaves[:split]), recursive_root(leaves[split:]))


def inclusion(index: int, size: int) -> list[bytes]:
    return [range_root(NODE, leaves) for leaves in inclusion_path(index, size)]


def consistency(old: int, new: int) -> list[bytes]:
    return [range_root(NODE, leaves) for leaves in consistency_path(old, new)]


def flipped(parts: list[bytes], part: int, bit: int) -> list[bytes]:
    """The same with one bit changed."""
    changed = bytearray(parts[part])
    changed[bit // 8] ^= 1 << bit % 8
    return [*parts[:part], bytes(changed), *parts[part + 1 :]]


def test_roots_follow_the_definition_and_an_edge_can_be_resumed_at_any_size() -> None:
    for size in range(1, MAX_SIZE):
        assert ROOTS[size] == recursive_root(LEAVES[:size])
        tree = GrowingTree(size, NODE)
        tree.append(LEAVES[size])
        assert tree.root() == ROOTS[size + 1]


def test_every_inclusion_proof_verifies_at_its_own_index_only() -> None:
    for size in range(1, MAX_SIZE + 1):
        for index in range(size):
            proof = inclusion(index, size)
            assert verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
            assert not verify_inclusion(LEAVES[index], (index + 1) % (size + 1), size, proof, ROOTS[size])
            assert not verify_inclusion(LEAVES[index], index, size, [*proof, LEAVES[0]], ROOTS[size])
            assert not proof or not verify_inclusion(LEAVES[index], index, size, proof[:-1], ROOTS[size])


def test_every_consistency_proof_verifies_for_its_own_sizes_only() -> None:
    for new in range(1, MAX_SIZE + 1):
        for old in range(1, new + 1):
            proof = consistency(old, new)
            assert verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
            assert not verify_consistency(old, new, ROOTS[old - 1], ROOTS[new], proof)
            assert not verify_consistency(old, new, ROOTS[old], ROOTS[new], [*proof, LEAVES[0]])
            assert not proof or not verify_consistency(old, new, ROOTS[old], ROOTS[new], proof[:-1])


@given(st.data())
def test_any_flipped_bit_breaks_an_inclusion_proof(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, MAX_SIZE))
    index = data.draw(st.integers(0, size - 1))
    parts = [LEAVES[index], ROOTS[size], *inclusion(index, size)]
    part, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    leaf, root, *proof = flipped(parts, part, bit)
    assert not verify_inclusion(leaf, index, size, proof, root)


@given(st.data())
def test_any_flipped_bit_breaks_a_consistency_proof(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, MAX_SIZE))
    old = data.draw(st.integers(1, new - 1))
    parts = [ROOTS[old], ROOTS[new], *consistency(old, new)]
    part, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    first, second, *proof = flipped(parts, part, bit)
    assert not verify_consistency(old, new, first, second, proof)


@given(st.integers(0, MAX_SIZE), st.integers(0, MAX_SIZE), st.lists(st.binary(max_size=40), max_size=8))
def test_nonsense_is_refused_without_an_exception(first: int, second: int, proof: list[bytes]) -> None:
    assert not verify_inclusion(b"\0" * 32, first, second, proof, b"\1" * 32)
    assert not verify_consistency(first, second, b"\0" * 32, b"\1" * 32, proof)
