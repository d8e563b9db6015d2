"""What a decision about an offer is about: the consent and residence that the gateway knows at both ends."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from federation.core.ids import Handle, PartyId, PolicyVersion, Token
from federation.offers.offer import PURPOSE
from federation.policy.facts import ConsentFact, Decision, Facts, TransferCounts
from federation.policy.specs import OfferSpec
from federation.policy.transfers import Export
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX
from gateway.consent.store import ConsentStore
from gateway.policy.transfers import TransferStore

DATA_CATEGORY = "offer"


class Terms(Protocol):
    """One pinned policy version: its rules for offers and its decisions."""

    @property
    def version(self) -> PolicyVersion:
        """Which."""
        ...

    @property
    def offers(self) -> OfferSpec:
        """The business rules."""
        ...

    @property
    def partners(self) -> tuple[str, ...]:
        """Partners of the agreement."""
        ...

    def decide(self, facts: Facts) -> Decision:
        """Permit or deny with reasons."""
        ...

    def export(self, facts: Facts) -> Export | None:
        """What to count before a decision about these facts; None when their transfer is not counted."""
        ...


class Switchboard(Protocol):
    """Who is the same person, among people with live consent at each party."""

    def person(self, party: PartyId, handle: Handle) -> Token | None:
        """The person that a party calls by a handle."""
        ...

    def handle_at(self, token: Token, party: PartyId) -> Handle | None:
        """A party's handle of a person."""
        ...


@dataclass(frozen=True)
class Route:
    """One offer's way, as far as a decision needs it."""

    origin: PartyId
    handle: Handle
    recipient: PartyId
    channel: str
    fields: Iterable[str]


class FactFinder:
    """Collects the facts of offers from the consent store and the count of transfers."""

    def __init__(self, consents: ConsentStore, transfers: TransferStore) -> None:
        self._consents, self._transfers = consents, transfers

    def full(self, route: Route, recipient_handle: Handle | None, at: datetime, terms: Terms) -> Facts:
        """Everything that decides, with the consent at both ends."""
        there, objected = None, False
        if recipient_handle is not None:
            there = self._consents.get(route.recipient, recipient_handle, PURPOSE)
            objected = self._objected(route.recipient, recipient_handle)
        facts = self._facts(route, there.fact if there else None, at, objected_there=objected)
        export = terms.export(facts)
        if export is None:
            return facts
        return replace(facts, transfer_counts=self._transfers.counts(route.origin, route.handle, export))

    def own_side(self, route: Route, at: datetime, terms: Terms) -> Facts:
        """The same with the best state that there could be at the recipient, and no transfer counted before.

        What is decided on these facts depends on nothing but the proposer's own side, so the proposer may be told.
        How many people are counted does not: it rises only with offers that passed at the recipient too.
        """
        own = self._consents.get(route.origin, route.handle, PURPOSE)
        best = ConsentFact(
            status="given",
            recipients=frozenset({route.origin, route.recipient}),
            given_at=at,
            expires_at=at + timedelta(days=3650),
            separate=True,
            cross_border=True,
            jurisdiction=own.fact.jurisdiction if own else None,
        )
        facts = self._facts(route, best, at, objected_there=False)
        export = terms.export(facts)
        if export is None:
            return facts
        return replace(facts, transfer_counts=TransferCounts(export.year, 1, int(export.sensitive)))

    def _objected(self, party: PartyId, handle: Handle) -> bool:
        """Whether a person refuses automated marketing at a party; without a record nobody does."""
        record = self._consents.get(party, handle, OBJECTION_PURPOSE)
        return record is not None and record.fact.status != "given"

    def _facts(
        self, route: Route, recipient_consent: ConsentFact | None, at: datetime, *, objected_there: bool
    ) -> Facts:
        own = self._consents.get(route.origin, route.handle, PURPOSE)
        sensitive = self._consents.get(route.origin, route.handle, PURPOSE + SENSITIVE_SUFFIX)
        facts = Facts(
            purpose=PURPOSE,
            data_category=DATA_CATEGORY,
            origin=route.origin,
            recipient=route.recipient,
            at=at,
            channel=route.channel,
            subject_region=own.region if own else None,
            consent=own.fact if own else None,
            recipient_consent=recipient_consent,
            fields=frozenset(route.fields),
            sensitive_consent=sensitive.fact if sensitive else None,
            objected=objected_there or self._objected(route.origin, route.handle),
        )
        return facts.undated()  # what is decided, and the reasons, are for the log
