"""What is to be proposed to whom, and what became of it at this partner."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from federation.core.errors import DataError, Reason
from federation.core.ids import CustomerId, Handle
from federation.policy.facts import Given


@dataclass(frozen=True)
class Campaign:
    """What is to be proposed."""

    product: str
    recipient: str
    channel: str
    benefit: str
    top: int
    """How many people at most, the best first."""
    attributes: Sequence[str] = ()
    """Columns of the customer file that go along, masked."""
    valid_days: int = 30


@dataclass(frozen=True)
class ProposalSummary:
    """What became of a campaign at this partner; the decisions are the gateway's and are not told."""

    scored: int
    eligible: int
    picked: int
    not_on_switchboard: int
    """Passed over: permitted and well scored, but without a handle, so the gateway does not know them yet."""
    already_proposed: int
    """Of the picked: in the outbox before, not yet expired."""
    accepted: int
    """Taken by the gateway for decision."""
    rejected: dict[str, int] = field(default_factory=dict)
    """By the first reason's code: what the gateway found wrong on our own side."""
    refused_by_own_policy: dict[str, int] = field(default_factory=dict)
    """Customers whom our own policy kept out, by the first reason's code."""
    own_reasons: dict[str, Given] = field(default_factory=dict)
    """One reason in full for each of these codes."""


def rank_customers(scores: "Mapping[CustomerId, float] | pd.Series[float]") -> list[CustomerId]:
    """Customers by falling score; equal scores by id, so that the order is always the same. Raises DataError."""
    pairs = [(CustomerId(str(customer)), float(score)) for customer, score in scores.items()]
    if not all(math.isfinite(score) for _, score in pairs):
        raise DataError(Reason.BAD_FIELD, item="a score is not a finite number")
    return [customer for customer, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))]


def offer_id_of(handle: Handle, campaign: Campaign, earlier: int) -> str:
    """The same for the same person and campaign until that offer has expired or was rejected."""
    words = (handle.hex(), campaign.recipient, campaign.product, campaign.channel, str(earlier))
    return hashlib.sha256(b"entente/offer-id\0" + "\0".join(words).encode()).hexdigest()[:32]
