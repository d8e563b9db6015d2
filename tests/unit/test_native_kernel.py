"""The kernel: OpenSSL judges it on many inputs, and where it cannot run nothing else changes.

``ENTENTE_LONG=1`` compares two million points instead of a few thousand.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from federation.overlap import native
from federation.overlap.blind import ZERO
from federation.overlap.hash_to_curve import hash_to_curve, map_to_curve
from tests.kits.native import compile_or_skip, need_kernel, taking

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "federation" / "overlap" / "native"
P = 2**255 - 19
LONG = os.environ.get("ENTENTE_LONG") == "1"
POINTS = 2_000_000 if LONG else 3_000


def spread(seed: bytes, count: int) -> bytes:
    """As many points as asked for, always the same: random ones, every fifth with an edge's first or last bytes."""
    points = bytearray(hashlib.shake_256(seed).digest(32 * count))
    for row in range(0, count, 5):
        edge = (row // 5) % 4
        points[32 * row : 32 * row + 16] = bytes([0xFF * (edge & 1)]) * 16
        points[32 * row + 16 : 32 * row + 32] = bytes([0xFF * (edge >> 1)]) * 15 + points[32 * row + 31 : 32 * row + 32]
    return bytes(points)


def exchange(key: X25519PrivateKey, point: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError:
        return ZERO


@pytest.mark.timeout(1200 if LONG else 120)
def test_openssl_agrees_on_random_and_edge_points() -> None:
    kernel, share = need_kernel(), 100_000
    for start in range(0, POINTS, share):
        points = spread(start.to_bytes(8, "big"), min(share, POINTS - start))
        scalar = hashlib.sha256(start.to_bytes(8, "big")).digest()
        key = X25519PrivateKey.from_private_bytes(scalar)
        blinded, low_order = kernel.blind(points, scalar)
        expected = [exchange(key, points[at : at + 32]) for at in range(0, len(points), 32)]
        assert blinded == b"".join(expected)
        assert low_order == [row for row, point in enumerate(expected) if point == ZERO]


@pytest.mark.timeout(1200 if LONG else 120)
def test_gmpy2_and_hashlib_agree_on_the_map() -> None:
    kernel, count = need_kernel(), POINTS // 2
    messages = [b"%d@example.com" % number * (1 + number % 5 * 7) for number in range(count)]
    with taking("portable"):
        assert kernel.hash_to_curve(messages, b"dst") == hash_to_curve(messages, b"dst")
    edges = [*range(20), *range(P - 20, 2**255)]
    rows = b"".join(element.to_bytes(32, "little") for element in edges)
    assert kernel.map_to_curve(rows) == b"".join(u.to_bytes(32, "little") for u in map_to_curve(edges))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 257, 1023, 1025, 2047, 5001])
def test_every_number_of_rows(count: int) -> None:
    """Groups of 8, inversions of 256 rows and threads of 1,024 all have their last, partly filled one."""
    kernel = need_kernel()
    points, scalar = spread(b"rows", count), bytes(range(32))
    together, low_order = kernel.blind(points, scalar)
    single = [kernel.blind(points[at : at + 32], scalar) for at in range(0, len(points), 32)]
    assert together == b"".join(point for point, _ in single)
    assert low_order == [row for row, (_, low) in enumerate(single) if low]
    messages = [b"m" * (number % 300) for number in range(count)]
    assert kernel.hash_to_curve(messages, b"") == b"".join(kernel.hash_to_curve([m], b"") for m in messages)


def test_threads_may_share_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = need_kernel()
    points, scalar = spread(b"threads", 20_000), bytes(range(32))
    messages = [b"%d" % number for number in range(20_000)]
    many = kernel.blind(points, scalar), kernel.hash_to_curve(messages, b"dst")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert (kernel.blind(points, scalar), kernel.hash_to_curve(messages, b"dst")) == many


def test_what_does_not_fit_is_refused_before_it_reaches_c() -> None:
    kernel = need_kernel()
    for act in (
        lambda: kernel.blind(bytes(31), bytes(32)),
        lambda: kernel.blind(bytes(32), bytes(31)),
        lambda: kernel.map_to_curve(bytes(33)),
        lambda: kernel.hash_to_curve([b""], bytes(256)),
    ):
        with pytest.raises(ValueError, match=r".+"):
            act()


def test_a_library_that_cannot_be_used_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native._try_to_load(tmp_path / "none.so") == (None, "the kernel was not built")
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    kernel, why = native._try_to_load(broken)
    assert kernel is None
    assert why.startswith("the kernel cannot be loaded")
    monkeypatch.setenv(native.SWITCH, "0")
    assert native._try_to_load(native.FILE) == (None, "ENTENTE_NATIVE is 0")


def test_a_kernel_that_gives_a_wrong_answer_is_not_used(tmp_path: Path) -> None:
    need_kernel()
    wrong = tmp_path / "wrong.c"
    wrong.write_text(
        "int entente_supported(void) { return 1; }\nvoid entente_blind(void) {}\n"
        "void entente_map_to_curve(void) {}\nvoid entente_hash_to_field(void) {}\n"
    )
    compile_or_skip("-shared", "-fPIC", str(wrong), "-o", str(tmp_path / "wrong.so"))
    assert native._try_to_load(tmp_path / "wrong.so") == (None, "the kernel does not know the answer of RFC 7748")


def test_the_log_says_once_which_path_is_taken() -> None:
    code = (
        "from federation.overlap.native import load_kernel\n"
        "from federation.overlap.hash_to_curve import hash_to_curve\n"
        "print(hash_to_curve([b'a'], b'dst').hex()); load_kernel()"
    )
    said = {}
    for value in ("0", "1"):
        environment = {**os.environ, native.SWITCH: value}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
            cwd=ROOT,
            timeout=60,
        )
        lines = (done.stdout + done.stderr).splitlines()
        [said[value]] = [line for line in lines if "overlap_arithmetic" in line]
        assert hash_to_curve([b"a"], b"dst").hex() in lines
    assert "portable" in said["0"]
    assert "ENTENTE_NATIVE is 0" in said["0"]
