"""What a compliance officer should know before a policy goes into force: errors that refuse it, and warnings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from federation.core.clock import Clock
from federation.core.errors import PolicyError, Reason
from federation.policy.alliance import build_alliance
from federation.policy.check import Problem
from federation.policy.documents import RULE_FILES
from federation.policy.lint_rules import warnings
from federation.policy.load import Draft, draft_policy
from federation.policy.plain import limits_of
from federation.policy.yaml_text import MAX_BYTES


@dataclass(frozen=True)
class Finding:
    """One line of ``entente policy check``."""

    severity: Literal["error", "warning"]
    file: str
    line: int  # from 1
    column: int  # from 1
    key: str
    rule: str  # rule id, or empty
    text: str
    fix: str = ""  # what to do, one imperative sentence

    @property
    def where(self) -> str:
        """``file:line:column key``."""
        return f"{self.file}:{self.line}:{self.column} {self.key}".rstrip()


def lint(folder: Path, clock: Clock) -> list[Finding]:
    """Everything to say about a policy folder if it were in force now.

    Args:
        folder: The policy folder.
        clock: Tells what now is.

    Returns:
        Errors first. Empty when there is nothing to say. A policy with an error does not load.

    Raises:
        PolicyError: MISSING_FILE when the folder cannot be read.
    """
    draft = draft_policy(_read_raw(folder))
    errors = [_finding(draft, problem, "error") for problem in draft.problems]
    if draft.bundle is None or errors:
        return errors
    bundle, at = draft.bundle, clock.now()
    tables = build_alliance(bundle.agreement, bundle.purposes, limits_of(bundle.rules))
    return [_finding(draft, problem, "warning") for problem in warnings(bundle, tables, at)]


def _read_raw(folder: Path) -> dict[str, bytes]:
    try:
        paths = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in {".yaml", ".yml"} and p.name[0] != "."]
        return {path.name: path.read_bytes()[: MAX_BYTES + 1] for path in paths}
    except OSError as exc:
        raise PolicyError(Reason.MISSING_FILE, item=str(folder), detail=str(exc)) from exc


def _finding(draft: Draft, problem: Problem, severity: Literal["error", "warning"]) -> Finding:
    line, column = draft.place(problem)
    key = ".".join(str(part) for part in problem.path)
    fix = problem.fix or ("Write another value here." if problem.path else "Mend the file.")
    return Finding(severity, problem.file, line, column, key, _rule(draft, problem), problem.text, fix)


def _rule(draft: Draft, problem: Problem) -> str:
    """The id of the rule that a problem is in, as far as the file can be read."""
    if problem.rule or problem.path[:1] != ("rules",) or problem.file not in RULE_FILES:
        return problem.rule
    data, at = draft.documents[problem.file].data, (*problem.path, None)[1]
    rule = data["rules"][at] if isinstance(data, dict) and isinstance(at, int) else None
    return str(rule.get("id", ""))[:48] if isinstance(rule, dict) else ""
