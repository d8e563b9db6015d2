"""What a decision about an offer is about: the consent and residence that the gateway knows at both ends."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from federation.core.ids import Handle, PartyId, PolicyVersion, Token
from federation.offers.offer import PURPOSE
from federation.policy.facts import ConsentFact, Decision, Facts
from federation.policy.specs import OfferSpec
from gateway.consent.store import ConsentStore

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
    """Collects the facts of offers from the consent store."""

    def __init__(self, consents: ConsentStore) -> None:
        self._consents = consents

    def full(self, route: Route, recipient_handle: Handle | None, at: datetime) -> Facts:
        """Everything that decides, with the consent at both ends."""
        there = None
        if recipient_handle is not None:
            there = self._consents.get(route.recipient, recipient_handle, PURPOSE)
        return self._facts(route, there.fact if there else None, at)

    def own_side(self, route: Route, at: datetime) -> Facts:
        """The same with the best consent that there could be at the recipient.

        What is decided on these facts depends on nothing but the proposer's own side, so the proposer may be told.
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
        return self._facts(route, best, at)

    def _facts(self, route: Route, recipient_consent: ConsentFact | None, at: datetime) -> Facts:
        own = self._consents.get(route.origin, route.handle, PURPOSE)
        return Facts(
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
        )
