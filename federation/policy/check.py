"""What only all files together can show: names that do not exist, names twice, rules that can never fit.

A policy with one of these is refused as a whole: a forbid with a misspelt party would forbid nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from federation.policy.documents import (
    RULE_FILES,
    AgreementFile,
    CubesFile,
    OffersFile,
    PurposesFile,
    RulesFile,
    TrainingFile,
)
from federation.policy.specs import MAX_LABELS, BudgetSpec
from federation.policy.vocabulary import GATEWAY, ROLES
from federation.policy.yaml_text import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    file: str
    path: Path
    text: str
    rule: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Bundle:
    """All files of a policy, parsed."""

    agreement: AgreementFile
    purposes: PurposesFile
    offers: OffersFile
    cubes: CubesFile
    budget: BudgetSpec
    training: TrainingFile
    rules: Mapping[str, RulesFile] = field(default_factory=dict)  # by file

    @property
    def names(self) -> frozenset[str]:
        """What a rule or clause may call a party: ids, roles, "gateway"."""
        return frozenset(
            {party.id for party in self.agreement.parties} | {p.role for p in self.agreement.parties} | {GATEWAY}
        )

    @property
    def areas(self) -> frozenset[str]:
        """What a rule or transfer may call a place."""
        regions = self.purposes.regions
        return frozenset({r.id for r in regions} | {country for r in regions for country in r.countries})


def check_bundle(bundle: Bundle) -> Iterator[Problem]:
    """Everything that is wrong across the files."""
    yield from _parties(bundle)
    yield from _purposes(bundle)
    yield from _agreement(bundle)
    yield from _rules(bundle)
    yield from _limits(bundle)


def _twice(file: str, key: str, ids: Iterable[str], called: str = "id") -> Iterator[Problem]:
    seen: set[str] = set()
    for at, name in enumerate(ids):
        if name in seen:
            yield Problem(file, (key, at, called), f"{name} stands here twice")
        seen.add(name)


def _unknown(
    file: str, path: Path, words: Iterable[str] | None, known: Iterable[str], rule: str = ""
) -> Iterator[Problem]:
    allowed = sorted(known)
    for at, word in enumerate(words or ()):
        if word not in allowed:
            yield Problem(file, (*path, at), f"unknown {path[-1]} {word}; known are {', '.join(allowed)}", rule)


def _parties(bundle: Bundle) -> Iterator[Problem]:
    parties = bundle.agreement.parties
    matches = [rule.match for file in bundle.rules.values() for rule in file.rules]
    used = {name for clause in bundle.agreement.sharing for name in (*clause.origin, *clause.recipient)}
    used |= {name for match in matches for name in (*(match.origin or ()), *(match.recipient or ()))}
    yield from _twice("agreement.yaml", "parties", (party.id for party in parties))
    for at, party in enumerate(parties):
        if party.id in ROLES and party.id != party.role:
            yield Problem("agreement.yaml", ("parties", at, "id"), f"{party.id} is the name of another role")
        elif party.id == party.role and party.id in used and sum(other.role == party.role for other in parties) > 1:
            text = f"{party.id} is also the role of another party, and a clause or rule names it; call it otherwise"
            yield Problem("agreement.yaml", ("parties", at, "id"), text)
        if (labels := math.prod(map(len, party.columns.values()))) > MAX_LABELS:
            text = f"{labels} combinations of labels, at most {MAX_LABELS}: declare fewer columns or values"
            yield Problem("agreement.yaml", ("parties", at, "segments"), text)
        if party.columns and party.role != "partner":
            yield Problem("agreement.yaml", ("parties", at, "segments"), "only a partner has segments")
    if sum(party.role == "operator" for party in parties) != 1:
        yield Problem(
            "agreement.yaml", ("parties",), "there must be one operator: the gateway processes in its country"
        )


def _purposes(bundle: Bundle) -> Iterator[Problem]:
    file, regions = "purposes.yaml", bundle.purposes.regions
    yield from _twice(file, "purposes", (purpose.id for purpose in bundle.purposes.purposes))
    yield from _twice(file, "regions", (region.id for region in regions))
    laws = {region.jurisdiction for region in regions}
    seen: dict[str, str] = {}
    for at, region in enumerate(regions):
        for place, country in enumerate(region.countries):
            if seen.setdefault(country, region.id) != region.id:
                text = f"{country} is in region {seen[country]} already"
                yield Problem(file, ("regions", at, "countries", place), text)
        if len(region.id) == 2 and set(region.countries) != {region.id}:
            text = "a region with the name of a country must be that country alone"
            yield Problem(file, ("regions", at, "id"), text)
    for at, purpose in enumerate(bundle.purposes.purposes):
        for law in purpose.legal_basis:
            if law not in laws:
                yield Problem(file, ("purposes", at, "legal_basis", law), f"no region has jurisdiction {law}")


def _agreement(bundle: Bundle) -> Iterator[Problem]:
    file, purposes = "agreement.yaml", [purpose.id for purpose in bundle.purposes.purposes]
    yield from _twice(file, "sharing", (clause.id for clause in bundle.agreement.sharing))
    yield from _twice(file, "transfers", (transfer.id for transfer in bundle.agreement.transfers))
    for at, clause in enumerate(bundle.agreement.sharing):
        yield from _unknown(file, ("sharing", at, "origin"), clause.origin, bundle.names)
        yield from _unknown(file, ("sharing", at, "recipient"), clause.recipient, bundle.names)
        yield from _unknown(file, ("sharing", at, "purpose"), clause.purpose, purposes)
    for at, transfer in enumerate(bundle.agreement.transfers):
        yield from _unknown(file, ("transfers", at, "subject_region"), transfer.subject_region, bundle.areas)


def _rules(bundle: Bundle) -> Iterator[Problem]:
    purposes = [purpose.id for purpose in bundle.purposes.purposes]
    seen: set[str] = set()
    for file in RULE_FILES:
        for at, rule in enumerate(bundle.rules[file].rules):
            if rule.id in seen:
                yield Problem(file, ("rules", at, "id"), f"{rule.id} stands twice in the rules", rule.id)
            seen.add(rule.id)
            match, place = rule.match, ("rules", at, "match")
            outside = None if match.recipient_outside is None else (match.recipient_outside,)
            yield from _unknown(file, (*place, "purpose"), match.purpose, purposes, rule.id)
            yield from _unknown(file, (*place, "origin"), match.origin, bundle.names, rule.id)
            yield from _unknown(file, (*place, "recipient"), match.recipient, bundle.names, rule.id)
            yield from _unknown(file, (*place, "subject_region"), match.subject_region, bundle.areas, rule.id)
            yield from _unknown(file, (*place, "recipient_outside"), outside, bundle.areas, rule.id)
            yield from _unknown(file, (*place, "channel"), match.channel, bundle.offers.channels, rule.id)


def _limits(bundle: Bundle) -> Iterator[Problem]:
    purposes = [purpose.id for purpose in bundle.purposes.purposes]
    partners = {party.id: party for party in bundle.agreement.parties if party.role == "partner"}
    for name in bundle.budget.purposes:
        if name not in purposes:
            text = f"unknown purpose {name}; known are {', '.join(sorted(purposes))}"
            yield Problem("budget.yaml", ("purposes", name), text)
    if bundle.budget.period_end <= bundle.budget.period_start:
        yield Problem("budget.yaml", ("period_end",), "period_end must be after period_start")
    yield from _twice("offers.yaml", "products", (product.id for product in bundle.offers.products))
    for at, product in enumerate(bundle.offers.products):
        if product.owner not in partners:
            yield Problem("offers.yaml", ("products", at, "owner"), f"{product.owner} is not a partner")
    yield from _unknown("cubes.yaml", ("ad_hoc", "purposes"), bundle.cubes.ad_hoc.purposes, purposes)
    yield from _twice("cubes.yaml", "cubes", (cube.name for cube in bundle.cubes.cubes), called="name")
    for at, cube in enumerate(bundle.cubes.cubes):
        yield from _unknown("cubes.yaml", ("cubes", at, "partners"), cube.partners, partners)
        if len(set(cube.partners)) != len(cube.partners):
            yield Problem("cubes.yaml", ("cubes", at, "partners"), "a partner stands here twice")
        if cube.sum is not None:
            owner, _, segment = cube.sum.column.partition(".")
            values = partners[owner].columns.get(segment, ()) if owner in partners and owner in cube.partners else ()
            if set(values) != set(cube.sum.values):
                text = f"values must name each label of {cube.sum.column}: {', '.join(values) or 'no such column here'}"
                yield Problem("cubes.yaml", ("cubes", at, "sum", "values"), text)
        for place, column in enumerate(cube.by):
            owner, _, segment = column.partition(".")
            if owner not in cube.partners or owner not in partners or segment not in partners[owner].columns:
                text = f"{column} is not a segment of a partner of this cube"
                yield Problem("cubes.yaml", ("cubes", at, "by", place), text)
