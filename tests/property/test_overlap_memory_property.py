"""People are told apart and sorted by their digests, also where two digests share a half."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from federation.client.files.columns import ColumnStore, carried
from federation.client.overlap.delta import compared
from federation.client.overlap.kept import Columns, Kept
from federation.client.overlap.memory import customers_of, first_of_each, repeated
from tests.kits.columns import as_if_long

joined = ColumnStore().joined
HALVES = st.sampled_from([b"aaaaaaaa", b"aaaaaaab", b"zaaaaaaa", b"\xff\x00\x00\x00\x00\x00\x00\x01"])
ROWS = st.lists(st.tuples(HALVES, HALVES), max_size=30)


@given(ROWS, st.booleans())
def test_the_first_row_of_each_person_counts(rows: list[tuple[bytes, bytes]], long: bool) -> None:
    digests = np.array([high + low for high, low in rows], dtype="V16")
    with as_if_long(long):
        first, several = first_of_each(digests), repeated(digests)
    assert Counter(several.tolist()) == Counter(digests.tolist()) - Counter(set(digests.tolist()))
    first_of = {digest: number for number, digest in reversed(list(enumerate(digests.tolist())))}
    expected = sorted(first_of.items(), key=lambda item: np.frombuffer(item[0], np.uint64).tolist())
    assert list(zip(digests[first].tolist(), first.tolist(), strict=True)) == expected


# A customer, the person it is of, and a label; each customer once.
FILES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 1)), max_size=10, unique_by=lambda r: r[0]
)


def people_in(rows: list[tuple[int, int, int]]) -> dict[int, int]:
    """Person to the label of the first row."""
    return {person: label for _, person, label in reversed(rows)}


@given(FILES, FILES, st.booleans(), st.booleans())
def test_whoever_is_not_touched_is_the_same_as_before(
    before: list[tuple[int, int, int]], other: list[tuple[int, int, int]], related: bool, long: bool
) -> None:
    after = [row for row in before if row[0] % 3] + [row for row in other if row[0] >= 10 - len(before)] * related
    after = list({row[0]: row for row in after}.values()) if related else other
    digests = np.array([bytes([number]) * 16 for number in range(256)], dtype="V16")

    def columns(rows: list[tuple[int, int, int]]) -> Columns:
        numbers = np.array(rows, np.intp).reshape(-1, 3)
        return customers_of(digests[numbers[:, 0]], digests[numbers[:, 1] + 100], numbers[:, 2])

    known = Kept(columns(before), np.arange(len(before), dtype=np.int32))
    with as_if_long(long):
        revised, found = compared(known, columns(after))
    touched = {digest[0] - 100 for digest in found.tolist()}
    was, now = people_in(before), people_in(after)
    assert {p for p in was | now if was.get(p) != now.get(p)} <= touched
    for name, column in columns(after).items():
        assert joined(carried(revised.was, known[name], revised.new[name])).tolist() == column.tolist()
