"""Recorded decisions once more, under their own version and under another."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from federation.core.canonical import canonical_json
from federation.core.errors import DataError
from federation.offers.offer import RULE
from federation.policy.explain import explain_record
from federation.policy.facts import Given, facts_from_json
from federation.policy.load import parse_policy
from federation.policy.records import OTHER_GATES, intent_of, read_entry, recorded
from federation.policy.replay import MAX_SAMPLES, compare, repeat
from tests.kits.policy import AT, cases, files, shipped

NO_CALLS = {"rules": ("channel: [app, email, phone, branch]", "channel: [app, email, branch]")}


def entry(index, facts, policy, other=(), at=AT):
    """As the release path writes it."""
    decisions = [policy.decide(part.undated()) for part in facts]
    body = {"what": "offer", "facts": [part.to_json() for part in facts], "policy": [policy.version]}
    permitted = all(d.permitted for d in decisions) and not other
    if not permitted:
        told = [*other, *(given for d in decisions if not d.permitted for given in d.reasons)]
        body["reasons"] = [given.to_json() for given in told]
    kind = "intent" if permitted else "refused"
    return canonical_json({"index": index, "at": at.isoformat(), "kind": kind, "body": body})


def log(policy=None):
    return [entry(index, [facts], policy or shipped()) for index, (_, _, facts) in enumerate(cases())]


def test_every_case_replays_identically_out_of_the_log():
    done = repeat(recorded(log()), {shipped().version: shipped()}.__getitem__)
    assert (done.repeated, done.differences, done.other_gates) == (len(list(cases())), [], 0)


def test_entries_with_the_times_of_consents_in_them_still_replay_and_read():
    """As the log was written once: decided on the exact times, which the reasons name too."""
    late = next(f for name, _, f in cases() if name.startswith("gdpr: consent that names"))
    late = replace(late, consent=replace(late.consent, expires_at=AT - timedelta(days=3)))
    [reason] = shipped().decide(late).reasons
    assert reason.text.endswith("expired on 2026-10-29.")
    facts = late.to_json()
    facts["consent"] = {name: value for name, value in facts["consent"].items() if not name.endswith("_by_now")}
    facts["consent"] |= {"given_at": late.consent.given_at.isoformat(), "expires_at": "2026-10-29T00:00:00+00:00"}
    body = {"what": "offer", "facts": [facts], "policy": [shipped().version], "reasons": [reason.to_json()]}
    record = read_entry(3, canonical_json({"index": 3, "at": AT.isoformat(), "kind": "refused", "body": body}))
    assert record.facts == (replace(late, recipient_consent=late.recipient_consent.undated(AT)),)
    done = repeat([record], lambda _: shipped())
    assert (done.repeated, done.differences) == (1, [])
    assert "ended on 2026-10-29." in explain_record(record, shipped().decide)


def test_an_entry_without_them_reads_in_both_languages():
    late = next(f for name, _, f in cases() if name.startswith("gdpr: consent that names"))
    late = replace(late, consent=replace(late.consent, expires_at=AT - timedelta(days=3)))
    record = read_entry(0, entry(0, [late], shipped()))
    assert [given.text[-13:] for given in record.reasons] == [" has expired."]
    assert "ended on a day that the log does not hold." in explain_record(record, shipped().decide)
    assert "已于日志未记载的日期到期" in explain_record(record, shipped().decide, "zh")


@pytest.mark.parametrize(
    ("change", "item"),
    [
        ({"given_by_now": True, "given_at": AT.isoformat()}, "both given_at and given_by_now"),
        ({"ended_by_now": "no"}, "ended_by_now"),
        ({"ended_by_then": True}, "unknown key"),
    ],
)
def test_a_time_is_told_once_and_as_what_it_is(change, item):
    with pytest.raises(DataError, match=item):
        facts_from_json({"consent": change})


def test_a_record_that_was_changed_does_not_replay():
    changed = log()
    value = json.loads(changed[0])
    assert value["kind"] == "intent"
    changed[0] = canonical_json(
        {**value, "body": {**value["body"], "facts": [{**value["body"]["facts"][0], "consent": None}]}}
    )
    [difference] = repeat(recorded(changed), lambda _: shipped()).differences
    assert (difference.index, difference.recorded) == (0, "permitted")
    assert "consent_missing" in difference.replayed


def test_what_other_gates_refused_is_not_the_policys():
    _, _, facts = next(iter(cases()))
    other = (Given(RULE, "cooling_off", "x"),)
    records = list(recorded([entry(0, [facts], shipped(), other)]))
    assert frozenset({RULE}) == OTHER_GATES
    assert repeat(records, lambda _: shipped()).other_gates == 1
    assert [given.code for given in records[0].other] == ["cooling_off"]


def test_a_stricter_version_flips_what_it_no_longer_permits():
    new = parse_policy(files(**NO_CALLS))
    found = compare(recorded(log()), shipped(), new)
    flipped = [f for _, _, f in cases() if shipped().decide(f).permitted and not new.decide(f).permitted]
    assert flipped
    assert (found.to_refuse, found.to_permit, found.considered) == (len(flipped), 0, len(list(cases())))
    assert found.rules[("refuses", "default")] == len(flipped)
    assert not found.origins


def test_a_looser_version_says_whose_data_more_would_leave():
    new, old = shipped(), parse_policy(files(**NO_CALLS))
    found = compare(recorded(log(old)), old, new)
    assert found.to_permit > 0 == found.to_refuse
    assert found.origins == {"bank": found.to_permit}
    assert all(sample.permitted and "permitted" in sample.codes for sample in found.samples)
    text = json.dumps([sample.to_json() for sample in found.samples])
    assert "given_at" not in text
    assert "expires_at" not in text
    assert len(found.samples) <= MAX_SAMPLES


def test_an_offer_that_another_gate_refused_does_not_flip():
    new, old = shipped(), parse_policy(files(**NO_CALLS))
    facts = next(f for _, _, f in cases() if new.decide(f).permitted and not old.decide(f).permitted)
    found = compare(recorded([entry(0, [facts], old, (Given(RULE, "cooling_off", "x"),))]), old, new)
    assert (found.to_permit, found.still_refused) == (0, 1)


def test_one_refusal_among_several_partners_refuses():
    good = next(f for _, _, f in cases() if shipped().decide(f).permitted)
    record = read_entry(0, entry(0, [good, replace(good, at=None)], shipped()))
    assert not record.permitted
    assert repeat([record], lambda _: shipped()).differences == []


def test_old_records_are_left_out():
    entries = [entry(n, [next(iter(cases()))[2]], shipped(), at=AT + timedelta(days=n)) for n in range(3)]
    assert [record.index for record in recorded(entries, since=AT + timedelta(days=1))] == [1, 2]


@pytest.mark.parametrize("leaf", [b"", b"{}", b"[]", b'{"kind":"intent","body":{"facts":[{"x":1}],"policy":["v"]}}'])
def test_what_is_no_entry_is_an_error(leaf):
    with pytest.raises(DataError):
        read_entry(3, leaf)


def test_other_entries_hold_no_decision():
    assert read_entry(0, canonical_json({"at": AT.isoformat(), "index": 0, "kind": "outcome", "body": {}})) is None
    budget = {"what": "cube", "reason": "BUDGET_EXHAUSTED"}
    assert read_entry(0, canonical_json({"at": AT.isoformat(), "index": 0, "kind": "refused", "body": budget})) is None


def test_an_outcome_says_whose_it_is_and_nothing_else_does() -> None:
    told = {kind: canonical_json({"index": 9, "kind": kind, "body": {"intent": 8}}) for kind in ("outcome", "intent")}
    assert intent_of(told["outcome"]) == 8
    assert intent_of(told["intent"]) is None
    assert intent_of(canonical_json({"index": 9, "kind": "outcome", "body": {}})) is None
