"""The limits and vocabularies that compliance declares beside its rules. Frozen; unknown keys are refused."""

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,47}$")]
Column = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}\.[a-z][a-z0-9_]{0,47}$")]
"""A segment column of a partner, ``partner.column``."""
Epsilon = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Delta = Annotated[float, Field(gt=0, le=1e-4, allow_inf_nan=False)]


class Spec(BaseModel):
    """Base of everything a person edits."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class PartySpec(Spec):
    """A party of the agreement."""

    id: Name
    role: Literal["partner", "marketing", "compliance", "operator", "auditor"]
    display_name: str = Field(min_length=1, max_length=80)
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]  # where it processes
    segments: dict[Name, tuple[Annotated[str, Field(pattern=r"^[a-z0-9_+-]{1,32}$")], ...]] = {}
    """Segment columns that may be used as labels, with their closed list of values ("unknown" is always added)."""
    pad_to: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Batches are padded to a multiple of this with random points; 1 for none."""


class CubeSpec(Spec):
    """A table that is released once per epoch: people by exact membership region and labels.

    A person is in exactly one cell, so adding or removing one changes one cell by one for each token the person has.
    """

    name: Name
    partners: tuple[Name, ...] = Field(min_length=2, max_length=8)
    by: tuple[Column, ...] = Field(default=(), max_length=3)
    epsilon: Epsilon
    min_count: int = Field(default=20, ge=0)
    """Smallest noisy count that is shown, in people."""
    max_tokens_per_person: int = Field(default=1, ge=1, le=8)
    description: str = Field(default="", max_length=400)


class BudgetSpec(Spec):
    """How much privacy loss the alliance allows itself in a period, for one person over everything released."""

    period_start: date
    period_end: date  # exclusive
    delta: Delta
    epsilon: Epsilon  # everything composed
    purposes: dict[Name, Epsilon]
    """Limit by purpose; a purpose without one has none to spend."""


class TrainingSpec(Spec):
    """What a joint training run may be at most, and what it is when the proposal is silent."""

    max_epsilon: Epsilon
    """Of one run, for one customer of one partner, at the budget's delta."""
    max_rounds: int = Field(ge=1, le=1000)
    min_partners: int = Field(default=2, ge=2)
    feature_schema: Name = "marketing-v1"
    features: tuple[Name, ...] = Field(min_length=1)
    label: Name
    rounds: int = Field(ge=1)
    steps_per_round: int = Field(ge=1, le=1000)
    sampling_rate: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    epsilon: Epsilon


class ProductSpec(Spec):
    """A product that may be offered."""

    id: Name
    owner: Name  # the partner that sells it, and so the recipient of offers for it
    display_name: str
    requires_purchase_of: None = None  # a tied sale cannot be expressed


class OfferSpec(Spec):
    """Business rules for offers, across all partners."""

    products: tuple[ProductSpec, ...]
    channels: tuple[Name, ...]
    attributes: tuple[Name, ...] = ()
    """Further fields that an offer may carry."""
    max_open_per_person: int = Field(default=2, ge=1)
    cooling_off_days: int = Field(ge=0)
    """Between two offers of the same product to the same person."""
    max_valid_days: int = Field(default=60, ge=1)
