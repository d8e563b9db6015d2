"""Batches as files at a partner: read in chunks, hashed as they are written, shuffled without being held in memory.

Memory. Everything here works on ``CHUNK_ROWS`` rows at a time, but for the shuffle, which holds one bucket: on average
``BUCKET_ROWS`` rows, whatever the size of the batch.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from federation.overlap.batch import Content, Random, permutation, reorder
from federation.overlap.blind import CHUNK_ROWS

BUCKET_ROWS = 1 << 18


def create_private(path: Path) -> int:
    """Opens a new or emptied file that only its owner can read; returns its descriptor, for appending."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def read_chunks(path: Path, width: int, from_row: int = 0, rows: int = CHUNK_ROWS) -> Iterator[bytes]:
    """The rows of a file from one on, at most so many at a time.

    Args:
        path: Rows of equal width.
        width: Bytes a row.
        from_row: The first row that is wanted.
        rows: Rows of a chunk.
    """
    with path.open("rb") as file:
        file.seek(from_row * width)
        while chunk := file.read(rows * width):
            yield chunk


def write_rows(path: Path, chunks: Iterable[bytes], width: int) -> Content:
    """Writes rows to a file, durably; returns what a signature would say of them."""
    digest, size = hashlib.sha256(), 0
    with os.fdopen(create_private(path), "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return Content(size // width, digest.digest())


def shuffled(chunks: Iterable[bytes], scratch: Path, *, rows: int, width: int, random: Random) -> Iterator[bytes]:
    """The same rows in a uniformly random order, one bucket at a time.

    Every row goes to a bucket by its own random number, and each bucket is permuted. That is sorting all rows by
    independent random keys of which the bucket is the leading digit, so every order is equally likely. (With buckets
    of a fixed size it would not be.)

    Args:
        chunks: Whole rows.
        scratch: A path beside which buckets are kept; they are removed as they are read, or when this is closed.
        rows: How many rows are expected, to choose the number of buckets.
        width: Bytes a row.
        random: A CSPRNG.
    """
    count = -(-rows // BUCKET_ROWS) or 1
    if count == 1:  # no file for what is held in memory anyway
        data = b"".join(chunks)
        yield reorder(data, permutation(len(data) // width, random), width)
        return
    paths = [scratch.with_name(f"{scratch.name}.{number}") for number in range(count)]
    try:
        files = [os.fdopen(create_private(path), "wb") for path in paths]
        try:
            for chunk in chunks:
                table = np.frombuffer(chunk, dtype=f"V{width}")
                # 64 random bits modulo at most a few hundred buckets: uniform to within 2^-55.
                bucket = np.frombuffer(random(8 * len(table)), dtype=np.uint64) % np.uint64(count)
                for number, file in enumerate(files):
                    file.write(table[bucket == number].tobytes())
        finally:
            for file in files:
                file.close()
        for path in paths:
            data = path.read_bytes()
            path.unlink()
            yield reorder(data, permutation(len(data) // width, random), width)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
