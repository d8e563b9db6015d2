"""The cases under policies/tests, against the shipped policy; and the runner, against cases that are wrong."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from federation.core.errors import PolicyError, Reason
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.policy.cases import MAX_FILES, audit_record, load_cases, run_cases
from gateway.identity.caller import Caller
from gateway.release import Exit, ReleasePath
from tests.kits.policy import AT, FOLDER, shipped

CASES = load_cases(FOLDER)
REQUEST = """
request: {purpose: overlap_statistics, data_category: aggregate_statistics, origin: bank, recipient: marketing,
          at: "2026-11-01T00:00:00+00:00"}
cases:
"""


@pytest.mark.parametrize("case", CASES, ids=[f"{case.file}: {case.name}" for case in CASES])
def test_case(case):
    [result] = run_cases(shipped(), (case,)).results
    assert result.differences == ()


def test_every_rule_decides_a_case():
    assert run_cases(shipped(), CASES).untouched == ()


def run(tmp_path, text):
    (tmp_path / "tests").mkdir(exist_ok=True)
    (tmp_path / "tests" / "one.yaml").write_text(REQUEST + text)
    return run_cases(shipped(), load_cases(tmp_path))


@pytest.mark.parametrize(
    ("case", "differences"),
    [
        ("{name: a, permitted: true, min_k: 20}", []),
        ("{name: a, permitted: true, min_k: 30}", ["- min_k: 30", "+ min_k: 20"]),
        ("{name: a, permitted: false, reasons: [no_permit]}",
         ["- permitted: false", "+ permitted: true", '- reasons: ["no_permit"]', '+ reasons: ["permitted"]',
          "- duties of a refusal: {}"]),
        ("{name: a, with: {recipient: bank}, permitted: false, reasons: [no_permit]}",
         ['- reasons: ["no_permit"]', '+ reasons: ["no_agreement", "no_permit"]']),
        ("{name: a, permitted: true, law: cn-pipl:23}", ["- law: cn-pipl:23", "+ law: eu-gdpr:A5-1-c"]),
        ("{name: a, permitted: true, audit: {kind: intent, facts: [{origin: bank, consent: null}]}}", []),
        ("{name: a, permitted: true, audit: {kind: refused}}",
         ['- audit: {"kind": "refused"}', '+ audit: {"kind": "intent"}']),
        ("{name: a, with: {at: null}, permitted: false, reasons: [missing_at],"
         " audit: {kind: refused, reasons: [{rule: default, code: missing_at}]}}", []),
    ],
)  # fmt: skip
def test_a_failure_is_a_readable_difference(tmp_path, case, differences):
    [result] = run(tmp_path, f"  - {case}\n").results
    assert list(result.differences)[: len(differences)] == differences
    assert bool(result.differences) is bool(differences)


def test_rules_that_no_case_exercises_are_named(tmp_path):
    report = run(tmp_path, "  - {name: a, permitted: true}\n")
    assert "statistics-results" not in report.untouched
    assert {"offers", "no-cold-calls-de"} <= set(report.untouched)


@pytest.mark.parametrize(
    "text",
    ["  - 5\n", "  - {name: a}\n", "  - {name: a, permitted: maybe}\n", "  - {name: a, permitted: true, x: 1}\n",
     "  - {name: a, permitted: true, with: {person: 1}}\n", "  - [\n", "  - &a {name: a, permitted: true}\n"],
)  # fmt: skip
def test_a_case_that_is_none_is_refused_with_its_place(tmp_path, text):
    with pytest.raises(PolicyError, match="tests/one"):
        run(tmp_path, text)


def test_no_file_of_cases_is_passed_over(tmp_path):
    run(tmp_path, "  - {name: a, permitted: true}\n")
    failing = REQUEST + "  - {name: b, permitted: false}\n"
    (tmp_path / "tests" / "two.yml").write_text(failing)
    [failure] = run_cases(shipped(), load_cases(tmp_path)).failures
    assert failure.case.name == "b"
    for number in range(MAX_FILES):
        (tmp_path / "tests" / f"{number}.yaml").write_text(failing)
    with pytest.raises(PolicyError, match=f"{MAX_FILES + 2} files"):
        load_cases(tmp_path)


def test_a_folder_without_cases_is_not_a_success(tmp_path):
    with pytest.raises(PolicyError) as caught:
        load_cases(tmp_path)
    assert caught.value.reason == Reason.MISSING_FILE


class Log:
    def __init__(self):
        self.entries = []

    def append(self, kind, body):
        self.entries.append({"kind": kind, **body})
        return len(self.entries) - 1


@pytest.mark.parametrize("permitted", [True, False])
def test_the_audit_record_is_what_the_release_path_writes(permitted):
    facts = next(case.facts for case in CASES if case.expected["permitted"] is permitted)
    log, caller = Log(), Caller(PartyId("bank"), Role.PARTNER, "01", AT)
    path = ReleasePath(SimpleNamespace(active=shipped()), None, log)
    with nullcontext() if permitted else pytest.raises(PolicyError):
        path.release(caller, Exit("offer", {}, [facts]), lambda _: "x", lambda _: {})
    record = audit_record(facts, shipped().decide(facts))
    assert {name: log.entries[0][name] for name in record} == record
