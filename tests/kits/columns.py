"""Columns cut into tiny parts and kept on disk, as long ones are, for tests with short ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from federation.client import digests
from federation.client.files import columns


@contextmanager
def as_if_long(long: bool = True) -> Iterator[None]:
    """Takes columns of a few rows for long ones."""
    with pytest.MonkeyPatch.context() as patch:
        if long:
            patch.setattr(columns, "MAX_HELD_BYTES", 8)
            patch.setattr(columns, "PART_ROWS", 3)
            patch.setattr(digests, "TABLE_ROWS", 4)
        yield
