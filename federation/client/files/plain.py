"""The fast reader of CSV files: Arrow, for files of which it reads what ``csv`` would read.

Arrow reads a plain file many times as fast as ``csv``, but is not as strict about quotes and empty lines. So it reads
only what has neither; what it stumbles over, ``tables`` reads again, slowly, to say what is wrong.
"""

import codecs
import collections
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

_SCAN_BYTES = _BLOCK_BYTES = 1 << 20
MAX_HEADER_BYTES = _LINE_BYTES = 1 << 16
"""Where every so many bytes have an end of line, no field is longer than the 131,072 characters that ``csv`` takes."""
_ENCODED = pa.dictionary(pa.int32(), pa.string())
_RETURN, _LINE_END = b"\r\n"


def plain_header(path: Path) -> list[str] | None:
    """The header of a file of which Arrow reads what ``csv`` would read: text without quotes, zeros or empty lines.

    None for any other file, also one with very long lines. Rows of another width than the header's Arrow finds itself.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = plain_names(file.readline(MAX_HEADER_BYTES))
            file.seek(0)
            return header if header is not None and _is_plain(file) else None
    except UnicodeDecodeError:
        return None


def plain_names(first: bytes) -> list[str] | None:
    """The names in the first line of a file, None where Arrow may read it otherwise than ``csv``.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    line = first.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    header = line.split(",")
    # A row of one column that is empty cannot be told from an empty line.
    usable = len(header) > 1 and first.endswith(b"\n") and "" not in header and len(set(header)) == len(header)
    return header if usable and "\r" not in line else None  # which ends a line too


def column_types(required: Sequence[str], encoded: Collection[str]) -> dict[str, pa.DataType]:
    """What columns are read as; see ``read_batches``."""
    return {column: _ENCODED if column in encoded else pa.string() for column in required}


def plain_batches(
    source: Path | pa.Buffer, header: Sequence[str], types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Some columns of a plain file (see ``plain_header``), or of lines of one.

    Args:
        source: The file, or some of its lines without the header.
        header: The names of all columns.
        types: The columns to return.

    Raises:
        pa.ArrowInvalid: a line of another width; all batches before it were returned.
    """
    lines = isinstance(source, pa.Buffer)
    reader = pyarrow.csv.open_csv(
        pa.BufferReader(source) if lines else source,
        read_options=pyarrow.csv.ReadOptions(
            column_names=list(header), skip_rows=0 if lines else 1, block_size=_BLOCK_BYTES
        ),
        parse_options=pyarrow.csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(types), column_types=types, strings_can_be_null=False
        ),
    )
    with reader:
        yield from reader


def is_even(path: Path, header: list[str]) -> bool:
    """Whether Arrow finds every row of a plain file as wide as its header."""
    try:
        collections.deque(plain_batches(path, header, {header[0]: pa.string()}), maxlen=0)
    except pa.ArrowInvalid:
        return False
    return True


def _is_plain(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    tail = b"\n"
    while chunk := file.read(_SCAN_BYTES):
        piece = tail + chunk
        if b'"' in chunk or b"\0" in chunk or b"\n\n" in piece or (b"\r" in piece and _is_odd(piece)):
            return False
        if any(chunk.find(b"\n", at - _LINE_BYTES, at) < 0 for at in range(_LINE_BYTES, len(chunk) + 1, _LINE_BYTES)):
            return False
        if not chunk.isascii() or decoder.getstate()[0]:
            decoder.decode(chunk)
        tail = piece[-2:]
    decoder.decode(b"", final=True)
    return not tail.endswith(b"\r")


def _is_odd(piece: bytes) -> bool:
    """Whether there is an empty line, or an end of line that is not one everywhere."""
    view = np.frombuffer(piece, np.uint8)
    at = np.flatnonzero(view == _RETURN)
    before, after = at[at > 0] - 1, at[at < len(view) - 1] + 1
    return bool((view[after] != _LINE_END).any() or (view[before] == _LINE_END).any())
