"""Types of words in policy files: closed vocabularies, and what editors show of them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from federation.core.errors import PolicyError
from federation.policy.mask import check_mask
from federation.policy.vocabulary import (
    ALIASES,
    CONSENT_STATUS_MEANING,
    DATA_CATEGORIES,
    DPV_PURPOSES,
    FIELD_CATEGORIES,
    FIELD_TYPES,
    JRT_CLASSES,
    LEGAL_BASES,
    TRANSFER_MECHANISMS,
    plain_term,
)


def _one_of(terms: Mapping[str, str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in terms:
            raise ValueError(f"unknown word; known are {', '.join(sorted(terms))}")
        return value

    return AfterValidator(check)


def _shown(terms: Mapping[str, str]) -> WithJsonSchema:
    """What an editor shows of a vocabulary: every term with its meaning, and other spellings that are taken."""
    other = {word: terms[term] for word, term in ALIASES.items() if term in terms}
    known = [{"const": term, "description": meaning} for term, meaning in {**terms, **other}.items()]
    return WithJsonSchema({"type": "string", "oneOf": known})


def _plain(value: Any) -> Any:
    return plain_term(value) if isinstance(value, str) else value


def _is_given(status: str) -> str:
    if status != "given":
        raise ValueError("a rule can only ask for a consent that is given")
    return status


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
PurposeName = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_-]{0,47}|dpv:[A-Za-z]{1,60})$")]
"""The id of a purpose of purposes.yaml, or its DPV term."""
Category = Annotated[str, _one_of(DATA_CATEGORIES), _shown(DATA_CATEGORIES)]
Mechanism = Annotated[str, BeforeValidator(_plain), _one_of(TRANSFER_MECHANISMS), _shown(TRANSFER_MECHANISMS)]
LegalBasis = Annotated[str, _one_of(LEGAL_BASES), _shown(LEGAL_BASES)]
Status = Annotated[
    str,
    BeforeValidator(_plain),
    _one_of(CONSENT_STATUS_MEANING),
    AfterValidator(_is_given),
    _shown({"given": CONSENT_STATUS_MEANING["given"]}),
]
FieldCategory = Annotated[str, _one_of(FIELD_CATEGORIES), _shown(FIELD_CATEGORIES)]
FieldClass = Annotated[str, _one_of(JRT_CLASSES), _shown(JRT_CLASSES)]
Mask = Annotated[str, AfterValidator(_mask)]
DpvPurpose = Annotated[str, _one_of(DPV_PURPOSES), _shown(DPV_PURPOSES)]
FieldType = Annotated[str, _one_of(FIELD_TYPES), _shown(FIELD_TYPES)]
Reference = Annotated[str, Field(pattern=r"^[a-z0-9-]+:[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A law and its article, ``eu-gdpr:A6-1-a``."""
Some = Field(min_length=1, max_length=64)
