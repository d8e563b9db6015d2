"""Runs tests of the overlap's arithmetic on both of its paths."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from federation.overlap import native

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
        native.load_kernel.cache_clear()
        try:
            assert (native.load_kernel() is None) == (path == "portable")
            yield
        finally:
            native.load_kernel.cache_clear()
