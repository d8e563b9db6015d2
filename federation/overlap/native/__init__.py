"""The C kernel, if it was built and this processor can run it: X25519, Elligator 2 and hash-to-field, eight at a time.

The kernel is an accelerator and nothing else: for every input its answers are those of ``cryptography``, gmpy2 and
hashlib, which do the work where it is missing. It is loaded once a process, after it has given a known answer of RFC
7748. ``ENTENTE_NATIVE=0`` in the environment forces the portable path. One line in the log says which path is taken.

The library's functions over texts (``texts``) need no such processor and are loaded apart.

Large inputs are split over all cores: ctypes lets go of the interpreter's lock during a call. Beyond input and output
nothing is allocated.

The kernel takes no branch and no address that depends on a scalar, and wipes its copy of it. The bytes object that
Python hands over cannot be wiped; it lives as long as the call, beside the key that the process holds anyway.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from federation.core.ids import POINT_BYTES

FILE = Path(__file__).with_name("entente_kernel.so")
SWITCH = "ENTENTE_NATIVE"
BATCH_ROWS = 256  # what the kernel handles with one inversion
Rows = NDArray[np.uint8]
_MIN_ROWS_PER_THREAD = 4 * BATCH_ROWS
# RFC 7748, section 5.2, the first vector.
_SCALAR = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
_POINT = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
_ANSWER = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
_log = structlog.get_logger()


class Kernel:
    """The library's functions over bytes. Safe to share between threads.

    Args:
        library: Loaded, and supported by this processor.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        address, size = ctypes.c_void_p, ctypes.c_size_t
        self._blind = function_of(library, "entente_blind", ctypes.c_char_p, address, address, address, size)
        self._map = function_of(library, "entente_map_to_curve", address, address, size)
        hash_to_field = (address, address, ctypes.c_char_p, size, address, size)
        self._hash = function_of(library, "entente_hash_to_field", *hash_to_field)

    def blind(self, points: bytes, scalar: bytes) -> tuple[bytes, list[int]]:
        """X25519 of every point, and the rows of low order, which are zero.

        Args:
            points: A multiple of 32 bytes.
            scalar: 32 bytes, clamped or not.
        """
        if len(scalar) != POINT_BYTES or len(points) % POINT_BYTES:
            raise ValueError("a scalar of 32 bytes and whole points")
        count = len(points) // POINT_BYTES
        rows, out, low = np.frombuffer(points, np.uint8), _zeros(count), np.zeros(count, np.uint8)

        def run(start: int, stop: int) -> None:
            at = start * POINT_BYTES
            self._blind(scalar, _at(rows, at), _at(out, at), _at(low, start), stop - start)

        _split(count, run)
        return out.tobytes(), np.flatnonzero(low).tolist()

    def map_to_curve(self, elements: bytes) -> bytes:
        """Elligator 2 of every field element; 32 bytes each, little-endian, the high bit ignored."""
        if len(elements) % POINT_BYTES:
            raise ValueError("whole elements")
        count = len(elements) // POINT_BYTES
        rows, out = np.frombuffer(elements, np.uint8), _zeros(count)

        def run(start: int, stop: int) -> None:
            at = start * POINT_BYTES
            self._map(_at(rows, at), _at(out, at), stop - start)

        _split(count, run)
        return out.tobytes()

    def hash_to_curve(self, messages: Sequence[bytes], dst: bytes) -> bytes:
        """Points for messages, as ``hash_to_curve.hash_to_curve``; ``dst`` has at most 255 bytes."""
        ends = np.cumsum(np.fromiter(map(len, messages), np.uint64, len(messages)), dtype=np.uint64)
        return self.hash_texts(np.frombuffer(b"".join(messages), np.uint8), ends, dst)

    def hash_texts(self, text: Rows, ends: "NDArray[np.uint64]", dst: bytes) -> bytes:
        """Points for messages that stand one after another.

        Args:
            text: All messages.
            ends: Where each one ends, never falling; the last end is not behind that of ``text``.
            dst: At most 255 bytes.
        """
        tag = dst + bytes([len(dst)])
        count = len(ends)
        starts = np.concatenate([np.zeros(1, np.uint64), ends])
        text, out = text if len(text) else _zeros(1), _zeros(count)

        def run(start: int, stop: int) -> None:
            at = start * POINT_BYTES
            own = ends[start:stop] - starts[start]
            self._hash(_at(text, int(starts[start])), _at(own, 0), tag, len(tag), _at(out, at), stop - start)
            self._map(_at(out, at), _at(out, at), stop - start)

        _split(count, run)
        return out.tobytes()


@functools.cache
def load_kernel() -> Kernel | None:
    """The kernel, or None where the portable path must do; decided once a process."""
    kernel, why = _try_to_load(FILE)
    _log.info("overlap_arithmetic", path="portable" if kernel is None else "native", **({"why": why} if why else {}))
    return kernel


def _try_to_load(path: Path) -> tuple[Kernel | None, str]:
    """The kernel, or why there is none."""
    if os.environ.get(SWITCH) == "0":
        return None, f"{SWITCH} is 0"
    if not path.exists():
        return None, "the kernel was not built"
    try:
        library = ctypes.CDLL(str(path))
        supported = library.entente_supported()
        kernel = Kernel(library)
    except (OSError, AttributeError) as exc:
        return None, f"the kernel cannot be loaded: {exc}"
    if not supported:
        return None, "this processor has no AVX-512 IFMA"
    if kernel.blind(_POINT, _SCALAR) != (_ANSWER, []):
        return None, "the kernel does not know the answer of RFC 7748"
    return kernel, ""


def function_of(library: ctypes.CDLL, name: str, *arguments: type, result: type | None = None) -> Callable[..., Any]:
    """A function of the library, which returns nothing unless ``result`` says what."""
    function: Callable[..., Any] = getattr(library, name)
    function.argtypes, function.restype = arguments, result  # type: ignore[attr-defined]
    return function


def _zeros(rows: int) -> Rows:
    return np.zeros(rows * POINT_BYTES, np.uint8)


def _at(array: "Rows | NDArray[np.uint64]", offset: int) -> int:
    """The address of a byte of an array, which the caller keeps alive during the call."""
    return array.ctypes.data + offset


def _split(count: int, run: Callable[[int, int], None]) -> None:
    """Calls ``run`` with ranges of rows that together are all of them, on as many threads as are worth it."""
    threads = min(os.cpu_count() or 1, count // _MIN_ROWS_PER_THREAD)
    if threads < 2:
        run(0, count)
        return
    step = -(-count // (4 * threads * BATCH_ROWS)) * BATCH_ROWS  # four pieces a thread even out their speeds
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, count, step)
        list(pool.map(run, starts, (min(start + step, count) for start in starts)))
