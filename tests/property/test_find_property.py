"""Where digests are among others: at a place where they are, however the two orders differ."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.client.digests import Digests, Sorted, find
from federation.client.files.columns import ColumnStore
from tests.kits.columns import as_if_long
from tests.kits.native import PATHS, taking

DIGESTS = Digests(bytes(16)).of(pa.array([str(number) for number in range(1000)]))
# What is done to the numbers 0, 1, 2 .. to make another order: rows from a place on go, come (also twice) or are moved.
EDITS = st.lists(
    st.tuples(st.sampled_from(["go", "come", "move", "turn"]), st.integers(0, 300), st.integers(0, 120)), max_size=6
)


def edited(numbers: list[int], edits: list[tuple[str, int, int]]) -> list[int]:
    for what, at, count in edits:
        part = numbers[at : at + count]
        rest = numbers[:at] + numbers[at + count :]
        if what == "go":
            numbers = rest
        elif what == "come":  # some of them are there already
            numbers = numbers[:at] + [(at * 7 + n) % 1000 for n in range(count)] + numbers[at:]
        elif what == "move":
            numbers = rest[: at // 2] + part + rest[at // 2 :]
        else:
            numbers = rest + part[::-1]
    return numbers


@pytest.mark.parametrize("path", PATHS)
@given(size=st.integers(0, 300), theirs=EDITS, mine=EDITS)
def test_a_digest_is_found_where_it_is(
    path: str, size: int, theirs: list[tuple[str, int, int]], mine: list[tuple[str, int, int]]
) -> None:
    among = edited(list(range(size)), theirs)
    wanted = edited(among, mine)
    with taking(path):
        found = find(DIGESTS[wanted], DIGESTS[among]).tolist()
    there = set(among)
    assert len(found) == len(wanted)
    for number, at in zip(wanted, found, strict=True):
        assert among[at] == number if at >= 0 else number not in there


HALVES = st.sampled_from([b"aaaaaaaa", b"aaaaaaab", b"zaaaaaaa", b"aaaaaaaz", bytes(8), b"\xff" * 8])
SOME = st.lists(st.tuples(HALVES, HALVES).map(b"".join), max_size=30)


@given(wanted=SOME, among=SOME, long=st.booleans())
def test_what_is_sorted_is_found_too(wanted: list[bytes], among: list[bytes], long: bool) -> None:
    """Also where many share their first half."""
    among = list(dict.fromkeys(among))
    with as_if_long(long):
        found = Sorted(np.array(among, "V16"), ColumnStore()).find(np.array(wanted, "V16")).tolist()
    assert found == [among.index(digest) if digest in among else -1 for digest in wanted]
