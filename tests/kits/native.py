"""Runs tests of the overlap's arithmetic on both of its paths."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from federation.overlap import native
from federation.overlap.native import texts

PATHS = ("native", "portable")


def need_kernel() -> native.Kernel:
    """The kernel; the test skips, with the reason, where it cannot run."""
    kernel, why = native._try_to_load(native.FILE)
    if kernel is None:
        pytest.skip(why)
    return kernel


@contextmanager
def taking(path: str) -> Iterator[None]:
    """Everything inside takes one path."""
    with pytest.MonkeyPatch.context() as patch:
        if path == "portable":
            patch.setenv(native.SWITCH, "0")
        else:
            patch.delenv(native.SWITCH, raising=False)
            need_kernel()
        for load in (native.load_kernel, texts.load_texts):
            load.cache_clear()
        try:
            assert (native.load_kernel() is None) == (path == "portable")
            assert (texts.load_texts() is None) == (path == "portable")
            yield
        finally:
            for load in (native.load_kernel, texts.load_texts):
                load.cache_clear()


def compile_or_skip(*arguments: str) -> None:
    """Runs the C compiler; skips where it, or what it needs for sanitizers, is missing."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    done = subprocess.run([compiler, *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode and ("libasan" in done.stderr or "libubsan" in done.stderr or "lasan" in done.stderr):
        pytest.skip("no sanitizer runtime")
    assert done.returncode == 0, done.stderr
