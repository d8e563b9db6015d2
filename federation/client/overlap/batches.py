"""A partner's own rows as blinded, padded, shuffled, signed batches; whoever may not be in them stays home.

The partner's own policy and consents decide row by row. What was left out is counted by reason in a report that stays
with the partner.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.config import DataConfig
from federation.client.overlap.data import Data, Handles, allowed
from federation.client.overlap.files import create_private, shuffled, write_rows
from federation.client.overlap.labels import Numbers, label_numbers
from federation.client.overlap.memory import Pool, Recorder
from federation.client.overlap.people import Chosen, Customers, People, Rows, Usable
from federation.client.overlap.progress import Progress
from federation.client.overlap.stored import StoredBatch
from federation.core.errors import OverlapError, Reason
from federation.core.identity import Identity
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, Handle
from federation.overlap.batch import Random, padding_rows, sign_manifest
from federation.overlap.blind import CHUNK_ROWS, blind
from federation.overlap.hash_to_curve import domain, hash_column, hash_to_curve
from federation.overlap.own_key import OwnKey
from federation.overlap.plan import (
    BASE,
    INDEX_NAMES,
    STATISTICS,
    SWITCHBOARD,
    Agreement,
    batch_keys,
    key_types_of,
    labels_of,
)
from federation.policy.specs import PartySpec
from federation.v1 import overlap_pb2 as pb


@dataclass(frozen=True)
class Draft:
    """A batch that is about to be written: rows of blinded points, those of padding last."""

    index: int
    label: str
    rows: Iterator[bytes]
    count: int  # rows, padding included
    padding: int
    batches: int
    conversion: bytes  # as the header's
    handles: Sequence[Handle] = ()  # of the rows before the padding; switchboard only
    operation: int = BASE
    sequence: int = 0


@dataclass
class Share:
    """What became of a partner's rows in one index."""

    customers: int = 0
    used: int = 0
    without_identifier: int = 0
    invalid_identifier: int = 0
    repeated_identifier: int = 0
    padding: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class BatchBuilder:
    """Makes a partner's batches of one epoch.

    Args:
        plan: Checked against the partner's own agreement.
        identity: Signs the manifests.
        data: The partner's rows.
        handles: Its handles, for the switchboard.
        config: How its identifiers are written.
        agreement: Its own policy: labels and padding.
        random: For order, padding and nothing else.
        progress: Called with "build", rows done and rows in all.
        pool: Where blinded rows of the statistics are kept.
        read: Reads the partner's customers.
    """

    def __init__(
        self,
        plan: pb.EpochPlan,
        *,
        identity: Identity,
        data: Data,
        handles: Handles,
        config: DataConfig,
        agreement: Agreement,
        random: Random,
        progress: Progress,
        pool: Pool,
        read: Callable[[], Customers],
    ) -> None:
        self._pool, self._read = pool, read
        self._plan, self._identity, self._data, self._handles = plan, identity, data, handles
        self._config, self._random = config, random
        self._party: PartySpec = agreement.parties[identity.subject.party]
        self._kinds = key_types_of(plan.key_type)
        self._customers: Customers | None = None  # read when they are needed: whoever goes needs none
        self._progress, self._done, self._total = progress, 0, 0
        self._shares: dict[int, Share] = {STATISTICS: Share(), SWITCHBOARD: Share()}

    def build(self, keys: Mapping[int, OwnKey], folder: Path) -> None:
        """Makes every batch of the epoch in a folder, blinded with the own key of its index, and the memory of them.

        Raises:
            DataError: MISSING_COLUMN, HALF_EMPTY_COLUMN and what reading the files raises.
        """
        recorder = Recorder(labels_of(self._party))
        there, groups = self._groups(recorder)
        sharers = self.usable(SWITCHBOARD)
        self._total = sum(map(len, groups.values())) + len(sharers)
        batches = batch_keys(self._party)
        for number, (index, label) in enumerate(batches):
            handles: list[Handle] = []
            if index == SWITCHBOARD:
                everybody = np.arange(len(sharers))
                handles = self._handles.handles_for(sharers.ids(everybody))
                recorder.switchboard(sharers.customer, sharers.person, handles)
                people = sharers.chosen(everybody)
            else:
                people = there.chosen(groups[label])
            padding = padding_rows(len(people), self._party.pad_to)
            self._shares[index].padding += padding
            own = keys[index]
            rows = self.points(index, label, people, padding, own.key)
            draft = Draft(index, label, rows, len(people) + padding, padding, len(batches), own.conversion, handles)
            self.write(draft, folder / f"{number:03d}.points")
        self._pool.sync()
        recorder.save(folder, self._pool.rows)

    def report(self) -> dict[str, Any]:
        """Counts for the partner itself, after ``build``; never sent."""
        shares = {INDEX_NAMES[index]: asdict(share) for index, share in self._shares.items()}
        return {"epoch": self._plan.epoch, "key_type": self._plan.key_type, **shares}

    @property
    def nobody(self) -> People:
        """No people, of the plan's key types."""
        return People([pa.array([], pa.string())] * len(self._kinds))

    @property
    def customers(self) -> Customers:
        """The partner's customers, read once. Raises DataError."""
        if self._customers is None:
            self._customers = self._read()
        return self._customers

    def usable(self, index: int) -> Usable:
        """Customers that may be in an index and have a usable identifier. Raises DataError."""
        share, eligible, all_of = self._shares[index], allowed(self._data, self._party, index), self.customers
        rows = eligible.rows_among(all_of.ids)
        share.customers, share.refused = len(all_of.ids), dict(eligible.refused)
        given, usable = all_of.given[rows], all_of.usable[rows]
        share.without_identifier = int((~given).sum())
        share.invalid_identifier = int((given & ~usable).sum())
        rows = rows[usable]
        share.used = len(rows)
        return Usable(rows, all_of)

    def labels(self, usable: Usable) -> Numbers:
        """The label of each of some customers, as its place in ``plan.labels_of``. Raises DataError."""
        read = {name: column[usable.rows] for name, column in usable.among.listed.items()}
        ids = usable.among.ids if len(usable) == len(usable.among.ids) else usable.among.ids.take(pa.array(usable.rows))
        return label_numbers(self._party, self._config.columns, ids, read, self._data.holdings)

    def _groups(self, recorder: Recorder) -> tuple[Usable, dict[str, Rows]]:
        """Who is in the statistics, and their places by label, each person once: the first of the file counts."""
        usable = self.usable(STATISTICS)
        numbers = self.labels(usable)
        first = recorder.statistics(usable.customer, usable.person, numbers)
        share = self._shares[STATISTICS]
        share.repeated_identifier = len(usable) - len(first)
        share.used = len(first)
        groups = {}
        for number, label in enumerate(labels_of(self._party)):
            mine = first[numbers[first] == number]
            recorder.sent(mine)
            groups[label] = mine
        return usable, groups

    def write(self, draft: Draft, target: Path) -> None:
        """Shuffles, writes and signs one batch."""
        rows, width = draft.count, POINT_BYTES * len(self._kinds)
        scratch = target.with_suffix(".bucket")
        if draft.index == SWITCHBOARD:
            # A handle that nobody has, so that a padding row of the switchboard looks like any other.
            given = b"".join(draft.handles) + self._random(HANDLE_BYTES * draft.padding)
            both = shuffled(
                self._with_handles(draft.rows, given, width),
                scratch,
                rows=rows,
                width=width + HANDLE_BYTES,
                random=self._random,
            )
            with os.fdopen(create_private(target.with_suffix(".handles")), "wb") as file:
                content = write_rows(target, _split(both, width, file), width)
                file.flush()
                os.fsync(file.fileno())
        else:
            mixed = shuffled(draft.rows, scratch, rows=rows, width=width, random=self._random)
            content = write_rows(target, mixed, width)
        header = sign_manifest(
            self._identity,
            self._plan,
            index=draft.index,
            label=draft.label,
            content=content,
            batches=draft.batches,
            operation=draft.operation,
            sequence=draft.sequence,
        )
        header.padding, header.conversion = draft.padding, draft.conversion
        StoredBatch(header, target, None).save()

    def points(
        self, index: int, label: str, people: People | Chosen, padding: int, key: X25519PrivateKey
    ) -> Iterator[bytes]:
        """Blinded rows, padding last. Where somebody has no identifier of a key type, and in padding: random points."""
        domains = [domain(self._for_one(kind), index) for kind in self._kinds]
        rows = len(people) + padding
        for start in range(0, rows, CHUNK_ROWS):
            real = people.part(start, min(start + CHUNK_ROWS, max(len(people), start)))
            table = np.empty((min(CHUNK_ROWS, rows - start), len(domains)), dtype=f"V{POINT_BYTES}")
            for slot, dst in enumerate(domains):
                blinded = blind(self._hashed(real.columns[slot], dst, len(table)), key)
                if blinded.low_order_rows:  # one in 2^252: more likely a broken library
                    raise OverlapError(Reason.BAD_POINT, item=f"own batch {label!r}")
                table[:, slot] = np.frombuffer(blinded.points, dtype=f"V{POINT_BYTES}")
            self._done += len(table)
            self._progress("build", self._done, max(self._total, self._done))
            if index == STATISTICS:
                self._pool.append(table[: len(real)].tobytes())
            yield table.tobytes()

    def _hashed(self, texts: pa.Array, dst: bytes, rows: int) -> bytes:
        """Points of texts; random ones for nulls, and behind them as far as rows are wanted."""
        there = np.zeros(rows, bool)
        there[: len(texts)] = np.asarray(texts.is_valid())
        if there.all():
            return hash_column(texts, dst)
        noise = self._random(32 * int((~there).sum()))
        points = np.empty(rows, dtype=f"V{POINT_BYTES}")
        points[there] = np.frombuffer(hash_column(texts.drop_null(), dst), points.dtype)
        invented = hash_to_curve([noise[at : at + 32] for at in range(0, len(noise), 32)], dst)
        points[~there] = np.frombuffer(invented, points.dtype)
        return points.tobytes()

    def _for_one(self, kind: str) -> pb.EpochPlan:
        """The plan as it would be for one key type alone: a point's domain does not depend on what stands beside it."""
        plan = pb.EpochPlan()
        plan.CopyFrom(self._plan)
        plan.key_type = kind
        return plan

    @staticmethod
    def _with_handles(points: Iterator[bytes], handles: bytes, width: int) -> Iterator[bytes]:
        """Rows with the handle of each behind it."""
        at = 0
        for chunk in points:
            rows = np.frombuffer(chunk, dtype=np.uint8).reshape(-1, width)
            mine = np.frombuffer(handles, np.uint8, len(rows) * HANDLE_BYTES, at).reshape(-1, HANDLE_BYTES)
            at += len(rows) * HANDLE_BYTES
            yield np.hstack([rows, mine]).tobytes()


def _split(rows: Iterator[bytes], width: int, handles: IO[bytes]) -> Iterator[bytes]:
    """Takes the handles off again: they go to a file of their own."""
    for chunk in rows:
        table = np.frombuffer(chunk, dtype=np.uint8).reshape(-1, width + HANDLE_BYTES)
        handles.write(table[:, width:].tobytes())
        yield table[:, :width].tobytes()
