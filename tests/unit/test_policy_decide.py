"""How rules combine, where the shipped set does not show it."""

from dataclasses import replace
from datetime import datetime

import pytest

from federation.core.errors import DataError, Reason
from federation.policy.facts import facts_from_json
from federation.policy.load import parse_policy
from federation.policy.mask import apply_obligations
from tests.kits.policy import AT, cases, files, shipped

OFFER = next(facts for name, _, facts in cases() if name.startswith("gdpr: consent that names"))
SECOND_PERMIT = """
  - id: offers-strict
    legal_ref: eu-gdpr:A6-1-a
    legal_description: A second permit for the same offers.
    effect: permit
    match: {{purpose: [offer_sharing], data_category: [offer], origin: [bank], recipient: [insurer]}}
    {validity}
    require:
      min_k: 30
      fields: [product]
      mask: {{region: drop, age: "band(18,60)", balance: "band(0,1000,5000,20000)", job: drop}}
"""


def with_second(validity="valid_from: 2026-01-01"):
    return parse_policy(files(consent=("rules:\n", "rules:" + SECOND_PERMIT.format(validity=validity))))


def test_two_permits_give_the_stricter_duties():
    decision = with_second().decide(OFFER)
    assert decision.permitted
    assert [given.rule for given in decision.reasons] == ["offers", "offers-strict"]
    assert decision.obligations.min_k == 30
    masked = apply_obligations({"age": "48", "balance": "6127", "region": "PT"}, decision.obligations)
    assert masked == {"balance": "5000-19999"}  # masks that differ show nothing
    assert "channel" not in decision.obligations.mask  # one of the two does not name it


@pytest.mark.parametrize("validity", ["valid_from: 2026-11-02", "valid_to: 2026-11-01"])
def test_a_permit_outside_of_its_time_is_none(validity):
    decision = with_second(validity).decide(OFFER)
    assert [given.rule for given in decision.reasons] == ["offers"]
    refused = with_second(validity).decide(replace(OFFER, channel="letter"))
    assert [given.code for given in refused.reasons] == ["rule_not_in_force"]


def test_a_forbid_outside_of_its_time_is_none():
    policy = parse_policy(files(consent=("effect: forbid\n", "effect: forbid\n    valid_to: 2026-11-01\n")))
    assert policy.decide(replace(OFFER, recipient_consent=None)).permitted
    before = datetime(2026, 10, 31, tzinfo=AT.tzinfo)
    assert not policy.decide(replace(OFFER, at=before, recipient_consent=None)).permitted


def test_a_forbid_that_may_fit_forbids():
    decision = shipped().decide(replace(OFFER, subject_region="DE", channel=None))
    assert not decision.permitted
    assert {given.code for given in decision.reasons} == {"missing_channel"}
    open_channels = parse_policy(files(rules=("      channel: [app, email, phone, branch]\n", "")))
    decision = open_channels.decide(replace(OFFER, subject_region="DE", channel=None))
    assert [(given.rule, given.code) for given in decision.reasons] == [("no-cold-calls-de", "missing_channel")]


def test_a_purpose_without_the_basis_is_refused():
    policy = parse_policy(files(purposes=("PDPA: sg-pdpa:13}\n  - id: model", "}\n  - id: model")))
    rows = next(facts for name, _, facts in cases() if name == "statistics: a blinded identifier with consent")
    consent = replace(rows.consent, jurisdiction="PDPA")
    decision = policy.decide(replace(rows, subject_region="SG", consent=consent))
    assert [given.code for given in decision.reasons] == ["no_legal_basis"]
    said = "overlap_statistics (dpv:ServiceUsageAnalytics) has no legal basis for residents of SG."
    assert decision.reasons[0].text == said


@pytest.mark.parametrize(
    ("value", "reason", "item"),
    [
        ([], Reason.BAD_FIELD, "facts"),
        ({"handle": "00"}, Reason.BAD_FIELD, "facts: unknown key 'handle'"),
        ({"purpose": 5}, Reason.BAD_FIELD, "facts.purpose"),
        ({"purpose": "x" * 65}, Reason.BAD_FIELD, "facts.purpose"),
        ({"purpose": "\ud800"}, Reason.BAD_FIELD, "facts.purpose"),
        ({"at": "2026-11-01"}, Reason.BAD_TIME, "facts.at"),
        ({"fields": "age"}, Reason.BAD_FIELD, "facts.fields"),
        ({"fields": [None]}, Reason.BAD_FIELD, "facts.fields"),
        ({"consent": {"separate": 1}}, Reason.BAD_FIELD, "facts.consent.separate"),
        ({"consent": {"name": "x"}}, Reason.BAD_FIELD, "facts.consent: unknown key 'name'"),
    ],
)
def test_facts_from_outside_are_strict(value, reason, item):
    with pytest.raises(DataError) as caught:
        facts_from_json(value)
    assert (caught.value.reason, caught.value.item) == (reason, item)
