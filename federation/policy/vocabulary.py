"""Closed lists of terms. A file that uses another word is refused; each term has one line of plain meaning.

Terms keep the spelling of the standard they come from, so that a lawyer can look them up.
Source: W3C DPV 2.0 (purposes, consent status); EUR-Lex 2016/679; PIPL (2021); CAC provisions on cross-border data flows
(2024); JR/T 0171-2020; Singapore PDPA 2012 with the Transfer Limitation regulations.
"""

from types import MappingProxyType
from typing import Final

GATEWAY: Final = "gateway"
"""The recipient's name of what an agent sends up, and a role of its own in rules."""

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
        "offer_proposal": "an offer as it leaves the proposer's agent, before the gateway knows the recipient's side",
        "offer": "an offer about one person on its way to the recipient",
    }
)

DPV_PURPOSES: Final = MappingProxyType(
    {
        "dpv:ServiceUsageAnalytics": "finding out how services are used, as numbers",
        "dpv:ResearchAndDevelopment": "developing methods and models",
        "dpv:DirectMarketing": "marketing addressed to a person",
        "dpv:ProvideProductRecommendations": "suggesting products that suit a person",
        "dpv:FraudPreventionAndDetection": "finding and preventing fraud",
    }
)

CONSENT_STATUS: Final = MappingProxyType(
    {
        "given": "dpv:ConsentGiven",
        "withdrawn": "dpv:ConsentWithdrawn",
        "refused": "dpv:ConsentRefused",
    }
)

LEGAL_BASES: Final = MappingProxyType(
    {
        "eu-gdpr:A6-1-a": "consent",
        "eu-gdpr:A6-1-b": "performance of a contract with the person",
        "eu-gdpr:A6-1-f": "legitimate interests",
        "cn-pipl:13-1": "consent",
        "cn-pipl:13-2": "necessary for a contract with the person",
        "sg-pdpa:13": "consent",
    }
)

TRANSFER_MECHANISMS: Final = MappingProxyType(
    {
        "eu-gdpr:A45-3": "adequacy decision of the Commission",
        "eu-gdpr:A46-2-c": "standard contractual clauses of the Commission",
        "eu-gdpr:A49-1-a": "explicit consent to this transfer",
        "cn-pipl:security_assessment": "security assessment by the CAC",
        "cn-pipl:standard_contract": "standard contract filed with the CAC",
        "cn-pipl:certification": "certification by an approved body",
        "cn-pipl:exempt": "exempt under the 2024 provisions",
        "sg-pdpa:contract": "contract that gives comparable protection",
    }
)
