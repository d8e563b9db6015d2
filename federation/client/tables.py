"""Reads a partner's CSV files strictly: a file that is not what it should be is an error, never a guess.

Guarantees that every row has as many fields as the header, that quoting is well formed, that the text is UTF-8, and
that required columns are there. Errors name the file, the row (the header is row 1, as a spreadsheet counts) or the
column, and never a value.
"""

import collections
import csv
import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from federation.core.errors import DataError, Reason

FileStamp = tuple[int, int]
"""Modification time in nanoseconds and size in bytes; equal stamps mean an unchanged file."""


def stamp(path: Path) -> FileStamp:
    """What tells whether a file changed. Raises DataError (MISSING_FILE)."""
    try:
        status = path.stat()
    except OSError as exc:
        raise _missing(path, exc) from exc
    return status.st_mtime_ns, status.st_size


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
    content = _decode(path)
    rows = _checked(path, io.StringIO(content, newline=""))
    header = next(rows)
    collections.deque(rows, maxlen=0)  # looks at every row and keeps none
    for column in required:
        _place(path, header, column)
    chosen = header if "*" in text else [column for column in header if column in text]
    table = pd.read_csv(
        io.StringIO(content), dtype=dict.fromkeys(chosen, str), keep_default_na=False, na_values=[""], low_memory=False
    )
    for column in table.columns:
        if column in chosen or not is_numeric_dtype(table[column]):
            table[column] = table[column].fillna("").astype(str)
    if key is not None:
        _check_key(path, table[key])
    return table


def read_rows(path: Path, *, required: Collection[str]) -> Iterator[list[str]]:
    """The rows of one CSV file with a header, one at a time, as strictly as ``read_table`` and without its memory.

    What was read before an error is of a file that is not usable.

    Args:
        path: The file.
        required: The columns to return, as text, in this order; they must be there.

    Raises:
        DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _checked(path, file)
            header = next(rows)
            places = [_place(path, header, column) for column in required]
            for row in rows:
                yield [row[place] for place in places]
    except OSError as exc:
        raise _missing(path, exc) from exc
    except UnicodeDecodeError:
        _decode(path)  # which says where
        raise


def _place(path: Path, header: list[str], column: str) -> int:
    if column not in header:
        raise DataError(Reason.MISSING_COLUMN, item=f"{path.name}, column {column}")
    return header.index(column)


def _decode(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise _missing(path, exc) from exc
    except UnicodeDecodeError as exc:
        raise _broken(path, exc.object.count(b"\n", 0, exc.start) + 1, "not UTF-8") from exc


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


def _check_key(path: Path, keys: "pd.Series[str]") -> None:
    bad = (keys.str.strip() == "") | keys.duplicated()
    if bad.any():
        raise _broken(path, int(bad.to_numpy().argmax()) + 2, f"{keys.name} is empty or not unique")


def _broken(path: Path, row: int, what: str) -> DataError:
    return DataError(Reason.BROKEN_ROW, item=f"{path.name}, row {row}: {what}")


def _missing(path: Path, exc: OSError) -> DataError:
    fix = "Check the paths under `data` in partner.yaml."
    return DataError(Reason.MISSING_FILE, item=path.name, detail=f"{path}: {exc.strerror}", fix=fix)
