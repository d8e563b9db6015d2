"""What a partner must remember of the epochs it takes part in: its keys, its own batches, and what it blinded for whom.

Everything is durable before it has an effect outside. A process that is killed and started again sends the very batches
it sent before (hops refuse a second batch for the same label) and blinds the same batch again but never another one. A
delta gets its number when all of its batches and the memory after it are on disk, in one rename: no number ever stands
for two deltas. There is one that is not sent at most, because the next is built only after it is.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    literal_column,
    select,
)

from federation.client.overlap.stored import StoredBatch, batches_in, build_whole, remove_batches
from federation.core.clock import from_text, to_text
from federation.core.database import open_database
from federation.core.errors import OverlapError, Reason
from federation.core.files import keep_secret
from federation.overlap.batch import Chain
from federation.overlap.own_key import KEY_BYTES, OwnKey, make_own_key
from federation.overlap.plan import INDEX_NAMES, MIN_PARTNERS, check_epoch_name
from federation.v1 import overlap_pb2 as pb

OWN = "own"
ROWS_LIMIT = "limits.max_rows_blinded_per_epoch"
_META = MetaData()
_PLANS = Table(
    "overlap_plan",
    _META,
    Column("epoch", String(64), primary_key=True),
    Column("plan", LargeBinary, nullable=False),
)
_PINNED_AT = Table(
    "overlap_pinned_at",
    _META,
    Column("epoch", String(64), primary_key=True),
    Column("at", String(40), nullable=False),
)
_BLINDED = Table(
    "overlap_blinded_batch",
    _META,
    Column("epoch", String(64), primary_key=True),
    Column("origin", String(32), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("label", String(1024), primary_key=True),
    Column("operation", Integer, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("batches", Integer, nullable=False),
    Column("manifest_digest", LargeBinary, nullable=False),
    Column("digest_in", LargeBinary, nullable=False),
    Column("rows", Integer, nullable=False),
)


_RETIRED = Table("overlap_retired", _META, Column("epoch", String(64), primary_key=True))
_COMPLETE = Table("overlap_complete", _META, Column("epoch", String(64), primary_key=True))
_PINNED = literal_column("overlap_plan.rowid", Integer)  # the order in which plans were pinned


class EpochState:
    """One partner's epochs, under its state folder.

    Args:
        folder: The agent's state folder.
        random: Makes keys.
    """

    def __init__(self, folder: Path, random: Callable[[int], bytes] = os.urandom) -> None:
        self._folder, self._random = folder, random
        self._engine = open_database(folder / "overlap.db")
        _META.create_all(self._engine)

    def pin_plan(self, plan: pb.EpochPlan, at: datetime, max_per_day: int) -> None:
        """Remembers the plan of an epoch.

        Args:
            plan: The epoch's.
            at: Now.
            max_per_day: Plans that may be new within a day before or, by a clock that was wrong, after now.

        Raises:
            OverlapError: BAD_MANIFEST where it was another one before, UNKNOWN_EPOCH where it was retired;
                QUOTA_EXCEEDED.
        """
        check_epoch_name(plan.epoch)
        data = plan.SerializeToString(deterministic=True)
        with self._engine.begin() as db:
            if db.execute(select(_RETIRED.c.epoch).where(_RETIRED.c.epoch == plan.epoch)).first() is not None:
                raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{plan.epoch} was replaced by a later one")
            known = db.execute(select(_PLANS.c.plan).where(_PLANS.c.epoch == plan.epoch)).scalar()
            if known is None:
                times = map(from_text, db.execute(select(_PINNED_AT.c.at)).scalars())
                if sum(abs(at - time) < timedelta(days=1) for time in times) >= max_per_day:
                    item = f"epoch {plan.epoch}: more than {max_per_day} within a day"
                    raise OverlapError(Reason.QUOTA_EXCEEDED, item=item, fix="Raise limits.max_epochs_per_day.")
                db.execute(insert(_PLANS).values(epoch=plan.epoch, plan=data))
                db.execute(insert(_PINNED_AT).values(epoch=plan.epoch, at=to_text(at)))
            elif known != data:
                raise OverlapError(Reason.BAD_MANIFEST, item=f"plan of epoch {plan.epoch} changed")

    def key(self, epoch: str, index: int) -> X25519PrivateKey:
        """The key with which others' rows are blinded in one index of one epoch; made once, in a file of its own."""
        path = self._epoch(epoch) / f"{INDEX_NAMES[index]}.key"
        return X25519PrivateKey.from_private_bytes(keep_secret(path, KEY_BYTES, self._random))

    def own_key(self, plan: pb.EpochPlan, index: int) -> OwnKey:
        """The key of the partner's own rows in one index of an epoch; made once.

        Between two partners nobody is left to compare rows with, and one key does.
        """
        key = self.key(plan.epoch, index)
        if len(plan.partners) == MIN_PARTNERS:
            return OwnKey(key)
        path, hop_key = self._epoch(plan.epoch) / f"{INDEX_NAMES[index]}.own.key", key.private_bytes_raw()
        return OwnKey.from_bytes(keep_secret(path, 2 * KEY_BYTES, lambda _: make_own_key(hop_key, self._random)))

    def reserve(self, chains: Sequence[Chain], max_rows: int) -> None:
        """Records that batches will be blinded, before any of them is; all of them or none.

        A batch that was recorded may be blinded again, if it is the same to the last byte: then nothing new is learnt
        from it. Another batch for the same epoch, origin, index, label, sequence and operation is refused, as are more
        batches or rows than declared, and a delta before all of the one before it.

        Args:
            chains: The verified headers.
            max_rows: The partner's own limit over all batches of one origin in an epoch.

        Raises:
            OverlapError: QUOTA_EXCEEDED, OUT_OF_SEQUENCE.
        """
        with self._engine.begin() as db:
            for chain in chains:
                self._reserve(db, chain, max_rows)

    @staticmethod
    def _reserve(db: Connection, chain: Chain, max_rows: int) -> None:
        manifest = chain.manifest
        epoch, origin, where = manifest.plan.epoch, manifest.origin, _BLINDED.c
        mine = (where.epoch == epoch) & (where.origin == origin)
        now = mine & (where.sequence == manifest.sequence)
        same = now & (where.index == int(manifest.index)) & (where.label == manifest.label)
        same &= where.operation == int(manifest.operation)
        known = db.execute(select(where.manifest_digest, where.digest_in).where(same)).first()
        if known is not None:
            if tuple(known) != (chain.manifest_digest, chain.digest):
                raise OverlapError(Reason.QUOTA_EXCEEDED, item=f"second batch of {origin} for {manifest.label!r}")
            return
        if manifest.sequence and not _is_whole(db, mine & (where.sequence == manifest.sequence - 1)):
            item = f"delta {manifest.sequence} of {origin}, not all of the one before is here"
            raise OverlapError(Reason.OUT_OF_SEQUENCE, item=item)
        declared = list(db.execute(select(where.batches).where(now)).scalars())
        if len(declared) >= manifest.batches or any(number != manifest.batches for number in declared):
            raise OverlapError(Reason.QUOTA_EXCEEDED, item=f"batches of {origin}")
        rows = db.execute(select(func.coalesce(func.sum(where.rows), 0)).where(mine)).scalar_one()
        if rows + manifest.count > max_rows:
            item = f"rows of {origin} in epoch {epoch}: {rows + manifest.count}, {ROWS_LIMIT} is {max_rows}"
            raise OverlapError(
                Reason.QUOTA_EXCEEDED, item=item, fix=f"Raise {ROWS_LIMIT}, if it has that many customers."
            )
        row = {
            "epoch": epoch,
            "origin": origin,
            "index": int(manifest.index),
            "label": manifest.label,
            "operation": int(manifest.operation),
            "sequence": manifest.sequence,
            "batches": manifest.batches,
            "manifest_digest": chain.manifest_digest,
            "digest_in": chain.digest,
            "rows": manifest.count,
        }
        db.execute(insert(_BLINDED).values(**row))

    def has_own(self, epoch: str) -> bool:
        """Whether the partner's own batches of an epoch were completed on disk."""
        return (self._epoch(epoch) / OWN).is_dir()

    def save_own(self, epoch: str, build: Callable[[Path], None]) -> None:
        """Keeps all of a partner's own batches of an epoch, or none if building one of them fails.

        Args:
            epoch: Its name.
            build: Makes every batch in the folder it is given: NNN.points, NNN.handles, NNN.header; and the memory.
        """
        build_whole(self._epoch(epoch) / OWN, build)

    def own(self, epoch: str) -> Iterator[StoredBatch]:
        """The partner's own batches of an epoch, in the order they were built."""
        return batches_in(self._epoch(epoch) / OWN)

    def secret(self, epoch: str, size_bytes: int) -> bytes:
        """Random bytes of one epoch, made once."""
        return keep_secret(self._epoch(epoch) / "memory.secret", size_bytes)

    def folder(self, epoch: str) -> Path:
        """Where what is of one epoch alone is kept."""
        return self._epoch(epoch)

    def memory(self, epoch: str) -> Path:
        """The folder that holds who is in the batches of an epoch, deltas counted in."""
        last = self.last_delta(epoch)
        return self._delta(epoch, last) if last else self._epoch(epoch) / OWN

    def last_delta(self, epoch: str) -> int:
        """The number of the last delta that was completed on disk; 0 before the first."""
        return max((int(path.name) for path in self._deltas(epoch).glob("[0-9]*[0-9]")), default=0)

    def save_delta(self, epoch: str, sequence: int, build: Callable[[Path], None]) -> None:
        """Keeps a delta, as ``save_own`` keeps the base. From then on its number is taken, and it is what is sent."""
        build_whole(self._delta(epoch, sequence), build)

    def unsent(self, epoch: str) -> tuple[int, list[StoredBatch]]:
        """The last delta's number and batches, where the gateway may not have all of them."""
        last = self.last_delta(epoch)
        return last, list(batches_in(self._delta(epoch, last))) if last else []

    def sent(self, epoch: str, sequence: int) -> None:
        """Notes that the gateway has all of a delta: its batches go, and memories that are older."""
        remove_batches(self._delta(epoch, sequence))
        for path in self._deltas(epoch).iterdir():
            if path.name.isdecimal() and int(path.name) < sequence:
                shutil.rmtree(path)

    def _deltas(self, epoch: str) -> Path:
        return self._epoch(epoch) / "deltas"

    def _delta(self, epoch: str, sequence: int) -> Path:
        return self._deltas(epoch) / f"{sequence:06d}"

    def complete(self, epoch: str) -> None:
        """Notes that an epoch is complete: earlier ones are retired, and its base need not be sent again."""
        with self._engine.begin() as db:
            place = db.execute(select(_PINNED).select_from(_PLANS).where(_PLANS.c.epoch == epoch)).scalar()
            if place is None or not self._live(db, _PLANS.c.epoch == epoch):
                return  # it is of no use to a partner that has no part in it, or has gone on
            self._retire(db, place > _PINNED)
            db.execute(delete(_COMPLETE))
            db.execute(insert(_COMPLETE).values(epoch=epoch))
        self._remove_retired()
        remove_batches(self._epoch(epoch) / OWN)

    def current(self) -> pb.EpochPlan | None:
        """The plan of the newest epoch that is known to be complete."""
        query = select(_PLANS.c.plan).join(_COMPLETE, _COMPLETE.c.epoch == _PLANS.c.epoch)
        with self._engine.begin() as db:
            plan = db.execute(query).scalar()
        return pb.EpochPlan.FromString(plan) if plan is not None else None

    def retire_others(self, epoch: str) -> None:
        """Removes keys and batches of other epochs than this one and the newest complete one, for good.

        They are not made again for the same name. One epoch is built at a time; until it is complete, deltas and
        withdrawals need the keys of the one that answers. Once the keys are gone, nobody can turn a token of that epoch
        into anything, this partner included.
        """
        with self._engine.begin() as db:
            kept = _PLANS.c.epoch.in_(select(_COMPLETE.c.epoch)) | (_PLANS.c.epoch == epoch)
            self._retire(db, ~kept)
        self._remove_retired()

    def _live(self, db: Connection, which: ColumnElement[bool]) -> list[str]:
        query = select(_PLANS.c.epoch).where(which, _PLANS.c.epoch.not_in(select(_RETIRED.c.epoch)))
        return list(db.execute(query).scalars())

    def _retire(self, db: Connection, which: ColumnElement[bool]) -> None:
        for epoch in self._live(db, which):
            db.execute(insert(_RETIRED).values(epoch=epoch))

    def _remove_retired(self) -> None:
        """Removes keys once it is durable that no others are made in their place; also what a killed process left."""
        with self._engine.begin() as db:
            retired = list(db.execute(select(_RETIRED.c.epoch)).scalars())
        left = [folder for epoch in retired if (folder := self._epoch(epoch)).exists()]
        for folder in left:
            shutil.rmtree(folder)
        if left:  # batches of others on their way; those of a live epoch are fetched again
            shutil.rmtree(self._folder / "hops", ignore_errors=True)

    def hop_folder(self, batch_id: str) -> Path:
        """Where another partner's batch is while this one works on it; it need not be there.

        Args:
            batch_id: As the gateway calls it, which need not be fit for a path.
        """
        return self._folder / "hops" / hashlib.sha256(batch_id.encode()).hexdigest()[:32]

    def _epoch(self, epoch: str) -> Path:
        return self._folder / "epochs" / check_epoch_name(epoch)


def _is_whole(db: Connection, which: ColumnElement[bool]) -> bool:
    """Whether as many batches are recorded as each of them declares, and any."""
    declared = list(db.execute(select(_BLINDED.c.batches).where(which)).scalars())
    return bool(declared) and len(declared) >= max(declared)
