"""Sanitizers watch the kernel over buffers of the exact size."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.digests import Digests
from federation.overlap.blind import blind
from federation.overlap.hash_to_curve import hash_to_field, map_to_curve
from tests.kits.native import compile_or_skip, need_kernel, taking

SOURCE = Path(__file__).parents[2] / "federation" / "overlap" / "native"
DRIVER = Path(__file__).with_name("native_driver.c")


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """A driver in C over buffers of the exact size, with address and undefined-behaviour sanitizers in all of it."""
    need_kernel()
    program = tmp_path / "driver"
    flags = ("-mavx512f", "-mavx512dq", "-mavx512ifma", "-mavx512bw", "-mavx512vl")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O0")
    sources = [str(SOURCE / name) for name in ("support.c", "texts.c", "x25519x8.c", "xmd512x8.c")]
    compile_or_skip(*sanitizers, *flags, f"-I{SOURCE}", str(DRIVER), *sources, "-o", str(program))
    scalar = bytes(range(32))
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1"}
    done = subprocess.run([program], input=scalar, capture_output=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    counts = [0, 1, 7, 8, 9, 255, 256, 257, 300]
    lines, texts = lines[: len(counts)], lines[len(counts) :]
    assert [line["count"] for line in lines] == counts
    for line, count in zip(texts, counts, strict=True):
        with taking("portable"):
            expected = Digests(scalar[:16]).of(pa.array(["a" + "m" * row for row in range(count)], pa.string()))
        assert line["digests"] == expected.tobytes().hex()
    key = X25519PrivateKey.from_private_bytes(scalar)
    for line in lines:
        # The driver's messages are "m" repeated, as many times as the row's number; it hashes, maps and blinds them.
        messages = [b"m" * row for row in range(line["count"])]
        elements = [hash_to_field(message, b"dst") for message in messages]
        with taking("portable"):
            expected = blind(b"".join(u.to_bytes(32, "little") for u in map_to_curve(elements)), key).points
        assert line["points"] == expected.hex()
