"""The Merkle tree of RFC 6962: roots, proofs and their verification. Pure; SHA-256.

A tree's *node* (level, index) is the root of the complete subtree over leaves [index * 2^level, (index + 1) * 2^level).
Complete nodes never change as the tree grows, so a log stores them once and every root or proof, at any size up to the
present one, is put together from O(log size) of them.

Verification answers yes or no and never raises on malformed proofs: they come from the party that is being checked.

Source: RFC 6962, section 2.1; the verification procedures are those of RFC 9162, sections 2.1.3.2 and 2.1.4.2.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

NodeReader = Callable[[int, int], bytes]
"""Gives the hash of complete node (level, index)."""
Range = tuple[int, int]
"""Leaves [start, end)."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of one entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """Root of a tree given the hashes of all its leaves."""
    tree = GrowingTree()
    for value in leaf_hashes:
        tree.append(value)
    return tree.root()


class GrowingTree:
    """A tree that only grows and remembers no more than its right edge: one node for each bit set in its size.

    Args:
        size: Leaves that it already has.
        node: Where the nodes of that edge are read from; not needed when size is 0.
    """

    def __init__(self, size: int = 0, node: NodeReader | None = None) -> None:
        self.size = size
        self._edge = [] if node is None else [node(level, index) for level, index in complete_nodes((0, size))]

    def append(self, value: bytes) -> list[tuple[int, int, bytes]]:
        """Adds one leaf hash; returns the nodes (level, index, hash) that became complete, the leaf's first."""
        level, index = 0, self.size
        complete = [(level, index, value)]
        while index & 1:
            value = node_hash(self._edge.pop(), value)
            level, index = level + 1, index >> 1
            complete.append((level, index, value))
        self._edge.append(value)
        self.size += 1
        return complete

    def root(self) -> bytes:
        """Root of everything appended so far."""
        return _fold(self._edge)


def complete_nodes(leaves: Range) -> Iterator[tuple[int, int]]:
    """The fewest complete nodes that cover the leaves, left to right; their sizes fall strictly."""
    start, end = leaves
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def range_root(node: NodeReader, leaves: Range) -> bytes:
    """Root over the leaves of one subtree that an inclusion or consistency path names, or of a whole tree (0, size)."""
    return _fold([node(level, index) for level, index in complete_nodes(leaves)])


def inclusion_path(index: int, size: int) -> list[Range]:
    """Leaves under each hash of an inclusion proof, lowest first. RFC 6962, section 2.1.1; 0 <= index < size."""
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} of {size}")
    path: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_path(old: int, new: int) -> list[Range]:
    """Leaves under each hash of a consistency proof. RFC 6962, section 2.1.2; 0 <= old <= new."""
    if not 0 <= old <= new:
        raise IndexError(f"from {old} to {new}")
    if old in (0, new):
        return []
    path: list[Range] = []
    start, end = 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:  # otherwise the last subtree is the whole old tree, whose root the verifier has
        path.append((start, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf hash is at that index of the tree with that size and root. RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size or any(len(part) != HASH_BYTES for part in proof):
        return False
    at, last, value = index, size - 1, leaf
    for part in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            value = node_hash(part, value)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, part)
        at, last = at >> 1, last >> 1
    return last == 0 and hmac.compare_digest(value, root)


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the first tree is a prefix of the second. RFC 9162, section 2.1.4.2; an empty tree is one of any."""
    if not 0 <= old <= new or any(len(part) != HASH_BYTES for part in proof):
        return False
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if old == new:
        return not proof and hmac.compare_digest(old_root, new_root)
    if not proof:
        return False
    parts = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = parts[0]
    for part in parts[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(part, first), node_hash(part, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, part)
        at, last = at >> 1, last >> 1
    return last == 0 and hmac.compare_digest(first, old_root) and hmac.compare_digest(second, new_root)


def _split(width: int) -> int:
    """The largest power of two below width, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _fold(edge: Sequence[bytes]) -> bytes:
    """Root over the nodes of a right edge, left to right."""
    if not edge:
        return EMPTY_ROOT
    value = edge[-1]
    for left in reversed(edge[:-1]):
        value = node_hash(left, value)
    return value
