"""Cedar judges our decisions: the exported policy must say the same about every request, whole or with holes."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.policy.cedar import SCHEMA, cedar_request, export_cedar
from federation.policy.facts import ConsentFact, Facts, TransferCounts
from federation.policy.load import parse_policy
from tests.kits.policy import AT, cases, files, shipped

cedarpy = pytest.importorskip("cedarpy", reason="cedarpy judges the decisions")

POLICY = shipped()
FACTS = [facts for _, _, facts in cases()]
EXEMPT = parse_policy(
    files(
        agreement=("mechanism: cn-pipl:standard_contract", "mechanism: exempt"),
        rules=("effect: forbid", "effect: forbid\n    valid_from: 2026-10-15\n    valid_to: 2026-12-01"),
        consent=("effect: forbid", "effect: forbid\n    valid_to: 2027-01-01"),
    )
)
"""Periods on rules, and a mechanism that is too weak for more than 100,000 people."""
word = st.sampled_from
times = word([None, AT, AT - timedelta(microseconds=1), AT + timedelta(days=400), AT.replace(tzinfo=None)])
consent_changes = {
    "status": word([None, "given", "withdrawn", "expired", "?"]),
    "recipients": word([None, frozenset(), frozenset({"bank", "insurer"}), frozenset({"airline"})]),
    "given_at": times,
    "expires_at": times,
    "separate": word([None, True, False]),
    "cross_border": word([None, True, False]),
    "jurisdiction": word([None, "GDPR", "PIPL", "PDPA", "?"]),
}
count_changes = {
    "year": word([None, 2025, 2026, 2027]),
    "people": word([None, 1, 99_999, 100_000, 999_999, 1_000_000]),
    "sensitive": word([None, 0, 1, 9_999, 10_000]),
}
changes = {
    "purpose": word([None, "", "overlap_statistics", "model_training", "offer_sharing", "?"]),
    "data_category": word([None, "blinded_identifier", "aggregate_statistics", "model_update", "model", "offer", "?"]),
    "origin": word([None, "bank", "insurer", "airline", "gateway", "?"]),
    "recipient": word([None, "bank", "insurer", "airline", "gateway", "marketing", "auditor", "?"]),
    "at": word([None, AT, AT.replace(tzinfo=None), AT.replace(year=2028), AT + timedelta(days=60)]),
    "channel": word([None, "app", "phone", "letter"]),
    "subject_region": word([None, "", "PT", "DE", "CN", "SG", "US"]),
    "fields": st.frozensets(
        word(["age", "balance", "life_stage", "email", "password", "shoe_size", "bank.holds_home"])
    ),
    "objected": word([None, True, False]),
    "consent": st.none(),
    "recipient_consent": st.none(),
    "sensitive_consent": st.none(),
    "transfer_counts": st.none(),
}


@st.composite
def requests(draw: st.DrawFn) -> Facts:
    """A request of the cases with up to three changes, anywhere in it."""
    facts = draw(word(FACTS))
    for _ in range(draw(st.integers(0, 3))):
        part = draw(word(["", "", "consent", "recipient_consent", "sensitive_consent", "transfer_counts"]))
        if not part:
            name = draw(word(sorted(changes)))
            facts = replace(facts, **{name: draw(changes[name])})
            continue
        found = count_changes if part == "transfer_counts" else consent_changes
        inner = getattr(facts, part) or (TransferCounts() if part == "transfer_counts" else ConsentFact())
        name = draw(word(sorted(found)))
        facts = replace(facts, **{part: replace(inner, **{name: draw(found[name])})})
    return facts


def disagreements(policy, asked):
    text, schema = export_cedar(policy)
    answers = cedarpy.is_authorized_batch([cedar_request(facts, policy) for facts in asked], text, [], schema=schema)
    for facts, answer in zip(asked, answers, strict=True):
        # An evaluation error would let a forbid lapse, and NoDecision means that the request was not even valid.
        if answer.diagnostics.errors or answer.allowed is not policy.decide(facts).permitted:
            yield facts, answer.diagnostics.errors


@pytest.mark.parametrize("policy", [POLICY, EXEMPT], ids=["shipped", "changed"])
def test_the_export_fits_its_schema(policy):
    text, schema = export_cedar(policy)
    assert cedarpy.validate_policies(text, schema).errors == []
    assert schema == SCHEMA
    assert all(f'@id("{rule.id}")' in text for rule in policy.rules)


@given(st.lists(requests(), min_size=25, max_size=60))
@settings(max_examples=80, deadline=None)
def test_cedar_says_the_same_of_the_shipped_set(asked):
    assert list(disagreements(POLICY, asked)) == []


@given(st.lists(requests(), min_size=25, max_size=60))
@settings(max_examples=30, deadline=None)
def test_cedar_says_the_same_of_a_set_with_periods_and_tiers(asked):
    assert list(disagreements(EXEMPT, asked)) == []


def test_cedar_says_the_same_with_each_field_missing():
    asked = list(FACTS)
    for facts in FACTS:
        asked += [replace(facts, **{f.name: None}) for f in fields(facts) if f.name != "fields"]
        for part in ("consent", "recipient_consent", "sensitive_consent", "transfer_counts"):
            inner = getattr(facts, part)
            if inner is not None:
                asked += [replace(facts, **{part: replace(inner, **{f.name: None})}) for f in fields(inner)]
    assert len(asked) > 1_000
    assert list(disagreements(POLICY, asked)) == []


def test_the_judge_sees_a_difference():
    permitted = next(facts for facts in FACTS if POLICY.decide(facts).permitted)
    text, schema = export_cedar(POLICY)
    more = text + 'forbid (principal, action, resource) when { context.fields.contains("age") };'
    request = cedar_request(replace(permitted, fields=frozenset({"age"})), POLICY)
    assert cedarpy.is_authorized(request, text, [], schema=schema).allowed
    assert not cedarpy.is_authorized(request, more, [], schema=schema).allowed
