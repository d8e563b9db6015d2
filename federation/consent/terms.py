"""What a partner declares once for all consents it keeps: the part of a record that is not in each row.

A record of ISO/IEC TS 27560:2023 names the controller and how to reach it, the notice that the person saw, the personal
data, where and how long they are kept, how the consent was collected and how it is withdrawn. A register's rows say
none of this, because it is the same for all. Without it a record is incomplete, and an incomplete record proves no
consent (GDPR 7(1)): it denies.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX

Line = Annotated[str, Field(min_length=1, max_length=600)]  # as long as a description in the policy may be
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
PurposeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,47}$")]


class Part(BaseModel):
    """Base of what is declared: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Controller(Part):
    """Who decides about the data, and how a person reaches it."""

    name: Line
    contact: Line
    """An address that answers: e-mail, telephone or a web form."""


class Notice(Part):
    """The privacy notice that was shown."""

    reference: Line
    """Its address or number, version included."""
    language: Language = "en"


class ConsentTerms(Part):
    """The section ``consent`` of ``partner.yaml``."""

    controller: Controller
    notice: Notice
    data_categories: Annotated[dict[PurposeName, Annotated[tuple[Line, ...], Field(min_length=1)]], Field(min_length=1)]
    """Personal data by purpose. A purpose that is not here has no complete record, so its consents deny."""
    storage_locations: Annotated[tuple[Country, ...], Field(min_length=1)]
    processing_locations: Annotated[tuple[Country, ...], Field(min_length=1)]
    retention_days: Annotated[int, Field(gt=0, le=36_525)]
    """How long the data are kept for the purpose after the consent has ended."""
    collection_method: Line
    withdrawal_method: Line

    def covers(self, purpose: str) -> bool:
        """Whether a record for a purpose has everything that it must.

        A separate consent to sensitive fields is about the purpose that it belongs to. An objection needs no record:
        it is no consent, and must count however little is known about it.
        """
        return purpose == OBJECTION_PURPOSE or purpose.removesuffix(SENSITIVE_SUFFIX) in self.data_categories


class PurposeTerms(Part):
    """A purpose as the policy declares it."""

    id: PurposeName
    dpv: Line
    description: Line
    legal_basis: dict[str, Line]
    """By jurisdiction."""
