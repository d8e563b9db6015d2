"""Expressions of Cedar, as text, with the meaning that conditions.py gives the same words."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from federation.policy.alliance import FOREVER, Alliance, Limit, Span
from federation.policy.documents import Conditions, ConsentNeed

Membership = Callable[[str, Iterable[str]], str]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    """A time as whole microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def texts(values: Iterable[str]) -> str:
    """A set of texts; not empty."""
    return json.dumps(sorted(values), ensure_ascii=True)


def every(parts: Sequence[str]) -> str:
    """All of them, left to right."""
    return " && ".join(f"({part})" for part in parts) if parts else "true"


def any_of(parts: Sequence[str]) -> str:
    """At least one of them."""
    return " || ".join(f"({part})" for part in parts) if parts else "false"


def is_in(name: str, values: Iterable[str]) -> str:
    """A fact is there and one of the values."""
    values = list(values)
    return f"context has {name} && {texts(values)}.contains(context.{name})" if values else "false"


def may_be_in(name: str, values: Iterable[str]) -> str:
    """A fact is one of the values or not there: a forbid that may fit fits."""
    values = list(values)
    inside = f"{texts(values)}.contains(context.{name})" if values else "false"
    return f"if context has {name} then {inside} else true"


def only(expression: str, values: Iterable[str]) -> str:
    """A set holds nothing but the values."""
    values = list(values)
    return f"{texts(values)}.containsAll({expression})" if values else f"{expression}.isEmpty()"


def within(period: Span) -> str:
    """The time is there and lies in a period."""
    return every(["context has at", *_bounds(period)])


def may_be_within(period: Span) -> str:
    """The time lies in a period or is not there."""
    return f"if context has at then {every(_bounds(period))} else true"


def _bounds(period: Span) -> list[str]:
    found = [] if period.start == FOREVER.start else [f"context.at >= {micros(period.start)}"]
    return found if period.end == FOREVER.end else [*found, f"context.at < {micros(period.end)}"]


def conditions(wanted: Conditions, tables: Alliance, masked: Sequence[str]) -> list[str]:
    """Every condition that is set; ``masked`` is what that condition says, worked out by the caller."""
    found: list[str] = []
    if wanted.legal_basis is not None:
        found.append(_legal_basis(frozenset(wanted.legal_basis), tables))
    if wanted.consent is not None:
        own = "sensitive_consent" if wanted.consent.about == "sensitive_fields" else "consent"
        if wanted.consent.at in {"origin", "both"}:
            found.append(_consent(own, wanted.consent, tables))
        if wanted.consent.at in {"recipient", "both"}:
            found.append(_consent("recipient_consent", wanted.consent, tables))
    if wanted.transfer_mechanism is not None:
        found.append(_transfer(frozenset(wanted.transfer_mechanism), tables))
    if wanted.no_objection:
        found.append("context has objected && !context.objected")
    if wanted.masked:
        found.extend(masked)
    return found


def _legal_basis(allowed: frozenset[str], tables: Alliance) -> str:
    ways = []
    for purpose in tables.dpv:
        countries = [c for c, law in tables.jurisdiction_of.items() if tables.basis.get((purpose, law)) in allowed]
        ways.append(every([is_in("purpose", [purpose]), is_in("subject_region", countries)]))
    return any_of(ways)


def _consent(name: str, need: ConsentNeed, tables: Alliance) -> str:
    it = f"context.{name}"
    has = ("status", "recipients", "given_at", "expires_at", "separate", "cross_border", "jurisdiction")
    parts = [f"context has {name}", *(f"{it} has {part}" for part in has), f'{it}.status == "given"', "context has at"]
    parts += [f"context.at >= {it}.given_at", f"context.at < {it}.expires_at"]
    laws: dict[str, list[str]] = {}
    for country, law in tables.jurisdiction_of.items():
        laws.setdefault(law, []).append(country)
    fits = "true"
    for law, countries in laws.items():
        taken = f"{it}.jurisdiction == {json.dumps(law)}"
        fits = f"if {texts(countries)}.contains(context.subject_region) then {taken} else ({fits})"
    parts.append(f"if context has subject_region then ({fits}) else true")
    if need.names_recipient:
        parts.append(f"context has recipient && {it}.recipients.contains(context.recipient)")
    if need.separate:
        parts.append(f"{it}.separate")
    if need.cross_border:
        parts.append(f"{it}.cross_border")
    return every(parts)


def _transfer(allowed: frozenset[str], tables: Alliance) -> str:
    """Within one region, or under a declared mechanism in force that is enough for the count."""

    def parties(countries: Iterable[str]) -> list[str]:
        wanted = set(countries)
        return [party for party, country in tables.countries.items() if country in wanted]

    regions: dict[str, list[str]] = {}
    for country, region in tables.region_of.items():
        regions.setdefault(region, []).append(country)
    ways = [every([is_in("subject_region", c), is_in("recipient", parties(c))]) for c in regions.values()]
    for (subject, recipient), declared in tables.transfers.items():
        ways += [
            every(
                [
                    is_in("subject_region", [subject]),
                    is_in("recipient", parties([recipient])),
                    within(period),
                    *(_enough(limit, category, transfer.mechanism) for category, limit in _limits(tables, subject)),
                ]
            )
            for period, transfer in declared
            if transfer.mechanism in allowed
        ]
    return any_of(ways)


def _limits(tables: Alliance, subject: str) -> list[tuple[str, Limit]]:
    return [(category, limit) for (country, category), limit in tables.limits.items() if country == subject]


def _enough(limit: Limit, category: str, mechanism: str) -> str:
    """For a category that is counted: the counts are there, of the year, and in a tier of the mechanism."""
    fits = ""
    for tier in limit.spec.tiers:
        room = [f"context.transfer_counts.people < {tier.people_below}"] if tier.people_below is not None else []
        if tier.sensitive_below is not None:
            room.append(f"context.transfer_counts.sensitive < {tier.sensitive_below}")
        answer = "true" if mechanism in tier.mechanism else "false"
        fits += f"if {every(room)} then {answer} else " if room else answer
        if not room:
            break  # whatever the counts are, they are in this tier
    counted = [
        "context has transfer_counts",
        *(f"context.transfer_counts has {n}" for n in ("year", "people", "sensitive")),
    ]
    year = "context has transfer_year && context.transfer_counts.year == context.transfer_year"
    return f"if {is_in('data_category', [category])} then {every([*counted, year, fits])} else true"
