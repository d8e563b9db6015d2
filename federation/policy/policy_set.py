"""A whole policy under one version, and the decision.

Guarantees: forbid beats permit; without a permit, without a clause of the agreement, or with input missing, the answer
is deny; every reason is given; the same facts under the same version always give the same decision. It reads no clock:
``Facts.at`` is the time of the request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from federation.core.ids import PolicyVersion
from federation.policy.alliance import Alliance
from federation.policy.compile import Bucket, Compiled, Index
from federation.policy.conditions import Failure, absent
from federation.policy.documents import Rule
from federation.policy.facts import Decision, Facts, Given, Obligations, is_time
from federation.policy.specs import AdHocSpec, BudgetSpec, CubeSpec, OfferSpec, PartySpec, TrainingSpec
from federation.policy.transfers import Export, export_of

NO_DUTIES = Obligations()
_NO_RULES = Bucket((), (), frozenset())


@dataclass(frozen=True)
class PolicySet:
    """Everything that compliance declared. Made by ``load_policy`` only."""

    version: PolicyVersion
    alliance: str
    parties: Mapping[str, PartySpec]  # by id
    cubes: Mapping[str, CubeSpec]  # by name
    ad_hoc: AdHocSpec
    budget: BudgetSpec
    training: TrainingSpec
    offers: OfferSpec
    rules: tuple[Rule, ...]
    files: Mapping[str, str]  # name to YAML text
    _tables: Alliance = field(repr=False)
    _index: Index = field(repr=False)

    @property
    def partners(self) -> tuple[str, ...]:
        """Ids of the partners in the order of the agreement."""
        return tuple(party.id for party in self.parties.values() if party.role == "partner")

    @property
    def countries(self) -> Mapping[str, str]:
        """Where each recipient processes; "gateway" included."""
        return self._tables.countries

    @property
    def region_of(self) -> Mapping[str, str]:
        """Which region a country belongs to."""
        return self._tables.region_of

    @property
    def tables(self) -> Alliance:
        """Lookups that decisions are made with, for tools that show the policy in another form."""
        return self._tables

    @property
    def index(self) -> Index:
        """The compiled rules by purpose and data category, for such tools."""
        return self._index

    def export(self, facts: Facts) -> Export | None:
        """What to count before a decision about these facts, None when their transfer is not counted."""
        return export_of(facts, self._tables)

    def decide(self, facts: Facts) -> Decision:
        """Permit or deny with every reason; never raises for missing input.

        Args:
            facts: The request.

        Returns:
            The decision. When it permits, its reasons name the permits, and its obligations must be carried out.
        """
        reasons = _Reasons()
        _usable(facts, reasons)
        self._agreement(facts, reasons)
        bucket = self._index.get((facts.purpose or "", facts.data_category or ""), _NO_RULES)
        satisfied = _permit(bucket.permits, facts, reasons)
        _forbid(bucket.forbids, facts, reasons)
        if reasons.found:
            return Decision(False, tuple(reasons.found.values()), NO_DUTIES, self.version)
        return Decision(True, tuple(rule.permitted for rule in satisfied), _duties(satisfied), self.version)

    def _agreement(self, facts: Facts, reasons: "_Reasons") -> None:
        """The contract must cover the route at that time, whatever the rules say."""
        if not (facts.origin and facts.recipient and facts.purpose and facts.data_category):
            return  # already refused as missing
        clauses = self._tables.clauses.get((facts.origin, facts.recipient, facts.purpose, facts.data_category), ())
        if not clauses:
            text = f"The agreement has no clause for {_route(facts)}."
            reasons.add("agreement", "no_agreement", text)
            return
        if facts.at is None or not is_time(facts.at):
            return
        for period, _ in clauses:
            if period.holds(facts.at):
                return
        for period, clause in clauses:
            code = "agreement_expired" if facts.at >= period.end else "agreement_not_yet_valid"
            text = f"Clause {clause.id} of the agreement holds from {clause.valid_from} to before {clause.valid_to}."
            reasons.add("agreement", code, text, clause.reference)


def _usable(facts: Facts, reasons: "_Reasons") -> None:
    """Adds what every request must have and this one has not."""
    missing = [name for name in ("purpose", "data_category", "origin", "recipient") if not getattr(facts, name)]
    if not is_time(facts.at):
        missing.append("at")
    for name in missing:
        reasons.add("default", *absent(name))


def _forbid(rules: Sequence[Compiled], facts: Facts, reasons: "_Reasons") -> None:
    """Adds the reasons of every forbid that fits, or that might fit because a fact is missing."""
    at = facts.at
    for rule in rules:
        if at is not None and is_time(at) and not rule.span.holds(at):
            continue
        missing = rule.unfit(facts)
        if missing is None:
            continue
        failed: list[Failure] = []
        for condition in rule.conditions:
            condition(facts, failed)
        if not rule.conditions:
            failed = [absent(name) for name in missing] or [("forbidden", f"This is forbidden: {_route(facts)}.")]
        reasons.add_all(rule, failed)


def _permit(rules: Sequence[Compiled], facts: Facts, reasons: "_Reasons") -> list[Compiled]:
    """Permits that fit and are satisfied. If there is none, adds why every one that fits is not."""
    satisfied: list[Compiled] = []
    unmet: list[tuple[Compiled, list[Failure]]] = []
    for rule in rules:
        missing = rule.unfit(facts)
        if missing is None:
            continue
        failed = [absent(name) for name in missing]
        if not failed:
            if facts.at is not None and is_time(facts.at) and not rule.span.holds(facts.at):
                failed.append(("rule_not_in_force", f"Rule {rule.id} is not in force on {facts.at:%Y-%m-%d}."))
            for condition in rule.conditions:
                condition(facts, failed)
            if not facts.fields <= rule.duties.mask.keys():
                names = ", ".join(sorted(facts.fields - rule.duties.mask.keys()))
                failed.append(("field_not_allowed", f"These fields may not pass: {names}."))
        if failed:
            unmet.append((rule, failed))
        else:
            satisfied.append(rule)
    if not satisfied:
        for rule, failed in unmet:
            reasons.add_all(rule, failed)
        if not unmet:
            reasons.add("default", "no_permit", f"No rule permits this: {_route(facts)}.")
    return satisfied


def _duties(satisfied: Sequence[Compiled]) -> Obligations:
    """The duties of all satisfied permits together: the stricter of each; masks that differ become ``drop``."""
    first = satisfied[0].duties
    if len(satisfied) == 1:
        return first
    duties = [rule.duties for rule in satisfied]
    shared = [name for name in first.mask if all(name in duty.mask for duty in duties)]
    masks = {name: {duty.mask[name] for duty in duties} for name in shared}
    caps = [(name, cap) for duty in duties for name, cap in duty.cap.items()]
    floors = [duty.min_k for duty in duties if duty.min_k is not None]
    return Obligations(
        MappingProxyType({name: found.pop() if len(found) == 1 else "drop" for name, found in masks.items()}),
        max(floors, default=None),
        MappingProxyType({name: min(cap for other, cap in caps if other == name) for name, _ in caps}),
    )


class _Reasons:
    """Reasons of one denial: each thing that decided once, under the first rule that named it."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: dict[Failure, Given] = {}

    def add(self, rule: str, code: str, text: str, legal_ref: str = "") -> None:
        """Adds a reason that is no rule's."""
        self.found.setdefault((code, text), Given(rule, code, text, legal_ref))

    def add_all(self, rule: Compiled, failed: Sequence[Failure]) -> None:
        """Adds what failed of one rule."""
        for code, text in failed:
            shown = f"{rule.message} {text}" if rule.message else text
            self.found.setdefault((code, text), Given(rule.id, code, shown, rule.legal_ref))


def _route(facts: Facts) -> str:
    """The request in a few words."""
    text = f"{facts.data_category} from {facts.origin} to {facts.recipient} for {facts.purpose}"
    text += f" by {facts.channel}" if facts.channel else ""
    return text + (f" (resident of {facts.subject_region})" if facts.subject_region else "")
