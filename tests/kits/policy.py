"""Shared by the policy's tests: the shipped set, its cases, and small changes to its files."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from federation.policy.facts import Facts, facts_from_json
from federation.policy.load import load_policy, read_folder
from federation.policy.policy_set import PolicySet
from federation.policy.yaml_text import read_yaml

FOLDER = Path(__file__).parents[2] / "policies"
AT = datetime(2026, 11, 1, tzinfo=UTC)


@cache
def shipped() -> PolicySet:
    return load_policy(FOLDER)


def files(**changed: tuple[str, str]) -> dict[str, str]:
    """The shipped files; ``rules=("old", "new")`` replaces a text in rules.yaml, and it must be there."""
    texts = read_folder(FOLDER)
    for name, (old, new) in changed.items():
        assert old in texts[f"{name}.yaml"]
        texts[f"{name}.yaml"] = texts[f"{name}.yaml"].replace(old, new, 1)
    return texts


def merge(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return {name: merge(base.get(name), change[name]) if name in change else base[name] for name in base | change}


def cases() -> Iterator[tuple[str, dict[str, Any], Facts]]:
    """Id, case and facts of every case under policies/tests."""
    for path in sorted((FOLDER / "tests").glob("*.yaml")):
        document = read_yaml(path.read_bytes()).data
        for case in document["cases"]:
            assert set(case) <= {"name", "with", "permitted", "reasons", "law", "attributes", "masked", "min_k"}
            facts = facts_from_json(merge(document["request"], case.get("with", {})))
            yield f"{path.stem}: {case['name']}", case, facts
