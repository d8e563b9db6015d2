"""What a decision about an offer is about: the consent and residence that the gateway knows at both ends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from federation.core.errors import OfferError, Reason
from federation.core.ids import Handle, PartyId, PolicyVersion
from federation.offers.offer import PURPOSE
from federation.policy.facts import ConsentFact, Decision, Facts, TransferCounts
from federation.policy.specs import OfferSpec
from federation.policy.transfers import Export
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX
from gateway.consent.store import ConsentRecord, ConsentStore
from gateway.policy.transfers import TransferStore

DATA_CATEGORY = "offer"
People = Sequence[tuple[PartyId, Handle]]
"""Party and handle: one person, or several."""
MAX_HANDLES = 64
"""Of one person at all parties. Whoever has more is no one person that an offer could be for: a partner may join any
number of its own rows by one identifier, and each would be looked up in every decision."""


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

    def handles(self, party: PartyId, handle: Handle, most: int) -> list[tuple[PartyId, Handle]]:
        """Every handle of the person that a party calls by one, that one too; at most so many, in order.

        Empty for a handle that is not known.
        """
        ...


@dataclass(frozen=True)
class Route:
    """One offer's way, as far as a decision needs it."""

    origin: PartyId
    handle: Handle
    recipient: PartyId
    channel: str
    fields: Iterable[str]


class StaleCountError(OfferError):
    """Another transfer was counted between a decision on the number and the count."""


class FactFinder:
    """Collects the facts of offers from the consent store and the count of transfers.

    A party may know one person under several handles, in two files of customers say. What the person ended under any of
    them has ended at that party, whatever the others say; and an objection holds wherever it was made.
    """

    def __init__(self, consents: ConsentStore, transfers: TransferStore) -> None:
        self._consents, self._transfers = consents, transfers

    def full(self, route: Route, recipient_handle: Handle | None, person: People, at: datetime, terms: Terms) -> Facts:
        """Everything that decides, with the consent at both ends and under every handle of the person.

        Args:
            route: The offer's way.
            recipient_handle: The person at the recipient; None where there is none.
            person: Every handle of the person at every party.
            at: When.
            terms: Say what is counted.
        """
        ends = [] if recipient_handle is None else [(route.recipient, recipient_handle)]
        states = _States(self._consents, route, (*person, *ends))
        there = states.of(route.recipient, recipient_handle, PURPOSE) if recipient_handle is not None else None
        facts = _facts(route, states, there.fact if there else None, at)
        export = terms.export(facts)
        if export is None:
            return facts
        return replace(facts, transfer_counts=self._transfers.counts(route.origin, route.handle, export))

    def count(self, route: Route, facts: Facts, terms: Terms) -> bool:
        """Counts the person where the transfer that these facts permit is counted, and says whether it is.

        Raises:
            StaleCountError: UNAVAILABLE where the number is another by now; it must be decided anew.
        """
        export, counts = terms.export(facts), facts.transfer_counts
        if export is not None and (
            counts is None or not self._transfers.count(route.origin, route.handle, export, counts)
        ):
            raise StaleCountError(Reason.UNAVAILABLE, item="the count of transfers changed during the decision")
        return export is not None

    def is_counted(self, route: Route, facts: Facts, terms: Terms) -> bool:
        """Whether the person is in the count of these facts' year, or nothing is to be counted."""
        export = terms.export(facts)
        return export is None or self._transfers.counted(route.origin, route.handle, export)

    def own_side(self, route: Route, at: datetime, terms: Terms) -> Facts:
        """The same with the best state that there could be at the recipient, and no transfer counted before.

        What is decided on these facts depends on nothing but the proposer's own side, so the proposer may be told.
        How many people are counted does not: it rises only with offers that passed at the recipient too. Nor does which
        of the proposer's handles are one person: a row of another partner can join two of them.
        """
        states = _States(self._consents, route, ())
        own = states.of(route.origin, route.handle, PURPOSE)
        best = ConsentFact(
            status="given",
            recipients=frozenset({route.origin, route.recipient}),
            given_at=at,
            expires_at=at + timedelta(days=3650),
            separate=True,
            cross_border=True,
            jurisdiction=own.fact.jurisdiction if own else None,
        )
        facts = _facts(route, states, best, at)
        export = terms.export(facts)
        if export is None:
            return facts
        return replace(facts, transfer_counts=TransferCounts(export.year, 1, int(export.sensitive)))


class _States:
    """The consent states of one person under all handles, of one moment."""

    def __init__(self, consents: ConsentStore, route: Route, person: People) -> None:
        self.person = sorted({*person, (route.origin, route.handle)})
        self._found = consents.find(self.person, (PURPOSE, PURPOSE + SENSITIVE_SUFFIX, OBJECTION_PURPOSE))

    def of(self, party: PartyId, handle: Handle, purpose: str) -> ConsentRecord | None:
        """What a party knows of a consent: an end under any handle of the person, else the state under this one."""
        records = [self._found.get((party, other, purpose)) for at, other in self.person if at == party]
        ended = (record for record in records if record is not None and record.fact.status != "given")
        return next(ended, self._found.get((party, handle, purpose)))

    def region(self, party: PartyId, handle: Handle) -> str | None:
        """Where the person lives, as stated under this handle."""
        record = self._found.get((party, handle, PURPOSE))
        return record.region if record else None

    def objected(self) -> bool:
        """Whether the person refuses automated marketing anywhere; without a record nobody does."""
        return any(
            purpose == OBJECTION_PURPOSE and record.fact.status != "given"
            for (_, _, purpose), record in self._found.items()
        )


def _facts(route: Route, states: _States, recipient_consent: ConsentFact | None, at: datetime) -> Facts:
    own = states.of(route.origin, route.handle, PURPOSE)
    sensitive = states.of(route.origin, route.handle, PURPOSE + SENSITIVE_SUFFIX)
    facts = Facts(
        purpose=PURPOSE,
        data_category=DATA_CATEGORY,
        origin=route.origin,
        recipient=route.recipient,
        at=at,
        channel=route.channel,
        subject_region=states.region(route.origin, route.handle),
        consent=own.fact if own else None,
        recipient_consent=recipient_consent,
        fields=frozenset(route.fields),
        sensitive_consent=sensitive.fact if sensitive else None,
        objected=states.objected(),
    )
    return facts.undated()  # what is decided, and the reasons, are for the log
