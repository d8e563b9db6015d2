"""What a compliance officer should know before a policy goes into force: errors that refuse it, and warnings."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from federation.core.clock import Clock
from federation.core.errors import PolicyError, Reason
from federation.policy.alliance import Alliance, build_alliance, start_of
from federation.policy.check import Bundle, Problem
from federation.policy.documents import RULE_FILES, Rule
from federation.policy.load import Draft, draft_policy
from federation.policy.yaml_text import MAX_BYTES

ENDS_SOON = timedelta(days=30)


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
    tables = build_alliance(bundle.agreement, bundle.purposes)
    warnings = [*_ends(bundle, at), *_idle_rules(bundle, tables, at), *_unserved(bundle, tables)]
    return [_finding(draft, problem, "warning") for problem in warnings]


def _read_raw(folder: Path) -> dict[str, bytes]:
    try:
        paths = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in {".yaml", ".yml"} and p.name[0] != "."]
        return {path.name: path.read_bytes()[: MAX_BYTES + 1] for path in paths}
    except OSError as exc:
        raise PolicyError(Reason.MISSING_FILE, item=str(folder), detail=str(exc)) from exc


def _finding(draft: Draft, problem: Problem, severity: Literal["error", "warning"]) -> Finding:
    line, column = draft.place(problem)
    key = ".".join(str(part) for part in problem.path)
    return Finding(severity, problem.file, line, column, key, _rule(draft, problem), problem.text, problem.fix)


def _rule(draft: Draft, problem: Problem) -> str:
    """The id of the rule that a problem is in, as far as the file can be read."""
    if problem.rule or problem.path[:1] != ("rules",) or problem.file not in RULE_FILES:
        return problem.rule
    data, at = draft.documents[problem.file].data, (*problem.path, None)[1]
    rule = data["rules"][at] if isinstance(data, dict) and isinstance(at, int) else None
    return str(rule.get("id", ""))[:48] if isinstance(rule, dict) else ""


def _ends(bundle: Bundle, at: datetime) -> Iterator[Problem]:
    """What has ended or soon will."""
    for key, periods in (("sharing", bundle.agreement.sharing), ("transfers", bundle.agreement.transfers)):
        for place, period in enumerate(periods):
            end = start_of(period.valid_to)
            if end <= at + ENDS_SOON:
                text = f"{period.id} {'ended' if end <= at else 'ends'} on {period.valid_to}"
                fix = "Prolong it with the parties, or take it out."
                yield Problem("agreement.yaml", (key, place, "valid_to"), text, fix=fix)
    if start_of(bundle.budget.period_end) <= at + ENDS_SOON:
        text = f"the budget's period ends on {bundle.budget.period_end}"
        yield Problem("budget.yaml", ("period_end",), text, fix="Agree on the next period.")


def _idle_rules(bundle: Bundle, tables: Alliance, at: datetime) -> Iterator[Problem]:
    """Rules that cannot matter: out of date, fitting no recipient, or permits that no clause allows."""
    for file in RULE_FILES:
        for place, rule in enumerate(bundle.rules[file].rules):
            if rule.valid_to is not None and start_of(rule.valid_to) <= at:
                yield Problem(file, ("rules", place, "valid_to"), f"the rule ended on {rule.valid_to}", rule.id)
            if not _recipients(rule, tables):
                text = "no recipient fits the rule; it can never match"
                yield Problem(file, ("rules", place, "match"), text, rule.id)
            elif rule.effect == "permit" and not _agreed(rule, tables):
                text = "no clause of the agreement allows what the rule permits; it can never match"
                yield Problem(file, ("rules", place, "match"), text, rule.id)


def _recipients(rule: Rule, tables: Alliance) -> frozenset[str]:
    """Recipients that a rule can fit."""
    named = tables.parties(rule.match.recipient)
    recipients = frozenset(tables.countries) if named is None else named
    if rule.match.recipient_outside is None:
        return recipients
    inside = tables.areas[rule.match.recipient_outside]
    return frozenset(name for name in recipients if tables.countries[name] not in inside)


def _agreed(rule: Rule, tables: Alliance) -> bool:
    """Whether a clause allows at least one route of a permit."""
    origins, recipients = tables.parties(rule.match.origin), _recipients(rule, tables)
    return any(
        (origins is None or origin in origins)
        and recipient in recipients
        and (rule.match.purpose is None or purpose in rule.match.purpose)
        and (rule.match.data_category is None or category in rule.match.data_category)
        for origin, recipient, purpose, category in tables.clauses
    )


def _unserved(bundle: Bundle, tables: Alliance) -> Iterator[Problem]:
    """Purposes, clauses and offer fields that no permit serves."""
    permits = [rule for file in RULE_FILES for rule in bundle.rules[file].rules if rule.effect == "permit"]
    for place, purpose in enumerate(bundle.purposes.purposes):
        if not any(purpose.id in (rule.match.purpose or ()) for rule in permits):
            yield Problem("purposes.yaml", ("purposes", place, "id"), f"no rule permits anything for {purpose.id}")
    for place, clause in enumerate(bundle.agreement.sharing):
        served = any(
            set(clause.purpose) & set(rule.match.purpose or ())
            and set(clause.data_category) & set(rule.match.data_category or ())
            and (tables.parties(clause.origin) or set()) & (tables.parties(rule.match.origin) or set())
            and (tables.parties(clause.recipient) or set()) & _recipients(rule, tables)
            for rule in permits
        )
        if not served:
            text = f"no rule permits anything under clause {clause.id}"
            yield Problem("agreement.yaml", ("sharing", place, "id"), text)
    passing = {
        name
        for rule in permits
        if rule.require is not None and "offer" in (rule.match.data_category or ())
        for name in (*rule.require.fields, *rule.require.mask)
    }
    for place, name in enumerate(bundle.offers.attributes):
        if name not in passing:
            yield Problem("offers.yaml", ("attributes", place), f"no rule lets an offer carry {name}")
