"""A table that was kept as an earlier one and what is different since is the table that was to be kept."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from federation.client.digests import Table
from federation.client.files.columns import ColumnStore
from federation.client.overlap.kept import NEW, Kept, Revised

STORE = ColumnStore()
SHAPE = {"number": np.dtype("<u8"), "digest": np.dtype("V16")}
# Of each night: which rows go, rows that come with their places, and whether the order is turned round.
NIGHTS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 199), max_size=12),
        st.lists(st.tuples(st.integers(0, 250), st.integers(1000, 2000)), max_size=12),
        st.integers(0, 9).map(lambda number: number == 0),
    ),
    max_size=5,
)


def columns_of(numbers: list[int]) -> dict[str, Table]:
    digests = b"".join(number.to_bytes(16, "big") for number in numbers)
    return {"number": np.array(numbers, "<u8"), "digest": np.frombuffer(digests, "V16")}


def first(folder: Path, size: int) -> Kept:
    Revised.part(Kept.empty(SHAPE), np.empty(0, bool), columns_of(list(range(size)))).write(folder, "t")
    return Kept.read(folder, "t", SHAPE, STORE)


def numbers_in(kept: Kept) -> list[int]:
    numbers: list[int] = kept["number"].tolist()
    assert [int.from_bytes(digest, "big") for digest in kept["digest"].tolist()] == numbers
    return numbers


@given(st.integers(0, 200), NIGHTS)
def test_what_is_read_is_what_was_kept(size: int, nights: list[tuple[set[int], list[tuple[int, int]], bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        before = Path(name) / "0"
        first(before, size)
        for number, (goes, comes, turned) in enumerate(nights, 1):
            kept = Kept.read(before, "t", SHAPE, STORE)
            source = [place for place in range(len(kept)) if place not in goes]
            for at, (place, _) in enumerate(comes):
                source.insert(place, len(kept) + at)
            source = source[:: -1 if turned else 1]
            was = np.array([place if place < len(kept) else NEW for place in source], np.int32)
            new = [comes[place - len(kept)][1] for place in source if place >= len(kept)]
            revised = Revised(kept, was, columns_of(new))
            expected = [*numbers_in(kept), *(value for _, value in comes)]
            after = Path(name) / str(number)
            revised.write(after, "t")
            for path in before.iterdir():  # a folder needs no other
                path.unlink()
            assert numbers_in(Kept.read(after, "t", SHAPE, STORE)) == [expected[place] for place in source]
            before = after


def test_a_few_rows_are_written_alone_and_many_with_the_whole(tmp_path: Path) -> None:
    kept = first(tmp_path / "a", 1000)
    Revised.part(kept, np.arange(1000) >= 5).write(tmp_path / "b", "t")
    assert (tmp_path / "b" / "t.number").samefile(tmp_path / "a" / "t.number")
    assert (tmp_path / "b" / "t.edit").stat().st_size < 2000
    assert (tmp_path / "b" / "t.edit").stat().st_mode & 0o777 == 0o600
    kept = Kept.read(tmp_path / "b", "t", SHAPE, STORE)
    assert kept.base.tolist() == list(range(5, 1000))
    Revised.part(kept, np.ones(995, bool), columns_of([7])).write(tmp_path / "c", "t")
    assert Kept.read(tmp_path / "c", "t", SHAPE, STORE).base[-1] == NEW
    kept = Kept.read(tmp_path / "c", "t", SHAPE, STORE)
    Revised.part(kept, np.arange(996) >= 200).write(tmp_path / "d", "t")
    assert not (tmp_path / "d" / "t.edit").exists()
    assert numbers_in(Kept.read(tmp_path / "d", "t", SHAPE, STORE)) == [*range(205, 1000), 7]
