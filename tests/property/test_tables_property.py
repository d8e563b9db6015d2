"""The fast reader of CSV files gives what the strict one gives, to the last error."""

import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from federation.client.files import plain
from federation.client.files.tables import read_batches, read_rows
from federation.core.errors import DataError

Outcome = tuple[list[list[str]], str]
# Rows of two and of any number of fields, with everything that has a meaning in CSV files.
FIELDS = st.sampled_from(["", "a", " b ", "é", "NA", '"q"', '"', "a\rb", "\0", "\ufeff", "\x1c"])
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n", ""])
LINES = st.lists(st.tuples(st.lists(FIELDS, min_size=1, max_size=3), ENDS), max_size=6)
HEADERS = st.sampled_from(["x,y\n", "y,x\r\n", "x,y", "\ufeffx,y\n", "x,x\n", "x\n", "z,x,y\n", "\n", '"x",y\n', ""])


def outcome(read: "list[list[str]] | None", path: Path) -> Outcome:
    rows: list[list[str]] = [] if read is None else read
    try:
        if read is None:
            rows.extend(read_rows(path, required=("x", "y")))
        else:
            for batch in read_batches(path, required=("x", "y"), encoded={"y"}):
                rows.extend(map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True)))
    except DataError as exc:
        return [], f"{exc.reason} {exc.item}"
    return rows, ""


@given(HEADERS, LINES, st.booleans())
@example("x,y\n", [(["a", "a"], "\n"), (["a", "a"], "\n"), (["a"], "\n")], False)
@example("x,y\n", [(["a", "a"], "\n"), (["a", "a"], "\n\n")], False)
def test_both_readers_give_the_same_rows_or_the_same_error(
    header: str, lines: list[tuple[list[str], str]], latin: bool
) -> None:
    text = header + "".join(",".join(fields) + end for fields, end in lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(text.encode("latin-1", "ignore") if latin else text.encode())
        assert outcome([], path) == outcome(None, path)


@given(st.integers(0, 200), st.binary(max_size=12))
def test_what_is_odd_is_found_wherever_a_block_ends(at: int, odd: bytes) -> None:
    scan, block = plain._SCAN_BYTES, plain._BLOCK_BYTES
    plain._SCAN_BYTES, plain._BLOCK_BYTES = 16, 64
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            text = b"x,y\n" + b"aaaa,bbb\n" * 22
            path.write_bytes(text[:at] + odd + text[at:])
            assert outcome([], path) == outcome(None, path)
    finally:
        plain._SCAN_BYTES, plain._BLOCK_BYTES = scan, block
