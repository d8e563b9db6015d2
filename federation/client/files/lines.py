"""Readings of a CSV file that changes a little from time to time: only lines that are new need to be parsed.

A reading keeps a keyed digest of every line, and the next one finds by digest where each of its lines was. What stands
before the first change, as in a file that only grows, is known by one tag for each ``_BLOCK_BYTES``.

Digests are SipHash with 128 bits, tags those of GMAC, both under keys that a process makes for itself and that never
leave it: nobody can make two lines, or two blocks, that are taken for each other. A tag is used as a universal hash of
a block and never shown, so all of them have the same nonce: two blocks have the same tag with a probability below
2^-111 (McGrew, Viega: The Galois/Counter Mode of Operation, 2004, section 5).

Where the library for digests is missing, or the file is not plain (``plain``), every reading is of the whole file.
Errors in a file are found and named as ``tables.read_batches`` does.

Kept for each line: 24 bytes, 16 once ``forget_places`` was called, and on disk where they are many (``columns``).
"""

import codecs
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from federation.client.digests import KEY_BYTES, find
from federation.client.files.columns import ColumnStore, Places, parts
from federation.client.files.plain import MAX_HEADER_BYTES, column_types, plain_batches, plain_names
from federation.client.files.tables import FileStamp, missing, read_batches, stamp
from federation.overlap.native.texts import MAX_LINE_BYTES, Digests, TextKernel, load_texts

_CHUNK_BYTES = 1 << 22
_BLOCK_BYTES = 1 << 20
_KEY = os.urandom(KEY_BYTES)
_TAGS, _NONCE = AESGCM(os.urandom(16)), bytes(12)
_LINE_END = ord("\n")
_FEW = 0.5
"""Where more lines than this share are new, the whole file is parsed: that is no slower."""


class FileMoved(Exception):  # noqa: N818 - no fault: the reader begins anew
    """A file changed while it was read."""


class _NotPlain(Exception):  # noqa: N818 - no fault
    """The lines of a file cannot be told apart by their ends alone."""


@dataclass(frozen=True)
class Block:
    """The first bytes of a file behind its header, up to a multiple of ``_BLOCK_BYTES``."""

    tag: bytes  # of the last ``_BLOCK_BYTES`` of them
    rows: int  # lines that end in them
    at: int  # where the line after these begins


@dataclass(frozen=True)
class Lines:
    """The lines of a plain file at one moment, without the header."""

    names: tuple[str, ...]
    head_bytes: int
    stamp: FileStamp
    digests: Digests
    starts: NDArray[np.uint64]
    """Where each line begins in the file, and where the last one ends; without the first ``forgotten`` lines."""
    blocks: tuple["Block", ...]
    forgotten: int = 0

    def __len__(self) -> int:
        return len(self.digests)


_NO_LINES = Lines((), 0, (), np.empty(0, "V16"), np.zeros(1, np.uint64), ())


class Reading:
    """One look at a file.

    Args:
        path: The file.
        required: The columns to return.
        lines: Its lines, None where they are not known.
        before: An earlier look at it.
        encoded: Columns that are returned as dictionary and indices.
    """

    def __init__(
        self,
        path: Path,
        required: Sequence[str],
        lines: Lines | None,
        before: "Reading | None" = None,
        *,
        encoded: frozenset[str] = frozenset(),
    ) -> None:
        self._path, self._required, self._encoded, self.lines = path, tuple(required), encoded, lines
        self.was = self._was(before)

    def nothing(self) -> pa.RecordBatch:
        """No rows, of the columns."""
        types = column_types(self._required, self._encoded)
        return pa.record_batch([pa.array([], kind) for kind in types.values()], schema=pa.schema(types))

    def fresh(self) -> Iterator[pa.RecordBatch]:
        """What is new, in the order of the file: all lines where ``was`` is None.

        Raises:
            DataError: as ``tables.read_batches``.
            FileMoved: the file is another than it was when this reading began.
        """
        if self.was is not None:
            yield from self.rows(np.flatnonzero(self.was < 0))
            return
        done = 0
        names = self.lines.names if self.lines is not None else None
        for batch in read_batches(self._path, required=self._required, encoded=self._encoded, plain=names):
            done += len(batch)
            yield batch
        if self.lines is not None and (done != len(self.lines) or stamp(self._path) != self.lines.stamp):
            self.lines = None  # what was read may be of another moment than the digests

    def forget_places(self) -> None:
        """Says that ``rows`` will not be asked again: what a later reading needs are the digests."""
        if self.lines is not None:
            self.lines = replace(self.lines, starts=np.empty(0, np.uint64), forgotten=len(self.lines))

    def rows(self, places: NDArray[np.intp]) -> Iterator[pa.RecordBatch]:
        """Some lines, by place, rising. Only where ``lines`` are known.

        Raises:
            FileMoved: they are not there any more, or not as they were; or one cannot be parsed.
        """
        lines, kernel = self.lines, load_texts()
        if lines is None or kernel is None:
            raise FileMoved
        if not len(places):
            return
        if places[0] < lines.forgotten:
            raise ValueError("the places of lines were forgotten")
        for part in parts(len(places)):
            text = self._text(lines, places[part])
            found = kernel.digest_lines(memoryview(text)[len(codecs.BOM_UTF8) :], _KEY)
            if found is None or found[0].tobytes() != lines.digests[places[part]].tobytes():
                raise FileMoved
            try:
                yield from plain_batches(pa.py_buffer(text), lines.names, column_types(self._required, self._encoded))
            except pa.ArrowInvalid as exc:
                raise FileMoved from exc

    def _was(self, before: "Reading | None") -> Places | None:
        """Where each line was in the reading before, -1 for new ones; None where all are to be parsed."""
        lines = self.lines
        if before is None or before.lines is None or lines is None:
            return None
        if (before.lines.names, before._required) != (lines.names, self._required):
            return None
        was = find(lines.digests, before.lines.digests)
        return was if np.count_nonzero(was < 0) <= _FEW * len(was) else None

    def _text(self, lines: Lines, places: NDArray[np.intp]) -> bytes:
        """Some lines, behind a mark that Arrow takes off: one with which a line begins is the line's."""
        first = np.flatnonzero(np.diff(places, prepend=-2) != 1)  # lines that stand together are copied together
        last = np.append(first[1:], len(places)) - 1
        of_line = places - lines.forgotten
        starts, ends = lines.starts[of_line[first]].tolist(), lines.starts[of_line[last] + 1].tolist()
        try:
            with self._path.open("rb") as file:  # not mapped: whoever makes it shorter meanwhile would kill the process
                texts = [os.pread(file.fileno(), end - start, start) for start, end in zip(starts, ends, strict=True)]
        except OSError as exc:  # gone
            raise FileMoved from exc
        if not texts[-1].endswith(b"\n"):
            texts.append(b"\n")
        return b"".join([codecs.BOM_UTF8, *texts])


def scan_lines(path: Path, store: ColumnStore, before: Lines | None = None) -> Lines | None:
    """The lines of a file; None where it is not plain, or where the library is missing.

    Args:
        path: The file.
        store: Where digests and places are kept.
        before: Its lines at an earlier moment.

    Raises:
        DataError: MISSING_FILE.
        OSError: as ``ColumnStore.together``.
    """
    kernel = load_texts()
    if kernel is None:
        return None
    now = stamp(path)
    try:
        opened = path.open("rb")
    except OSError as exc:
        raise missing(path, exc) from exc
    try:
        with opened as file:
            head = file.readline(MAX_HEADER_BYTES)
            names = plain_names(head) if b'"' not in head and b"\0" not in head else None
            if names is None:
                return None
            tags = list(_tags(file))
            old = before if before is not None and before.head_bytes == len(head) else _NO_LINES
            same = _same_blocks(tags, old)
            rows, at = (same[-1].rows, same[-1].at) if same else (0, len(head))
            forgotten = min(rows, old.forgotten)
            file.seek(at)
            known = [(old.digests[:rows], old.starts[: rows - forgotten]), (old.digests[:0], np.array([at], np.uint64))]
            digests, starts = store.together(itertools.chain(known, _digested(kernel, file, at)))
    except (UnicodeDecodeError, _NotPlain):
        return None
    ends = len(head) + _BLOCK_BYTES * np.arange(len(same) + 1, len(tags) + 1, dtype=np.uint64)
    ended = np.searchsorted(starts[1:], ends, side="right")
    firsts = zip(tags[len(same) :], (ended + forgotten).tolist(), starts[ended].tolist(), strict=True)
    # Of a file that changed meanwhile the tags may be of other blocks than the digests.
    blocks = (*same, *(Block(*first) for first in firsts)) if stamp(path) == now else ()
    return Lines(tuple(names), len(head), now, digests, starts, blocks, forgotten)


def _tags(file: BinaryIO) -> Iterator[bytes]:
    """The tag of each whole block from here on."""
    if os.fstat(file.fileno()).st_size < _BLOCK_BYTES:
        return
    block = bytearray(_BLOCK_BYTES)
    while file.readinto(block) == _BLOCK_BYTES:  # type: ignore[attr-defined]
        yield _TAGS.encrypt(_NONCE, b"", block)


def _same_blocks(tags: Sequence[bytes], before: Lines) -> tuple[Block, ...]:
    """The blocks before the first change."""
    count = 0
    while count < min(len(tags), len(before.blocks)) and tags[count] == before.blocks[count].tag:
        count += 1
    return before.blocks[:count]


def _whole_lines(file: BinaryIO) -> Iterator[memoryview]:
    """The rest of a file in pieces that end with a line, each valid until the next one is asked for.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        _NotPlain: a line is very long.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk_bytes = min(_CHUNK_BYTES, os.fstat(file.fileno()).st_size + 1)  # it is filled with zeros
    buffer, left = bytearray(chunk_bytes + MAX_LINE_BYTES + 1), 0
    view = memoryview(buffer)
    while size := file.readinto(view[left : left + chunk_bytes]):  # type: ignore[attr-defined]
        new, size = view[left : left + size], left + size
        if (np.frombuffer(new, np.int8) < 0).any() or decoder.getstate()[0]:
            decoder.decode(new)
        cut = buffer.rfind(b"\n", 0, size) + 1
        if cut:
            yield view[:cut]
        left = size - cut
        if left > MAX_LINE_BYTES:
            raise _NotPlain
        view[:left] = bytes(view[cut:size])
    decoder.decode(b"", final=True)
    if left:
        buffer[left] = _LINE_END
        yield view[: left + 1]


def _digested(kernel: TextKernel, file: BinaryIO, at: int) -> Iterator[tuple[Digests, NDArray[np.uint64]]]:
    """The digests of lines from a place in the file on, and where each one's next line begins."""
    for text in _whole_lines(file):
        found = kernel.digest_lines(text, _KEY)
        if found is None:
            raise _NotPlain
        digests, after = found
        yield digests, at + after.astype(np.uint64)
        at += len(text)
