"""A partner's own rows as blinded, padded, shuffled, signed batches; whoever may not be in them stays home.

The partner's own policy and consents decide row by row. What was left out is counted by reason in a report that stays
with the partner.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.config import DataConfig
from federation.client.overlap_files import create_private, shuffled, write_rows
from federation.client.overlap_labels import Tables, customer_labels
from federation.client.overlap_memory import Person, Recorder
from federation.client.overlap_state import StoredBatch
from federation.core.errors import DataError, OverlapError, Reason
from federation.core.identity import Identity
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, CustomerId, Handle
from federation.overlap.batch import Random, padding_rows, sign_manifest
from federation.overlap.blind import CHUNK_ROWS, blind
from federation.overlap.hash_to_curve import domain, hash_to_curve
from federation.overlap.normalise import normalise
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

PURPOSES: Mapping[int, str] = {STATISTICS: "overlap_statistics", SWITCHBOARD: "offer_sharing"}
DATA_CATEGORY, RECIPIENT = "blinded_identifier", "gateway"
IdentifierKind = Literal["email", "phone", "national_id"]


class Eligible(Protocol):
    """Who may be in a use, and how many may not, by reason code."""

    @property
    def ids(self) -> list[CustomerId]:
        """Customers that may."""
        ...

    @property
    def refused(self) -> dict[str, int]:
        """The others, counted by the first reason's code."""
        ...


class Data(Tables, Protocol):
    """What the overlap needs of a partner's data."""

    def identifier(self, kind: IdentifierKind) -> "pd.Series[str]":
        """One identifier column; raises DataError where it is missing or mostly empty."""
        ...

    def eligible(
        self, purpose: str, data_category: str, recipient: str, *, fields: frozenset[str] = frozenset()
    ) -> Eligible:
        """Asks the partner's own policy about every customer; ``fields`` are the columns that would label them."""
        ...


class Handles(Protocol):
    """What the overlap needs of a partner's handle book."""

    def handles_for(self, ids: Sequence[CustomerId]) -> list[Handle]:
        """The handle of each customer, made where there is none."""
        ...

    def customer_of(self, handle: Handle) -> CustomerId | None:
        """Whose handle it is; None if it is nobody's."""
        ...


def allowed(data: Data, party: PartySpec, index: int) -> Eligible:
    """Who may be in an index now, by the partner's own policy and consents.

    A label says something about the person, so the rules must allow its column as they do any other field.
    """
    columns = frozenset(party.columns) if index == STATISTICS else frozenset()
    return data.eligible(PURPOSES[index], DATA_CATEGORY, RECIPIENT, fields=columns)


@dataclass(frozen=True)
class Draft:
    """A batch that is about to be written: rows of blinded points, those of padding last."""

    index: int
    label: str
    rows: Iterator[bytes]
    count: int  # rows, padding included
    padding: int
    batches: int
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
        memory: Told who is in the batches.
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
        progress: Callable[[str, int, int], None],
        memory: Recorder,
    ) -> None:
        self._memory = memory
        self._plan, self._identity, self._data, self._handles = plan, identity, data, handles
        self._config, self._random = config, random
        self._party: PartySpec = agreement.parties[identity.subject.party]
        self._kinds = cast(tuple[IdentifierKind, ...], key_types_of(plan.key_type))
        self._raw: list[pd.Series[str]] | None = None  # read when they are needed: whoever goes needs none
        self._normal: dict[str, Person] = {}
        self._progress, self._done, self._total = progress, 0, 0
        self._shares: dict[int, Share] = {STATISTICS: Share(), SWITCHBOARD: Share()}

    def build(self, keys: Mapping[int, X25519PrivateKey], folder: Path) -> None:
        """Makes every batch of the epoch in a folder, blinded with the key of its index.

        Raises:
            DataError: MISSING_COLUMN, HALF_EMPTY_COLUMN and what reading the files raises.
        """
        groups = self._groups()
        self._total = sum(map(len, groups.values()))
        batches = batch_keys(self._party)
        for number, (index, label) in enumerate(batches):
            people, handles = groups.get(label, []), list[Handle]()
            if index == SWITCHBOARD:
                ids, people = self.usable(index)
                self._total += len(ids)
                handles = self._handles.handles_for(ids)
                self._memory.switchboard(ids, people, handles)
            padding = padding_rows(len(people), self._party.pad_to)
            self._shares[index].padding += padding
            rows = self.points(index, label, people, padding, keys[index])
            draft = Draft(index, label, rows, len(people) + padding, padding, len(batches), handles)
            self.write(draft, folder / f"{number:03d}.points")

    def report(self) -> dict[str, Any]:
        """Counts for the partner itself, after ``build``; never sent."""
        shares = {INDEX_NAMES[index]: asdict(share) for index, share in self._shares.items()}
        return {"epoch": self._plan.epoch, "key_type": self._plan.key_type, **shares}

    def _identifiers(self) -> list["pd.Series[str]"]:
        """One column for each key type. With several, a partner may be without some of them, but not without all."""
        columns, missing = [], None
        for kind in self._kinds:
            try:
                columns.append(self._data.identifier(kind))
            except DataError as exc:
                if len(self._kinds) == 1 or exc.reason is not Reason.MISSING_COLUMN:
                    raise
                columns.append(pd.Series(dtype=str))
                missing = exc
        if missing is not None and all(column.empty for column in columns):
            raise missing
        return columns

    def usable(self, index: int) -> tuple[list[CustomerId], list[Person]]:
        """Customers that may be in an index and have a usable identifier, with the normal form of each key type."""
        share = self._shares[index]
        eligible = allowed(self._data, self._party, index)
        share.customers, share.refused = len(self._data.customers()), dict(eligible.refused)
        ids, people = [], []
        if self._raw is None:
            self._raw = self._identifiers()
        raw = [column.reindex(eligible.ids).tolist() for column in self._raw]
        for customer, *values in zip(eligible.ids, *raw, strict=True):
            given = [value if isinstance(value, str) and value.strip() else "" for value in values]
            if not any(given):
                share.without_identifier += 1
                continue
            if customer not in self._normal:
                self._normal[customer] = tuple(map(self._normalise, given, self._kinds))
            if not any(normal := self._normal[customer]):
                share.invalid_identifier += 1
                continue
            ids.append(customer)
            people.append(normal)
        share.used = len(ids)
        return ids, people

    def _normalise(self, raw: str, kind: str) -> str | None:
        if not raw:
            return None
        return normalise(raw, kind, region=self._config.phone_region, mode=self._config.phone_numbers)

    def _groups(self) -> dict[str, list[Person]]:
        """People by label, each once: of rows with equal identifiers the first in the file counts."""
        groups: dict[str, list[Person]] = {label: [] for label in labels_of(self._party)}
        ids, people = self.usable(STATISTICS)
        labels = self.labels(ids)
        self._memory.statistics(ids, people, labels)
        first = dict(zip(reversed(people), reversed(labels), strict=True))
        for person, label in first.items():
            groups[label].append(person)
        share = self._shares[STATISTICS]
        share.repeated_identifier = len(ids) - len(first)
        share.used = len(first)
        return groups

    def labels(self, ids: Sequence[CustomerId]) -> list[str]:
        """The label of each of some customers."""
        return customer_labels(self._party, self._data, self._config.columns, ids)

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
        header.padding = draft.padding
        StoredBatch(header, target, None).save()

    def points(
        self, index: int, label: str, people: Sequence[Person], padding: int, key: X25519PrivateKey
    ) -> Iterator[bytes]:
        """Blinded rows, padding last. Where somebody has no identifier of a key type, and in padding: random points."""
        domains = [domain(self._for_one(kind), index) for kind in self._kinds]
        nobody: Person = (None,) * len(self._kinds)
        rows = len(people) + padding
        for start in range(0, rows, CHUNK_ROWS):
            real = list(people[start : start + CHUNK_ROWS])
            chunk = real + [nobody] * (min(CHUNK_ROWS, rows - start) - len(real))
            table = np.empty((len(chunk), len(self._kinds)), dtype=f"V{POINT_BYTES}")
            for slot, dst in enumerate(domains):
                messages = [self._random(32) if (text := one[slot]) is None else text.encode() for one in chunk]
                blinded = blind(hash_to_curve(messages, dst), key)
                if blinded.low_order_rows:  # one in 2^252: more likely a broken library
                    raise OverlapError(Reason.BAD_POINT, item=f"own batch {label!r}")
                table[:, slot] = np.frombuffer(blinded.points, dtype=f"V{POINT_BYTES}")
            self._done += len(chunk)
            self._progress("build", self._done, max(self._total, self._done))
            if index == STATISTICS:
                self._memory.points(real, table[: len(real)].tobytes())
            yield table.tobytes()

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
