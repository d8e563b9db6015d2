"""What ``entente policy check`` has to say."""

from datetime import UTC, datetime

import pytest

from federation.core.clock import FixedClock
from federation.core.errors import PolicyError
from federation.policy.lint import lint
from tests.policy_kit import AT, FOLDER, files


def findings(tmp_path, at=AT, **changed):
    for name, text in files(**changed).items():
        (tmp_path / name).write_text(text)
    return lint(tmp_path, FixedClock(at))


def test_the_shipped_set_is_clean():
    assert lint(FOLDER, FixedClock(AT)) == []


def test_an_error_has_its_place(tmp_path):
    (found,) = findings(tmp_path, agreement=("country: PT", "country: Portugal"))
    assert found.severity == "error"
    assert found.where == "agreement.yaml:13:14 parties.0.country"


@pytest.mark.parametrize("change", [("effect: permit", "effect: allow"), ("min_k: 20", "min_k: 0")])
def test_an_error_in_a_rule_names_the_rule(tmp_path, change):
    (found,) = findings(tmp_path, rules=change)
    assert found.rule == ("statistics-rows" if "effect" in change[0] else "statistics-results")


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
