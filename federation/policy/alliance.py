"""What the agreement and the purposes say, as tables that a decision looks things up in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import NamedTuple

from federation.policy.catalogue import Catalogue
from federation.policy.documents import AgreementFile, Clause, Period, PurposesFile, Transfer
from federation.policy.limits import Tier, TransferLimit
from federation.policy.vocabulary import GATEWAY


class Span(NamedTuple):
    """A period as times; the end is exclusive."""

    start: datetime
    end: datetime

    def holds(self, at: datetime) -> bool:
        """Whether the time lies in it."""
        return self.start <= at < self.end


FOREVER = Span(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def start_of(day: date) -> datetime:
    """Midnight UTC at the start of a day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def span(period: Period) -> Span:
    """The period of a clause or transfer."""
    return Span(start_of(period.valid_from), start_of(period.valid_to))


class Limit(NamedTuple):
    """A limit on transfers, ready to be asked."""

    spec: TransferLimit
    zone: timezone

    def year(self, at: datetime) -> int:
        """The year that a time is in where the law holds."""
        return at.astimezone(self.zone).year

    def tier(self, people: int, sensitive: int) -> Tier:
        """The first tier that has room for the counts."""
        return next(
            tier
            for tier in self.spec.tiers
            if (tier.people_below is None or people < tier.people_below)
            and (tier.sensitive_below is None or sensitive < tier.sensitive_below)
        )


Route = tuple[str, str, str, str]
"""Origin, recipient, purpose, data category."""


@dataclass(frozen=True)
class Alliance:
    """Lookups; everything that is not in them is not allowed."""

    countries: Mapping[str, str]  # recipient to where it processes; "gateway" included
    members: Mapping[str, frozenset[str]]  # party id or role to parties
    areas: Mapping[str, frozenset[str]]  # region or country to countries
    region_of: Mapping[str, str]  # country to region
    jurisdiction_of: Mapping[str, str]  # country to law
    basis: Mapping[tuple[str, str], str]  # purpose and law to legal basis
    clauses: Mapping[Route, tuple[tuple[Span, Clause], ...]]
    transfers: Mapping[tuple[str, str], tuple[tuple[Span, Transfer], ...]]  # subject country, recipient country
    limits: Mapping[tuple[str, str], Limit]  # subject country and data category to what bounds transfers out of it
    catalogue: Catalogue
    dpv: Mapping[str, str]  # purpose to its DPV term

    def shown_purpose(self, purpose: str | None) -> str:
        """A purpose for people: the short name and DPV's."""
        term = self.dpv.get(purpose or "")
        return f"{purpose} ({term})" if term else str(purpose)

    def parties(self, names: Iterable[str] | None) -> frozenset[str] | None:
        """Party ids that names (ids or roles) stand for; None stands for everybody."""
        return None if names is None else frozenset().union(*(self.members[name] for name in names))

    def residents(self, areas: Iterable[str] | None) -> frozenset[str] | None:
        """Countries that areas stand for; None stands for all."""
        return None if areas is None else frozenset().union(*(self.areas[area] for area in areas))


def build_alliance(agreement: AgreementFile, purposes: PurposesFile, limits: Iterable[TransferLimit] = ()) -> Alliance:
    """Expands roles and regions. The files were checked: every name in them is known."""
    countries = {party.id: party.country for party in agreement.parties}
    countries[GATEWAY] = next(party.country for party in agreement.parties if party.role == "operator")
    members: dict[str, set[str]] = {GATEWAY: {GATEWAY}}
    for party in agreement.parties:
        members.setdefault(party.role, set()).add(party.id)
    for party in agreement.parties:
        members[party.id] = {party.id}  # never another party of a role with that name: see check.py
    areas = {country: frozenset({country}) for region in purposes.regions for country in region.countries}
    areas |= {region.id: frozenset(region.countries) for region in purposes.regions}
    clauses: dict[Route, list[tuple[Span, Clause]]] = {}
    for clause in agreement.sharing:
        for origin in sorted({party for name in clause.origin for party in members[name]}):
            for recipient in sorted({party for name in clause.recipient for party in members[name]}):
                for purpose in clause.purpose:
                    for category in clause.data_category:
                        route = (origin, recipient, purpose, category)
                        clauses.setdefault(route, []).append((span(clause), clause))
    transfers: dict[tuple[str, str], list[tuple[Span, Transfer]]] = {}
    for transfer in agreement.transfers:
        for subject in sorted({country for area in transfer.subject_region for country in areas[area]}):
            for recipient in transfer.recipient_country:
                transfers.setdefault((subject, recipient), []).append((span(transfer), transfer))
    return Alliance(
        countries=countries,
        members={name: frozenset(ids) for name, ids in members.items()},
        areas=areas,
        region_of={country: region.id for region in purposes.regions for country in region.countries},
        jurisdiction_of={country: region.jurisdiction for region in purposes.regions for country in region.countries},
        basis={(purpose.id, law): basis for purpose in purposes.purposes for law, basis in purpose.legal_basis.items()},
        clauses={route: tuple(found) for route, found in clauses.items()},
        transfers={pair: tuple(found) for pair, found in transfers.items()},
        limits={
            (country, category): Limit(limit, timezone(timedelta(hours=limit.utc_offset_hours)))
            for limit in limits
            for country in sorted(areas[limit.subject_region])
            for category in limit.data_category
        },
        catalogue=Catalogue(purposes.fields),
        dpv={purpose.id: purpose.dpv for purpose in purposes.purposes},
    )
