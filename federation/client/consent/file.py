"""The two forms of a register of consents as rows with their raw bytes, and where broken rows are set aside.

Guarantees that a row is read by itself (whatever is wrong with one, the next is found) and that no row and no line take
more than a bounded memory. What is not UTF-8 stays unreadable and never turns into something else.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from federation.consent.statements import FIELDS, RECORD_ID, cell
from federation.core.errors import DataError, Reason

MAX_LINE_BYTES = 1 << 20
"""Longer lines come in pieces, each of them broken."""
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row. Neither values nor a fault: nothing is in it (a blank line, the header)."""

    raw: bytes
    values: list[str] | None = None  # those of FIELDS
    record_id: str = ""
    why: str = ""  # what is wrong with its form


@dataclass
class Place:
    """How much of a file is behind us."""

    offset: int = 0
    rows: int = 0
    aside_bytes: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def accept(self, raw: bytes) -> None:
        """Puts one more row behind us."""
        self.offset += len(raw)
        self.rows += 1
        self.digest.update(raw)


def open_rows(path: Path, file: BinaryIO, place: Place) -> Iterator[Row]:
    """The rows after a place; the file stands there. Raises DataError (MISSING_COLUMN, BROKEN_ROW for the header)."""
    return _json_rows(file) if path.suffix == ".jsonl" else _csv_rows(path, file, place)


class _Lines:
    """Lines as text, and the bytes of those that the last row was made of."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._raw = file, list[bytes]()

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(MAX_LINE_BYTES):
            self._raw.append(raw)
            yield raw.decode("utf-8", "surrogateescape")

    def take(self) -> bytes:
        raw, self._raw = self._raw, []
        return raw[0] if len(raw) == 1 else b"".join(raw)


def _csv_rows(path: Path, file: BinaryIO, place: Place) -> Iterator[Row]:
    start = file.tell()
    file.seek(0)
    lines = _Lines(file)
    try:
        header = next(csv.reader(lines, strict=True), [])
    except csv.Error as exc:
        raise DataError(Reason.BROKEN_ROW, item=f"{path.name}, row 1: {exc}") from exc
    first = lines.take()
    if header:
        header[0] = header[0].encode("utf-8", "surrogateescape").removeprefix(_BOM).decode("utf-8", "replace")
    for column in FIELDS:
        if header.count(column) != 1:
            raise DataError(Reason.MISSING_COLUMN, item=f"{path.name}, column {column}")
    if start == 0:
        yield Row(first)
    else:
        file.seek(start)
    order, width = [header.index(name) for name in FIELDS], len(header)
    record_id = header.index(RECORD_ID) if RECORD_ID in header else -1
    rows = csv.reader(lines, strict=True)
    while True:
        try:
            values = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            yield Row(lines.take(), why=str(exc))
            continue
        raw = lines.take()
        if len(values) == width:
            yield Row(raw, [values[at] for at in order], values[record_id] if record_id >= 0 else "")
        else:
            yield Row(raw, why=f"{len(values)} fields, expected {width}" if values else "")


def _json_rows(file: BinaryIO) -> Iterator[Row]:
    while raw := file.readline(MAX_LINE_BYTES):
        if not raw.strip():
            yield Row(raw)
            continue
        try:
            value: Any = json.loads(raw, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            yield Row(raw, why="not JSON, or a name stands twice")
            continue
        if isinstance(value, dict):
            yield Row(raw, [cell(value.get(name)) for name in FIELDS], cell(value.get(RECORD_ID)))
        else:
            yield Row(raw, why="not a JSON object")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a name that stands twice: nobody can say which of the two is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


class Aside:
    """The file of broken rows: JSON lines with ``row``, ``why`` and the row itself; only its owner can read it.

    Args:
        path: Where; None: nothing can be set aside.
        keep_bytes: How much of the file an earlier run had made durable; the rest is written again.
    """

    def __init__(self, path: Path | None, keep_bytes: int) -> None:
        self._file: BinaryIO | None = None
        self._kept = keep_bytes
        if path is not None:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            end = self._file.seek(0, os.SEEK_END)
            self._file.truncate(self._file.seek(min(keep_bytes, end)))

    @property
    def is_open(self) -> bool:
        """Whether broken rows may be set aside."""
        return self._file is not None

    def write(self, row: int, why: str, raw: bytes) -> None:
        """Sets a row aside."""
        if self._file is not None:
            text = raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
            line = json.dumps({"row": row, "why": why, "text": text}, ensure_ascii=False)
            self._file.write(line.encode() + b"\n")

    def sync(self) -> int:
        """Puts what was written on disk; returns how many bytes are there."""
        if self._file is None:
            return self._kept
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> "Aside":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
