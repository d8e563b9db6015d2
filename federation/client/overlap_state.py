"""What a partner must remember of the epochs it takes part in: its keys, its own batches, and what it blinded for whom.

Everything is durable before it has an effect outside. A process that is killed and started again sends the very batches
it sent before (hops refuse a second batch for the same label) and blinds the same batch again but never another one.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, func, insert, select

from federation.core.database import open_database
from federation.core.errors import OverlapError, Reason
from federation.core.identity import write_secret
from federation.overlap.batch import Chain
from federation.overlap.plan import INDEX_NAMES, check_epoch_name
from federation.v1 import overlap_pb2 as pb

KEY_BYTES = 32
_META = MetaData()
_PLANS = Table(
    "overlap_plan",
    _META,
    Column("epoch", String(64), primary_key=True),
    Column("plan", LargeBinary, nullable=False),
)
_BLINDED = Table(
    "overlap_blinded",
    _META,
    Column("epoch", String(64), primary_key=True),
    Column("origin", String(32), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("label", String(1024), primary_key=True),
    Column("manifest_digest", LargeBinary, nullable=False),
    Column("digest_in", LargeBinary, nullable=False),
    Column("rows", Integer, nullable=False),
)


_RETIRED = Table("overlap_retired", _META, Column("epoch", String(64), primary_key=True))


@dataclass(frozen=True)
class StoredBatch:
    """A batch on disk, ready to be sent; ``handles`` are 16 bytes a row, of one's own switchboard batch only."""

    header: pb.BatchHeader
    points: Path
    handles: Path | None

    def save(self) -> None:
        """Keeps the header, after the rows: it vouches for them."""
        write_secret(self.points.with_suffix(".header"), self.header.SerializeToString())

    @classmethod
    def load(cls, points: Path) -> "StoredBatch | None":
        """The batch of which ``points`` are the rows; None where it was not finished."""
        header, handles = points.with_suffix(".header"), points.with_suffix(".handles")
        if not header.exists():
            return None
        return cls(pb.BatchHeader.FromString(header.read_bytes()), points, handles if handles.exists() else None)


class EpochState:
    """One partner's epochs, under its state folder.

    Args:
        folder: The agent's state folder.
        random: Makes keys.
    """

    def __init__(self, folder: Path, random: Callable[[int], bytes] = os.urandom) -> None:
        self._folder, self._random, self._lock = folder, random, threading.Lock()
        self._engine = open_database(folder / "overlap.db")
        _META.create_all(self._engine)

    def pin_plan(self, plan: pb.EpochPlan) -> None:
        """Remembers the plan of an epoch.

        Raises:
            OverlapError: BAD_MANIFEST where it was another one before, UNKNOWN_EPOCH where it was retired.
        """
        check_epoch_name(plan.epoch)
        data = plan.SerializeToString(deterministic=True)
        with self._engine.begin() as db:
            if db.execute(select(_RETIRED.c.epoch).where(_RETIRED.c.epoch == plan.epoch)).first() is not None:
                raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{plan.epoch} was replaced by a later one")
            known = db.execute(select(_PLANS.c.plan).where(_PLANS.c.epoch == plan.epoch)).scalar()
            if known is None:
                db.execute(insert(_PLANS).values(epoch=plan.epoch, plan=data))
            elif known != data:
                raise OverlapError(Reason.BAD_MANIFEST, item=f"plan of epoch {plan.epoch} changed")

    def key(self, epoch: str, index: int) -> X25519PrivateKey:
        """The blinding key of one index of one epoch; made once, in a file that only its owner can read."""
        path = self._epoch(epoch) / f"{INDEX_NAMES[index]}.key"
        with self._lock:
            if not path.exists():
                write_secret(path, self._random(KEY_BYTES))
            return X25519PrivateKey.from_private_bytes(path.read_bytes())

    def reserve(self, chain: Chain, max_rows: int) -> None:
        """Records that a batch will be blinded, before it is.

        A batch that was recorded may be blinded again, if it is the same to the last byte: then nothing new is learnt
        from it. Another batch for the same epoch, origin, index and label is refused, as are more batches or rows than
        declared.

        Args:
            chain: The verified header.
            max_rows: The partner's own limit over all batches of an epoch.

        Raises:
            OverlapError: QUOTA_EXCEEDED.
        """
        manifest = chain.manifest
        epoch, origin, where = manifest.plan.epoch, manifest.origin, _BLINDED.c
        mine = (where.epoch == epoch) & (where.origin == origin)
        same = mine & (where.index == int(manifest.index)) & (where.label == manifest.label)
        with self._engine.begin() as db:
            known = db.execute(select(where.manifest_digest, where.digest_in).where(same)).first()
            if known is not None:
                if tuple(known) != (chain.manifest_digest, chain.digest):
                    raise OverlapError(Reason.QUOTA_EXCEEDED, item=f"second batch of {origin} for {manifest.label!r}")
                return
            batches = db.execute(select(func.count()).select_from(_BLINDED).where(mine)).scalar_one()
            if batches >= manifest.batches:
                raise OverlapError(Reason.QUOTA_EXCEEDED, item=f"batches of {origin}")
            rows = db.execute(select(func.coalesce(func.sum(where.rows), 0)).where(where.epoch == epoch)).scalar_one()
            if rows + manifest.count > max_rows:
                raise OverlapError(Reason.QUOTA_EXCEEDED, item=f"rows in epoch {epoch}")
            row = {
                "epoch": epoch,
                "origin": origin,
                "index": int(manifest.index),
                "label": manifest.label,
                "manifest_digest": chain.manifest_digest,
                "digest_in": chain.digest,
                "rows": manifest.count,
            }
            db.execute(insert(_BLINDED).values(**row))

    def has_own(self, epoch: str) -> bool:
        """Whether the partner's own batches of an epoch are complete on disk."""
        return (self._epoch(epoch) / "own").is_dir()

    def save_own(self, epoch: str, build: Callable[[Path], None]) -> None:
        """Keeps all of a partner's own batches of an epoch, or none if building one of them fails.

        Args:
            epoch: Its name.
            build: Makes every batch in the folder it is given: NNN.points, NNN.handles, NNN.header.
        """
        scratch = self._epoch(epoch) / "own.unfinished"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True, mode=0o700)
        build(scratch)
        scratch.rename(scratch.with_name("own"))

    def own(self, epoch: str) -> Iterator[StoredBatch]:
        """The partner's own batches of an epoch, in the order they were built."""
        for path in sorted((self._epoch(epoch) / "own").glob("*.points")):
            batch = StoredBatch.load(path)
            if batch is not None:
                yield batch

    def retire_others(self, epoch: str) -> None:
        """Removes keys and batches of every other epoch, for good: they are not made again for the same name.

        One epoch is built at a time, and an index that stands needs no key. Once the keys are gone, nobody can turn a
        token of that epoch into anything, this partner included.
        """
        with self._engine.begin() as db:
            retired = select(_RETIRED.c.epoch)
            others = select(_PLANS.c.epoch).where(_PLANS.c.epoch != epoch, _PLANS.c.epoch.not_in(retired))
            names = list(db.execute(others).scalars())
            for name in names:
                db.execute(insert(_RETIRED).values(epoch=name))
        for folder in (self._folder / "epochs").iterdir() if (self._folder / "epochs").is_dir() else ():
            if folder.name != epoch:
                shutil.rmtree(folder)
        # Batches of others are on their way in the epoch under way only.
        if names:
            shutil.rmtree(self._folder / "hops", ignore_errors=True)

    def hop_folder(self, batch_id: str) -> Path:
        """Where another partner's batch is while this one works on it; made if it is not there.

        Args:
            batch_id: As the gateway calls it, which need not be fit for a path.
        """
        folder = self._folder / "hops" / hashlib.sha256(batch_id.encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def _epoch(self, epoch: str) -> Path:
        return self._folder / "epochs" / check_epoch_name(epoch)
