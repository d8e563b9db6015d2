"""Cases beside a policy: a request, what the decision must say, and what the audit log must hold.

A file of ``tests/`` holds a ``request`` that is permitted and ``cases`` that change it. The time of a case is the time
of its request, so a case says the same on any day.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.core.errors import DataError, EntenteError, PolicyError, Reason
from federation.policy.facts import Decision, Facts, facts_from_json
from federation.policy.mask import apply_obligations
from federation.policy.policy_set import PolicySet
from federation.policy.yaml_text import MAX_BYTES, YamlTextError, read_yaml

FOLDER = "tests"
MAX_FILES = 100
_KEYS = {"name", "with", "permitted", "reasons", "law", "attributes", "masked", "min_k", "audit"}


@dataclass(frozen=True)
class Case:
    """One case."""

    file: str
    name: str
    facts: Facts
    expected: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """What a case gave: nothing, or what is otherwise than expected."""

    case: Case
    differences: tuple[str, ...]  # "- expected" and "+ got" lines


@dataclass(frozen=True)
class CaseReport:
    """All cases of a policy."""

    results: tuple[Result, ...]
    untouched: tuple[str, ...] = field(default=())  # rules that decided no case

    @property
    def failures(self) -> tuple[Result, ...]:
        """Cases that are otherwise than expected."""
        return tuple(result for result in self.results if result.differences)


def load_cases(folder: Path) -> tuple[Case, ...]:
    """The cases of a policy folder.

    Raises:
        PolicyError: POLICY_INVALID for a file that is no YAML, a case that is none, or too many files; MISSING_FILE
            without cases.
    """
    paths = sorted(path for path in (folder / FOLDER).glob("*") if path.suffix.lower() in {".yaml", ".yml"})
    if len(paths) > MAX_FILES:
        raise _bad("", f"{len(paths)} files, at most {MAX_FILES}")
    cases = [case for path in paths for case in _read(path)]
    if not cases:
        fix = f"Write cases into {FOLDER}/ beside the policy; see its README."
        raise PolicyError(Reason.MISSING_FILE, item=str(folder / FOLDER / "*.yaml"), fix=fix)
    return tuple(cases)


def run_cases(policy: PolicySet, cases: tuple[Case, ...]) -> CaseReport:
    """Decides every case."""
    told: set[str] = set()
    results = []
    for case in cases:
        decision = policy.decide(case.facts.undated())  # as the gateway decides
        told |= {given.rule for given in decision.reasons}
        results.append(Result(case, tuple(_differences(case, decision))))
    return CaseReport(tuple(results), tuple(rule.id for rule in policy.rules if rule.id not in told))


def audit_record(facts: Facts, decision: Decision) -> dict[str, Any]:
    """What the release path logs of a decision about one party's data, as far as the policy makes it."""
    body: dict[str, Any] = {"facts": [facts.to_json()], "policy": [decision.version]}
    if decision.permitted:
        return {"kind": "intent", **body}
    return {"kind": "refused", **body, "reasons": [given.to_json() for given in decision.reasons]}


def _differences(case: Case, decision: Decision) -> list[str]:
    expected, found = case.expected, list[str]()

    def same(name: str, wanted: Any, got: Any) -> None:
        if wanted != got:
            found.extend((f"- {name}: {_shown(wanted)}", f"+ {name}: {_shown(got)}"))

    same("permitted", expected.get("permitted"), decision.permitted)
    codes = sorted(given.code for given in decision.reasons)
    if not expected.get("permitted"):
        same("reasons", sorted(expected.get("reasons") or ()), codes)
        same("duties of a refusal", {}, dict(decision.obligations.mask))
    elif decision.permitted:
        same("reasons", ["permitted"], sorted(set(codes)))
    laws = sorted({given.legal_ref for given in decision.reasons if given.legal_ref})
    if "law" in expected and expected["law"] not in laws:
        found.extend((f"- law: {expected['law']}", f"+ law: {', '.join(laws) or 'none'}"))
    if "masked" in expected:
        same("masked", expected["masked"], _masked(expected.get("attributes") or {}, decision))
    if "min_k" in expected:
        same("min_k", expected["min_k"], decision.obligations.min_k)
    if "audit" in expected:
        same("audit", expected["audit"], _same_part(audit_record(case.facts, decision), expected["audit"]))
    return found


def _masked(attributes: Mapping[str, str], decision: Decision) -> Any:
    try:
        return apply_obligations(attributes, decision.obligations) if decision.permitted else None
    except EntenteError as exc:
        return str(exc.reason)


def _same_part(value: Any, wanted: Any) -> Any:
    """As much of a value as a case says something about: keys that it does not name may hold anything."""
    if isinstance(value, dict) and isinstance(wanted, dict):
        return {name: _same_part(value.get(name), part) for name, part in wanted.items()}
    if isinstance(value, list) and isinstance(wanted, list) and len(value) == len(wanted):
        return [_same_part(part, want) for part, want in zip(value, wanted, strict=True)]
    return value


def _read(path: Path) -> list[Case]:
    try:
        with path.open("rb") as file:
            data = read_yaml(file.read(MAX_BYTES + 1)).data
    except YamlTextError as exc:
        raise _bad(f"{path.name}:{exc.mark.line}:{exc.mark.column}", str(exc)) from exc
    except OSError as exc:
        raise PolicyError(Reason.MISSING_FILE, item=str(path), detail=str(exc)) from exc
    if not isinstance(data, dict) or set(data) != {"request", "cases"} or not isinstance(data["cases"], list):
        raise _bad(path.name, "expected the keys request and cases")
    return [_case(path, number, data["request"], case) for number, case in enumerate(data["cases"], 1)]


def _case(path: Path, number: int, request: Any, case: Any) -> Case:
    where = f"{path.name} case {number}"
    if not isinstance(case, dict) or not isinstance(case.get("name"), str):
        raise _bad(where, "a case needs a name")
    if unknown := set(case) - _KEYS:
        raise _bad(f"{where} ({case['name'][:80]})", f"unknown key {min(unknown)}")
    if not isinstance(case.get("permitted"), bool):
        raise _bad(f"{where} ({case['name'][:80]})", "permitted must be true or false")
    try:
        facts = facts_from_json(_merge(request, case.get("with") or {}))
    except DataError as exc:
        raise _bad(f"{where} ({case['name'][:80]})", exc.item) from exc
    return Case(path.stem, case["name"], facts, {name: part for name, part in case.items() if name != "with"})


def _merge(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return {name: _merge(base.get(name), change[name]) if name in change else base[name] for name in base | change}


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _bad(where: str, text: str) -> PolicyError:
    return PolicyError(Reason.POLICY_INVALID, item=f"{FOLDER}/{where}: {text}")
