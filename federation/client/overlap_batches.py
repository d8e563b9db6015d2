"""A partner's own rows as blinded, padded, shuffled, signed batches; whoever may not be in them stays home.

The partner's own policy and consents decide row by row. What was left out is counted by reason in a report that stays
with the partner.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import pandas as pd
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.config import DataConfig
from federation.client.overlap_labels import Tables, customer_labels
from federation.client.overlap_state import OwnBatch
from federation.core.errors import OverlapError, Reason
from federation.core.identity import Identity
from federation.core.ids import HANDLE_BYTES, CustomerId, Handle
from federation.overlap.batch import Random, padding_rows, permutation, reorder, sign_manifest
from federation.overlap.blind import CHUNK_ROWS, blind
from federation.overlap.hash_to_curve import domain, hash_to_curve
from federation.overlap.normalise import normalise
from federation.overlap.plan import INDEX_NAMES, STATISTICS, SWITCHBOARD, Agreement, batch_keys, labels_of
from federation.policy.specs import PartySpec
from federation.v1 import overlap_pb2 as pb

PURPOSES: Mapping[int, str] = {STATISTICS: "overlap_statistics", SWITCHBOARD: "offer_sharing"}
DATA_CATEGORY, RECIPIENT = "blinded_identifier", "gateway"


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

    def identifier(self, kind: Literal["email", "phone"]) -> "pd.Series[str]":
        """One identifier column; raises DataError where it is missing or mostly empty."""
        ...

    def eligible(self, purpose: str, data_category: str, recipient: str) -> Eligible:
        """Asks the partner's own policy about every customer."""
        ...


class Handles(Protocol):
    """What the overlap needs of a partner's handle book."""

    def handles_for(self, ids: Sequence[CustomerId]) -> list[Handle]:
        """The handle of each customer, made where there is none."""
        ...

    def customer_of(self, handle: Handle) -> CustomerId | None:
        """Whose handle it is; None if it is nobody's."""
        ...


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
    ) -> None:
        self._plan, self._identity, self._data, self._handles = plan, identity, data, handles
        self._config, self._random = config, random
        self._party: PartySpec = agreement.parties[identity.subject.party]
        self._raw = self._identifiers()
        self._normal: dict[str, str | None] = {}
        self._shares: dict[int, Share] = {STATISTICS: Share(), SWITCHBOARD: Share()}

    def build(self, keys: Mapping[int, X25519PrivateKey]) -> Iterator[OwnBatch]:
        """Every batch of the epoch, blinded with the key of its index.

        Raises:
            DataError: MISSING_COLUMN, HALF_EMPTY_COLUMN and what reading the files raises; then nothing was built.
        """
        groups = self._groups()
        for index, label in batch_keys(self._party):
            if index == STATISTICS:
                yield self._batch(index, label, groups[label], [], keys[index])
            else:
                ids, identifiers = self._usable(index)
                yield self._batch(index, label, identifiers, self._handles.handles_for(ids), keys[index])

    def report(self) -> dict[str, Any]:
        """Counts for the partner itself, after ``build``; never sent."""
        shares = {INDEX_NAMES[index]: asdict(share) for index, share in self._shares.items()}
        return {"epoch": self._plan.epoch, "key_type": self._plan.key_type, **shares}

    def _identifiers(self) -> "pd.Series[str]":
        kind: Literal["email", "phone"] = "email" if self._plan.key_type == "email" else "phone"
        return self._data.identifier(kind)

    def _usable(self, index: int) -> tuple[list[CustomerId], list[str]]:
        """Customers that may be in an index and have a usable identifier, with its normal form."""
        share = self._shares[index]
        eligible = self._data.eligible(PURPOSES[index], DATA_CATEGORY, RECIPIENT)
        share.customers, share.refused = len(self._raw), dict(eligible.refused)
        ids, identifiers = [], []
        region, mode = self._config.phone_region, self._config.phone_numbers
        for customer, raw in zip(eligible.ids, self._raw.reindex(eligible.ids).tolist(), strict=True):
            if not isinstance(raw, str) or not raw.strip():
                share.without_identifier += 1
                continue
            if customer not in self._normal:
                self._normal[customer] = normalise(raw, self._plan.key_type, region=region, mode=mode)
            normal = self._normal[customer]
            if normal is None:
                share.invalid_identifier += 1
                continue
            ids.append(customer)
            identifiers.append(normal)
        share.used = len(ids)
        return ids, identifiers

    def _groups(self) -> dict[str, list[str]]:
        """Identifiers by label, each once: of rows with equal identifiers the first in the file counts."""
        groups: dict[str, list[str]] = {label: [] for label in labels_of(self._party)}
        ids, identifiers = self._usable(STATISTICS)
        labels = customer_labels(self._party, self._data, self._config.columns, ids)
        first = dict(zip(reversed(identifiers), reversed(labels), strict=True))
        for identifier, label in first.items():
            groups[label].append(identifier)
        share = self._shares[STATISTICS]
        share.repeated_identifier = len(ids) - len(first)
        share.used = len(first)
        return groups

    def _batch(
        self, index: int, label: str, identifiers: list[str], handles: list[Handle], key: X25519PrivateKey
    ) -> OwnBatch:
        padding = padding_rows(len(identifiers), self._party.pad_to)
        self._shares[index].padding += padding
        messages = [text.encode() for text in identifiers] + [self._random(32) for _ in range(padding)]
        dst = domain(self._plan, index)
        points = bytearray()
        for start in range(0, len(messages), CHUNK_ROWS):
            blinded = blind(hash_to_curve(messages[start : start + CHUNK_ROWS], dst), key)
            if blinded.low_order_rows:  # one in 2^252: more likely a broken library
                raise OverlapError(Reason.BAD_POINT, item=f"own batch {label!r}")
            points += blinded.points
        order = permutation(len(messages), self._random)
        sent = reorder(bytes(points), order)
        # A handle that nobody has, so that a padding row of the switchboard looks like any other.
        row_handles = b"".join(handles) + self._random(HANDLE_BYTES * padding) if index == SWITCHBOARD else b""
        header = sign_manifest(
            self._identity, self._plan, index=index, label=label, points=sent, batches=len(batch_keys(self._party))
        )
        header.padding = padding
        return OwnBatch(header, sent, reorder(row_handles, order, HANDLE_BYTES) if row_handles else b"")
