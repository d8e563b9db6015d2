"""The limits and vocabularies that compliance declares beside its rules. Frozen; unknown keys are refused."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,47}$")]
Column = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}\.[a-z][a-z0-9_]{0,47}$")]
"""A segment column of a partner, ``partner.column``."""
Epsilon = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Value = Annotated[str, Field(pattern=r"^[a-z0-9_+-]{1,32}$")]
"""One value of a segment column."""
UNKNOWN = "unknown"
HOLDS = "holds_"
"""``holds_<product>`` is derived from the partner's holdings: "yes" or "no"."""
YEARLY_VALUE: Literal["yearly_value"] = "yearly_value"
"""Derived from the partner's holdings: what a customer's products bring in a year, as a band."""
MAX_LABELS = 256
"""Combinations of labels of one partner. Each is a batch of its own, sent even when nobody is in it."""
MAX_BANDS = 16
MAX_AMOUNT = 10**9
Delta = Annotated[float, Field(gt=0, le=1e-4, allow_inf_nan=False)]
MAX_FLOOR = 10**9
"""Of a smallest number that may be shown, in people: more than any alliance has, and no more than a message holds."""


class Spec(BaseModel):
    """Base of everything a person edits."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


@dataclass(frozen=True)
class Band:
    """Whole amounts from ``low`` to ``high``, both included; of the last band, ``high`` is the declared cap."""

    name: str
    low: int
    high: int


class BandSpec(Spec):
    """How an amount becomes a label: rounded down to a whole number, then the band it is in.

    Edges 1, 200, 500 make the bands 0-0, 1-199, 200-499 and 500+.
    """

    edges: tuple[Annotated[int, Field(gt=0, le=MAX_AMOUNT)], ...] = Field(min_length=1, max_length=MAX_BANDS - 1)
    """The lowest amount of every band but the first, ascending."""
    cap: Annotated[int, Field(gt=0, le=MAX_AMOUNT)]
    """What one person can add to a sum at most; amounts above count as this."""

    @model_validator(mode="after")
    def _ascending(self) -> "BandSpec":
        if any(low >= high for low, high in zip(self.edges, (*self.edges[1:], self.cap + 1), strict=True)):
            raise ValueError("edges must ascend, and cap must not be below the last one")
        return self

    @property
    def bands(self) -> tuple[Band, ...]:
        """Every band, lowest first."""
        lows = (0, *self.edges)
        inner = [Band(f"{low}-{after - 1}", low, after - 1) for low, after in zip(lows, self.edges, strict=False)]
        return (*inner, Band(f"{lows[-1]}+", lows[-1], self.cap))


class PartySpec(Spec):
    """A party of the agreement."""

    id: Name
    role: Literal["partner", "marketing", "compliance", "operator", "auditor"]
    display_name: str = Field(min_length=1, max_length=80)
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]  # where it processes
    segments: dict[Name, tuple[Value, ...]] = {}
    """Columns that may be used as labels, with their closed list of values ("unknown" is always added). A column
    ``holds_<product>`` is derived from the holdings and has the values yes and no."""
    value_bands: dict[Literal["yearly_value"], BandSpec] = {}
    """Amounts that may be used as labels, by band; derived from the holdings."""
    pad_to: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Batches are padded to a multiple of this with random points; 1 for none."""

    @model_validator(mode="after")
    def _derived_columns(self) -> "PartySpec":
        for column, values in self.segments.items():
            if column.startswith(HOLDS) and sorted(values) != ["no", "yes"]:
                raise ValueError(f"{column} has the values yes and no")
            if len(set(values)) != len(values):
                raise ValueError(f"{column} names a value twice")
        if both := sorted(set(self.segments) & set(self.value_bands)):
            raise ValueError(f"{both[0]} is in segments and in value_bands")
        return self

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Every column that may label statistics with all its values, columns by name; "unknown" last where possible.

        What is derived from the holdings is always known: who is not in them holds nothing.
        """
        found = {
            column: values if column.startswith(HOLDS) else (*(value for value in values if value != UNKNOWN), UNKNOWN)
            for column, values in self.segments.items()
        }
        found |= {column: tuple(band.name for band in spec.bands) for column, spec in self.value_bands.items()}
        return dict(sorted(found.items()))


class SumSpec(Spec):
    """A value per person that is summed instead of counting people: a banded column with a number for each band.

    A person adds at most ``cap``, whatever the data says, because only a band travels and each counts as its number.
    """

    column: Column
    values: dict[Annotated[str, Field(pattern=r"^[a-z0-9_+-]{1,32}$")], Annotated[int, Field(ge=0, le=10**9)]] = Field(
        min_length=1, max_length=64
    )
    """What each label counts as, in whole units."""
    cap: Annotated[int, Field(ge=1, le=10**9)]
    unit: str = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _capped(self) -> "SumSpec":
        if above := [label for label, value in self.values.items() if value > self.cap]:
            raise ValueError(f"{above[0]} counts as more than the cap")
        return self


class CubeSpec(Spec):
    """A table that is released once per epoch: people, or a bounded sum, by exact membership region and labels.

    A person is in exactly one cell, so adding or removing one changes one cell by one (by at most the cap of a sum) for
    each token the person has.
    """

    name: Name
    partners: tuple[Name, ...] = Field(min_length=2, max_length=8)
    by: tuple[Column, ...] = Field(default=(), max_length=6)
    sum: SumSpec | None = None
    """None counts people."""
    epsilon: Epsilon
    min_count: int = Field(default=20, ge=0, le=MAX_FLOOR)
    """Smallest noisy count that is shown, in people."""
    max_tokens_per_person: int = Field(default=1, ge=1, le=8)
    description: str = Field(default="", max_length=400)


class AdHocSpec(Spec):
    """Questions that no declared cube answers. Not declared, they are not allowed."""

    allowed: bool = False
    max_epsilon: Epsilon = 0.1
    """What one question may cost at most."""
    default_epsilon: Epsilon = 0.1
    min_count: int = Field(default=20, ge=0, le=MAX_FLOOR)
    max_tokens_per_person: int = Field(default=1, ge=1, le=8)
    purposes: tuple[Name, ...] = ("overlap_statistics",)
    """What they may be asked for."""

    @model_validator(mode="after")
    def _in_order(self) -> "AdHocSpec":
        if self.default_epsilon > self.max_epsilon:
            raise ValueError("default_epsilon is above max_epsilon")
        return self


class BudgetSpec(Spec):
    """How much privacy loss the alliance allows itself in a period, for one person over everything released."""

    period_start: date
    period_end: date  # exclusive
    delta: Delta
    epsilon: Epsilon  # everything composed
    purposes: dict[Name, Epsilon]
    """Limit by purpose; a purpose without one has none to spend."""


class JudgingSpec(Spec):
    """How a finished model is measured on the partners' own rows, in rounds that its epsilon pays for."""

    rounds: int = Field(default=4, ge=1, le=100)
    """More rounds give narrower intervals, and leave less for learning."""
    bins: int = Field(default=10, ge=2, le=50)
    """Of scores."""
    by_region: bool = True
    """By the regions of residence that the policy knows."""
    bands: dict[Name, tuple[float, ...]] = {"age": (30.0, 45.0, 60.0)}
    """Columns with numbers, by the edges of their bands."""


ModelKind = Literal["logistic_regression", "linear_discriminant", "perceptron"]


class TrainingSpec(Spec):
    """What a joint training run may be at most, and what it is when the proposal is silent."""

    max_epsilon: Epsilon
    """Of one run, for a person who may be a customer of every partner, at the budget's delta."""
    max_rounds: int = Field(ge=1, le=1000)
    min_partners: int = Field(default=2, ge=2)
    trust: Literal["secure_sum", "local"] = "secure_sum"
    """secure_sum: the gateway sees sums only, one noise in shares. local: each partner adds all its noise alone."""
    collusion: int = Field(default=1, ge=0, le=63)
    """secure_sum: the promise holds without the noise of so many partners."""
    spare_attempts: int = Field(default=2, ge=0, le=100)
    """secure_sum: rounds that may be tried again in a run, all counted; epsilon pays for them."""
    max_rows_per_partner: int = Field(default=250_000, ge=1, le=4_000_000)
    """secure_sum: decides how fine sums are written; beyond, they are limited and the model suffers."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """secure_sum: of the steps that the gateway takes with the noisy sums."""
    feature_schema: Name = "marketing-v1"
    features: tuple[Name, ...] = Field(min_length=1)
    label: Name
    models: tuple[ModelKind, ...] = Field(default=("logistic_regression",), min_length=1)
    """Kinds that may be trained; the first is the default."""
    rounds: int = Field(ge=1)
    steps_per_round: int = Field(ge=1, le=1000)
    sampling_rate: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    epsilon: Epsilon
    judging: JudgingSpec | None = None
    """secure_sum: what is measured after the last step, in further rounds; None: nothing."""

    @model_validator(mode="after")
    def _one_step_of_all_rows(self) -> "TrainingSpec":
        if self.trust == "secure_sum" and (self.steps_per_round, self.sampling_rate) != (1, 1):
            raise ValueError("secure_sum takes one step of all rows a round: steps_per_round 1, sampling_rate 1")
        unfit = {"secure_sum": "perceptron", "local": "linear_discriminant"}[self.trust]
        if unfit in self.models:
            raise ValueError(f"{unfit} cannot be trained with trust {self.trust}")
        if self.trust == "secure_sum" and self.min_partners < 3:
            raise ValueError("secure_sum needs min_partners of at least 3")
        if self.judging is not None and self.trust != "secure_sum":
            raise ValueError("judging needs trust secure_sum: without it, each partner's histogram would be seen")
        return self


class ProductSpec(Spec):
    """A product that may be offered; no key ties it to another sale."""

    id: Name
    owner: Name  # the partner that sells it, and so the recipient of offers for it
    display_name: str


class OfferSpec(Spec):
    """Business rules for offers, across all partners."""

    products: tuple[ProductSpec, ...]
    channels: tuple[Name, ...]
    attributes: tuple[Name, ...] = ()
    """Further fields that an offer may carry."""
    max_open_per_person: int = Field(default=2, ge=1)
    cooling_off_days: int = Field(ge=0, le=730)
    """Between two offers of the same product to the same person."""
    max_valid_days: int = Field(default=60, ge=1, le=366)
    """Bounded, as the pause is: closed offers are kept until both are over."""
