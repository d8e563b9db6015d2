"""What all parties of an epoch must agree on before a single point is blinded: who, in which order, with which labels.

A plan is public. A partner checks it against its own identity and its own policy, so the gateway cannot add a party,
turn the ring around or introduce a label that the agreement does not list.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Protocol

from federation.core.errors import OverlapError, PolicyError, Reason
from federation.core.ids import POINT_BYTES, PartyId
from federation.policy.specs import MAX_LABELS, PartySpec
from federation.v1 import overlap_pb2 as pb

RULES = "1"
"""Version of the normalisation rules. Raise it with any change that gives one identifier another normal form."""
PROTOCOL = 3
"""Version of how points are blinded. In the first one a partner's own rows were under its key as a hop; in the second
those of deltas were under one key with those of the base, and nothing showed whether a hop gave back what it got."""
KEY_TYPES = ("email", "phone", "national_id")
ANY = "any"
"""Asks for all key types at once."""
MIN_PARTNERS, MAX_PARTNERS = 2, 8
MAX_EPOCH_CHARS = 64
STATISTICS = pb.INDEX_STATISTICS
SWITCHBOARD = pb.INDEX_SWITCHBOARD
BASE, ADD, REMOVE, CHECK = pb.OPERATION_BASE, pb.OPERATION_ADD, pb.OPERATION_REMOVE, pb.OPERATION_CHECK
MAX_DELTAS = 10_000
"""Of one partner in one epoch; each leaves a few rows at every hop. After that many the epoch is due for a new one."""
MAX_TOGETHER, MAX_TOGETHER_POINTS = 128, 1 << 15
"""Of small batches that travel in one message: a megabyte of points, and headers."""
BatchKey = tuple[int, int, str]
"""Index, operation and label: what a batch is, among those of one origin under one sequence number."""
_CHECKS: tuple[BatchKey, ...] = ((STATISTICS, CHECK, ""), (SWITCHBOARD, CHECK, ""))
INDEX_NAMES: Mapping[int, str] = {STATISTICS: "statistics", SWITCHBOARD: "switchboard"}
# A name is also a folder and part of a hash domain, so it holds no separator of either.
_EPOCH = re.compile(r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*")


class Agreement(Protocol):
    """The part of a policy set that the overlap needs."""

    @property
    def parties(self) -> Mapping[str, PartySpec]:
        """The parties of the agreement, by id."""
        ...


def check_epoch_name(epoch: str) -> str:
    """The name itself. Raises OverlapError (BAD_FIELD) for one that could not name a folder."""
    if len(epoch) > MAX_EPOCH_CHARS or _EPOCH.fullmatch(epoch) is None:
        raise OverlapError(
            Reason.BAD_FIELD, item=f"field epoch: letters, digits, - and single dots between, at most {MAX_EPOCH_CHARS}"
        )
    return epoch


def key_types_of(key_type: str) -> tuple[str, ...]:
    """The key types of a plan, in their fixed order; a row of a batch has one point of each.

    Args:
        key_type: One of ``KEY_TYPES``, several joined by "+", or "any".

    Raises:
        OverlapError: BAD_FIELD.
    """
    chosen = KEY_TYPES if key_type == ANY else tuple(key_type.split("+"))
    if not _is_key_type("+".join(chosen)):
        item = f"field key_type: {', '.join(KEY_TYPES)}, several of them in this order joined by +, or {ANY}"
        raise OverlapError(Reason.BAD_FIELD, item=item)
    return chosen


def row_bytes(plan: pb.EpochPlan) -> int:
    """Bytes of one row of points."""
    return POINT_BYTES * len(key_types_of(plan.key_type))


def partners_of(agreement: Agreement) -> tuple[PartyId, ...]:
    """Every partner of the agreement, in the order of the ring."""
    return tuple(PartyId(name) for name, party in sorted(agreement.parties.items()) if party.role == "partner")


def ring(partners: tuple[str, ...], origin: str) -> tuple[str, ...]:
    """The partners that blind a batch after its origin, in order."""
    at = partners.index(origin)
    return partners[at + 1 :] + partners[:at]


OTHER_POLICY = "policy files differ: compare the partner's copy with the alliance's by entente policy diff"
"""What honest parties have done where labels or partners do not fit."""


def label_of(values: Mapping[str, str]) -> str:
    """The one spelling of a combination of labels: ``a=x;b=y``, columns by name; "" without columns."""
    return ";".join(f"{column}={value}" for column, value in sorted(values.items()))


def parse_label(label: str) -> dict[str, str]:
    """What ``label_of`` wrote."""
    return dict(part.split("=", 1) for part in label.split(";")) if label else {}


def labels_of(party: PartySpec) -> tuple[str, ...]:
    """The labels of a partner's statistics batches: every combination of one value of each column.

    Raises:
        PolicyError: POLICY_INVALID for more than ``MAX_LABELS``; each is a batch, sent even when empty.
    """
    columns = party.columns
    if (number := math.prod(map(len, columns.values()))) > MAX_LABELS:
        item = f"party {party.id}: {number} combinations of labels, at most {MAX_LABELS}"
        raise PolicyError(Reason.POLICY_INVALID, item=item, fix="Declare fewer columns or values under segments.")
    return tuple(label_of(dict(zip(columns, values, strict=True))) for values in itertools.product(*columns.values()))


def base_keys(party: PartySpec) -> tuple[BatchKey, ...]:
    """Every batch that a partner sends when an epoch is built, empty ones included; those of decoys come last.

    All are always sent, so that which labels occur at all is not visible in how many batches there are.
    """
    return (*_people(party, BASE), *_CHECKS)


def delta_keys(party: PartySpec, *, adds: bool) -> tuple[BatchKey, ...]:
    """Every batch of a delta, empty ones included; those of decoys come last.

    A delta has one of two shapes, so that the number of batches says no more than whether anybody came: with ``adds``
    everything that may change, else the two batches of people who go. A relabelled person goes and comes.
    """
    goes = ((STATISTICS, REMOVE, ""), (SWITCHBOARD, REMOVE, ""))
    return (*goes, *(_people(party, ADD) if adds else ()), *_CHECKS)


def check_plan(plan: pb.EpochPlan, alliance: str, agreement: Agreement) -> None:
    """Checks a plan against one's own alliance and agreement.

    Raises:
        OverlapError: BAD_MANIFEST naming the field, BAD_FIELD for the epoch's name.
    """
    check_epoch_name(plan.epoch)
    partners = tuple(plan.partners)
    wrong = [
        field
        for field, good in (
            ("alliance", plan.alliance == alliance),
            ("rules", plan.rules == RULES),
            ("protocol", plan.protocol == PROTOCOL),
            ("key_type", _is_key_type(plan.key_type)),
            ("partners", MIN_PARTNERS <= len(partners) <= MAX_PARTNERS and partners == partners_of(agreement)),
        )
        if not good
    ]
    if wrong:
        about = f"; {OTHER_POLICY}" if wrong[0] == "partners" else ""
        raise OverlapError(Reason.BAD_MANIFEST, item=f"plan field {wrong[0]}{about}")


def _people(party: PartySpec, operation: int) -> tuple[BatchKey, ...]:
    return (*((STATISTICS, operation, label) for label in labels_of(party)), (SWITCHBOARD, operation, ""))


def _is_key_type(key_type: str) -> bool:
    """Whether it is the one spelling of some key types."""
    kinds = key_type.split("+")
    return kinds == [kind for kind in KEY_TYPES if kind in kinds]
