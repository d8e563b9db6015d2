"""Columns on disk are what their parts are, one after another, in whatever parts they come and are looked at."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.client.files import columns
from federation.client.files.columns import ColumnStore, carried, is_rising, parts
from federation.core.errors import DataError, Reason
from tests.kits.columns import as_if_long

TEXTS = st.lists(st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=9), min_size=1, max_size=5)


@given(TEXTS, st.integers(0, 4), st.booleans())
def test_a_column_is_its_parts(some: list[list[str | None]], cut: int, long: bool) -> None:
    texts = [pa.array(part, pa.string())[cut:] for part in some]  # views that do not begin where their buffers do
    digests = [np.frombuffer(bytes(range(16)) * len(part), "V16")[::-1] for part in texts]
    with as_if_long(long), tempfile.TemporaryDirectory() as folder:
        joined, numbers = ColumnStore(Path(folder)).together(zip(texts, digests, strict=True))
        assert not list(Path(folder).iterdir())
        joined.validate(full=True)
        assert joined.to_pylist() == [text for part in texts for text in part.to_pylist()]
        assert numbers.tobytes() == b"".join(part.tobytes() for part in digests)
        assert (numbers.dtype, joined.type) == (np.dtype("V16"), pa.string())


@given(st.lists(st.integers(-1, 9), max_size=30), st.booleans())
def test_rows_are_carried_to_where_they_are_now(was: list[int], long: bool) -> None:
    texts = pa.array([None if number == 3 else f"old {number}" for number in range(10)])
    old, fresh = np.arange(10, dtype=np.uint16), sum(place < 0 for place in was)
    new = pa.array([None if number == 1 else f"new {number}" for number in range(fresh)], pa.string())
    with as_if_long(long):
        store, places = ColumnStore(), np.array(was, np.int32)
        numbers = store.joined(carried(places, old, np.arange(100, 100 + fresh, dtype=np.uint16))).tolist()
        words = store.joined(carried(places, texts, new)).to_pylist()
        assert is_rising(places) == all(a < b for a, b in zip(*[[p for p in was if p >= 0][n:] for n in (0, 1)]))  # noqa: B905
    rest = iter(range(fresh))
    expected = [place if place >= 0 else 100 + next(rest) for place in was]
    assert numbers == expected
    assert words == [texts[n].as_py() if n < 100 else new[n - 100].as_py() for n in expected]


@given(st.integers(0, 50), st.integers(1, 9))
def test_parts_are_all_of_it(rows: int, most: int) -> None:
    found = list(parts(rows, most))
    assert [row for part in found for row in range(rows)[part]] == list(range(rows))
    assert found
    assert all(part.stop - part.start <= most for part in found)


def test_a_column_of_texts_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MAX_TEXT_BYTES", 9)
    with pytest.raises(DataError) as error:
        ColumnStore().joined([pa.array(["12345"]), pa.array(["12345"])])
    assert error.value.reason == Reason.TOO_LARGE


def test_what_does_not_fit_the_disk_fails_as_such(tmp_path: Path) -> None:
    """And leaves nothing open."""
    with as_if_long(), pytest.raises(OSError, match="No such file"):
        ColumnStore(tmp_path / "nowhere").joined([np.arange(100)])
