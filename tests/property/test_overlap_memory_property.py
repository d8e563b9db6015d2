"""People are told apart and sorted by their digests, also where two digests share a half."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from federation.client.overlap.memory import customers_table, first_of_each

HALVES = st.sampled_from([b"aaaaaaaa", b"aaaaaaab", b"zaaaaaaa", b"\xff\x00\x00\x00\x00\x00\x00\x01"])
ROWS = st.lists(st.tuples(HALVES, HALVES, st.integers(0, 3)), max_size=30)


@given(ROWS)
def test_the_first_row_of_each_person_counts(rows: list[tuple[bytes, bytes, int]]) -> None:
    digests = np.array([high + low for high, low, _ in rows], dtype="V16")
    table = customers_table(digests, digests, np.array([label for *_, label in rows], dtype=np.uint16))
    people, first = first_of_each(table)
    first_of = {digest: number for number, digest in reversed(list(enumerate(digests.tolist())))}
    expected = sorted(first_of.items(), key=lambda item: np.frombuffer(item[0], np.uint64).tolist())
    assert list(zip(people["person"].tolist(), first.tolist(), strict=True)) == expected
    assert people["label"].tolist() == [rows[number][2] for _, number in expected]
