"""What stands in each file of a policy folder, as models. Unknown keys and words are refused.

A folder holds exactly the files of ``DOCUMENTS``; a file with another name is refused, because a misspelt name would
otherwise switch a law off in silence.
"""

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from federation.policy.limits import TransferLimit
from federation.policy.specs import (
    MAX_FLOOR,
    AdHocSpec,
    BudgetSpec,
    CubeSpec,
    Name,
    OfferSpec,
    PartySpec,
    Spec,
    TrainingSpec,
)
from federation.policy.terms import (
    Area,
    Category,
    Country,
    DpvPurpose,
    FieldCategory,
    FieldClass,
    FieldName,
    FieldType,
    LegalBasis,
    Mask,
    Mechanism,
    PurposeName,
    Reference,
    Some,
    Status,
    Text,
)


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
    purpose: Annotated[tuple[PurposeName, ...], Some]
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
    dpv: DpvPurpose
    description: Text
    legal_basis: dict[Annotated[str, Field(pattern=r"^[A-Z]{2,8}$")], LegalBasis]


class Region(Spec):
    """Countries whose residents one law protects, and between which data moves freely."""

    id: Area
    jurisdiction: Annotated[str, Field(pattern=r"^[A-Z]{2,8}$")]
    countries: Annotated[tuple[Country, ...], Some]


class FieldEntry(Spec):
    """What one field of personal data is. A field without an entry counts as everything that a forbid asks for."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,46}(\*|[a-z0-9_-])?$")]
    """The field's name without its party; a star at the end stands for any ending."""
    type: FieldType
    category: Annotated[tuple[FieldCategory, ...], Some]
    jrt_class: FieldClass


class PurposesFile(Spec):
    """``purposes.yaml``."""

    purposes: Annotated[tuple[Purpose, ...], Some]
    regions: Annotated[tuple[Region, ...], Some]
    fields: tuple[FieldEntry, ...] = Field(default=(), max_length=500)
    """The catalogue of fields."""

    @model_validator(mode="after")
    def _one_to_one(self) -> "PurposesFile":
        terms = [purpose.dpv for purpose in self.purposes]
        if twice := sorted({term for term in terms if terms.count(term) > 1}):
            raise ValueError(f"{twice[0]} is the term of two purposes; a term stands for one")
        return self


class Match(Spec):
    """Which requests a rule is about: all keys that are given must fit; an absent key fits everything."""

    purpose: Annotated[tuple[PurposeName, ...], Some] | None = None
    data_category: Annotated[tuple[Category, ...], Some] | None = None
    subject_region: Annotated[tuple[Area, ...], Some] | None = None
    origin: Annotated[tuple[Name, ...], Some] | None = None
    recipient: Annotated[tuple[Name, ...], Some] | None = None
    recipient_outside: Area | None = None
    """Fits when the recipient processes in a country that is not in this region."""
    channel: Annotated[tuple[Name, ...], Some] | None = None
    field_category: Annotated[tuple[FieldCategory, ...], Some] | None = None
    """Fits when a field of the request is of one of these categories; for forbids."""
    field_class: Annotated[tuple[FieldClass, ...], Some] | None = None
    """Fits when a field of the request is of one of these classes; for forbids."""

    @model_validator(mode="after")
    def _one_view(self) -> "Match":
        if self.field_category is not None and self.field_class is not None:
            raise ValueError("give field_category or field_class, not both; write two rules")
        return self


class ConsentNeed(Spec):
    """What a consent must be. Being given, complete and in force is always part of it."""

    status: Status = "given"
    at: Literal["origin", "recipient", "both"] = "origin"
    about: Literal["purpose", "sensitive_fields"] = "purpose"
    """A consent to the purpose, or the separate one to its sensitive fields."""
    names_recipient: bool = False
    separate: bool = False
    cross_border: bool = False

    @model_validator(mode="after")
    def _names(self) -> "ConsentNeed":
        if self.names_recipient and self.at != "origin":
            raise ValueError("names_recipient is for the consent at the origin; write at: origin")
        if self.about == "sensitive_fields" and self.at != "origin":
            raise ValueError("the consent to sensitive fields is asked for at the origin; write at: origin")
        return self


class Conditions(Spec):
    """What must hold. At least one."""

    legal_basis: Annotated[tuple[LegalBasis, ...], Some] | None = None
    consent: ConsentNeed | None = None
    transfer_mechanism: Annotated[tuple[Mechanism, ...], Some] | None = None
    no_objection: Literal[True] | None = None
    """The person does not refuse automated marketing."""
    masked: Literal[True] | None = None
    """No field that the rule is about passes as it is."""


class Requirements(Conditions):
    """What must hold, and the duties that come with the permit."""

    fields: tuple[FieldName, ...] = ()
    """Fields that may pass as they are."""
    mask: dict[FieldName, Mask] = Field(default_factory=dict)
    """Fields that may pass masked. A field in neither list may not pass."""
    cap: dict[FieldName, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Largest number that one of ``fields`` may show."""
    min_k: int | None = Field(default=None, ge=1, le=MAX_FLOOR)
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
    legal_ref: Reference
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
            if self.unless is not None and self.unless.masked and self.match.field_class is None:
                raise ValueError("masked needs a field_class under match: which fields must be masked")
            return self
        if self.match.field_category is not None or self.match.field_class is not None:
            raise ValueError("a permit names its fields under require; field_category and field_class are for forbids")
        if self.require is not None and self.require.masked:
            raise ValueError("masked is for forbids; a permit says which fields it masks")
        if self.unless is not None:
            raise ValueError("a permit has no unless; what it needs stands under require")
        for key in ("purpose", "data_category", "origin", "recipient"):
            if getattr(self.match, key) is None:
                raise ValueError(f"a permit must say for which {key}")
        return self


class RulesFile(Spec):
    """``rules.yaml``, ``consent.yaml``, ``localization.yaml``: the same language, split by subject."""

    rules: tuple[Rule, ...] = Field(max_length=500)


class LocalizationFile(RulesFile):
    """``localization.yaml``: rules, and counts of transfers."""

    transfer_limits: tuple[TransferLimit, ...] = Field(default=(), max_length=16)


class OffersFile(OfferSpec):
    """``offers.yaml``."""


class CubesFile(Spec):
    """``cubes.yaml``."""

    cubes: tuple[CubeSpec, ...] = Field(max_length=64)
    ad_hoc: AdHocSpec = AdHocSpec()


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
        "localization.yaml": LocalizationFile,
        "offers.yaml": OffersFile,
        "cubes.yaml": CubesFile,
        "budget.yaml": BudgetFile,
        "training.yaml": TrainingFile,
    }
)
RULE_FILES: Final = ("rules.yaml", "consent.yaml", "localization.yaml")
