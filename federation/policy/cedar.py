"""The same policy as Cedar, with a schema, for judges and for those who use Cedar already.

``export_cedar`` gives policies and schema; ``cedar_request`` is the small adapter from facts to a request. The rules
are in Cedar: matches, conditions, the agreement, periods, counts and thresholds. What the adapter works out beforehand,
because Cedar has no word for it, is this and no more:

- times are whole microseconds since 1970 (Cedar's own have milliseconds); one without a zone is left out, as if it were
  missing;
- ``field_classes``, ``field_categories`` and ``class_fields`` are what the catalogue says of the fields that the
  request carries;
- ``transfer_year`` is the calendar year of the request where transfers are counted.

Whatever is missing in the facts is missing in the request. Always evaluate with the schema: without one, an evaluation
error in a forbid lets the forbid lapse. Countries and parties are written out, so there are no entities to keep.
Decisions agree with ours; obligations and reasons are ours alone.
Source: https://docs.cedarpolicy.com/policies/syntax-policy.html and https://docs.cedarpolicy.com/schema/human-readable-schema.html
"""

import json
from typing import Any, Final

from federation.policy import cedar_terms as say
from federation.policy.alliance import FOREVER, Alliance, Span, start_of
from federation.policy.documents import Clause, Rule
from federation.policy.facts import ConsentFact, Facts, is_time
from federation.policy.policy_set import PolicySet
from federation.policy.vocabulary import JRT_CLASSES

ACTION: Final = 'Action::"share"'
NEEDED: Final = ("purpose", "data_category", "origin", "recipient", "at")
SCHEMA: Final = """\
entity Party;
entity Release;
type Consent = {
  status?: String,
  recipients?: Set<String>,
  given_at?: Long,
  expires_at?: Long,
  separate?: Bool,
  cross_border?: Bool,
  jurisdiction?: String,
};
type TransferCounts = {
  year?: Long,
  people?: Long,
  sensitive?: Long,
};
type ClassFields = {
  C1: Set<String>,
  C2: Set<String>,
  C3: Set<String>,
};
action "share" appliesTo {
  principal: [Party],
  resource: [Release],
  context: {
    purpose?: String,
    data_category?: String,
    origin?: String,
    recipient?: String,
    at?: Long,
    transfer_year?: Long,
    channel?: String,
    subject_region?: String,
    consent?: Consent,
    recipient_consent?: Consent,
    sensitive_consent?: Consent,
    objected?: Bool,
    transfer_counts?: TransferCounts,
    fields: Set<String>,
    field_classes: Set<String>,
    field_categories: Set<String>,
    class_fields: ClassFields,
  },
};
"""
"""Every fact is optional: a request that lacks one is valid, and the policies must deny it."""


def export_cedar(policy: PolicySet) -> tuple[str, str]:
    """The policies and the schema, as text."""
    parts = [
        _policy("default", "forbid", "unless", say.every([f"context has {name}" for name in NEEDED])),
        _policy("agreement", "forbid", "unless", _agreement(policy.tables)),
        *(_rule(rule, policy) for rule in policy.rules),
    ]
    return "\n".join(parts), SCHEMA


def cedar_request(facts: Facts, policy: PolicySet) -> dict[str, Any]:
    """A request for ``cedarpy.is_authorized``."""
    catalogue, fields = policy.tables.catalogue, sorted(facts.fields)
    context: dict[str, Any] = {
        "fields": fields,
        "field_classes": sorted({c for name in fields for c in catalogue.classes(name)}),
        "field_categories": sorted({c for name in fields for c in catalogue.categories(name)}),
        "class_fields": {c: [name for name in fields if c in catalogue.classes(name)] for c in JRT_CLASSES},
        "transfer_counts": _present(facts.transfer_counts, ("year", "people", "sensitive")),
    }
    for name in ("purpose", "data_category", "origin", "recipient", "channel", "subject_region", "objected"):
        context[name] = getattr(facts, name)
    if facts.at is not None and is_time(facts.at):
        context["at"] = say.micros(facts.at)
        limit = policy.tables.limits.get((facts.subject_region or "", facts.data_category or ""))
        context["transfer_year"] = limit.year(facts.at) if limit is not None else None
    for name in ("consent", "recipient_consent", "sensitive_consent"):
        context[name] = _present(getattr(facts, name), ConsentFact.__slots__)
    known = {name: value for name, value in context.items() if value is not None}
    return {"principal": 'Party::"origin"', "action": ACTION, "resource": 'Release::"one"', "context": known}


def _present(record: object, names: tuple[str, ...]) -> dict[str, Any] | None:
    """A record's values that are there, as Cedar takes them; None for no record."""
    if record is None:
        return None
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(record, name)
        if isinstance(value, frozenset):
            found[name] = sorted(value)
        elif name.endswith("_at"):
            if is_time(value):
                found[name] = say.micros(value)
        elif value is not None:
            found[name] = value
    return found


def _policy(name: str, effect: str, word: str, text: str, law: str = "") -> str:
    noted = f"@law({json.dumps(law)})\n" if law else ""
    return f'@id("{name}")\n{noted}{effect} (principal, action == {ACTION}, resource)\n{word} {{\n  {text}\n}};\n'


def _agreement(tables: Alliance) -> str:
    """Some clause covers the route at the time."""
    clauses: dict[str, tuple[Span, Clause, dict[str, set[str]]]] = {}
    for (origin, recipient, _, _), found in tables.clauses.items():
        for period, clause in found:
            routes = clauses.setdefault(clause.id, (period, clause, {}))[2]
            routes.setdefault(origin, set()).add(recipient)
    return say.any_of(
        [
            say.every(
                [
                    say.is_in("purpose", clause.purpose),
                    say.is_in("data_category", clause.data_category),
                    say.any_of(
                        [say.every([say.is_in("origin", [o]), say.is_in("recipient", r)]) for o, r in ways.items()]
                    ),
                    say.within(period),
                ]
            )
            for period, clause, ways in clauses.values()
        ]
    )


def _rule(rule: Rule, policy: PolicySet) -> str:
    tables, need = policy.tables, rule.require
    start = start_of(rule.valid_from) if rule.valid_from else FOREVER.start
    end = start_of(rule.valid_to) if rule.valid_to else FOREVER.end
    if rule.effect == "permit":
        passing = [*need.fields, *need.mask] if need is not None else []
        parts = [*_matches(rule, tables, say.is_in), say.within(Span(start, end)), say.only("context.fields", passing)]
        parts += say.conditions(need, tables, ()) if need is not None else []
        return _policy(rule.id, "permit", "when", say.every(parts), rule.legal_ref)
    parts = [*_matches(rule, tables, say.may_be_in), say.may_be_within(Span(start, end))]
    if rule.unless is not None:
        lifted = say.conditions(rule.unless, tables, _masked(rule, policy) if rule.unless.masked else ())
        parts.append(f"!({say.every(lifted)})")
    return _policy(rule.id, "forbid", "when", say.every(parts), rule.legal_ref)


def _matches(rule: Rule, tables: Alliance, is_in: say.Membership) -> list[str]:
    """What a request must be for the rule to be about it."""
    match = rule.match
    found = [
        is_in(name, sorted(values))
        for name, values in (
            ("purpose", match.purpose),
            ("data_category", match.data_category),
            ("origin", tables.parties(match.origin)),
            ("recipient", tables.parties(match.recipient)),
            ("subject_region", tables.residents(match.subject_region)),
            ("channel", match.channel),
        )
        if values is not None
    ]
    if match.recipient_outside is not None:
        inside = tables.areas[match.recipient_outside]
        if is_in is say.is_in:
            found.append(
                is_in("recipient", sorted(p for p, country in tables.countries.items() if country not in inside))
            )
        else:  # a recipient whose country is not known is taken to be outside
            known = sorted(party for party, country in tables.countries.items() if country in inside)
            found.append(f"!({say.is_in('recipient', known)})")
    if match.field_class is not None:
        found.append(f"context.field_classes.containsAny({say.texts(match.field_class)})")
    if match.field_category is not None:
        found.append(f"context.field_categories.containsAny({say.texts(match.field_category)})")
    return found


def _masked(rule: Rule, policy: PolicySet) -> tuple[str, ...]:
    """For a rule that asks for masks: that each field of its classes is masked, purpose by purpose."""
    ways = []
    for (purpose, category), bucket in policy.index.items():
        if rule.id not in {compiled.id for compiled in bucket.forbids}:
            continue
        masked = sorted(bucket.masked)
        about = [say.is_in("purpose", [purpose]), say.is_in("data_category", [category])]
        ways.append(
            say.every([*about, *(say.only(f"context.class_fields.{c}", masked) for c in rule.match.field_class or ())])
        )
    return (say.any_of(ways),)
