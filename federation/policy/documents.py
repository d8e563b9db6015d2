"""What stands in each file of a policy folder, as models. Unknown keys and words are refused.

A folder holds exactly the files of ``DOCUMENTS``; a file with another name is refused, because a misspelt name would
otherwise switch a law off in silence.
"""

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from federation.core.errors import PolicyError
from federation.policy.mask import check_mask
from federation.policy.specs import BudgetSpec, CubeSpec, Name, OfferSpec, PartySpec, Spec, TrainingSpec
from federation.policy.vocabulary import DATA_CATEGORIES, DPV_PURPOSES, LEGAL_BASES, TRANSFER_MECHANISMS


def _one_of(terms: Mapping[str, Any]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in terms:
            raise ValueError(f"unknown word; known are {', '.join(sorted(terms))}")
        return value

    return AfterValidator(check)


def _mask(value: str) -> str:
    try:
        check_mask(value)
    except PolicyError as exc:
        raise ValueError("unknown mask") from exc
    return value


Text = Annotated[str, Field(min_length=1, max_length=600)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Area = Annotated[str, Field(pattern=r"^[A-Z]{2,8}$")]
"""A country, or a region that purposes.yaml declares."""
FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,47}(\.[a-z][a-z0-9_]{0,47})?$")]
Category = Annotated[str, _one_of(DATA_CATEGORIES)]
Mechanism = Annotated[str, _one_of(TRANSFER_MECHANISMS)]
LegalBasis = Annotated[str, _one_of(LEGAL_BASES)]
Mask = Annotated[str, AfterValidator(_mask)]
Some = Field(min_length=1, max_length=64)


class Period(Spec):
    """Something with a name that holds from the start of one day (UTC) to before the start of another."""

    id: Name
    valid_from: date
    valid_to: date

    @model_validator(mode="after")
    def _in_order(self) -> "Period":
        if self.valid_to <= self.valid_from:
            raise ValueError("valid_to must be after valid_from")
        return self


class Clause(Period):
    """Who may receive what from whom for which purpose, until when."""

    reference: Text
    origin: Annotated[tuple[Name, ...], Some]
    recipient: Annotated[tuple[Name, ...], Some]
    purpose: Annotated[tuple[Name, ...], Some]
    data_category: Annotated[tuple[Category, ...], Some]


class Transfer(Period):
    """On what ground data about residents of a region may go to a country outside of it."""

    subject_region: Annotated[tuple[Area, ...], Some]
    recipient_country: Annotated[tuple[Country, ...], Some]
    mechanism: Mechanism
    reference: Text


class AgreementFile(Spec):
    """``agreement.yaml``."""

    alliance: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    parties: Annotated[tuple[PartySpec, ...], Some]
    sharing: Annotated[tuple[Clause, ...], Some]
    transfers: tuple[Transfer, ...] = ()


class Purpose(Spec):
    """A purpose, in DPV's words, and the legal basis it has under each law."""

    id: Name
    dpv: Annotated[str, _one_of(DPV_PURPOSES)]
    description: Text
    legal_basis: dict[Annotated[str, Field(pattern=r"^[A-Z]{2,8}$")], LegalBasis]


class Region(Spec):
    """Countries whose residents one law protects, and between which data moves freely."""

    id: Area
    jurisdiction: Annotated[str, Field(pattern=r"^[A-Z]{2,8}$")]
    countries: Annotated[tuple[Country, ...], Some]


class PurposesFile(Spec):
    """``purposes.yaml``."""

    purposes: Annotated[tuple[Purpose, ...], Some]
    regions: Annotated[tuple[Region, ...], Some]


class Match(Spec):
    """Which requests a rule is about: all keys that are given must fit; an absent key fits everything."""

    purpose: Annotated[tuple[Name, ...], Some] | None = None
    data_category: Annotated[tuple[Category, ...], Some] | None = None
    subject_region: Annotated[tuple[Area, ...], Some] | None = None
    origin: Annotated[tuple[Name, ...], Some] | None = None
    recipient: Annotated[tuple[Name, ...], Some] | None = None
    recipient_outside: Area | None = None
    """Fits when the recipient processes in a country that is not in this region."""
    channel: Annotated[tuple[Name, ...], Some] | None = None


class ConsentNeed(Spec):
    """What a consent must be. Being given, complete and in force is always part of it."""

    status: Literal["given"] = "given"
    at: Literal["origin", "recipient", "both"] = "origin"
    names_recipient: bool = False
    separate: bool = False
    cross_border: bool = False

    @model_validator(mode="after")
    def _names(self) -> "ConsentNeed":
        if self.names_recipient and self.at != "origin":
            raise ValueError("names_recipient is for the consent at the origin; write at: origin")
        return self


class Conditions(Spec):
    """What must hold. At least one."""

    legal_basis: Annotated[tuple[LegalBasis, ...], Some] | None = None
    consent: ConsentNeed | None = None
    transfer_mechanism: Annotated[tuple[Mechanism, ...], Some] | None = None


class Requirements(Conditions):
    """What must hold, and the duties that come with the permit."""

    fields: tuple[FieldName, ...] = ()
    """Fields that may pass as they are."""
    mask: dict[FieldName, Mask] = Field(default_factory=dict)
    """Fields that may pass masked. A field in neither list may not pass."""
    cap: dict[FieldName, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Largest number that one of ``fields`` may show."""
    min_k: int | None = Field(default=None, ge=1)
    """Smallest noisy count that may be shown, in people."""

    @model_validator(mode="after")
    def _once(self) -> "Requirements":
        if both := set(self.fields) & set(self.mask):
            raise ValueError(f"{min(both)} stands under fields and under mask")
        if loose := set(self.cap) - set(self.fields):
            raise ValueError(f"cap for {min(loose)}, which does not stand under fields")
        return self


class Rule(Spec):
    """One rule. A permit permits where it fits and ``require`` holds; a forbid forbids where it fits ``unless``."""

    id: Name
    legal_ref: Annotated[str, Field(pattern=r"^[a-z0-9-]+:[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    legal_description: Text
    effect: Literal["permit", "forbid"]
    match: Match
    require: Requirements | None = None
    unless: Conditions | None = None
    valid_from: date | None = None
    valid_to: date | None = None
    message: Text | None = None

    @model_validator(mode="after")
    def _shape(self) -> "Rule":
        if self.valid_from and self.valid_to and self.valid_to <= self.valid_from:
            raise ValueError("valid_to must be after valid_from")
        if self.effect == "forbid":
            if self.require is not None:
                raise ValueError("a forbid has no require; what lifts it stands under unless")
            if self.unless is not None and self.unless == Conditions():
                raise ValueError("unless is empty")
            return self
        if self.unless is not None:
            raise ValueError("a permit has no unless; what it needs stands under require")
        for key in ("purpose", "data_category", "origin", "recipient"):
            if getattr(self.match, key) is None:
                raise ValueError(f"a permit must say for which {key}")
        return self


class RulesFile(Spec):
    """``rules.yaml``, ``consent.yaml``, ``localization.yaml``: the same language, split by subject."""

    rules: tuple[Rule, ...] = Field(max_length=500)


class OffersFile(OfferSpec):
    """``offers.yaml``."""


class CubesFile(Spec):
    """``cubes.yaml``."""

    cubes: tuple[CubeSpec, ...] = Field(max_length=64)


class BudgetFile(BudgetSpec):
    """``budget.yaml``."""


class TrainingFile(TrainingSpec):
    """``training.yaml``."""


DOCUMENTS: Final[Mapping[str, type[Spec]]] = MappingProxyType(
    {
        "agreement.yaml": AgreementFile,
        "purposes.yaml": PurposesFile,
        "rules.yaml": RulesFile,
        "consent.yaml": RulesFile,
        "localization.yaml": RulesFile,
        "offers.yaml": OffersFile,
        "cubes.yaml": CubesFile,
        "budget.yaml": BudgetFile,
        "training.yaml": TrainingFile,
    }
)
RULE_FILES: Final = ("rules.yaml", "consent.yaml", "localization.yaml")
