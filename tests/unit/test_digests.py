"""Digests of texts: the reference code's vectors, OpenSSL as a judge, and the same answers on both paths."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from federation.client.digests import DIGEST, KEY_BYTES, Digests, are_unique, find, numbered
from federation.overlap.native import texts as native
from tests.kits.native import PATHS, taking

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "siphash.json").read_text())
KEY = bytes.fromhex(VECTORS["key"])


@pytest.mark.parametrize("path", PATHS)
def test_the_vectors_of_the_reference_code(path: str) -> None:
    with taking(path):
        for length, digest in VECTORS["digests"].items():
            text = bytes(range(int(length))).decode()
            assert Digests(KEY).of(pa.array([text])).tobytes().hex() == digest


def test_openssl_agrees() -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command")
    for text in ("", "a@example.com", "ä" * 9, "x" * 8, "y" * 300):
        command = [openssl, "mac", "-macopt", f"hexkey:{KEY.hex()}", "-macopt", "size:16", "-in", "-", "SIPHASH"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, timeout=30)
        if done.returncode:
            pytest.skip("this openssl has no SipHash")
        assert Digests(KEY).of(pa.array([text])).tobytes().hex() == done.stdout.decode().strip().lower()


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"15 bytes of key, expected 16"):
        Digests(bytes(KEY_BYTES - 1))


@pytest.mark.parametrize("path", PATHS)
def test_parts_of_a_column_have_the_digests_of_the_whole(path: str) -> None:
    column = pa.array([f"customer {number}" for number in range(1000)])
    with taking(path):
        whole = Digests(KEY).of(column)
        assert (Digests(KEY).of(column.slice(100, 50)) == whole[100:150]).all()
        assert len(Digests(KEY).of(column.slice(0, 0))) == 0
        assert are_unique(whole)
        assert not are_unique(np.append(whole, whole[3:4]))


@pytest.mark.parametrize("path", PATHS)
def test_digests_that_share_a_half_are_told_apart(path: str) -> None:
    """By chance it hardly ever happens; here they are made so."""
    rows = [b"a" * 8 + b"b" * 8, b"a" * 8 + b"c" * 8, b"d" * 8 + b"b" * 8]
    digests = np.frombuffer(b"".join(rows), DIGEST)
    with taking(path):
        assert are_unique(digests)
        assert numbered(digests).tolist() == [0, 1, 2]
        assert find(digests[::-1], digests).tolist() == [2, 1, 0]
        assert find(digests[:1], digests[1:]).tolist() == [-1]
    assert numbered(np.append(digests, digests[1])).tolist() == [0, 1, 2, 1]


def test_a_library_that_gives_a_wrong_answer_is_not_used(tmp_path: Path) -> None:
    assert native._try_to_load(tmp_path / "none.so") is None
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    assert native._try_to_load(broken) is None
