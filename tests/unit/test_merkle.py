"""The tree against the published reference tree, and what malformed input gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from federation.client.audit.check import node_reader
from federation.core.merkle import (
    EMPTY_ROOT,
    GrowingTree,
    consistency_path,
    inclusion_path,
    leaf_hash,
    range_root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "rfc6962.json").read_text())
LEAVES = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
NODE = node_reader(LEAVES)


def unhex(proof: list[str]) -> list[bytes]:
    return [bytes.fromhex(part) for part in proof]


def test_the_vectors_hold_the_whole_reference_tree() -> None:
    assert len(LEAVES) == 8
    assert len(ROOTS) == 9
    assert ROOTS[0] == EMPTY_ROOT


@pytest.mark.parametrize("size", range(9))
def test_roots_equal_the_reference(size: int) -> None:
    assert root_of(LEAVES[:size]) == ROOTS[size]
    assert range_root(NODE, (0, size)) == ROOTS[size]
    assert GrowingTree(size, NODE).root() == ROOTS[size]


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: f"{case['index']}-{case['size']}")
def test_inclusion_proofs_equal_the_reference(case: dict[str, Any]) -> None:
    proof = unhex(case["proof"])
    assert [range_root(NODE, leaves) for leaves in inclusion_path(case["index"], case["size"])] == proof
    assert verify_inclusion(LEAVES[case["index"]], case["index"], case["size"], proof, ROOTS[case["size"]])


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: f"{case['old']}-{case['new']}")
def test_consistency_proofs_equal_the_reference(case: dict[str, Any]) -> None:
    old, new, proof = case["old"], case["new"], unhex(case["proof"])
    assert [range_root(NODE, leaves) for leaves in consistency_path(old, new)] == proof
    assert verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)


def test_an_inner_node_cannot_pose_as_a_leaf() -> None:
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != ROOTS[2]


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0), (5, 4)])
def test_a_leaf_outside_of_the_tree_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(IndexError):
        inclusion_path(index, size)
    assert not verify_inclusion(LEAVES[0], index, size, [], ROOTS[1])


@pytest.mark.parametrize(("old", "new"), [(-1, 4), (5, 4)])
def test_a_tree_cannot_shrink(old: int, new: int) -> None:
    with pytest.raises(IndexError):
        consistency_path(old, new)
    assert not verify_consistency(old, new, ROOTS[4], ROOTS[4], [])


def test_the_empty_tree_is_a_prefix_of_any_but_proves_nothing_else() -> None:
    assert verify_consistency(0, 8, EMPTY_ROOT, ROOTS[8], [])
    assert not verify_consistency(0, 8, ROOTS[1], ROOTS[8], [])
    assert not verify_consistency(0, 8, EMPTY_ROOT, ROOTS[8], [ROOTS[1]])


def test_parts_of_a_wrong_length_are_refused() -> None:
    proof = unhex(VECTORS["inclusion"][1]["proof"])
    assert not verify_inclusion(LEAVES[0], 0, 8, [proof[0][:31], *proof[1:]], ROOTS[8])
    assert not verify_consistency(1, 8, ROOTS[1], ROOTS[8], [proof[0] + b"0", *proof[1:]])
