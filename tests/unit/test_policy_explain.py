"""Decisions in words: every code has a sentence in both languages, with the value that decided and the law."""

import ast
import re
import string
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest

from federation.core.clock import to_text
from federation.core.errors import Reason
from federation.policy.explain import _values, explain_decision, explain_record, law
from federation.policy.facts import ConsentFact, Facts, Given, facts_from_json
from federation.policy.load import parse_policy
from federation.policy.messages import CATALOGUE, LANGUAGES
from federation.policy.records import Recorded
from federation.policy.vocabulary import CONSENT_STATUS
from tests.kits.policy import AT, cases, files, shipped

ROOT = Path(__file__).parents[2]
TOOLS = {
    "cases",
    "cedar",
    "cedar_terms",
    "check",
    "check_terms",
    "diff",
    "explain",
    "lint",
    "lint_rules",
    "load",
    "messages",
}
TOOLS |= {"replay", "yaml_text"}
"""Modules of the policy that make no decision, but have pairs of words of their own."""
SOURCES = [
    *(path for path in (ROOT / "federation/policy").glob("*.py") if path.stem not in TOOLS),
    ROOT / "federation/offers/offer.py",
    ROOT / "federation/offers/eligibility.py",
    *(ROOT / "gateway/offers").glob("*.py"),
    ROOT / "federation/client/data.py",
]
PLACES = {
    "prefix": ("", "recipient_", "sensitive_"),
    "missing_ name": tuple(f.name for f in fields(Facts)),
    "missing_consent_ name": tuple(f.name for f in fields(ConsentFact)),
    "consent.status": tuple(set(CONSENT_STATUS) - {"given"}),
}
"""What stands in a code that is put together, by the expression there, or by the word before it and the expression."""
CODE = re.compile(r"[a-z]+(_[a-z]+)*")
OFFER = next(facts for name, _, facts in cases() if name.startswith("gdpr: consent that names"))


def codes_in(path):
    """Every code that a source file can give: first of a pair (code, sentence), or the code of a Given."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and is_sentence(node.elts[1]):
            yield from spelled(node.elts[0])
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"Given", "reasons.add"} and len(node.args) > 2:
                yield from spelled(node.args[1])
            if name in {"say"}:
                yield from spelled(node.args[0])
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "code"
            and isinstance(node.value, ast.IfExp)
        ):
            yield from spelled(node.value.body)
            yield from spelled(node.value.orelse)


def is_sentence(node):
    text = ast.unparse(node)
    return text in {"text", "shown"} or (isinstance(node, ast.Constant | ast.JoinedStr) and " " in text)


def spelled(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                parts.append((str(value.value),))
            else:
                before, what = (parts[-1][0] if parts else ""), ast.unparse(value.value)
                parts.append(PLACES.get(f"{before} {what}") or PLACES[what])  # a new expression needs its values
        yield from map("".join, product(*parts))
    elif ast.unparse(node) == "exc.reason.lower()":
        yield from (Reason.OBLIGATION_FAILED.lower(), Reason.POLICY_INVALID.lower(), Reason.UNAVAILABLE.lower())
        yield Reason.CERTIFICATE_REVOKED.lower()


CODES = sorted({code for path in SOURCES for code in codes_in(path)})


def test_the_sources_give_the_codes_that_cases_meet():
    met = {given.code for _, _, facts in cases() for given in shipped().decide(facts).reasons}
    assert met <= set(CODES)
    assert {"forbidden", "no_permit", "consent_expired", "cooling_off", "unknown_product", "agreement_expired"} <= set(
        CODES
    )


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_sentence_in_both_languages(code):
    known = set(_values(OFFER, "en"))
    for text in CATALOGUE[code]:
        assert {name for _, name, _, _ in string.Formatter().parse(text) if name} <= known
    english, chinese = CATALOGUE[code]
    assert english.endswith(".")
    assert chinese.endswith("。")
    assert re.search(r"[\u4e00-\u9fff]", chinese)
    assert not re.search(r"[\u4e00-\u9fff]", english)


def test_every_case_reads_in_both_languages():
    for _, _, facts in cases():
        decision = shipped().decide(facts)
        for language in LANGUAGES:
            text = explain_decision(decision, facts, language)
            assert "{" not in text
            assert text.count("\n") >= len(decision.reasons) + 1
            assert decision.version[:12] in text


def test_a_refusal_names_the_value_the_law_and_the_rule():
    facts = replace(OFFER, consent=replace(OFFER.consent, expires_at=AT))
    decision = shipped().decide(facts)
    english = explain_decision(decision, facts, "en").splitlines()
    assert english[0] == "No, this may not pass, because:"
    assert english[1] == (
        "- The consent at bank for product offers ended on 2026-11-01. Law: GDPR, Art. 6(1)(a); "
        "[rule offers, consent_expired]"
    )
    chinese = explain_decision(decision, facts, "zh").splitlines()
    assert chinese[1].startswith(
        "- 在bank处为产品推荐所作的同意已于2026-11-01到期。 法律依据:《通用数据保护条例》(GDPR)第6条(1)(a)"
    )


def test_a_permit_names_its_duties():
    text = explain_decision(shipped().decide(OFFER), OFFER, "en")
    assert text.startswith("Yes, this may pass.")
    assert "- Duty: age as band(18,30,45,60,75)" in text


def test_a_record_tells_what_other_gates_said_and_keeps_words_of_codes_that_are_gone():
    given = (Given("offers", "code_of_long_ago", "As it was said then."),)
    other = (Given("offer-rules", "cooling_off", "An offer of 3 days ago."),)
    record = Recorded(7, AT, "offer", False, (OFFER,), given, other, shipped().version)
    text = explain_record(record, shipped().decide)
    assert "The person had an offer of this product a short time ago." in text
    assert "As it was said then." in text


def test_a_record_of_several_parties_data_says_whose_each_reason_is_about():
    about = {"purpose": "overlap_statistics", "data_category": "aggregate_statistics", "recipient": "marketing"}
    both = tuple(facts_from_json({**about, "origin": origin, "at": to_text(AT)}) for origin in ("bank", "airline"))
    narrow = parse_policy(files(agreement=(
        "origin: [partner]\n    recipient: [marketing]", "origin: [bank]\n    recipient: [marketing]"
    )))  # fmt: skip
    reasons = narrow.decide(both[1]).reasons
    assert narrow.decide(both[0]).permitted
    refused = Recorded(7, AT, "cube", False, both, reasons, (), narrow.version)
    assert "does not let marketing receive this data from airline" in explain_record(refused, narrow.decide)
    permitted = Recorded(8, AT, "cube", True, both, (), (), shipped().version)
    lines = explain_record(permitted, shipped().decide).splitlines()
    assert [name for line in lines for name in ("from bank to", "from airline to") if name in line] == [
        "from bank to",
        "from airline to",
    ]
    assert lines.count("- Duty: no count under 20 people") == 1


@pytest.mark.parametrize(
    ("reference", "english", "chinese"),
    [
        ("cn-pipl:23", "PIPL (China), Art. 23", "《个人信息保护法》第23条"),
        ("eu-gdpr:A46-2-c", "GDPR, Art. 46(2)(c)", "《通用数据保护条例》(GDPR)第46条(2)(c)"),
        ("Skyline agreement, clause 4.1", "Skyline agreement, clause 4.1", "Skyline agreement, clause 4.1"),
    ],
)
def test_a_law_reads_as_people_write_it(reference, english, chinese):
    assert (law(reference, "en"), law(reference, "zh")) == (english, chinese)
