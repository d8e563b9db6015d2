"""Batches that are finished: on a partner's disk, whole, ready to be sent.

A header stands beside its rows only once they are all there, and a folder has its name only once it is complete.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from federation.core.files import sync_folder, write_secret
from federation.v1 import overlap_pb2 as pb


@dataclass(frozen=True)
class StoredBatch:
    """A batch on disk, ready to be sent; ``handles`` are 16 bytes a row, of one's own switchboard batch only."""

    header: pb.BatchHeader
    points: Path
    handles: Path | None

    def save(self) -> None:
        """Keeps the header, after the rows: it vouches for them."""
        write_secret(self.points.with_suffix(".header"), self.header.SerializeToString())

    def whole(self) -> pb.WholeBatch:
        """The batch as a message."""
        handles = self.handles.read_bytes() if self.handles is not None else b""
        return pb.WholeBatch(header=self.header, points=self.points.read_bytes(), handles=handles)

    @classmethod
    def load(cls, points: Path) -> "StoredBatch | None":
        """The batch of which ``points`` are the rows; None where it was not finished."""
        header, handles = points.with_suffix(".header"), points.with_suffix(".handles")
        if not header.exists():
            return None
        return cls(pb.BatchHeader.FromString(header.read_bytes()), points, handles if handles.exists() else None)


def build_whole(folder: Path, build: Callable[[Path], None]) -> None:
    """Lets a folder be filled under another name, and gives it its own when all of it is on disk."""
    scratch = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)
    build(scratch)
    sync_folder(scratch)
    scratch.rename(folder)
    sync_folder(folder.parent)


def batches_in(folder: Path) -> Iterator[StoredBatch]:
    """The finished batches of a folder, in the order of their names."""
    for path in sorted(folder.glob("*.points")):
        batch = StoredBatch.load(path)
        if batch is not None:
            yield batch


def remove_batches(folder: Path) -> None:
    """Removes batches but for what is beside them; the header goes first, so that none is left half."""
    for suffix in ("header", "points", "handles"):
        for path in folder.glob(f"*.{suffix}"):
            path.unlink()
