"""What changes, in words: every kind of change, whether it loosens, and whom it concerns."""

import pytest

from federation.policy.diff import changes
from federation.policy.load import parse_policy
from tests.kits.policy import files, shipped

ALL = ("airline", "bank", "insurer")


@pytest.mark.parametrize(
    ("file", "old", "new", "subject", "key", "effect"),
    [
        ("budget", "epsilon: 8.0", "epsilon: 9.0", "budget", "epsilon", "looser"),
        ("budget", "epsilon: 8.0", "epsilon: 7.0", "budget", "epsilon", "stricter"),
        ("offers", "cooling_off_days: 30", "cooling_off_days: 3", "offers", "cooling_off_days", "looser"),
        ("offers", "channels: [app, email, phone, branch]", "channels: [app, email, phone, branch, post]", "offers",
         "channels", "looser"),
        ("rules", "min_k: 20", "min_k: 30", "rule statistics-results", "require.min_k", "stricter"),
        ("rules", "channel: [app, email, phone, branch]", "channel: [app, email]", "rule offers", "match.channel",
         "stricter"),
        ("rules", "subject_region: [DE]\n", "subject_region: [DE, PT]\n", "rule no-cold-calls-de",
         "match.subject_region", "stricter"),
        ("rules", "message: Residents of Germany are not called.", "message: Germans are not called.",
         "rule no-cold-calls-de", "message", "words"),
        ("agreement", "data_category: [offer_proposal, offer]", "data_category: [offer]", "clause clause-6-2",
         "data_category", "stricter"),
        ("agreement", "valid_to: 2027-10-01", "valid_to: 2027-12-01", "clause clause-6-2", "valid_to", "looser"),
        ("agreement", "recipient_country: [SG]", "recipient_country: [SG, CN]", "transfer scc-eea-sg",
         "recipient_country", "looser"),
        ("purposes", "[user.job_title], jrt_class: C2", "[user.job_title], jrt_class: C1", "field job", "jrt_class",
         "open"),
        ("localization", "utc_offset_hours: 8", "utc_offset_hours: 9", "transfer limit cac-2024", "utc_offset_hours",
         "open"),
        ("cubes", "min_count: 20", "min_count: 10", "cube venn", "min_count", "looser"),
    ],
)  # fmt: skip
def test_a_field(file, old, new, subject, key, effect):  # noqa: PLR0917 -- a table of cases
    [change] = changes(shipped(), parse_policy(files(**{file: (old, new)})))
    assert (change.file, change.subject, change.key, change.effect) == (f"{file}.yaml", subject, key, effect)
    back = changes(parse_policy(files(**{file: (old, new)})), shipped())
    turned = {"looser": "stricter", "stricter": "looser"}
    assert [c.effect for c in back] == [turned.get(effect, effect)]


def without_rule(rule_id):
    texts = files()
    for name, text in texts.items():
        start = text.find(f"  - id: {rule_id}\n")
        if start >= 0:
            end = text.find("\n  - id:", start + 1)
            texts[name] = text[:start] + (text[end + 1 :] if end >= 0 else "")
            return parse_policy(texts)
    raise AssertionError(rule_id)


@pytest.mark.parametrize(("rule", "gone"), [("no-cold-calls-de", "looser"), ("offer-routing", "stricter")])
def test_a_whole_rule(rule, gone):
    less = without_rule(rule)
    [change] = [c for c in changes(shipped(), less) if c.subject == f"rule {rule}"]
    assert (change.effect, change.text.partition(":")[0]) == (gone, "gone")
    [change] = [c for c in changes(less, shipped()) if c.subject == f"rule {rule}"]
    assert (change.effect, change.text.partition(":")[0]) == ({"looser": "stricter", "stricter": "looser"}[gone], "new")


@pytest.mark.parametrize(("rule", "later"), [("no-cold-calls-de", "stricter"), ("offer-routing", "looser")])
def test_a_rule_that_ends_later_decides_longer(rule, later):
    early, late = (
        parse_policy(files(rules=(f"  - id: {rule}\n", f"  - id: {rule}\n    valid_to: {day}\n")))
        for day in ("2027-02-01", "2027-03-01")
    )
    [change] = changes(early, late)
    assert (change.key, change.effect) == ("valid_to", later)
    [change] = changes(late, early)
    assert change.effect == {"looser": "stricter", "stricter": "looser"}[later]


def test_fewer_tokens_for_a_person_are_less_noise():
    more, less = (
        parse_policy(files(cubes=("ad_hoc:\n", f"ad_hoc:\n  max_tokens_per_person: {number}\n"))) for number in (2, 1)
    )
    [change] = changes(more, less)
    assert (change.key, change.effect) == ("ad_hoc.max_tokens_per_person", "looser")


def test_a_mask_is_no_words_whatever_its_field_is_called():
    field = "  - {id: message, type: name, category: [user.name], jrt_class: C2}\n"
    known = ("  - {id: job,", f"{field}  - {{id: job,")
    hidden, shown = (
        parse_policy(files(purposes=known, rules=("job: drop\n", f"job: drop\n        message: {mask}\n")))
        for mask in ("drop", "name")
    )
    [change] = changes(hidden, shown)
    assert (change.key, change.effect) == ("require.mask.message", "open")


def test_nothing_changes_between_equals():
    assert changes(shipped(), parse_policy(files())) == ()


def test_a_change_concerns_those_whose_data_it_is_about():
    by = "by: [bank.value_tier, airline.activity]\n    epsilon: 0."
    [cube] = changes(shipped(), parse_policy(files(cubes=(f"{by}5", f"{by}4"))))
    assert cube.concerns == ("airline", "bank")
    [rule] = changes(shipped(), parse_policy(files(rules=("min_k: 20", "min_k: 30"))))
    assert rule.concerns == ALL
    [name] = changes(shipped(), parse_policy(files(agreement=("Merlion Air", "Merlion"))))
    assert (name.concerns, name.effect) == (("airline",), "words")


@pytest.mark.parametrize("party", ["Merlion Air", "Skyline gateway operations"])
def test_where_a_recipient_processes_concerns_everybody_whose_data_it_gets(party):
    start = f"display_name: {party}\n    country: "
    country = files()["agreement.yaml"].partition(start)[2][:2]
    [moved] = changes(shipped(), parse_policy(files(agreement=(f"{start}{country}", f"{start}PT"))))
    assert (moved.concerns, moved.effect) == (ALL, "open")


@pytest.mark.parametrize(
    ("before", "after", "concerns"),
    [
        ("[bank, insurer]", "[insurer]", ("bank", "insurer")),
        ("[bank]", "[insurer]", ("bank", "insurer")),
        ("[partner]", "[insurer]", ALL),
        ("", "[insurer]", ALL),
    ],
)
def test_whoever_is_not_named_any_more_is_concerned(before, after, concerns):
    old, new = (
        parse_policy(files(rules=("subject_region: [DE]\n", "subject_region: [DE]\n" + origin)))
        for origin in (names and f"      origin: {names}\n" for names in (before, after))
    )
    for one, other in ((old, new), (new, old)):
        [change] = changes(one, other)
        assert (change.key, change.concerns) == ("match.origin", concerns)


def test_words_say_what_came_and_went():
    less = {"rules": ("channel: [app, email, phone, branch]", "channel: [app]")}
    [change] = changes(shipped(), parse_policy(files(**less)))
    assert change.text == "takes away email, phone, branch"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  overlap_statistics: 2.0", "  overlap_statistics: 1.0"),
        ("  overlap_statistics: 2.0\n", ""),
        ("epsilon: 8.0", "epsilon: 7.0"),
    ],
)
def test_a_smaller_budget_says_what_becomes_of_what_is_spent(old, new):
    less = parse_policy(files(budget=(old, new)))
    [change] = changes(shipped(), less)
    assert "questions already paid are not undone; new ones stop" in change.text
    [change] = changes(less, shipped())
    assert "paid" not in change.text
