"""A table that was kept as an earlier one and what is different since is the table that was to be kept."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from federation.client.overlap import kept

DTYPE = np.dtype([("number", "<u8"), kept.BASE])
# Of each night: which rows go (a bit of each), rows that come with their places, and whether the order is turned round.
NIGHTS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 199), max_size=12),
        st.lists(st.tuples(st.integers(0, 250), st.integers(1000, 2000)), max_size=12),
        st.integers(0, 9).map(lambda number: number == 0),
    ),
    max_size=5,
)


def table_of(numbers: list[int]) -> kept.Table:
    table = np.empty(len(numbers), DTYPE)
    table["number"], table["base"] = numbers, kept.NEW
    return table


@given(st.integers(0, 200), NIGHTS)
def test_what_is_read_is_what_was_kept(size: int, nights: list[tuple[set[int], list[tuple[int, int]], bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        before = Path(name) / "0"
        kept.write(before, "t", table_of(list(range(size))), None)
        for number, (goes, comes, turned) in enumerate(nights, 1):
            table = kept.read(before, "t", DTYPE)
            stay = np.array([place not in goes for place in range(len(table))], bool)
            table = table[stay]
            for place, value in comes:
                table = np.insert(table, min(place, len(table)), table_of([value]))
            if turned:
                table = table[::-1].copy()
            after = Path(name) / str(number)
            kept.write(after, "t", table, before)
            assert kept.read(after, "t", DTYPE)["number"].tolist() == table["number"].tolist()
            for path in before.iterdir():  # a folder needs no other
                path.unlink()
            before = after
            assert kept.read(before, "t", DTYPE)["number"].tolist() == table["number"].tolist()


def test_a_few_rows_are_written_alone_and_many_with_the_whole(tmp_path: Path) -> None:
    kept.write(tmp_path / "a", "t", table_of(list(range(1000))), None)
    few = kept.read(tmp_path / "a", "t", DTYPE)[5:]
    kept.write(tmp_path / "b", "t", few, tmp_path / "a")
    assert (tmp_path / "b" / "t.table").samefile(tmp_path / "a" / "t.table")
    assert (tmp_path / "b" / "t.edit").stat().st_size < 2000
    assert (tmp_path / "b" / "t.edit").stat().st_mode & 0o777 == 0o600
    many = kept.read(tmp_path / "b", "t", DTYPE)[200:]
    kept.write(tmp_path / "c", "t", many, tmp_path / "b")
    assert not (tmp_path / "c" / "t.edit").exists()
    assert kept.read(tmp_path / "c", "t", DTYPE)["number"].tolist() == list(range(205, 1000))
