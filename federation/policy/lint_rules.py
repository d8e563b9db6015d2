"""Warnings about a policy that loads: what has ended or soon will, and what can decide nothing."""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from federation.policy.alliance import Alliance, start_of
from federation.policy.check import Bundle, Problem
from federation.policy.documents import RULE_FILES, Rule

ENDS_SOON = timedelta(days=30)
STATISTICS = "overlap_statistics"
"""What declared cubes are paid for."""
ABOUT_NOBODY = frozenset({"aggregate_statistics", "model"})
"""Categories in which nobody's own data leaves."""
ABSURD_COUNT = 1_000_000
"""A threshold above which a table of people shows next to nothing."""
UNSERVED = "Add a permit to rules.yaml, or take it out."


def warnings(bundle: Bundle, tables: Alliance, at: datetime) -> Iterator[Problem]:
    """Everything to say about a policy without errors, if it were in force at a time."""
    yield from _ends(bundle, at)
    yield from _unpayable(bundle)
    yield from _unshown(bundle)
    yield from _unasked(bundle)
    yield from _idle_rules(bundle, tables, at)
    yield from _shadowed(bundle, tables)
    yield from _unserved(bundle, tables)
    yield from _uncatalogued(bundle, tables)


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


def _unpayable(bundle: Bundle) -> Iterator[Problem]:
    """Limits above what the whole period has, and tables that cost more than their purpose may ever spend."""
    budget = bundle.budget
    for purpose, limit in budget.purposes.items():
        if limit > budget.epsilon:
            text = f"{purpose} may spend {limit:g}, but everything together {budget.epsilon:g}"
            yield Problem("budget.yaml", ("purposes", purpose), text, fix="Lower it, or raise epsilon.")

    def most(purpose: str) -> float:
        return min(budget.purposes.get(purpose, 0.0), budget.epsilon)

    def dear(what: str, cost: float, purpose: str) -> str:
        return f"{what} costs epsilon {cost:g}, but {purpose} may spend {most(purpose):g} in the period"

    for at, cube in enumerate(bundle.cubes.cubes):
        if cube.epsilon > most(STATISTICS):
            text, fix = (
                dear(cube.name, cube.epsilon, STATISTICS),
                "Lower it, or raise the purpose's limit in budget.yaml.",
            )
            yield Problem("cubes.yaml", ("cubes", at, "epsilon"), f"{text}; it is never released", fix=fix)
    ad_hoc = bundle.cubes.ad_hoc
    for purpose in ad_hoc.purposes if ad_hoc.allowed else ():
        if ad_hoc.max_epsilon > most(purpose):
            text = dear("the dearest question of one's own", ad_hoc.max_epsilon, purpose)
            yield Problem("cubes.yaml", ("ad_hoc", "max_epsilon"), text, fix="Lower it, or raise the purpose's limit.")


def _unshown(bundle: Bundle) -> Iterator[Problem]:
    """Thresholds that hardly any number passes."""
    places: list[tuple[tuple[str | int, ...], int]] = [
        (("cubes", at, "min_count"), cube.min_count) for at, cube in enumerate(bundle.cubes.cubes)
    ]
    for path, count in [*places, (("ad_hoc", "min_count"), bundle.cubes.ad_hoc.min_count)]:
        if count > ABSURD_COUNT:
            text = f"no number under {count:,} people is shown, so hardly any is, and each is paid for all the same"
            yield Problem("cubes.yaml", path, text, fix="Write the smallest number of people that may be shown.")


def _idle_rules(bundle: Bundle, tables: Alliance, at: datetime) -> Iterator[Problem]:
    """Rules that cannot matter: out of date, fitting no recipient, or permits that no clause allows."""
    for file in RULE_FILES:
        for place, rule in enumerate(bundle.rules[file].rules):
            where = ("rules", place, "match")
            if rule.valid_to is not None and start_of(rule.valid_to) <= at:
                text, fix = f"the rule ended on {rule.valid_to}", "Prolong it, or take it out."
                yield Problem(file, ("rules", place, "valid_to"), text, rule.id, fix)
            if not _recipients(rule, tables):
                text = "no recipient fits the rule; it can never match"
                yield Problem(
                    file, where, text, rule.id, "Name a recipient that is outside, or drop recipient_outside."
                )
            elif rule.effect == "permit" and not _agreed(rule, tables):
                text = "no clause of the agreement allows what the rule permits; it can never match"
                fix = "Add a clause under sharing in agreement.yaml, or take the rule out."
                yield Problem(file, where, text, rule.id, fix)
            elif rule.effect == "permit" and not _has_basis(rule, tables):
                text = "no purpose of the rule has one of its legal bases for anybody it covers; it can never match"
                fix = "Give the purpose the basis in purposes.yaml, or name the basis that it has."
                yield Problem(file, ("rules", place, "require", "legal_basis"), text, rule.id, fix)


def _unasked(bundle: Bundle) -> Iterator[Problem]:
    """Permits for people's own data that ask for nobody's consent."""
    for file in RULE_FILES:
        for place, rule in enumerate(bundle.rules[file].rules):
            personal = sorted(set(rule.match.data_category or ()) - ABOUT_NOBODY)
            if rule.effect == "permit" and personal and (rule.require is None or rule.require.consent is None):
                text = f"lets {', '.join(personal)} go without the person's consent"
                fix = "Ask for it under require, unless the law has another basis for it."
                yield Problem(file, ("rules", place, "require"), text, rule.id, fix)


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


def _has_basis(rule: Rule, tables: Alliance) -> bool:
    """Whether somebody's law gives a purpose of the rule a basis that it asks for."""
    if rule.require is None or rule.require.legal_basis is None:
        return True
    countries = tables.residents(rule.match.subject_region)
    laws = {law for country, law in tables.jurisdiction_of.items() if countries is None or country in countries}
    found = {tables.basis.get((purpose, law)) for purpose in rule.match.purpose or tables.dpv for law in laws}
    return not found.isdisjoint(rule.require.legal_basis)


def _shadowed(bundle: Bundle, tables: Alliance) -> Iterator[Problem]:
    """Rules that another rule leaves nothing to decide."""
    placed = [(file, at, rule) for file in RULE_FILES for at, rule in enumerate(bundle.rules[file].rules)]
    for number, (file, at, rule) in enumerate(placed):
        for other_number, (other_file, _, other) in enumerate(placed):
            if rule is other or not _covers(other, rule, tables):
                continue
            absolute = other.effect == "forbid" and other.unless is None
            if absolute and rule.effect == "permit":
                text, fix = (
                    f"{other.id} in {other_file} forbids all that it permits",
                    "Narrow the forbid, or take one out.",
                )
            elif absolute or (other.effect == rule.effect and _same_needs(other, rule)):
                if _covers(rule, other, tables) and _same_needs(other, rule) and number < other_number:
                    continue  # of two that say the same, the later one is told
                text, fix = (
                    f"{other.id} in {other_file} decides all that it would decide",
                    "Take it out, or tell them apart.",
                )
            else:
                continue
            yield Problem(file, ("rules", at, "match"), f"shadowed: {text}", rule.id, fix)
            break


def _same_needs(one: Rule, other: Rule) -> bool:
    return (one.require, one.unless) == (other.require, other.unless)


def _covers(wide: Rule, narrow: Rule, tables: Alliance) -> bool:
    """Whether every request and every time that the narrow rule fits, the wide rule fits as well."""

    def within(outer: Collection[str] | None, inner: Collection[str] | None) -> bool:
        return outer is None or (inner is not None and set(inner) <= set(outer))

    a, b = wide.match, narrow.match
    return (
        all(within(getattr(a, key), getattr(b, key)) for key in ("purpose", "data_category", "channel"))
        and within(tables.parties(a.origin), tables.parties(b.origin))
        and _recipients(narrow, tables) <= _recipients(wide, tables)
        # A recipient that is not known fits a rule about the outside only.
        and (a.recipient is None or b.recipient is not None)
        and (a.recipient_outside is None or b.recipient is not None or a.recipient_outside == b.recipient_outside)
        and within(tables.residents(a.subject_region), tables.residents(b.subject_region))
        # An entry that is in none of the catalogue's lists fits both, so the wider list covers the narrower one.
        and within(a.field_category, b.field_category)
        and within(a.field_class, b.field_class)
        and (wide.valid_from is None or (narrow.valid_from is not None and wide.valid_from <= narrow.valid_from))
        and (wide.valid_to is None or (narrow.valid_to is not None and narrow.valid_to <= wide.valid_to))
    )


def _uncatalogued(bundle: Bundle, tables: Alliance) -> Iterator[Problem]:
    """Fields in use that the catalogue does not know, where there is a catalogue."""
    if not bundle.purposes.fields:
        return
    fix = "Add it under fields in purposes.yaml."
    used = [("offers.yaml", ("attributes", at), name) for at, name in enumerate(bundle.offers.attributes)]
    used += [("training.yaml", ("features", at), name) for at, name in enumerate(bundle.training.features)]
    for file, path, name in used:
        if tables.catalogue.entry(name) is None:
            text = f"{name} is not in the catalogue of fields, and counts as everything that a rule forbids"
            yield Problem(file, path, text, fix=fix)


def _unserved(bundle: Bundle, tables: Alliance) -> Iterator[Problem]:
    """Purposes, clauses and offer fields that no permit serves."""
    permits = [rule for file in RULE_FILES for rule in bundle.rules[file].rules if rule.effect == "permit"]
    for place, purpose in enumerate(bundle.purposes.purposes):
        if not any(purpose.id in (rule.match.purpose or ()) for rule in permits):
            text = f"no rule permits anything for {purpose.id}"
            yield Problem("purposes.yaml", ("purposes", place, "id"), text, fix=UNSERVED)
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
            yield Problem("agreement.yaml", ("sharing", place, "id"), text, fix=UNSERVED)
    passing = {
        name
        for rule in permits
        if rule.require is not None and "offer" in (rule.match.data_category or ())
        for name in (*rule.require.fields, *rule.require.mask)
    }
    for place, name in enumerate(bundle.offers.attributes):
        if name not in passing:
            text, fix = (
                f"no rule lets an offer carry {name}",
                "Name it under require in a permit for offers, or drop it.",
            )
            yield Problem("offers.yaml", ("attributes", place), text, fix=fix)
