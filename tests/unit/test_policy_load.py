"""A folder loads whole, or is refused with the place of what is wrong."""

import time

import pytest

from federation.core.errors import PolicyError, Reason
from federation.policy.load import draft_policy, load_policy, parse_policy, read_folder
from federation.policy.yaml_text import MAX_BYTES, YamlTextError, read_yaml
from tests.kits.policy import FOLDER, cases, files, shipped


def refused(texts):
    with pytest.raises(PolicyError) as caught:
        parse_policy(texts)
    assert caught.value.reason == Reason.POLICY_INVALID
    return caught.value.item


def test_the_shipped_set_is_what_the_demo_alliance_agreed():
    policy = shipped()
    assert policy.alliance == "skyline"
    assert policy.partners == ("bank", "insurer", "airline")
    assert {p.role for p in policy.parties.values()} == {"partner", "marketing", "compliance", "operator", "auditor"}
    assert policy.countries["gateway"] == policy.countries["operator"] == "DE"
    assert set(policy.cubes) == {"venn", "tier_by_activity", "holdings"}
    assert sum(cube.epsilon for cube in policy.cubes.values()) <= policy.budget.purposes["overlap_statistics"]
    assert policy.training.epsilon <= policy.training.max_epsilon <= policy.budget.purposes["model_training"]


def test_the_version_is_of_the_content_and_not_of_comments():
    assert parse_policy(files()).version == shipped().version
    commented = parse_policy(files(budget=("epsilon: 8.0", "epsilon: 8.0  # all of it")))
    assert commented.version == shipped().version
    assert commented.files["budget.yaml"] != shipped().files["budget.yaml"]
    assert parse_policy(files(budget=("epsilon: 8.0", "epsilon: 7.5"))).version != shipped().version


def test_other_spellings_of_the_standards_mean_the_same():
    texts = files(
        rules=("purpose: [offer_sharing]", "purpose: [dpv:DirectMarketing]"),
        agreement=("purpose: [overlap_statistics]", "purpose: [dpv:ServiceUsageAnalytics]"),
        consent=("status: given", "status: dpv:ConsentGiven"),
        localization=("cn-pipl:security_assessment, ", "security_assessment, "),
    )
    policy = parse_policy(texts)
    assert policy.rules == shipped().rules
    assert policy.tables.clauses == shipped().tables.clauses
    for _, _, facts in cases():
        assert policy.decide(facts).permitted is shipped().decide(facts).permitted


def test_fields_are_found_by_their_ending_and_without_their_party():
    catalogue = shipped().tables.catalogue
    assert catalogue.classes("bank.value_tier") == catalogue.classes("value_tier") == {"C1"}
    assert catalogue.classes("bank.holds_gold_card") == {"C1"}
    assert catalogue.categories("balance") == {"user.financial", "pipl_sensitive"}
    assert catalogue.classes("shoe_size") == {"C1", "C2", "C3"}
    used = {*shipped().offers.attributes, *shipped().training.features, shipped().training.label}
    assert all(catalogue.entry(name) for name in used | {"customer_id", "email", "phone", "national_id"})


def test_norway_is_a_country():
    assert read_yaml(b"countries: [NO, SE]\non: yes").data == {"countries": ["NO", "SE"], "on": "yes"}


@pytest.mark.parametrize(
    ("change", "item"),
    [
        ({"agreement": ("country: PT", "country: Portugal")}, "agreement.yaml:15:14 parties.0.country: "),
        ({"agreement": ("country: PT", "contry: PT")}, "agreement.yaml:12:"),
        (
            {"agreement": ("id: operator\n    role: operator", "id: ops\n    role: partner")},
            "there must be one operator",
        ),
        ({"agreement": ("id: insurer", "id: bank")}, "bank stands here twice"),
        ({"agreement": ("id: auditor", "id: gateway")}, "gateway is the name of another role"),
        ({"agreement": ("origin: [partner]", "origin: [banc]")}, "unknown origin banc; known are "),
        ({"agreement": ("valid_to: 2028-10-01", "valid_to: 2026-10-01")}, "valid_to must be after valid_from"),
        ({"agreement": ("valid_to: 2028-10-01", "valid_to: 2028-10-32")}, "sharing.0.valid_to: "),
        ({"agreement": ("mechanism: eu-gdpr:A46-2-c", "mechanism: handshake")}, "transfers.0.mechanism: unknown word"),
        ({"purposes": ("dpv:DirectMarketing", "dpv:Spam")}, "purposes.2.dpv: unknown word"),
        ({"purposes": ("countries: [CN]", "countries: [PT]")}, "PT is in region EEA already"),
        ({"purposes": ("GDPR: eu-gdpr:A6-1-a", "HIPAA: eu-gdpr:A6-1-a")}, "no region has jurisdiction HIPAA"),
        ({"rules": ("effect: permit", "effect: allow")}, "rules.0.effect: "),
        ({"rules": ("min_k: 20", "min_k: 20\n      max_k: 3")}, "rules.1.require.max_k: unknown key"),
        ({"rules": ("min_k: 20", 'min_k: "20"')}, "rules.1.require.min_k: "),
        ({"rules": ("min_k: 20", "min_k: 18446744073709551616")}, "rules.1.require.min_k: "),
        ({"cubes": ("min_count: 20", "min_count: 18446744073709551616")}, "cubes.0.min_count: "),
        ({"rules": ("age: band(18,30,45,60,75)", "age: blur")}, "rules.6.require.mask.age: unknown mask"),
        ({"rules": ("channel: [phone]", "channel: [fax]")}, "unknown channel fax"),
        ({"rules": ("subject_region: [DE]", "subject_region: [EU]")}, "unknown subject_region EU"),
        ({"rules": ("id: offers\n", "id: offer-routing\n")}, "offer-routing stands twice"),
        ({"rules": ("      origin: [partner]\n", "")}, "a permit must say for which origin"),
        ({"rules": ("effect: forbid", "effect: forbid\n    require: {min_k: 3}")}, "a forbid has no require"),
        ({"offers": ("cooling_off_days: 30", "cooling_off_days: 9999999")}, "cooling_off_days: "),
        ({"offers": ("max_valid_days: 60", "max_valid_days: 367")}, "max_valid_days: "),
        ({"consent": ("recipient_outside: CN", "recipient_outside: XX")}, "unknown recipient_outside XX"),
        ({"consent": ("consent: {status: given, at: recipient}", "{}")}, "consent.yaml:7:5 rules.0: unless is empty"),
        ({"consent": ("at: recipient}", "at: recipient, names_recipient: true}")}, "names_recipient is for"),
        ({"budget": ("model_training: 6.0", "models: 6.0")}, "budget.yaml:10:"),
        ({"budget": ("epsilon: 8.0", "epsilon: .inf")}, "epsilon: "),
        ({"offers": ("owner: airline", "owner: marketing")}, "marketing is not a partner"),
        ({"cubes": ("airline.activity]", "airline.colour]")}, "airline.colour is not a segment"),
        ({"cubes": ("partners: [bank, airline]", "partners: [bank, bank]")}, "a partner stands here twice"),
        ({"purposes": ("dpv:ResearchAndDevelopment", "dpv:DirectMarketing")}, "dpv:DirectMarketing is the term of two"),
        ({"purposes": ("jrt_class: C2}", "jrt_class: C9}")}, "fields.0.jrt_class: unknown word; known are C1, C2, C3"),
        ({"purposes": ("{id: email,", "{id: customer_id,")}, "fields.1.id: customer_id stands here twice"),
        (
            {"purposes": ("{id: age, type: number", "{id: age, type: date")},
            "age is of the type date, which band does not",
        ),
        ({"rules": ("job: drop", "job: name")}, "job is of the type text, which name does not mask"),
        ({"rules": ("purpose: [model_training]", "purpose: [dpv:Marketing]")}, "unknown purpose dpv:Marketing"),
        ({"consent": ("status: given", "status: expired")}, "a rule can only ask for a consent that is given"),
        ({"consent": ("match: {field_class: [C3]}", "match: {field_class: [C4]}")}, "unknown word"),
        (
            {"consent": ("{field_class: [C3]}", "{field_class: [C3], field_category: [pipl_sensitive]}")},
            "give field_category or field_class, not both",
        ),
        ({"consent": ("      field_class: [C2]\n", "")}, "masked needs a field_class under match"),
        (
            {"rules": ("      recipient: [gateway]\n", "      recipient: [gateway]\n      field_class: [C2]\n")},
            "field_category and field_class are for forbids",
        ),
        (
            {
                "consent": (
                    "at: origin, about: sensitive_fields, names_recipient: true",
                    "at: both, about: sensitive_fields",
                )
            },
            "the consent to sensitive fields is asked for at the origin",
        ),
        (
            {"localization": ("people_below: 1000000\n", "people_below: 10\n")},
            "people_below must rise from tier to tier",
        ),
        (
            {"localization": ("- mechanism: [security", "- people_below: 2000000\n        mechanism: [security")},
            "the last tier must have no bounds",
        ),
        (
            {"localization": ("- people_below: 1000000\n        sensitive_below: 10000\n        mech", "- mech")},
            "only the last tier may have no bounds",
        ),
        (
            {"localization": ("subject_region: CN\n    data", "subject_region: XX\n    data")},
            "unknown subject_region XX",
        ),
        (
            {"localization": ("sensitive: pipl_sensitive", "sensitive: secret")},
            "transfer_limits.0.sensitive: unknown word",
        ),
        ({"rules": ("age: band(18,30,45,60,75)", "age: band(18,30,31,45)")}, "band(18,30,31,45) shows 30 as it is"),
        (
            {"rules": ("        job: drop\n", "        job: drop\n        shoe_size: keep\n")},
            "shoe_size: keep is no mask",
        ),
        ({"training": ("label: accepted_offer\n", "")}, "training.yaml:4:1 label: this key is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change, item):
    assert item in refused(files(**change))


def test_truth_values_are_no_labels_and_yes_and_no_are_words():
    tiers = "value_tier: [basic, potential, high, strategic]\n"
    plain = parse_policy(files(agreement=(tiers, tiers + "      owns_car: [yes, no]\n")))
    assert plain.parties["bank"].segments["owns_car"] == ("yes", "no")
    told = refused(files(agreement=(tiers, tiers + "      owns_car: [true, false]\n")))  # what the data holds, then
    assert "parties.0.segments.owns_car.0: " in told


NEEDS = """    require:
      legal_basis: [eu-gdpr:A6-1-a, cn-pipl:13-1, sg-pdpa:13]
      consent: {status: given, at: origin}

"""


@pytest.mark.parametrize(
    ("file", "old", "new", "item"),
    [
        ("rules", NEEDS, "    require:\n\n", "rules.5.require"),
        ("rules", "subject_region: [EEA, CN, SG]", "subject_region:", "rules.6.match.subject_region"),
        ("rules", "channel: [phone]", "channel: ~", "rules.7.match.channel"),
        ("localization", "- people_below: 1000000\n", "- people_below:\n", "transfer_limits.0.tiers.1.people_below"),
        ("agreement", "origin: [partner]", "origin: [partner, null]", "sharing.0.origin.1"),
    ],
)
def test_a_key_whose_value_was_taken_away_is_refused_and_does_not_stand_for_anything(file, old, new, item):
    assert f" {item}: no value stands here" in refused(files(**{file: (old, new)}))


def test_a_misspelt_file_name_is_refused():
    texts = files()
    texts["localisation.yaml"] = texts.pop("localization.yaml")
    assert "localisation.yaml:1:1" in refused(texts)


def test_every_file_is_needed():
    for name in files():
        texts = files()
        del texts[name]
        assert f"{name}:1:1 : the file is missing" in refused(texts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "anchors"),
        ("a: *x", "anchors"),
        ("a: 1\na: 2", "stands here twice"),
        ("a: !!python/object/apply:os.system [ls]", "tags"),
        ("<<: {a: 1}", "merge"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("{1: 2}", "a key must be text"),
        ("? [a]\n: b", "a key must be text"),
        ("[" * 100, "nested"),
        ("a: [" + "1," * 30_000 + "]", "too long"),
        ("a: 'x", ""),
        ("a:\n\t- b", ""),
        ("a: \x07", ""),
        ("\ufeffa: 1", "byte order mark"),
        ("x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_dangerous_yaml_is_refused_at_once(text, says):
    began = time.monotonic()
    with pytest.raises(YamlTextError) as caught:
        read_yaml(text.encode())
    assert says in caught.value.text
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "gb18030"])
def test_another_encoding_is_refused(tmp_path, encoding):
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    (tmp_path / "budget.yaml").write_bytes(
        "# Bürgschaft 预算\n".encode(encoding, "replace") if encoding != "latin-1" else b"# B\xfcrgschaft\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_policy(tmp_path)
    assert caught.value.item.startswith("budget.yaml:")


@pytest.mark.parametrize("data", ["", "null", "[]", "text", "5", "{}", "- a: 1"])
@pytest.mark.parametrize("name", sorted(read_folder(FOLDER)))
def test_a_wrong_shape_is_refused(name, data):
    assert f"{name}:1:" in refused({**files(), name: data})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(PolicyError) as caught:
        load_policy(tmp_path / "none")
    assert caught.value.reason == Reason.MISSING_FILE


def test_every_problem_is_collected():
    texts = files(agreement=("country: PT", "country: Portugal"), budget=("delta: 1.0e-6", "delta: 1"))
    draft = draft_policy({name: text.encode() for name, text in texts.items()})
    assert {problem.file for problem in draft.problems} == {"agreement.yaml", "budget.yaml"}
    assert refused(texts).endswith("(and 1 more)")
