"""Conditions of rules as closures: each takes the facts and adds what fails to a list. Nothing here raises.

A failure is a stable code and a plain sentence with the value that decided. Missing input is a failure of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from federation.policy.alliance import Alliance
from federation.policy.documents import Conditions, ConsentNeed
from federation.policy.facts import AFTER, BEFORE, ConsentFact, Facts, is_time
from federation.policy.transfers import too_weak
from federation.policy.vocabulary import CONSENT_STATUS, shown_status

Failure = tuple[str, str]
"""Code and sentence."""
Condition = Callable[[Facts, list[Failure]], None]
Concern = Callable[[Facts], frozenset[str]]
"""Those fields of a request that a rule is about."""
Masked = Mapping[tuple[str, str], frozenset[str]]
"""Purpose and data category to the fields that permits mask, none of them letting it pass as it is."""


def absent(name: str) -> Failure:
    """The failure of a fact that is not there."""
    return (f"missing_{name}", f"The request does not say its {'time' if name == 'at' else name.replace('_', ' ')}.")


@dataclass(frozen=True)
class Setting:
    """What conditions of one rule may look things up in."""

    alliance: Alliance
    concern: Concern
    masked: Masked


def compile_conditions(wanted: Conditions, setting: Setting) -> tuple[Condition, ...]:
    """The closures of all conditions that are set."""
    alliance = setting.alliance
    found: list[Condition] = []
    if wanted.legal_basis is not None:
        found.append(_legal_basis(frozenset(wanted.legal_basis), alliance))
    if wanted.consent is not None:
        if wanted.consent.at in {"origin", "both"}:
            found.append(_consent(wanted.consent, alliance, at_recipient=False))
        if wanted.consent.at in {"recipient", "both"}:
            found.append(_consent(wanted.consent, alliance, at_recipient=True))
    if wanted.transfer_mechanism is not None:
        found.append(_transfer(frozenset(wanted.transfer_mechanism), alliance))
    if wanted.no_objection:
        found.append(_no_objection)
    if wanted.masked:
        found.append(_masked(setting))
    return tuple(found)


def _legal_basis(allowed: frozenset[str], alliance: Alliance) -> Condition:
    jurisdiction_of, declared = alliance.jurisdiction_of, alliance.basis

    def check(facts: Facts, failed: list[Failure]) -> None:
        if facts.subject_region is None:
            failed.append(absent("subject_region"))
            return
        law = jurisdiction_of.get(facts.subject_region)
        basis = declared.get((facts.purpose or "", law or ""))
        if basis not in allowed:
            have = f"has {basis}" if basis else "has no legal basis"
            failed.append(
                (
                    "no_legal_basis",
                    f"{alliance.shown_purpose(facts.purpose)} {have} for residents of {facts.subject_region}.",
                )
            )

    return check


def _consent(need: ConsentNeed, alliance: Alliance, *, at_recipient: bool) -> Condition:
    jurisdiction_of = alliance.jurisdiction_of
    sensitive = need.about == "sensitive_fields"
    prefix = "recipient_" if at_recipient else "sensitive_" if sensitive else ""
    about = " with sensitive fields" if sensitive else ""

    def check(facts: Facts, failed: list[Failure]) -> None:
        own = facts.sensitive_consent if sensitive else facts.consent
        consent = facts.recipient_consent if at_recipient else own
        holder = facts.recipient if at_recipient else facts.origin
        which = f"consent at {holder} for {alliance.shown_purpose(facts.purpose)}{about}"
        if consent is None:
            failed.append((f"{prefix}consent_missing", f"There is no {which}."))
            return
        which = f"The {which}"
        if consent.status != "given":
            failed.append(_status(consent, which, prefix))
        _complete(consent, which, prefix, failed)
        at = facts.at
        if at is not None and is_time(at):
            if consent.given_at is not None and is_time(consent.given_at) and at < consent.given_at:
                text = f"{which} does not hold yet."
                if consent.given_at != AFTER:
                    text = f"{which} holds from {consent.given_at:%Y-%m-%d} only."
                failed.append((f"{prefix}consent_not_yet_valid", text))
            if consent.expires_at is not None and is_time(consent.expires_at) and at >= consent.expires_at:
                text = f"{which} has expired."
                if consent.expires_at != BEFORE:
                    text = f"{which} expired on {consent.expires_at:%Y-%m-%d}."
                failed.append((f"{prefix}consent_expired", text))
        law = jurisdiction_of.get(facts.subject_region or "")
        if consent.jurisdiction is not None and law is not None and consent.jurisdiction != law:
            text = f"{which} was taken under {consent.jurisdiction}, but {law} protects this person."
            failed.append((f"{prefix}consent_other_jurisdiction", text))
        if need.names_recipient and consent.recipients is not None and facts.recipient not in consent.recipients:
            failed.append((f"{prefix}recipient_not_named", f"{which} does not name {facts.recipient}."))
        if need.separate and consent.separate is False:
            failed.append((f"{prefix}no_separate_consent", f"{which} was not given separately."))
        if need.cross_border and consent.cross_border is False:
            failed.append((f"{prefix}no_cross_border_consent", f"{which} does not cover transfer abroad."))

    return check


def _status(consent: ConsentFact, which: str, prefix: str) -> Failure:
    if consent.status is None:
        return (f"{prefix}missing_consent_status", f"{which} has no status.")
    if consent.status in CONSENT_STATUS:
        verb = "is" if consent.status in {"expired", "unknown"} else "was"
        return (f"{prefix}consent_{consent.status}", f"{which} {verb} {shown_status(consent.status)}.")
    return (f"{prefix}consent_unknown_status", f"{which} has a status that is not known.")


def _complete(consent: ConsentFact, which: str, prefix: str, failed: list[Failure]) -> None:
    """An incomplete record proves no consent, whatever the rule asks of it (GDPR 7(1), ISO/IEC TS 27560)."""
    if (
        consent.recipients is not None
        and is_time(consent.given_at)
        and is_time(consent.expires_at)
        and isinstance(consent.separate, bool)
        and isinstance(consent.cross_border, bool)
        and consent.jurisdiction is not None
    ):
        return
    there = {
        "recipients": consent.recipients is not None,
        "given_at": is_time(consent.given_at),
        "expires_at": is_time(consent.expires_at),
        "separate": isinstance(consent.separate, bool),
        "cross_border": isinstance(consent.cross_border, bool),
        "jurisdiction": consent.jurisdiction is not None,
    }
    failed.extend(
        (f"{prefix}missing_consent_{name}", f"{which} has no {name}.") for name, ok in there.items() if not ok
    )


def _transfer(allowed: frozenset[str], alliance: Alliance) -> Condition:
    countries, region_of, transfers = alliance.countries, alliance.region_of, alliance.transfers
    limits = alliance.limits

    def check(facts: Facts, failed: list[Failure]) -> None:
        if facts.subject_region is None:
            failed.append(absent("subject_region"))
            return
        subject, recipient = facts.subject_region, countries.get(facts.recipient or "")
        if recipient is None or subject not in region_of:
            text = f"It is not known which law a transfer of {subject} residents' data to {facts.recipient} is under."
            failed.append(("no_transfer_mechanism", text))
            return
        if region_of[subject] == region_of.get(recipient):
            return
        declared = transfers.get((subject, recipient), ())
        at = facts.at
        if at is not None and is_time(at):
            live = {t.mechanism for period, t in declared if t.mechanism in allowed and period.holds(at)}
            if live:
                limit = limits.get((subject, facts.data_category or ""))
                if limit is not None:
                    failed.extend(too_weak(facts, at, limit, live))
                return
        have = ", ".join(f"{t.mechanism} until {t.valid_to}" for _, t in declared) or "none"
        text = (
            f"No transfer mechanism in force covers {subject} residents' data going to {recipient} (declared: {have})."
        )
        failed.append(("no_transfer_mechanism", text))

    return check


def _no_objection(facts: Facts, failed: list[Failure]) -> None:
    if facts.objected is None:
        text = "It is not known whether the person refuses automated marketing."
        failed.append(("missing_objected", text))
    elif facts.objected is not False:
        failed.append(("objected", "The person refuses automated marketing."))


def _masked(setting: Setting) -> Condition:
    concern, masked = setting.concern, setting.masked

    def check(facts: Facts, failed: list[Failure]) -> None:
        names = concern(facts) - masked.get((facts.purpose or "", facts.data_category or ""), frozenset())
        if names:
            failed.append(("field_not_masked", f"No permit masks these fields: {', '.join(sorted(names))}."))

    return check
