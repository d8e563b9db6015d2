"""The library's functions over texts, if it was built: keyed digests of texts and lines, and finding digests.

They need no special processor, so they are there wherever the library is (see the package); ``ENTENTE_NATIVE=0`` forces
the portable path here too. A call lets go of the interpreter's lock.
"""

import ctypes
import functools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from federation.overlap.native import FILE, SWITCH, function_of

DIGEST_BYTES = 16
MAX_LINE_BYTES = 1 << 16
MAX_FOUND = 1 << 30
Digests = NDArray[np.void]
"""``V16`` each."""
_V16 = np.dtype(f"V{DIGEST_BYTES}")
# The reference code's vectors for the key 00 01 .. 0f: the empty text, and 00 01 .. 0e.
_KEY = bytes(range(16))
_ANSWERS = bytes.fromhex("a3817f04ba25a8e66df67214c75502935493e99933b0a8117e08ec0f97cfc3d9")


class TextKernel:
    """The functions. Safe to share between threads. Raises AttributeError for a library that lacks one."""

    def __init__(self, library: ctypes.CDLL) -> None:
        address, size, key = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
        self._texts = function_of(library, "entente_digest_texts", key, address, address, address, size)
        lines = (key, address, size, size, address, address, size)
        self._lines = function_of(library, "entente_digest_lines", *lines, result=ctypes.c_int64)
        self._find = function_of(library, "entente_find_digests", address, size, address, size, address, address)

    def digest_texts(self, texts: pa.Array, key: bytes) -> Digests:
        """SipHash-2-4, 128 bits, of each text of a column of type ``string`` without nulls; the key has 16 bytes."""
        out = np.empty(len(texts), _V16)
        if len(texts):
            _, offsets, data = texts.buffers()
            first = offsets.address + 4 * texts.offset
            self._texts(key, data.address if data is not None else None, first, out.ctypes.data, len(texts))
        return out

    def digest_lines(self, text: bytes | memoryview, key: bytes) -> tuple[Digests, NDArray[np.uint32]] | None:
        """The same of each line of a text that ends with one, without its end; and where the next line begins.

        None where a line is empty, longer than ``MAX_LINE_BYTES``, or holds a quote, a zero or a lone carriage return.
        The text has fewer than 2^32 bytes.
        """
        # A line has a byte and an end, and one that is empty must be seen; memory that is not written to costs nothing.
        most = len(text) // 2 + 1
        out, ends = np.empty(most, _V16), np.empty(most, np.uint32)
        count: int = self._lines(
            key, _address(text), len(text), MAX_LINE_BYTES, out.ctypes.data, ends.ctypes.data, most
        )
        return (out[:count].copy(), ends[:count].copy()) if count >= 0 else None

    def find(self, wanted: Digests, among: Digests) -> NDArray[np.int32]:
        """Where each digest is among others, -1 where it is not; of several places, one. Digests of a secret key only.

        Fast where both are in nearly the same order.
        """
        if max(len(wanted), len(among)) >= MAX_FOUND:
            raise ValueError("too many digests")
        wanted, among = np.ascontiguousarray(wanted), np.ascontiguousarray(among)
        table = np.empty(1 << max(2, (2 * len(among)).bit_length()), np.int32)  # what is not written to costs nothing
        at = np.empty(len(wanted), np.int32)
        mine, theirs = (wanted.ctypes.data, len(wanted)), (among.ctypes.data, len(among))
        self._find(*mine, *theirs, table.ctypes.data, at.ctypes.data)
        return at


@functools.cache
def load_texts() -> TextKernel | None:
    """The functions, or None where the portable path must do; decided once a process."""
    return _try_to_load(FILE)  # said by no log line: commands read files too, and print nothing but their answer


def _try_to_load(path: Path) -> TextKernel | None:
    if os.environ.get(SWITCH) == "0" or not path.exists():
        return None
    try:
        kernel = TextKernel(ctypes.CDLL(str(path)))
    except (OSError, AttributeError):
        return None
    known = kernel.digest_texts(pa.array(["", _KEY[:15].decode()]), _KEY)
    return kernel if known.tobytes() == _ANSWERS else None


def _address(text: bytes | memoryview) -> int:
    """Where bytes begin; the caller keeps them alive during the call."""
    return np.frombuffer(text, np.uint8).ctypes.data if len(text) else 0
