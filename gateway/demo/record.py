"""The record of one demonstration: plain values, filled in step by step, kept as JSON, shown by the report.

A part is ``None`` until its step is done, so a demonstration that was interrupted can be continued from its file. Only
what may leave the parties of the alliance is in it: noisy aggregates, decisions with their reasons, budgets; nothing of
a customer. The example offers carry the fields that a recipient sees, without the handle.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from federation.core.errors import DataError, Reason
from federation.plots.values import CrossTable, Noise, Region
from gateway.demo.yardsticks import Curve, Yardsticks

FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Partner:
    """One partner, and how many rows of it took part."""

    id: str
    display_name: str
    country: str  # ISO 3166-1 alpha-2, where it processes
    customers: int  # rows in its file
    blinded: int  # rows whose identifier went through the ring
    trained: int  # rows that the joint training could draw from
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Venn:
    """The released n-way Venn diagram."""

    epoch: str
    key_type: str
    regions: tuple[Region, ...]  # exclusive
    totals: tuple[Region, ...]  # inclusive: sums of noisy regions
    noise: Noise
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Ratio:
    """A ratio of noisy numbers with its interval."""

    value: float
    low: float
    high: float | None  # None: nothing bounds it
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Link:
    """Whoever has the products on the left has the right one more often than others do."""

    left: tuple[str, ...]  # "Gold card (bank)"
    right: str
    people: int
    confidence: Ratio
    lift: Ratio
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Links:
    """Rules between products of different partners, all intervals holding together."""

    links: tuple[Link, ...]
    candidates: int
    coverage: float
    noise: Noise
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Training:
    """The joint model and its price."""

    run_id: str
    model: str
    rounds: int
    steps_per_round: int
    sampling_rate: float
    clipping_norm: float
    noise_multiplier: float
    epsilon_per_customer: float  # of one partner
    epsilon_per_person: float  # who is a customer of every partner
    delta: float
    joint: Curve
    yardsticks: Yardsticks
    measures: dict[str, Any] = field(default_factory=dict)  # of the card: "metrics", "judged", "loss_by_round"
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class ReasonCount:
    """How many offers a reason refused. An offer may have several reasons."""

    code: str
    text: str
    legal_ref: str
    offers: int
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class OfferField:
    """A field of an offer as the recipient sees it."""

    name: str
    value: str
    mask: str = ""  # empty: as the proposer sent it
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class OfferExample:
    """One offer that was decided."""

    permitted: bool
    sender: str
    recipient: str
    product: str
    fields: tuple[OfferField, ...]
    reasons: tuple[ReasonCount, ...]  # of this offer; ``offers`` is 1
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Offers:
    """What became of the proposed offers."""

    proposed: int
    permitted: int
    refused: int
    reasons: tuple[ReasonCount, ...]
    examples: tuple[OfferExample, ...]  # one permitted, one refused for each kind of reason
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Withdrawal:
    """One customer's consent withdrawn while an offer was waiting."""

    partner: str
    purpose: str
    queued_before: int  # offers in the recipient's inbox
    queued_after: int
    removed: int
    effective_at: str  # RFC 3339
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Scope:
    """One limit of the privacy budget."""

    name: str  # "alliance" or a purpose
    limit: float  # epsilon
    spent: float
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Entry:
    """One line of the privacy ledger."""

    at: str
    purpose: str
    what: str
    epsilon: float  # of this entry alone
    state: str
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Budget:
    """The privacy ledger."""

    period_start: str
    period_end: str
    delta: float
    scopes: tuple[Scope, ...]
    entries: tuple[Entry, ...]
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Audit:
    """The audit log at the end."""

    size: int  # entries
    root: str  # hexadecimal
    verified: bool
    text: str  # what was verified, one sentence
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Step:
    """How long a step took."""

    name: str
    seconds: float
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Process:
    """The largest memory of a process."""

    name: str
    peak_mib: float
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Story:
    """Everything the report shows."""

    alliance: str
    synthetic: bool
    data_note: str  # where the data comes from, one sentence
    made_at: str  # RFC 3339
    partners: tuple[Partner, ...] = ()
    policy_version: str = ""
    venn: Venn | None = None
    cross: CrossTable | None = None
    links: Links | None = None
    training: Training | None = None
    offers: Offers | None = None
    withdrawal: Withdrawal | None = None
    budget: Budget | None = None
    audit: Audit | None = None
    steps: tuple[Step, ...] = ()
    processes: tuple[Process, ...] = ()
    __pydantic_config__ = FORBID

    def to_json(self) -> str:
        """The record as JSON text."""
        return _STORY.dump_json(self, indent=1).decode()

    @staticmethod
    def from_json(text: str | bytes) -> "Story":
        """Reads what ``to_json`` wrote.

        Raises:
            DataError: BAD_FIELD, naming the first field that is wrong.
        """
        try:
            story: Story = _STORY.validate_json(text)
        except ValidationError as exc:
            first = exc.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise DataError(Reason.BAD_FIELD, item=f"demo record: {where}: {first['msg']}") from exc
        return story


_STORY: TypeAdapter[Any] = TypeAdapter(Story)
