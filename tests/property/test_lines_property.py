"""A file that is read again, where it changed, gives what reading all of it gives, whatever was done to it."""

import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.client.digests import IN_PROCESS, find
from federation.client.files import columns, lines
from federation.client.files.columns import ColumnStore
from federation.client.files.derived import Derived
from federation.client.files.lines import FileMoved, Reading, scan_lines
from federation.client.files.tables import read_rows
from federation.core.errors import DataError
from tests.kits.columns import as_if_long
from tests.kits.native import need_kernel, taking

STORE = ColumnStore()
PATHS = st.sampled_from(["native", "portable"])
FIELDS = st.sampled_from(["", "a", "b", "c", " d ", "é", "NA"])
ODD = st.sampled_from(["", '"q"', '"', "a\rb", "\0", "x,y", "\ufeffa,b"])
LINE = st.tuples(FIELDS, FIELDS).map(",".join)
# Mostly plain lines: what is not plain is read the slow way each time.
FILE = st.tuples(
    st.sampled_from(["x,y", "x,y", "x,y", "y,x", "x,y,z", "x,x", "x,y\r"]),
    st.lists(st.one_of(*[LINE] * 12, ODD), max_size=12),
    st.sampled_from(["\n", "\n", "\r\n"]),
    st.booleans(),
)


def write(path: Path, header: str, rows: list[str], end: str, closed: bool) -> None:
    text = end.join([header, *rows]) + (end if closed else "")
    path.write_bytes(text.encode())


def open_derived(path: Path, parsed: list[int], *, again: bool = True) -> Derived:
    def look(before: Reading | None, whole: bool) -> Reading:
        earlier = before.lines if before is not None else None
        return Reading(path, ("x", "y"), None if whole else scan_lines(path, STORE, earlier), before)

    def derive(batch: pa.RecordBatch) -> tuple[Sequence[object], Sequence[object]]:
        parsed.append(len(batch))
        return [batch["x"], np.array([len(text) for text in batch["y"].to_pylist()], np.int32)], [batch["y"]]

    return Derived(look, derive, STORE, again=again)


def outcome(derived: Derived, *, again: bool = True) -> tuple[list[object], str]:
    try:
        look = derived.read()
    except DataError as exc:
        return [], f"{exc.reason} {exc.item}"
    texts, sizes = look.columns
    if again and not look.whole:
        places = np.arange(0, len(texts), 2)
        again = [row for batch in look.rows(places) for row in batch["x"].to_pylist()]
        assert again == texts.take(pa.array(places)).to_pylist()
    return list(zip(texts.to_pylist(), sizes.tolist(), strict=True)), ""


def expected(path: Path) -> tuple[list[object], str]:
    try:
        return [(x, len(y)) for x, y in read_rows(path, required=("x", "y"))], ""
    except DataError as exc:
        return [], f"{exc.reason} {exc.item}"


@settings(deadline=None)
@given(PATHS, st.booleans(), st.lists(FILE, min_size=1, max_size=5))
@example("native", False, [("x,y", [], "\n", True), ("x,y", [], "\n", True)])
@example("native", True, [("x,y", ["a,a"] * 9, "\n", True), ("x,y", ["a,a"] * 9 + ["b,b"], "\r\n", False)])
@example(
    "native", True, [("x,y", ["a,b", "c,d", "a,c", "b,b"], "\n", True), ("x,y", ["c,d", "b,b", "a,b"], "\n", True)]
)
@example("native", False, [("x,y", [""], "\n", True)])
@example("native", False, [("x,y,z", [""], "\n", True)])
@example("native", False, [("x,y\r", [], "\r\n", True)])
@example("native", False, [("x,y", ["a,a"], "\n", True), ("x,y", ["a,a", "\ufeffb,b"], "\n", True)])
def test_each_reading_is_that_of_the_whole_file(
    path: str, long: bool, files: list[tuple[str, list[str], str, bool]]
) -> None:
    with taking(path), as_if_long(long), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        derived = open_derived(file, [])
        for content in files:
            write(file, *content)
            assert outcome(derived) == expected(file)


EDITS = st.lists(
    st.tuples(st.sampled_from(["drop", "add", "end", "move", "again"]), st.integers(0, 400), st.integers(0, 400)),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(EDITS, st.booleans(), st.booleans())
@example(
    [("add", 0, 0), ("add", 0, 0), ("drop", 0, 0), ("move", 0, 399), ("move", 399, 0), ("add", 400, 0)], True, True
)
@example([("end", 0, 0), ("end", 0, 0), ("drop", 300, 0), ("end", 0, 0), ("add", 2, 0)], False, False)
def test_only_what_is_new_is_parsed(edits: list[tuple[str, int, int]], long: bool, again: bool) -> None:
    """With many small blocks, and parts that are as they were and others that are not."""
    need_kernel()
    with pytest.MonkeyPatch.context() as patch, as_if_long(long), tempfile.TemporaryDirectory() as folder:
        patch.setattr(lines, "_BLOCK_BYTES", 64)
        file = Path(folder) / "table.csv"
        rows = [f"row {number},{number}" for number in range(400)]
        write(file, "x,y", rows, "\n", closed=True)
        parsed: list[int] = []
        derived = open_derived(file, parsed, again=again)
        derived.read()
        for number, (what, somewhere, to) in enumerate(edits):
            at = somewhere % len(rows)
            known, parsed[:] = set(rows), []
            if what == "drop":
                del rows[at]
            elif what == "add":
                rows.insert(at, f"new {number},0")
            elif what == "end":
                rows.append(f"new {number},0")
            elif what == "move":
                rows.insert(to % len(rows), rows.pop(at))
            else:
                rows.insert(to % len(rows), rows[at])
            write(file, "x,y", rows, "\n", closed=number % 2 == 0)
            assert outcome(derived, again=again) == expected(file)
            assert sum(parsed) == len([row for row in rows if row not in known])


def test_a_file_that_moves_while_it_is_read_is_read_anew(tmp_path: Path) -> None:
    need_kernel()
    file = tmp_path / "table.csv"
    rows = [f"{number},a" for number in range(40)]
    write(file, "x,y", rows, "\n", closed=True)
    first = scan_lines(file, STORE)
    reading = Reading(file, ("x", "y"), first)
    assert sum(map(len, reading.fresh())) == 40
    write(file, "x,y", [*rows[:-1], "39,b"], "\n", closed=True)
    for places in ([39], [3, 39]):
        try:
            list(reading.rows(np.array(places)))
        except FileMoved:
            continue
        raise AssertionError("it gave a line that is not there any more")
    assert sum(map(len, reading.rows(np.array([0, 1, 7])))) == 3
    file.unlink()
    try:
        list(reading.rows(np.array([0])))
    except FileMoved:
        return
    raise AssertionError("it gave a line of a file that is not there")


@given(st.lists(st.integers(0, 12), max_size=30), st.lists(st.integers(0, 12), max_size=30), PATHS, st.booleans())
def test_finding_is_that_of_a_dictionary(wanted: list[int], among: list[int], path: str, long: bool) -> None:
    with taking(path), as_if_long(long):
        digests = IN_PROCESS.of(pa.array([f"text {number}" for number in range(13)]))
        found = find(digests[np.array(wanted, np.intp)], digests[np.array(among, np.intp)]).tolist()
    assert [at >= 0 for at in found] == [number in among for number in wanted]
    assert all(among[at] == number for number, at in zip(wanted, found, strict=True) if at >= 0)


@given(st.lists(st.text(max_size=40), max_size=30))
def test_both_paths_give_the_same_digests(texts: list[str]) -> None:
    need_kernel()
    column = pa.array(texts, pa.string())
    with taking("portable"):
        portable = IN_PROCESS.of(column)
    assert portable.tobytes() == IN_PROCESS.of(column).tobytes()


def test_a_piece_may_end_anywhere(tmp_path: Path) -> None:
    need_kernel()
    file, size = tmp_path / "table.csv", lines._CHUNK_BYTES
    text = "x,y\n" + "é,b\naaaa,b\r\n" * 20
    file.write_text(text, newline="")
    whole = scan_lines(file, STORE)
    assert whole is not None
    try:
        for lines._CHUNK_BYTES in range(1, 40):
            pieces = scan_lines(file, STORE)
            assert pieces is not None
            assert pieces.digests.tobytes() == whole.digests.tobytes()
            assert pieces.starts.tolist() == whole.starts.tolist()
    finally:
        lines._CHUNK_BYTES = size


READ_OFTEN = """
import sys
import numpy as np
from pathlib import Path
from federation.client.files.columns import ColumnStore
from federation.client.files.lines import FileMoved, Reading, scan_lines
path = Path(sys.argv[1])
reading = Reading(path, ("x", "y"), scan_lines(path, ColumnStore()))
print("ready", flush=True)
for _ in range(200):
    try:
        assert sum(map(len, reading.rows(np.arange(0, 40_000, 2)))) == 20_000
    except FileMoved:
        pass
"""


def test_a_file_that_is_made_shorter_while_it_is_read_kills_nobody(tmp_path: Path) -> None:
    need_kernel()
    file = tmp_path / "table.csv"
    write(file, "x,y", [f"{number},a" for number in range(40_000)], "\n", closed=True)
    content = file.read_bytes()
    with subprocess.Popen([sys.executable, "-c", READ_OFTEN, str(file)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        while reader.poll() is None:
            os.truncate(file, 9)
            file.write_bytes(content)
    assert reader.returncode == 0


def test_a_folder_without_room_is_not_taken_for_a_missing_file(tmp_path: Path) -> None:
    need_kernel()
    file = tmp_path / "table.csv"
    write(file, "x,y", ["a,b"] * 40, "\n", closed=True)
    with as_if_long(), pytest.raises(FileNotFoundError, match="nowhere"):
        scan_lines(file, ColumnStore(tmp_path / "nowhere"))
    with pytest.raises(DataError):
        scan_lines(tmp_path / "none.csv", STORE)


def test_what_changes_between_tags_and_digests_is_not_taken_for_what_was_tagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_kernel()
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 64)
    file, rows = tmp_path / "table.csv", [f"{number:03d},a" for number in range(100)]
    write(file, "x,y", rows, "\n", closed=True)
    same_blocks = lines._same_blocks

    def meanwhile(tags: Sequence[bytes], before: lines.Lines) -> tuple[lines.Block, ...]:
        write(file, "x,y", [row.replace("a", "b") for row in rows], "\n", closed=True)
        return same_blocks(tags, before)

    with monkeypatch.context() as patch:
        patch.setattr(lines, "_same_blocks", meanwhile)
        first = scan_lines(file, STORE)
    write(file, "x,y", rows, "\n", closed=True)
    again, whole = scan_lines(file, STORE, first), scan_lines(file, STORE)
    assert again is not None
    assert whole is not None
    assert again.digests.tobytes() == whole.digests.tobytes()


def test_nothing_of_a_file_stays_in_memory_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_kernel()
    monkeypatch.setattr(columns, "MAX_HELD_BYTES", 8)
    file, rows = tmp_path / "table.csv", [f"{number},a" for number in range(100_000)]
    derived = open_derived(file, [])
    for number in range(3):
        write(file, "x,y", [*rows, f"new,{number}"], "\n", closed=True)
        if number:
            tracemalloc.start()
        derived.read()
        if number:
            used, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert used < len(rows)
