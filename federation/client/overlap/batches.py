"""A partner's own rows as blinded points with decoys among them; whoever may not be in them stays home.

The partner's own policy and consents decide row by row. What was left out is counted by reason in a report that stays
with the partner.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.config import DataConfig
from federation.client.digests import Table
from federation.client.files.columns import ColumnStore, Places, parts
from federation.client.overlap.data import Data, Handles, allowed
from federation.client.overlap.labels import Numbers, derived, numbers_of
from federation.client.overlap.memory import Pool, Recorder
from federation.client.overlap.people import Chosen, Customers, People, Usable
from federation.client.overlap.progress import Progress
from federation.client.overlap.writing import NO_HANDLES, BatchWriter, Draft, Turn, handles_from
from federation.core.errors import OverlapError, Reason
from federation.core.identity import Identity
from federation.core.ids import POINT_BYTES
from federation.overlap.batch import Random
from federation.overlap.blind import CHUNK_ROWS, blind
from federation.overlap.decoys import decoys_of
from federation.overlap.hash_to_curve import domain, hash_column, hash_to_curve
from federation.overlap.own_key import OwnKey
from federation.overlap.plan import (
    CHECK,
    INDEX_NAMES,
    STATISTICS,
    SWITCHBOARD,
    Agreement,
    base_keys,
    key_types_of,
    labels_of,
)
from federation.policy.specs import PartySpec
from federation.v1 import overlap_pb2 as pb

HANDLES_AT_ONCE = 1 << 16


@dataclass
class Share:
    """What became of a partner's rows in one index."""

    customers: int = 0
    used: int = 0
    without_identifier: int = 0
    invalid_identifier: int = 0
    repeated_identifier: int = 0
    decoys: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class BatchBuilder:
    """Makes a partner's batches of one epoch.

    Args:
        plan: Checked against the partner's own agreement.
        identity: Signs the manifests.
        data: The partner's rows.
        handles: Its handles, for the switchboard.
        config: How its identifiers are written.
        agreement: Its own policy: labels and decoys.
        random: For order, decoys and nothing else.
        progress: Called with "build", rows done and rows in all.
        pool: Where blinded rows of the statistics are kept.
        store: Where columns are.
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
        store: ColumnStore,
        read: Callable[[], Customers],
    ) -> None:
        self._pool, self._store, self._read = pool, store, read
        self._plan, self._identity, self._data, self._handles = plan, identity, data, handles
        self._config, self._random = config, random
        self._writer = BatchWriter(plan, identity, agreement.parties[identity.subject.party], random)
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
        recorder = Recorder(labels_of(self._party), self._store)
        there, groups = self._groups(recorder)
        sharers = self.usable(SWITCHBOARD)
        self._total = sum(map(len, groups.values())) + len(sharers)
        shape = base_keys(self._party)
        turn = Turn(keys, len(shape))
        for number, (index, operation, label) in enumerate(shape):
            target, handles = folder / f"{number:03d}.points", NO_HANDLES
            if operation == CHECK:
                self.write_decoys(index, turn, target)
                continue
            if index == SWITCHBOARD:
                handles = self.handles_of(sharers)
                recorder.switchboard(sharers.customer, sharers.person, handles)
                people = sharers.chosen(slice(None))
            else:
                people = there.chosen(groups[label])
            decoys = decoys_of(len(people), self._party.pad_to)
            self._shares[index].decoys += decoys
            rows = self.points(index, people, decoys, keys[index].key)
            draft = Draft((index, operation, label), rows, len(people) + decoys, decoys, handles)
            self.write(draft, turn, target)
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
        share.without_identifier = share.invalid_identifier = 0

        def usable_of(part: slice) -> Places:
            some = rows[part]
            given, usable = all_of.given[some], all_of.usable[some]
            share.without_identifier += int((~given).sum())
            share.invalid_identifier += int((given & ~usable).sum())
            return some[usable]

        found = Usable(self._store.joined(map(usable_of, parts(len(rows)))), all_of, self._store)
        share.used = len(found)
        return found

    def labels(self, usable: Usable) -> Numbers:
        """The label of each of some customers, as its place in ``plan.labels_of``. Raises DataError."""
        among, read = usable.among, self._data.holdings
        all_of = {**among.listed, **derived(self._party, self._config.columns, among.ids, read)}
        some = (numbers_of(self._party, all_of, usable.rows[part]) for part in parts(len(usable)))
        found: Numbers = self._store.joined(some)
        return found

    def handles_of(self, sharers: Usable, which: Places | None = None) -> Table:
        """The handle of each customer of the switchboard, or of some of them by place; made where there is none."""
        rows = sharers.rows if which is None else sharers.rows[which]
        ids = (sharers.among.ids.take(pa.array(rows[part])).to_pylist() for part in parts(len(rows), HANDLES_AT_ONCE))
        found: Table = self._store.joined(handles_from(b"".join(self._handles.handles_for(some))) for some in ids)
        return found

    def _groups(self, recorder: Recorder) -> tuple[Usable, dict[str, Places]]:
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

    def write(self, draft: Draft, turn: Turn, target: Path) -> None:
        """Writes one batch; see ``BatchWriter.write``."""
        self._writer.write(draft, turn, target)

    def write_decoys(self, index: int, turn: Turn, target: Path) -> None:
        """Writes the decoys of all batches of an index that were written since the last time."""
        others = self._writer.others(index)
        self._writer.write_decoys(index, self.points(index, self.nobody, others, turn.keys[index].key), turn, target)

    def points(self, index: int, people: People | Chosen, nobody: int, key: X25519PrivateKey) -> Iterator[bytes]:
        """Rows of people under a key, and behind them so many of nobody: all random points.

        A point is random too where somebody has no identifier of a key type.
        """
        domains = [domain(self._for_one(kind), index) for kind in self._kinds]
        rows = len(people) + nobody
        for start in range(0, rows, CHUNK_ROWS):
            real = people.part(start, min(start + CHUNK_ROWS, max(len(people), start)))
            table = np.empty((min(CHUNK_ROWS, rows - start), len(domains)), dtype=f"V{POINT_BYTES}")
            for slot, dst in enumerate(domains):
                blinded = blind(self._hashed(real.columns[slot], dst, len(table)), key)
                if blinded.low_order_rows:  # one in 2^252: more likely a broken library
                    raise OverlapError(Reason.BAD_POINT, item=f"own batch, {INDEX_NAMES[index]}")
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
