"""Recorded decisions once more: under the version that made them, where the answer must be the same, and under another.

The engine reads no clock and no state, so facts and version decide alone. What another policy would have led people to
ask is not known: a replay shows the decisions that were made, answered otherwise, and no more.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.core.ids import PolicyVersion
from federation.policy.facts import Decision, Given, Obligations
from federation.policy.policy_set import PolicySet
from federation.policy.records import Recorded, route_of

MAX_SAMPLES = 10


@dataclass(frozen=True)
class Difference:
    """A recorded decision that its own version does not repeat."""

    index: int
    version: PolicyVersion
    recorded: str
    replayed: str


@dataclass
class Repetition:
    """What came of repeating decisions under their own versions."""

    repeated: int = 0
    other_gates: int = 0  # refusals that the policy did not make
    differences: list[Difference] = field(default_factory=list)


def repeat(decisions: Iterable[Recorded], at_version: Callable[[PolicyVersion], PolicySet]) -> Repetition:
    """Decides everything again under the version it was decided under.

    Raises:
        PolicyError: a version cannot be had; from ``at_version``.
    """
    found, policies = Repetition(), dict[PolicyVersion, PolicySet]()
    for old in decisions:
        if not old.by_policy:
            found.other_gates += 1
            continue
        if old.version not in policies:
            policies[old.version] = at_version(old.version)
        answer = _answer(policies[old.version], old)
        found.repeated += 1
        if (answer.permitted, answer.reasons) != (old.permitted, old.reasons):
            said = _say(old.permitted, old.reasons), _say(answer.permitted, answer.reasons)
            found.differences.append(Difference(old.index, old.version, *said))
    return found


@dataclass(frozen=True)
class Sample:
    """One decision that would flip."""

    index: int
    at: str
    what: str
    permitted: bool  # under the new version
    rules: tuple[str, ...]
    codes: tuple[str, ...]
    route: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        names = ("index", "at", "what", "permitted", "rules", "codes")
        return {name: getattr(self, name) for name in names} | {"route": dict(self.route)}


@dataclass
class Comparison:
    """What recorded decisions would be under a new version, against an old one."""

    considered: int = 0
    to_permit: int = 0
    to_refuse: int = 0
    other_reasons: int = 0  # refused by both, not for the same reasons
    other_duties: int = 0  # permitted by both, with other duties: masks, caps, smallest counts
    still_refused: int = 0  # the new policy would permit it, but another gate had refused it too
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)  # which way and rule, to flips
    origins: Counter[str] = field(default_factory=Counter)  # party, to flips that would let more of its data out
    samples: list[Sample] = field(default_factory=list)


def compare(decisions: Iterable[Recorded], old: PolicySet, new: PolicySet) -> Comparison:
    """Decides every recorded request under both versions."""
    found = Comparison()
    for record in decisions:
        before, after = _answer(old, record), _answer(new, record)
        found.considered += 1
        if before.permitted == after.permitted:
            found.other_reasons += before.reasons != after.reasons and not before.permitted
            found.other_duties += before.duties != after.duties
            continue
        if record.other and after.permitted:
            found.still_refused += 1
            continue
        found.to_permit += after.permitted
        found.to_refuse += not after.permitted
        way = "permits" if after.permitted else "refuses"
        rules = tuple(dict.fromkeys(given.rule for given in after.told))
        found.rules.update((way, rule) for rule in rules)
        if after.permitted:
            found.origins.update({facts.origin for facts in record.facts if facts.origin})
        if len(found.samples) < MAX_SAMPLES:
            codes = tuple(dict.fromkeys(given.code for given in after.told))
            at, route = record.at.isoformat(), route_of(record.facts[0])
            found.samples.append(Sample(record.index, at, record.what, after.permitted, rules, codes, route))
    return found


@dataclass(frozen=True)
class _Answer:
    permitted: bool
    told: tuple[Given, ...]  # by the decisions that decide: all when it permits, those that refuse when it refuses
    duties: tuple[Obligations, ...]

    @property
    def reasons(self) -> tuple[Given, ...]:
        """As the log has them: a permit has none."""
        return () if self.permitted else self.told


def _answer(policy: PolicySet, record: Recorded) -> _Answer:
    decisions: list[Decision] = [policy.decide(facts) for facts in record.facts]
    permitted = bool(decisions) and all(decision.permitted for decision in decisions)
    told = tuple(given for d in decisions if d.permitted == permitted for given in d.reasons)
    return _Answer(permitted, told, tuple(decision.obligations for decision in decisions))


def _say(permitted: bool, reasons: Iterable[Given]) -> str:
    return "permitted" if permitted else "refused: " + ", ".join(f"{given.code} ({given.rule})" for given in reasons)
