"""What ``entente policy check`` has to say."""

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from federation.cli.policy import app
from federation.core.clock import FixedClock
from federation.core.errors import PolicyError
from federation.policy.lint import lint
from tests.kits.policy import AT, FOLDER, files


def findings(tmp_path, at=AT, **changed):
    for name, text in files(**changed).items():
        (tmp_path / name).write_text(text)
    return lint(tmp_path, FixedClock(at))


def test_the_shipped_set_is_clean():
    assert lint(FOLDER, FixedClock(AT)) == []


def test_an_error_has_its_place(tmp_path):
    (found,) = findings(tmp_path, agreement=("country: PT", "country: Portugal"))
    assert found.severity == "error"
    assert found.where == "agreement.yaml:15:14 parties.0.country"


@pytest.mark.parametrize("change", [("effect: permit", "effect: allow"), ("min_k: 20", "min_k: 0")])
def test_an_error_in_a_rule_names_the_rule(tmp_path, change):
    (found,) = findings(tmp_path, rules=change)
    assert found.rule == ("statistics-rows" if "effect" in change[0] else "statistics-results")


@pytest.mark.parametrize(
    ("change", "where", "text", "fix"),
    [
        (
            {"budget": ("epsilon: 8.0", "epsilom: 8.0")},
            "budget.yaml:7:10 epsilom",
            "did you mean epsilon?",
            "Write a key",
        ),
        ({"rules": ("min_k: 20", "mink: 20")}, "rules.yaml:40:13 rules.1.require.mink", "did you mean min_k?", "Write"),
        ({"budget": ("epsilon: 8.0", "zzzz: 8.0")}, "budget.yaml:7:7 zzzz", "unknown key", "Write a key"),
        ({"budget": ("epsilon: 8.0", "epsilon: many")}, "budget.yaml:7:10 epsilon", "valid number", "another value"),
        (
            {"budget": ("overlap_statistics:", "overlap_statistic:")},
            "budget.yaml:9:22 purposes.overlap_statistic",
            "known are model_training, offer_sharing, overlap_statistics",
            "",
        ),
        (
            {"cubes": ("name: tier_by_activity", "name: venn")},
            "cubes.yaml:15:11 cubes.1.name",
            "venn stands here twice",
            "",
        ),
    ],
)
def test_an_error_says_what_was_meant(tmp_path, change, where, text, fix):
    found = next(f for f in findings(tmp_path, **change) if f.key == where.split()[-1])
    assert found.where == where
    assert text in found.text
    assert fix in found.fix


@pytest.mark.parametrize(
    ("raw", "text", "fix"),
    [
        (None, "the file is missing", "Add it"),
        (b"epsilon: \xff", "not UTF-8", "Save the file as UTF-8."),
        (b"\xef\xbb\xbfepsilon: 8", "byte order mark", "without one"),
        (b"epsilon: [", "", "Mend the YAML at this line."),
    ],
)
def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path, raw, text, fix):
    findings(tmp_path)
    path = tmp_path / "budget.yaml"
    path.unlink() if raw is None else path.write_bytes(raw)
    (found,) = lint(tmp_path, FixedClock(AT))
    assert text in found.text
    assert fix in found.fix


def test_a_finding_reads_as_sentences(tmp_path):
    findings(tmp_path, budget=("epsilon: 8.0", "epsilon: many"))
    shown = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert shown.exit_code == 3
    assert "valid number. Write another value here.\n" in shown.stdout


def test_an_error_in_the_middle_of_a_rule_is_an_error(tmp_path):
    (found,) = findings(tmp_path, rules=("effect: permit", "effect: *permit"))
    assert (found.severity, found.rule) == ("error", "")


def test_an_unknown_party_in_a_rule_names_the_rule(tmp_path):
    (found,) = findings(tmp_path, rules=("recipient: [marketing]", "recipient: [marketeers]"))
    assert (found.severity, found.rule) == ("error", "statistics-results")


@pytest.mark.parametrize(
    ("change", "file", "text"),
    [
        ({"agreement": ("valid_to: 2027-10-01", "valid_to: 2026-11-20")}, "agreement.yaml", "ends on 2026-11-20"),
        ({"agreement": ("valid_to: 2027-10-01", "valid_to: 2026-10-20")}, "agreement.yaml", "ended on 2026-10-20"),
        ({"budget": ("period_end: 2027-10-01", "period_end: 2026-11-20")}, "budget.yaml", "period ends on 2026-11-20"),
        (
            {"rules": ("effect: forbid", "effect: forbid\n    valid_to: 2026-01-01")},
            "rules.yaml",
            "ended on 2026-01-01",
        ),
        ({"agreement": ("recipient: [marketing]", "recipient: [auditor]")}, "rules.yaml", "can never match"),
        ({"budget": ("overlap_statistics: 2.0", "overlap_statistics: 9.0")}, "budget.yaml", "everything together 8"),
        (
            {"cubes": ("epsilon: 0.7", "epsilon: 2.5")},
            "cubes.yaml",
            "holdings costs epsilon 2.5, but overlap_statistics may spend 2 in",
        ),
        ({"budget": ("  overlap_statistics: 2.0\n", "")}, "cubes.yaml", "overlap_statistics may spend 0 in"),
        ({"cubes": ("max_epsilon: 0.2", "max_epsilon: 2.5")}, "cubes.yaml", "question of one's own costs epsilon 2.5"),
        ({"cubes": ("min_count: 20", "min_count: 5000000")}, "cubes.yaml", "under 5,000,000 people"),
        (
            {"rules": ("      consent: {status: given, at: origin}\n", "")},
            "rules.yaml",
            "lets blinded_identifier go without the person's consent",
        ),
        ({"rules": ("        job: drop\n", "")}, "offers.yaml", "lets an offer carry job"),
        ({"consent": ("recipient_outside: CN", "recipient_outside: CN\n      recipient: [auditor]")}, "", ""),
        (
            {"consent": ("recipient_outside: CN", "recipient_outside: EEA\n      recipient: [auditor]")},
            "consent.yaml",
            "no recipient fits the rule",
        ),
    ],
)
def test_warnings(tmp_path, change, file, text):
    found = findings(tmp_path, **change)
    assert all(f.severity == "warning" for f in found)
    assert not file or any(f.file == file and text in f.text for f in found)
    assert bool(file) == bool(found)


STOP = """
  - id: stop
    legal_ref: eu-gdpr:A58-2-f
    legal_description: The authority has stopped all sharing of offers.
    effect: forbid
    match: {purpose: [offer_sharing]%s}
"""


def shadowed(found):
    return {f.rule: f.text for f in found if f.text.startswith("shadowed: ")}


def test_a_forbid_without_exception_shadows_what_it_covers(tmp_path):
    found = findings(tmp_path, consent=("rules:\n", f"rules:{STOP % ''}\n"))
    told = shadowed(found)
    assert told["offers"] == "shadowed: stop in consent.yaml forbids all that it permits"
    assert told["pipl-23-separate-consent"] == "shadowed: stop in consent.yaml decides all that it would decide"
    assert "statistics-rows" not in told
    assert "jrt-0171-c3-never" not in told
    (offers,) = [f for f in found if f.rule == "offers"]
    line = files()["rules.yaml"].splitlines().index("  - id: offers") + 1
    assert (offers.file, offers.fix) == ("rules.yaml", "Narrow the forbid, or take one out.")
    assert offers.line == line + 4  # at its match


def test_a_narrower_forbid_shadows_nothing_wider(tmp_path):
    narrow = ", channel: [phone]"
    told = shadowed(findings(tmp_path, consent=("rules:\n", f"rules:{STOP % narrow}\n")))
    assert set(told) == {"no-cold-calls-de"}


@pytest.mark.parametrize("validity", ["valid_to: 2027-01-01", "valid_from: 2026-12-01"])
def test_a_forbid_for_a_time_shadows_nothing(tmp_path, validity):
    rule = STOP.replace("effect: forbid", f"effect: forbid\n    {validity}") % ""
    assert shadowed(findings(tmp_path, consent=("rules:\n", f"rules:{rule}\n"))) == {}


def test_of_two_equal_rules_the_later_is_told(tmp_path):
    text = files()["rules.yaml"]
    rule = text[text.index("  - id: no-cold-calls-de") :]
    again = rule.replace("no-cold-calls-de", "no-cold-calls-again")
    found = findings(tmp_path, rules=(rule, rule.rstrip() + "\n" + again))
    assert shadowed(found) == {
        "no-cold-calls-again": "shadowed: no-cold-calls-de in rules.yaml decides all that it would decide"
    }


def test_a_permit_without_a_basis_can_never_match(tmp_path):
    found = findings(
        tmp_path, rules=("legal_basis: [eu-gdpr:A6-1-a, cn-pipl:13-1, sg-pdpa:13]", "legal_basis: [eu-gdpr:A6-1-f]")
    )
    assert [(f.rule, f.text.rpartition("; ")[2]) for f in found] == [("statistics-rows", "it can never match")]


def test_a_field_outside_of_the_catalogue(tmp_path):
    (found,) = findings(tmp_path, purposes=("  - {id: pdays,", "  - {id: p_days,"))
    assert (found.file, found.key) == ("training.yaml", "features.8")
    assert "not in the catalogue" in found.text


def test_every_finding_has_its_place_and_a_mend(tmp_path):
    found = findings(tmp_path, at=datetime(2029, 1, 1, tzinfo=UTC), consent=("rules:\n", f"rules:{STOP % ''}\n"))
    assert len(found) > 5
    assert all(f.line > 1 and f.column >= 1 and f.fix.endswith(".") for f in found)
    (error,) = findings(tmp_path, agreement=("country: PT", "country: Portugal"))
    assert error.fix.endswith(".")


def test_a_purpose_without_a_permit(tmp_path):
    extra = """
  - id: fraud
    dpv: dpv:FraudPreventionAndDetection
    description: Nothing yet.
    legal_basis: {GDPR: eu-gdpr:A6-1-f}
regions:"""
    (found,) = findings(tmp_path, purposes=("\nregions:", extra))
    assert found.text == "no rule permits anything for fraud"


def test_time_passes(tmp_path):
    texts = [f.text for f in findings(tmp_path, at=datetime(2029, 1, 1, tzinfo=UTC))]
    assert "clause-6-2 ended on 2027-10-01" in texts


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(PolicyError):
        lint(tmp_path / "none", FixedClock(AT))
