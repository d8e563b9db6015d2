"""Reads a partner's CSV files strictly: a file that is not what it should be is an error, never a guess.

Guarantees that every row has as many fields as the header, that quoting is well formed, that the text is UTF-8, and
that required columns are there. Errors name the file, the row (the header is row 1, as a spreadsheet counts) or the
column, and never a value.

Speed. Arrow reads plain files (see ``plain``), and whatever it stumbles over is read again, slowly, to say what is
wrong: the answer is always the slow reader's.
"""

import collections
import contextlib
import csv
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.types import is_numeric_dtype

from federation.client.files.plain import column_types, is_even, plain_batches, plain_header
from federation.core.errors import DataError, Reason

FileStamp = tuple[int, ...]
"""Size, and times of content and entry in nanoseconds; equal stamps mean an unchanged file."""
WITH_COMMAS = "Export the file with commas between its fields: its header is one field."
AS_UTF8 = "Export the file as UTF-8; a spreadsheet calls it CSV UTF-8."
_SLOW_ROWS = 8192


def stamp(path: Path) -> FileStamp:
    """What tells whether a file changed. Raises DataError (MISSING_FILE)."""
    try:
        status = path.stat()
    except OSError as exc:
        raise missing(path, exc) from exc
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns  # the last one no tool can set


def read_table(path: Path, *, required: Collection[str], text: Collection[str], key: str | None = None) -> pd.DataFrame:
    """Reads one CSV file with a header.

    Args:
        path: The file.
        required: Columns that must be there.
        text: Columns that stay text, with "" where empty; "all columns" is ``{"*"}``. Others become numbers where every
            value is one.
        key: A column whose values must be present and unique.

    Raises:
        DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
    """
    header = _plain(path)
    if header is None or not is_even(path, header):
        with _opened(path) as file:
            rows = _checked(path, file)
            header = next(rows)
            collections.deque(rows, maxlen=0)  # looks at every row and keeps none
    for column in required:
        _place(path, header, column)
    chosen = header if "*" in text else [column for column in header if column in text]
    table = pd.read_csv(
        path,
        dtype=dict.fromkeys(chosen, str),
        keep_default_na=False,
        na_values=[""],
        low_memory=False,
        encoding="utf-8-sig",
    )
    for column in table.columns:
        if column in chosen or not is_numeric_dtype(table[column]):
            table[column] = table[column].fillna("").astype(str)
    if key is not None:
        check_key(path, table[key])
    return table


def read_header(path: Path) -> list[str]:
    """The names of the columns. Raises DataError (MISSING_FILE, BROKEN_ROW)."""
    with _opened(path) as file:
        return next(_checked(path, file))


def read_rows(path: Path, *, required: Collection[str]) -> Iterator[list[str]]:
    """The rows of one CSV file with a header, one at a time, as strictly as ``read_table`` and without its memory.

    What was read before an error is of a file that is not usable.

    Args:
        path: The file.
        required: The columns to return, as text, in this order; they must be there.

    Raises:
        DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
    """
    with _opened(path) as file:
        rows = _checked(path, file)
        header = next(rows)
        places = [_place(path, header, column) for column in required]
        for row in rows:
            yield [row[place] for place in places]


def read_batches(
    path: Path,
    *,
    required: Sequence[str],
    encoded: Collection[str] = frozenset(),
    plain: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of ``read_rows`` as columns of text, some thousands of rows at a time; never a null.

    Args:
        path: The file.
        required: The columns to return, in this order; they must be there.
        encoded: Those of them to return as dictionary and indices, because they have few distinct values.
        plain: The header of a file that is known to be plain.

    Raises:
        DataError: as ``read_rows``, and as there only when the row is reached.
    """
    done = 0
    types = column_types(required, encoded)
    header = plain if plain is not None else _plain(path)
    if header is not None:
        for column in required:
            _place(path, header, column)
        try:
            for batch in plain_batches(path, header, types):
                done += len(batch)
                yield batch
        except pa.ArrowInvalid:
            pass  # the slow reader says what is wrong, or reads it
        else:
            return
    rows = itertools.islice(read_rows(path, required=required), done, None)
    while some := list(itertools.islice(rows, _SLOW_ROWS)):
        columns = [
            pa.array(values).cast(kind) for values, kind in zip(zip(*some, strict=True), types.values(), strict=True)
        ]
        yield pa.record_batch(columns, schema=pa.schema(types))


def read_columns(path: Path, *, required: Sequence[str], key: str | None = None) -> pa.Table:
    """All rows of ``read_batches`` as one table, each column in one piece.

    Args:
        path: The file.
        required: The columns to return, as text, in this order; they must be there.
        key: One of them, whose values must be present and unique.

    Raises:
        DataError: as ``read_rows``; BROKEN_ROW where the key is not one.
    """
    schema = pa.schema([(column, pa.string()) for column in required])
    table = pa.Table.from_batches(read_batches(path, required=required), schema).combine_chunks()
    if key is not None:
        keys = table[key]
        if len(pc.unique(keys)) != len(keys) or pc.any(pc.equal(pc.utf8_trim_whitespace(keys), "")).as_py():
            check_key(path, keys.to_pandas().rename(key))
    return table


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as exc:
        raise missing(path, exc) from exc
    except UnicodeDecodeError:
        _decode(path)  # which says where
        raise


def _plain(path: Path) -> list[str] | None:
    """The header of a file for Arrow, None for any other. Raises DataError (MISSING_FILE)."""
    try:
        return plain_header(path)
    except OSError as exc:
        raise missing(path, exc) from exc


def _place(path: Path, header: Sequence[str], column: str) -> int:
    if column not in header:
        fix = WITH_COMMAS if len(header) == 1 and set(header[0]) & set(";\t|") else ""
        raise DataError(Reason.MISSING_COLUMN, item=f"{path.name}, column {column}", fix=fix)
    return header.index(column)


def _decode(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise missing(path, exc) from exc
    except UnicodeDecodeError as exc:
        raise _broken(path, exc.object.count(b"\n", 0, exc.start) + 1, "not UTF-8", AS_UTF8) from exc


def _checked(path: Path, lines: Iterable[str]) -> Iterator[list[str]]:
    """The header, then every row, each with its number of fields."""
    number = 0  # the last row that could be read
    try:
        rows = csv.reader(_without_zeros(path, lines), strict=True)
        header = next(rows, [])
        number = 1
        if not header or len(set(header)) != len(header) or "" in header:
            raise _broken(path, 1, "the header is empty or names a column twice")
        yield header
        width = len(header)
        for row in rows:
            number += 1
            if len(row) != width:
                raise _broken(path, number, f"{len(row)} fields, expected {width}")
            yield row
    except csv.Error as exc:
        raise _broken(path, number + 1, str(exc)) from exc


def _without_zeros(path: Path, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise _broken(path, number, "a zero byte")
        yield line


def check_key(path: Path, keys: "pd.Series[str]") -> None:
    """Raises DataError (BROKEN_ROW) where a key is empty or there twice; the series has the name of its column."""
    empty, again = (keys.str.strip() == "").to_numpy(), keys.duplicated().to_numpy()
    bad = empty | again
    if not bad.any():
        return
    at = int(bad.argmax())
    if empty[at]:
        raise _broken(path, at + 2, f"{keys.name} is empty")
    first = int((keys == keys.iloc[at]).to_numpy().argmax())
    raise _broken(path, at + 2, f"{keys.name} is the same as in row {first + 2}, and must be unique")


def _broken(path: Path, row: int, what: str, fix: str = "") -> DataError:
    return DataError(Reason.BROKEN_ROW, item=f"{path.name}, row {row}: {what}", fix=fix)


def missing(path: Path, exc: OSError) -> DataError:
    """What to raise for a file that cannot be read."""
    fix = "Check the paths under `data` in partner.yaml."
    return DataError(Reason.MISSING_FILE, item=path.name, detail=f"{path}: {exc.strerror}", fix=fix)
