"""Rules to closures, indexed by purpose and data category, so that a decision looks at the few rules it can need."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MappingProxyType

from federation.policy.alliance import FOREVER, Alliance, Span, start_of
from federation.policy.conditions import Concern, Condition, Masked, Setting, compile_conditions
from federation.policy.documents import Rule
from federation.policy.facts import Facts, Given, Obligations
from federation.policy.mask import KEEP
from federation.policy.vocabulary import DATA_CATEGORIES

Test = tuple[str, Callable[[Facts], str | None], frozenset[str]]
"""Name of a fact, how to read it, and the values that fit."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A rule that is ready to be asked."""

    id: str
    legal_ref: str
    message: str
    span: Span
    tests: tuple[Test, ...]
    concern: Concern | None  # which fields it is about, where it is about fields
    conditions: tuple[Condition, ...]
    duties: Obligations
    permitted: Given

    def unfit(self, facts: Facts) -> tuple[str, ...] | None:
        """None when a fact does not fit the rule; else the names of facts that are missing (empty: the rule fits)."""
        if self.concern is not None and not self.concern(facts):
            return None
        missing: tuple[str, ...] = ()
        for name, read, allowed in self.tests:
            value = read(facts)
            if value not in allowed:
                if value is not None:
                    return None
                missing = (*missing, name)
        return missing


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rules for one purpose and data category, in the order of the files."""

    forbids: tuple[Compiled, ...]
    permits: tuple[Compiled, ...]
    masked: frozenset[str]  # fields that permits mask, none of them letting it pass as it is


Index = dict[tuple[str, str], Bucket]


def compile_rules(rules: Iterable[Rule], purposes: Iterable[str], alliance: Alliance) -> Index:
    """The index of all rules over all known purposes and data categories."""
    rules, purposes = tuple(rules), tuple(purposes)
    masked = {
        (purpose, category): _masked(rules, purpose, category) for purpose in purposes for category in DATA_CATEGORIES
    }
    ready = [(rule, _compile(rule, alliance, masked)) for rule in rules]
    index: Index = {}
    for purpose in purposes:
        for category in DATA_CATEGORIES:
            fit = [(rule.effect, compiled) for rule, compiled in ready if _is_about(rule, purpose, category)]
            index[(purpose, category)] = Bucket(
                tuple(compiled for effect, compiled in fit if effect == "forbid"),
                tuple(compiled for effect, compiled in fit if effect == "permit"),
                masked[purpose, category],
            )
    return index


def _is_about(rule: Rule, purpose: str, category: str) -> bool:
    return (rule.match.purpose is None or purpose in rule.match.purpose) and (
        rule.match.data_category is None or category in rule.match.data_category
    )


def _masked(rules: Iterable[Rule], purpose: str, category: str) -> frozenset[str]:
    """Fields that a permit for this masks, and that none lets pass as they are."""
    found = [rule.require for rule in rules if rule.require is not None and _is_about(rule, purpose, category)]
    return frozenset(name for need in found for name in need.mask) - {name for need in found for name in need.fields}


def _concern(rule: Rule, alliance: Alliance) -> Concern | None:
    """How to find the fields of a request that a rule is about; None for a rule that is not about fields."""
    catalogue = alliance.catalogue
    classes, categories = frozenset(rule.match.field_class or ()), frozenset(rule.match.field_category or ())
    if not classes and not categories:
        return None

    def is_meant(name: str) -> bool:
        return (not classes or not classes.isdisjoint(catalogue.classes(name))) and (
            not categories or not categories.isdisjoint(catalogue.categories(name))
        )

    cleared = frozenset(name for name in catalogue.names if not is_meant(name))

    def concern(facts: Facts) -> frozenset[str]:
        rest = facts.fields - cleared
        return frozenset(name for name in rest if is_meant(name)) if rest else rest

    return concern


def _compile(rule: Rule, alliance: Alliance, masked: Masked) -> Compiled:
    start = start_of(rule.valid_from) if rule.valid_from else FOREVER.start
    end = start_of(rule.valid_to) if rule.valid_to else FOREVER.end
    conditions = rule.require if rule.effect == "permit" else rule.unless
    concern = _concern(rule, alliance)
    setting = Setting(alliance, concern or (lambda facts: facts.fields), masked)
    duties = Obligations()
    if rule.require is not None:
        mask = dict.fromkeys(rule.require.fields, KEEP) | dict(rule.require.mask)
        duties = Obligations(MappingProxyType(mask), rule.require.min_k, MappingProxyType(dict(rule.require.cap)))
    return Compiled(
        id=rule.id,
        legal_ref=rule.legal_ref,
        message=rule.message or "",
        span=Span(start, end),
        tests=_tests(rule, alliance),
        concern=concern,
        conditions=compile_conditions(conditions, setting) if conditions is not None else (),
        duties=duties,
        permitted=Given(rule.id, "permitted", rule.legal_description, rule.legal_ref),
    )


def _tests(rule: Rule, alliance: Alliance) -> tuple[Test, ...]:
    match, countries = rule.match, alliance.countries
    tests: list[Test] = []
    if (parties := alliance.parties(match.origin)) is not None:
        tests.append(("origin", lambda facts: facts.origin, parties))
    if (parties := alliance.parties(match.recipient)) is not None:
        tests.append(("recipient", lambda facts: facts.recipient, parties))
    if (residents := alliance.residents(match.subject_region)) is not None:
        tests.append(("subject_region", lambda facts: facts.subject_region, residents))
    if match.recipient_outside is not None:
        # A recipient whose country is not known reads as missing, so that a forbid takes it to be outside.
        inside = alliance.areas[match.recipient_outside]
        outside = frozenset(countries.values()) - inside
        tests.append(("recipient", lambda facts: countries.get(facts.recipient or ""), outside))
    if match.channel is not None:
        tests.append(("channel", lambda facts: facts.channel, frozenset(match.channel)))
    return tuple(tests)
