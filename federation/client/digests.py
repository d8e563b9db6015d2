"""Keyed digests of texts: who is equal, and nothing else to whoever lacks the key. Sixteen bytes a text.

SipHash-2-4 with 128 bits of output, by the native library where it was built (``overlap.native.texts``), else by numpy,
with the same answers. Under a secret key nobody can choose texts whose digests, or halves of digests, collide; by
chance two of a hundred million texts do with a probability below 2^-74.
Source: Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012, and the authors' reference code.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from federation.client.files.columns import ColumnStore, parts
from federation.overlap.native.texts import DIGEST_BYTES, load_texts

KEY_BYTES = 16
DIGEST = np.dtype(f"V{DIGEST_BYTES}")
Table = NDArray[Any]
Rows = NDArray[np.intp]
_SLICE_ROWS = 1 << 16
TABLE_ROWS = 1 << 20
"""Of so many digests a table, or an order, is held in memory at a time."""
_WORD = 8
_START = (0x736F6D6570736575, 0x646F72616E646F6D ^ 0xEE, 0x6C7967656E657261, 0x7465646279746573)


class Digests:
    """Digests under one key.

    Args:
        key: ``KEY_BYTES`` secret bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"{len(key)} bytes of key, expected {KEY_BYTES}")
        self._key = key

    def of(self, texts: pa.Array) -> Table:
        """The digest of each text of a column without nulls, as ``DIGEST``."""
        kernel = load_texts()
        if kernel is not None:
            return kernel.digest_texts(texts, self._key)
        parts = [texts.slice(start, _SLICE_ROWS) for start in range(0, len(texts), _SLICE_ROWS)]
        return np.concatenate([np.empty(0, DIGEST), *(_by_numpy(part, self._key) for part in parts)])


IN_PROCESS = Digests(os.urandom(KEY_BYTES))
"""For tables that live in this process."""


def find(wanted: Table, among: Table) -> Table:
    """Where each of some digests is among others, -1 where it is not there; of several places, one."""
    if not len(among) or not len(wanted):
        return np.full(len(wanted), -1, np.int32)
    if len(among) <= TABLE_ROWS:
        return _find(wanted, among)
    at = np.full(len(wanted), -1, np.int32)
    for mine, theirs in alike(wanted, among):
        found = _find(wanted[mine], among[theirs])
        there = found >= 0
        at[mine[there]] = theirs[found[there]]
    return at


def alike(*tables: Table) -> Iterator[list[Rows]]:
    """The rows of each table, rising, in parts of about ``TABLE_ROWS`` of the longest.

    Equal digests are in the same part, and the first halves of one part are larger than all of the part before.
    """
    bits = (max(map(len, tables)) // TABLE_ROWS).bit_length()
    if not bits:
        yield [np.arange(len(table)) for table in tables]
        return
    shift = np.uint64(64 - bits)
    numbers = [
        np.concatenate([(halves(table[part])[0] >> shift).astype(np.uint16) for part in parts(len(table))])
        for table in tables
    ]
    for number in range(1 << bits):
        yield [np.flatnonzero(mine == number) for mine in numbers]


def halves(digests: Table) -> tuple[Table, Table]:
    """Both halves of each, as numbers; the first is as good as random."""
    words = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2)
    return words[:, 0], words[:, 1]


class Sorted:
    """Digests in order of their first halves: some are found among them without a look at all. Twelve bytes for each.

    Args:
        digests: No two of them equal.
        store: Where the order is kept.
    """

    def __init__(self, digests: Table, store: ColumnStore) -> None:
        self._digests = digests
        self._first, self._order = store.together(self._in_order())

    def find(self, wanted: Table) -> Table:
        """As ``find``."""
        at, half = np.full(len(wanted), -1, np.int32), halves(wanted)[0]
        place, rest = np.searchsorted(self._first, half), np.arange(len(wanted))
        while len(rest):  # again only for those that share their first half with others: hardly ever
            rest = rest[place[rest] < len(self._first)]
            rest = rest[self._first[place[rest]] == half[rest]]
            candidate = self._order[place[rest]]
            same = are_equal(wanted[rest], self._digests[candidate])
            at[rest[same]] = candidate[same]
            rest = rest[~same]
            place[rest] += 1
        return at

    def _in_order(self) -> Iterator[tuple[Table, Table]]:
        for [rows] in alike(self._digests):
            first, _ = halves(self._digests[rows])
            order = np.argsort(first)
            yield first[order], rows[order].astype(np.int32)


def are_equal(digests: Table, others: Table) -> NDArray[np.bool_]:
    """Whether each is equal to the other in its place."""
    (first, second), (third, fourth) = halves(digests), halves(others)
    same: NDArray[np.bool_] = (first == third) & (second == fourth)
    return same


def are_unique(digests: Table) -> bool:
    """Whether no two are equal."""
    return all(_are_unique(digests[rows]) for [rows] in alike(digests))


def numbered(digests: Table) -> Table:
    """A number for each, the same for equal ones."""
    first, second = halves(digests)
    number, distinct = pd.factorize(first)
    some = np.empty(len(distinct), np.uint64)
    some[number] = second
    if (some[number] == second).all():
        return np.asarray(number)
    return np.asarray(pd.factorize(np.array(digests.tolist(), object))[0])  # two share a first half alone: hardly ever


def _find(wanted: Table, among: Table) -> Table:
    if not len(among) or not len(wanted):
        return np.full(len(wanted), -1, np.int32)
    kernel = load_texts()
    if kernel is not None:
        return kernel.find(wanted, among)
    first, second = halves(among)
    index = pd.Index(first)
    if not index.is_unique:
        return _find_among_equals(wanted, among)
    mine, rest = halves(wanted)
    at: Table = index.get_indexer(pd.Index(mine))
    return np.where((at >= 0) & (second[at] == rest), at, -1)


def _are_unique(digests: Table) -> bool:
    first, _ = halves(digests)
    ordered = np.sort(first)
    if not (ordered[1:] == ordered[:-1]).any():
        return True
    return len(set(digests.tolist())) == len(digests)


def _find_among_equals(wanted: Table, among: Table) -> Table:
    """Where two are equal, or share their first half: hardly ever."""
    places = {digest: place for place, digest in reversed(list(enumerate(among.tolist())))}
    return np.array([places.get(digest, -1) for digest in wanted.tolist()], np.intp)


def _by_numpy(texts: pa.Array, key: bytes) -> Table:
    """All texts at once, a word after another; one that has fewer words than others waits."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.intp)
    data = texts.buffers()[2]
    padded = np.concatenate([np.frombuffer(data or b"", np.uint8)[: offsets[-1]], np.zeros(_WORD, np.uint8)])
    starts, sizes = offsets[:-1], np.diff(offsets)
    low, high = np.frombuffer(key, np.uint64)
    v = [np.full(len(texts), part ^ int(word), np.uint64) for part, word in zip(_START, (low, high) * 2, strict=True)]
    for number in range(int(sizes.max(initial=0)) // _WORD + 1):
        row = np.flatnonzero(sizes >= number * _WORD)
        left = sizes[row] - number * _WORD
        at = starts[row] + number * _WORD
        word = np.where(np.arange(_WORD) < left[:, None], padded[at[:, None] + np.arange(_WORD)], 0)
        last = left < _WORD
        word[last, _WORD - 1] = sizes[row][last] & 0xFF
        words = np.ascontiguousarray(word, np.uint8).view(np.uint64).reshape(-1)
        mine = [part[row] for part in v]
        mine[3] ^= words
        _rounds(mine, 2)
        mine[0] ^= words
        for part, new in zip(v, mine, strict=True):
            part[row] = new
    out = np.empty((len(texts), 2), np.uint64)
    for half, (place, mark) in enumerate(((2, 0xEE), (1, 0xDD))):
        v[place] ^= np.uint64(mark)
        _rounds(v, 4)
        out[:, half] = v[0] ^ v[1] ^ v[2] ^ v[3]
    return out.view(DIGEST).reshape(-1)


def _rounds(v: list[Table], count: int) -> None:
    for _ in range(count):
        v[0] = v[0] + v[1]
        v[1] = _rotated(v[1], 13) ^ v[0]
        v[2] = v[2] + v[3]
        v[3] = _rotated(v[3], 16) ^ v[2]
        v[0] = _rotated(v[0], 32) + v[3]
        v[3] = _rotated(v[3], 21) ^ v[0]
        v[2] = v[2] + v[1]
        v[1] = _rotated(v[1], 17) ^ v[2]
        v[2] = _rotated(v[2], 32)


def _rotated(a: Table, bits: int) -> Table:
    return (a << np.uint64(bits)) | (a >> np.uint64(64 - bits))
