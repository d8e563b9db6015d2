"""The overlap against set arithmetic, for any sets: the pure chain, and the index that counts."""

import tempfile
from collections import Counter
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.overlap.batch import permutation, reorder
from federation.overlap.blind import ZERO, blind
from federation.overlap.decoys import LEAST, ROWS_PER_DECOY, decoys_of, most_decoys
from federation.overlap.hash_to_curve import domain, hash_to_curve
from federation.overlap.plan import STATISTICS, ring
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.index import StatisticsIndex, TokenBatch

NAMES = ("a", "b", "c", "d", "e")
PEOPLE = st.sets(st.integers(0, 11), max_size=8)


def rows(points: bytes) -> list[bytes]:
    return [points[at : at + 32] for at in range(0, len(points), 32)]


def regions(sets: dict[str, set[bytes]] | dict[str, set[int]]) -> Counter[tuple[str, ...]]:
    """How many elements are in exactly these sets."""
    everyone = set().union(*sets.values())
    return Counter(tuple(name for name in sets if one in sets[name]) for one in everyone)


@settings(max_examples=25, deadline=None)
@given(st.lists(PEOPLE, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_blinded_chain_is_set_arithmetic(sets: list[set[int]], random: "st.DataObject") -> None:
    names = NAMES[: len(sets)]
    people = dict(zip(names, sets, strict=True))
    plan = pb.EpochPlan(alliance="x", epoch="1", key_type="email", rules="1", partners=names)
    keys = {name: X25519PrivateKey.from_private_bytes(random.randbytes(32)) for name in names}
    tokens = {}
    for origin in names:
        messages = [f"p{n}@example.com".encode() for n in people[origin]]
        points = blind(hash_to_curve(messages, domain(plan, STATISTICS)), keys[origin]).points
        for hop in ring(names, origin):
            points = blind(points, keys[hop]).points
            points = reorder(points, permutation(len(messages), random.randbytes))
        tokens[origin] = set(rows(points))
        assert len(tokens[origin]) == len(messages)
    assert regions(tokens) == regions(people)


@settings(max_examples=200)
@given(st.integers(0, 300), st.binary(min_size=8, max_size=8))
def test_a_permutation_is_one(count: int, seed: bytes) -> None:
    order = permutation(count, lambda size: (seed * (size // 8 + 1))[:size] if size % 16 else seed * (size // 8))
    assert sorted(order.tolist()) == list(range(count))


@given(st.integers(0, 10_000), st.integers(1, 2_000))
def test_decoys_are_those_that_are_due_and_fill_up_to_the_next_multiple(count: int, pad_to: int) -> None:
    decoys, due = decoys_of(count, pad_to), LEAST + count // ROWS_PER_DECOY
    assert (count + decoys) % pad_to == 0
    assert due <= decoys < due + pad_to
    assert decoys <= most_decoys(count + decoys, pad_to)


@st.composite
def files(draw: st.DrawFn) -> dict[str, list[tuple[str, list[int], int]]]:
    """For each partner, batches of label, people (with repetitions; -1 is a point of low order) and decoys."""
    names = NAMES[: draw(st.integers(2, 4))]
    batch = st.tuples(st.lists(st.integers(-1, 11), max_size=8), st.integers(0, 3))
    return {name: [(f"l={n}", *draw(batch)) for n in range(draw(st.integers(1, 3)))] for name in names}


@settings(max_examples=15, deadline=None)
@given(files())
def test_the_index_counts_each_person_once_in_one_cell(batches: dict[str, list[tuple[str, list[int], int]]]) -> None:
    points = {n: bytes([n + 1]) * 32 for n in range(12)} | {-1: ZERO}
    labels: dict[int, dict[str, str]] = {}
    for party, sent in batches.items():
        for label, people, _ in sorted(sent, reverse=True):  # of several labels the first counts
            for person in people:
                labels.setdefault(person, {})[party] = label
    labels.pop(-1, None)
    expected = Counter(
        (tuple(mine), tuple((f"{party}.l", label[2:]) for party, label in mine.items()))
        for mine in ({party: mine[party] for party in batches if party in mine} for mine in labels.values())
    )
    with tempfile.TemporaryDirectory() as folder:
        index = StatisticsIndex(Path(folder))
        fresh = iter(range(1, 10_000))
        sent = [
            TokenBatch(
                party,
                label,
                decoys,
                [b"".join(points[n] for n in people), *(next(fresh).to_bytes(32, "big")[::-1] for _ in range(decoys))],
            )
            for party, parts in batches.items()
            for label, people, decoys in parts
        ]
        index.build("e", {party: [label for label, *_ in parts] for party, parts in batches.items()}, sent)
        assert index.exact("e", tuple(batches), [f"{party}.l" for party in batches]) == dict(expected)
        two = tuple(batches)[:2]
        marginal: Counter[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = Counter()
        for (members, _), count in expected.items():
            if kept := tuple(party for party in members if party in two):
                marginal[kept, ()] += count
        assert index.exact("e", two, []) == dict(marginal)
