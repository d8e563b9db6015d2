"""Invariants of decisions over the shipped set, and of reading files."""

import re
from contextlib import suppress
from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.core.canonical import canonical_json
from federation.core.errors import EntenteError, PolicyError
from federation.policy.facts import ConsentFact, Facts, TransferCounts, facts_from_json
from federation.policy.load import draft_policy, parse_policy, read_folder
from federation.policy.yaml_text import YamlTextError, read_yaml
from tests.kits.policy import AT, FOLDER, cases, files, shipped

POLICY = shipped()
PERMITTED = [(name, facts) for name, _, facts in cases() if POLICY.decide(facts).permitted]
WITHOUT_ONE = [
    (f"{name} / {path}.{field.name}".strip(), facts, path, field.name)
    for name, facts in PERMITTED
    for path in ("", "consent", "recipient_consent", "sensitive_consent", "transfer_counts")
    if (part := getattr(facts, path) if path else facts) is not None
    for field in fields(part)
    if getattr(part, field.name) is not None and field.name != "fields"
]


@pytest.mark.parametrize(("facts", "path", "name"), [w[1:] for w in WITHOUT_ONE], ids=[w[0] for w in WITHOUT_ONE])
def test_without_any_one_field_a_permitted_request_is_denied(facts, path, name):
    change = {name: None} if not path else {path: replace(getattr(facts, path), **{name: None})}
    decision = POLICY.decide(replace(facts, **change))
    assert not decision.permitted
    assert decision.reasons


words = st.sampled_from
consents = st.none() | st.builds(
    ConsentFact,
    status=words(["given", "withdrawn", "refused", "other", None]),
    recipients=st.none() | st.frozensets(words(["bank", "insurer", "airline"])),
    given_at=st.none() | st.integers(-60, 60).map(lambda days: AT + timedelta(days=days)),
    expires_at=words([None, AT, AT + timedelta(days=1), AT.replace(tzinfo=None)]),
    separate=words([True, False, None]),
    cross_border=words([True, False, None]),
    jurisdiction=words(["GDPR", "PIPL", "PDPA", None, "?"]),
)
parties = words(["bank", "insurer", "airline", "marketing", "auditor", "gateway", "broker", None])
requests = st.builds(
    Facts,
    purpose=words(["overlap_statistics", "model_training", "offer_sharing", "other", None]),
    data_category=words(
        ["blinded_identifier", "aggregate_statistics", "model_update", "model", "offer_proposal", "offer", None]
    ),
    origin=parties,
    recipient=parties,
    at=words([AT, AT, AT.replace(year=2030), AT.replace(tzinfo=None), None]),
    channel=words(["app", "phone", "letter", None]),
    subject_region=words(["PT", "DE", "CN", "SG", "US", None]),
    consent=consents,
    recipient_consent=consents,
    fields=st.frozensets(words(["age", "balance", "life_stage", "email", "password", "shoe_size"])),
    sensitive_consent=consents,
    objected=words([True, False, None]),
    transfer_counts=st.none()
    | st.builds(
        TransferCounts,
        year=words([2026, 2025, None]),
        people=words([1, 99_999, 100_000, 999_999, 1_000_000, None]),
        sensitive=words([0, 1, 9_999, 10_000, None]),
    ),
)
FORBID_ALL = """
  - id: stop
    legal_ref: eu-gdpr:A58-2-f
    legal_description: The authority has stopped all sharing.
    effect: forbid
    match: {}
"""
STOPPED = parse_policy(files(consent=("rules:\n", f"rules:{FORBID_ALL}\n")))


@given(requests)
@settings(max_examples=300)
def test_a_decision_never_raises_and_always_says_why(facts):
    decision = POLICY.decide(facts)
    assert decision.reasons
    assert decision == POLICY.decide(facts)
    assert len({(g.code, g.text) for g in decision.reasons}) == len(decision.reasons)
    if facts.at is None or facts.at.tzinfo is not None:
        assert decision.permitted <= (facts.at is not None)
    if not decision.permitted:
        assert (decision.obligations.mask, decision.obligations.min_k) == ({}, None)


@given(requests)
@settings(max_examples=100)
def test_a_forbid_beats_every_permit(facts):
    assert not STOPPED.decide(facts).permitted


@pytest.mark.parametrize("facts", [p[1] for p in PERMITTED], ids=[p[0] for p in PERMITTED])
def test_a_forbid_beats_what_was_permitted(facts):
    assert [given.rule for given in STOPPED.decide(facts).reasons] == ["stop"]


@pytest.mark.parametrize("facts", [c[2] for c in cases()], ids=[c[0] for c in cases()])
def test_facts_survive_the_log(facts):
    again = facts_from_json(facts.to_json())
    assert again == facts.undated()
    assert POLICY.decide(again) == POLICY.decide(facts.undated())


@given(requests)
@settings(max_examples=300)
def test_a_decision_asks_of_the_times_of_consents_only_whether_they_had_come(facts):
    """So that the log need not hold them. A consent's own time in hours finds its owner in any partner's register."""
    exact, undated = POLICY.decide(facts), POLICY.decide(facts.undated())
    assert (undated.permitted, undated.obligations) == (exact.permitted, exact.obligations)
    assert [(g.rule, g.code) for g in undated.reasons] == [(g.rule, g.code) for g in exact.reasons]
    assert facts.undated().undated() == facts.undated()
    if facts.at is None or facts.at.tzinfo is not None:
        written = facts.to_json()
        assert facts_from_json(written) == facts.undated()
        assert POLICY.decide(facts_from_json(written)) == undated
        consents = [written[name] for name in ("consent", "recipient_consent", "sensitive_consent")]
        assert not any({"given_at", "expires_at"} & set(consent) for consent in consents if consent)
        assert not [g for g in undated.reasons if "consent_" in g.code and re.search(r"\d{4}-\d\d", g.text)]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | words(list(Facts.__slots__)), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_like)
@settings(max_examples=200)
def test_facts_from_anywhere_are_facts_or_a_typed_error(value):
    with suppress(EntenteError):
        assert isinstance(facts_from_json(value), Facts)


TEXTS = read_folder(FOLDER)


@given(st.binary(max_size=300) | st.text(alphabet="-:[]{}&*!|>'\"#%@, \n\tab01.", max_size=200).map(str.encode))
@settings(max_examples=300)
def test_reading_yaml_gives_plain_data_or_a_place(raw):
    try:
        document = read_yaml(raw)
    except YamlTextError as exc:
        refused = exc
    else:
        assert canonical_json(document.data)
        return
    assert refused.mark.line >= 1
    assert refused.text


@given(st.sampled_from(sorted(TEXTS)), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_file_loads_whole_or_names_itself(name, data):
    text = TEXTS[name]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    new = data.draw(st.text(alphabet="-:[]{}&*!ab01\n ,.", max_size=12))
    damaged = {**TEXTS, name: text[:start] + new + text[end:]}
    draft = draft_policy({file: content.encode() for file, content in damaged.items()})
    if draft.problems:
        with pytest.raises(PolicyError, match=r"\.yaml:\d+:\d+ "):
            parse_policy(damaged)
    else:
        assert parse_policy(damaged).files == damaged
