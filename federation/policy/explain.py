"""A decision as a short text that a person can read, to a customer too: English or Chinese."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from federation.policy.facts import AFTER, BEFORE, ConsentFact, Decision, Facts, Given, Obligations
from federation.policy.mask import KEEP
from federation.policy.messages import CATALOGUE, LANGUAGES, LAWS, PURPOSES
from federation.policy.records import Recorded

Language = Literal["en", "zh"]
_HEADS = {
    "permitted": ("Yes, this may pass.", "可以:该请求获准。"),
    "refused": ("No, this may not pass, because:", "不可以:该请求被拒绝,原因如下:"),
    "law": ("Law: {law}", "法律依据:{law}"),
    "rule": ("rule {rule}", "规则 {rule}"),
    "version": ("Policy version {version}.", "规则版本 {version}。"),
    "duty": ("- Duty: {duty}", "- 附带义务:{duty}"),
    "mask": ("{field} as {mask}", "{field}按{mask}脱敏"),
    "cap": ("{field} as at most {cap:g}", "{field}最多显示{cap:g}"),
    "min_k": ("no count under {min_k} people", "不显示少于{min_k}人的数字"),
    "none": ("not stated", "未说明"),
    "untold": ("a day that the log does not hold", "日志未记载的日期"),
}
_ARTICLE = re.compile(r"A?(\d+)((?:-[0-9a-z]+)*)")


Told = Sequence[tuple[Given, Facts]]
"""Reasons, each with the facts that it is about: a release can hold the data of several parties."""


def explain(
    permitted: bool,
    told: Told,
    version: str,
    language: Language = "en",
    duties: Iterable[tuple[Obligations, Facts]] = (),
) -> str:
    """Several lines: the answer, each reason with the value that decided and its law, the duties, the version.

    Args:
        permitted: What was decided.
        told: All reasons.
        version: The policy version that decided.
        language: "en" or "zh".
        duties: What comes with a permit.
    """
    at = LANGUAGES.index(language)
    lines = [_HEADS["permitted" if permitted else "refused"][at]]
    for given, facts in told:
        line = f"- {message(given, _values(facts, language), language)}"
        if given.legal_ref:
            line += f" {_HEADS['law'][at].format(law=law(given.legal_ref, language))};"
        lines.append(f"{line} [{_HEADS['rule'][at].format(rule=given.rule)}, {given.code}]")
    found = [duty for obligations, facts in duties for duty in _duties(obligations, facts, at)]
    lines += [_HEADS["duty"][at].format(duty=duty) for duty in dict.fromkeys(found)]
    lines.append(_HEADS["version"][at].format(version=version[:12]))
    return "\n".join(lines)


def explain_decision(decision: Decision, facts: Facts, language: Language = "en") -> str:
    """The text for a decision that was made just now."""
    told = [(given, facts) for given in decision.reasons]
    return explain(decision.permitted, told, decision.version, language, [(decision.obligations, facts)])


def explain_record(record: Recorded, decide: Callable[[Facts], Decision], language: Language = "en") -> str:
    """The text for a decision of the audit log.

    Args:
        record: The decision.
        decide: Decides again, under the version that it was made under. The log keeps no reasons of a permit, and does
            not say which of several parties' data a refusal is about.
        language: "en" or "zh".
    """
    if record.permitted:
        again = [(decide(facts), facts) for facts in record.facts]
        told = [(given, facts) for decision, facts in again for given in decision.reasons]
        return explain(True, told, record.version, language, [(d.obligations, facts) for d, facts in again])
    first, *others = record.facts
    owners = {given: facts for facts in reversed(record.facts) for given in decide(facts).reasons} if others else {}
    reasons = [(given, owners.get(given, first)) for given in record.reasons]
    return explain(False, [*((given, first) for given in record.other), *reasons], record.version, language)


def message(given: Given, values: dict[str, str], language: Language) -> str:
    """One reason as a sentence. A code that an older version gave and nobody gives any more keeps its own words."""
    texts = CATALOGUE.get(given.code)
    return given.text if texts is None else texts[LANGUAGES.index(language)].format_map(values)


def law(reference: str, language: Language) -> str:
    """A legal reference as people write it: ``eu-gdpr:A6-1-a`` is "GDPR, Art. 6(1)(a)"."""
    prefix, _, article = reference.partition(":")
    found = _ARTICLE.fullmatch(article)
    if prefix not in LAWS or found is None:
        return reference
    name, parts = LAWS[prefix][LANGUAGES.index(language)], found[2].split("-")[1:]
    inner = "".join(f"({part})" for part in parts)
    return f"{name}, Art. {found[1]}{inner}" if language == "en" else f"{name}第{found[1]}条{inner}"


def obligations_to_json(obligations: Obligations) -> dict[str, object]:
    """Duties as plain values, for logs and the wire."""
    return {"mask": dict(obligations.mask), "min_k": obligations.min_k, "cap": dict(obligations.cap)}


def _duties(obligations: Obligations, facts: Facts, at: int) -> list[str]:
    """What must be done to the fields of this request."""
    masks = sorted((name, mask) for name, mask in obligations.mask.items() if name in facts.fields and mask != KEEP)
    duties = [_HEADS["mask"][at].format(field=name, mask=mask) for name, mask in masks]
    duties += [_HEADS["cap"][at].format(field=name, cap=cap) for name, cap in sorted(obligations.cap.items())]
    if obligations.min_k is not None:
        duties.append(_HEADS["min_k"][at].format(min_k=obligations.min_k))
    return duties


def _values(facts: Facts, language: Language) -> dict[str, str]:
    """What templates may name."""
    at = LANGUAGES.index(language)
    none = _HEADS["none"][at]
    counts = facts.transfer_counts

    def day(consent: ConsentFact | None, name: str) -> str:
        time = getattr(consent, name) if consent is not None else None
        if time in (BEFORE, AFTER):
            return _HEADS["untold"][at]
        return f"{time:%Y-%m-%d}" if time is not None else none

    labels = PURPOSES.get(facts.purpose or "")
    purpose = labels[at] if labels else facts.purpose
    return {
        "purpose": purpose or none,
        "origin": facts.origin or none,
        "recipient": facts.recipient or none,
        "region": facts.subject_region or none,
        "channel": facts.channel or none,
        "fields": ", ".join(sorted(facts.fields)) or none,
        "at": f"{facts.at:%Y-%m-%d}" if facts.at is not None else none,
        "given": day(facts.consent, "given_at"),
        "expires": day(facts.consent, "expires_at"),
        "recipient_given": day(facts.recipient_consent, "given_at"),
        "recipient_expires": day(facts.recipient_consent, "expires_at"),
        "sensitive_given": day(facts.sensitive_consent, "given_at"),
        "sensitive_expires": day(facts.sensitive_consent, "expires_at"),
        "people": none if counts is None or counts.people is None else f"{counts.people:,}",
        "sensitive": none if counts is None or counts.sensitive is None else f"{counts.sensitive:,}",
        "year": none if counts is None or counts.year is None else str(counts.year),
    }
