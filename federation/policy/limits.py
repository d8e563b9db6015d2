"""What localization.yaml says about counts of transfers."""

from typing import Annotated

from pydantic import Field, model_validator

from federation.policy.specs import Name, Spec
from federation.policy.terms import Area, Category, FieldCategory, Mechanism, Reference, Some, Text


class Tier(Spec):
    """Mechanisms that are enough while both counts are below; the last tier has no bounds."""

    people_below: int | None = Field(default=None, ge=1)
    sensitive_below: int | None = Field(default=None, ge=1)
    mechanism: Annotated[tuple[Mechanism, ...], Some]


class TransferLimit(Spec):
    """How many people's data a party may send out of a region in a calendar year, by mechanism."""

    id: Name
    legal_ref: Reference
    legal_description: Text
    subject_region: Area
    data_category: Annotated[tuple[Category, ...], Some]
    """What counts as sending the data."""
    sensitive: FieldCategory
    """Fields of this category make a transfer a sensitive one."""
    utc_offset_hours: int = Field(ge=-12, le=14)
    """Of the region's clock, by which its year begins."""
    tiers: tuple[Tier, ...] = Field(min_length=1, max_length=8)

    @model_validator(mode="after")
    def _rising(self) -> "TransferLimit":
        last = self.tiers[-1]
        if last.people_below is not None or last.sensitive_below is not None:
            raise ValueError("the last tier must have no bounds, so that every count is in one")
        if any(tier.people_below is None and tier.sensitive_below is None for tier in self.tiers[:-1]):
            raise ValueError("only the last tier may have no bounds; no count would reach those after it")
        for key in ("people_below", "sensitive_below"):
            bounds = [getattr(tier, key) for tier in self.tiers[:-1]]
            known = [bound for bound in bounds if bound is not None]
            if known != sorted(known):
                raise ValueError(f"{key} must rise from tier to tier")
        return self
