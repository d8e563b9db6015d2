"""Closed lists of terms. A file that uses another word is refused; each term has one line of plain meaning.

Terms keep the spelling of the standard they come from, so that a lawyer can look them up. Where the code has a short
name for one (``given`` for ``dpv:ConsentGiven``, ``overlap_statistics`` for the purpose that purposes.yaml declares
with ``dpv:ServiceUsageAnalytics``), the two stand for each other one to one: files may use either, records and logs
hold the short one, and explanations show both.
Source: W3C DPV 2.0 (purposes, consent status); fideslang 3.1 (data categories); EUR-Lex 2016/679; PIPL (2021); CAC
provisions on cross-border data flows (2024); JR/T 0171-2020; Singapore PDPA 2012 with its Transfer Limitation
regulations.
"""

from types import MappingProxyType
from typing import Final

GATEWAY: Final = "gateway"
"""The recipient's name of what an agent sends up, and a role of its own in rules."""

OBJECTION_PURPOSE: Final = "automated_marketing"
"""The purpose under which a person's refusal of automated marketing is recorded, as a consent that is not given.

Nobody is asked to agree to it: without a record there is no objection.
"""
SENSITIVE_SUFFIX: Final = "_sensitive"
"""A separate consent to the sensitive fields of a purpose is a record of its own, under the purpose's name and this."""

ROLES: Final = MappingProxyType(
    {
        "partner": "an institution with customers",
        "marketing": "the alliance's joint marketing team",
        "compliance": "writes and approves the policy",
        "operator": "runs the gateway",
        "auditor": "reads decisions and proofs",
        GATEWAY: "the gateway itself, processing where its operator does",
    }
)

DATA_CATEGORIES: Final = MappingProxyType(
    {
        "blinded_identifier": "a blinded point of one person, with at most one permitted segment label",
        "aggregate_statistics": "noisy counts of people",
        "model_update": "one partner's masked contribution to a model, trained with privacy per customer",
        "model": "a finished model with its card",
        "score": "a partner's own customer, scored by a finished model for the partner itself",
        "offer_proposal": "an offer as it leaves the proposer's agent, before the gateway knows the recipient's side",
        "offer": "an offer about one person on its way to the recipient",
    }
)
"""Kinds of release. What personal data is inside of one is said field by field: FIELD_CATEGORIES."""

FIELD_CATEGORIES: Final = MappingProxyType(
    {
        "user.name": "a person's name",
        "user.contact.email": "e-mail address",
        "user.contact.phone_number": "telephone number",
        "user.contact.address": "postal address",
        "user.contact.address.country": "country, or a part of it, that a person lives in",
        "user.demographic": "what describes a person among others",
        "user.demographic.age_range": "age, or the years between which it lies",
        "user.demographic.date_of_birth": "date of birth",
        "user.demographic.gender": "gender",
        "user.demographic.marital_status": "whether a person is married",
        "user.demographic.profile": "what was concluded about a person: segment, tier, stage of life",
        "user.job_title": "occupation",
        "user.workplace": "employer and place of work",
        "user.financial": "accounts, balances, loans, defaults",
        "user.financial.bank_account": "number of a bank account",
        "user.financial.credit_card": "number of a payment card",
        "user.payment": "payments that a person made",
        "user.behavior": "what a person did with a service, and when",
        "user.behavior.purchase_history": "what a person bought, or was offered and took",
        "user.government_id": "number of an official document",
        "user.government_id.national_identification_number": "national identity number",
        "user.government_id.passport_number": "passport number",
        "user.authorization.password": "password, PIN or answer that opens an account",
        "user.authorization.credentials": "what authorises a payment: card verification code, one-time code",
        "user.authorization.biometric": "face, finger or voice as a key",
        "user.health_and_medical": "health and treatment",
        "user.location.precise": "where a person is or was",
        "user.unique_id": "a number that stands for a person everywhere",
        "user.unique_id.pseudonymous": "a number that stands for a person at one party only",
        "pipl_sensitive": "sensitive under PIPL 28: biometrics, belief, specific identity, health, financial accounts, "
        "whereabouts, minors under 14",
    }
)
"""fideslang's categories of personal data, and one of the PIPL that crosses them."""

JRT_CLASSES: Final = MappingProxyType(
    {
        "C1": "JR/T 0171: for use inside of the institution; little harm if it becomes known",
        "C2": "JR/T 0171: tells who a person is or how the person stands financially; leaves masked only",
        "C3": "JR/T 0171: what authenticates a person; never shared",
    }
)

FIELD_TYPES: Final = MappingProxyType(
    {
        "word": "one of a few words",
        "text": "free text; searched for identifiers before it may pass",
        "number": "a number",
        "date": "a date or time",
        "region": "a country or a part of one",
        "email": "e-mail address",
        "phone": "telephone number",
        "card": "number of a payment card",
        "id_number": "number of an official document",
        "name": "a person's name",
        "code": "an opaque number or secret",
    }
)

DPV_PURPOSES: Final = MappingProxyType(
    {
        "dpv:ServiceUsageAnalytics": "finding out how services are used, as numbers",
        "dpv:ServiceOptimisation": "making a service better",
        "dpv:ResearchAndDevelopment": "developing methods and models",
        "dpv:CustomerRelationshipManagement": "looking after customers",
        "dpv:Marketing": "making products known",
        "dpv:DirectMarketing": "marketing addressed to a person",
        "dpv:PersonalisedAdvertising": "advertising chosen for a person",
        "dpv:ProvideProductRecommendations": "suggesting products that suit a person",
        "dpv:ProvidePersonalisedRecommendations": "suggesting what suits a person",
        "dpv:FraudPreventionAndDetection": "finding and preventing fraud",
        "dpv:LegalCompliance": "doing what a law demands",
    }
)

CONSENT_STATUS: Final = MappingProxyType(
    {
        "given": "dpv:ConsentGiven",
        "renewed": "dpv:RenewedConsentGiven",
        "withdrawn": "dpv:ConsentWithdrawn",
        "refused": "dpv:ConsentRefused",
        "expired": "dpv:ConsentExpired",
        "revoked": "dpv:ConsentRevoked",
        "invalidated": "dpv:ConsentInvalidated",
        "requested": "dpv:ConsentRequested",
        "deferred": "dpv:ConsentRequestDeferred",
        "unknown": "dpv:ConsentUnknown",
    }
)
"""Short name to DPV's. Only ``given`` permits; a renewal is recorded as ``given`` with the new dates."""

CONSENT_STATUS_MEANING: Final = MappingProxyType(
    {
        "given": "the person agreed",
        "renewed": "the person agreed once more; to be recorded as given, with the new dates",
        "withdrawn": "the person took the consent back",
        "refused": "the person said no",
        "expired": "the time or circumstances that it was given for are over",
        "revoked": "somebody other than the person ended it",
        "invalidated": "it was found not to be valid",
        "requested": "asked for, not answered yet",
        "deferred": "the person put the answer off",
        "unknown": "nothing is known",
    }
)

LEGAL_BASES: Final = MappingProxyType(
    {
        "eu-gdpr:A6-1-a": "consent",
        "eu-gdpr:A6-1-b": "performance of a contract with the person",
        "eu-gdpr:A6-1-c": "legal obligation",
        "eu-gdpr:A6-1-d": "vital interests",
        "eu-gdpr:A6-1-e": "public interest or official authority",
        "eu-gdpr:A6-1-f": "legitimate interests",
        "eu-gdpr:A9-2-a": "explicit consent to special categories of data",
        "cn-pipl:13-1": "consent",
        "cn-pipl:13-2": "necessary for a contract with the person, or for personnel management",
        "cn-pipl:13-3": "legal duties",
        "cn-pipl:13-4": "public health emergency, or protection of life and property",
        "cn-pipl:13-5": "news reporting in the public interest",
        "cn-pipl:13-6": "information that the person made public, within reason",
        "cn-pipl:13-7": "other circumstances that laws provide for",
        "sg-pdpa:13": "consent",
        "sg-pdpa:15": "deemed consent",
        "sg-pdpa:17": "collection, use or disclosure without consent under the First Schedule",
    }
)

TRANSFER_MECHANISMS: Final = MappingProxyType(
    {
        "eu-gdpr:A45-3": "adequacy decision of the Commission",
        "eu-gdpr:A46-2-b": "binding corporate rules",
        "eu-gdpr:A46-2-c": "standard contractual clauses of the Commission",
        "eu-gdpr:A49-1-a": "explicit consent to this transfer",
        "cn-pipl:security_assessment": "security assessment by the CAC",
        "cn-pipl:standard_contract": "standard contract filed with the CAC",
        "cn-pipl:certification": "certification by an approved body",
        "cn-pipl:exempt": "exempt under the 2024 provisions",
        "cn-pipl:domestic": "stays in mainland China",
        "sg-pdpa:contract": "contract that gives comparable protection",
    }
)

ALIASES: Final = MappingProxyType(
    {official: short for short, official in CONSENT_STATUS.items()}
    | {name.partition(":")[2]: name for name in TRANSFER_MECHANISMS if name.startswith("cn-pipl:")}
)
"""Other spellings that files may use: DPV's status for the short one, China's mechanisms without their prefix."""


def plain_term(word: str) -> str:
    """The spelling that the code uses for a word of a file."""
    return ALIASES.get(word, word)


def shown_status(status: str) -> str:
    """A consent status for people: the short name and DPV's."""
    official = CONSENT_STATUS.get(status)
    return f"{status} ({official})" if official else status
