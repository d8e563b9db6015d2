"""Consent states as the gateway knows them: by party, that party's opaque handle, and purpose.

Guarantees that the newest statement wins, that a withdrawal is never overwritten by an older "given", that a batch is
recorded whole or not at all, and that ending a consent removes the queued offers that needed it in one transaction.
It trusts each party for its own handles and nothing else: the party comes from the caller's certificate.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from federation.core.ids import Handle, PartyId
from federation.policy.facts import ConsentFact

_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """The state of one consent of one person at one party."""

    handle: Handle
    purpose: str
    fact: ConsentFact
    region: str | None  # country of residence
    stated_at: datetime
    """When the person said so, as far as known; decides which of two statements is the newer."""


@dataclass(frozen=True)
class Ended:
    """What ending a consent did."""

    at: datetime
    offers_removed: int


class ConsentStore(Protocol):
    """Keeps consent states; durable when a call returns. Safe to call from several threads."""

    def record(self, party: PartyId, records: Sequence[ConsentRecord]) -> int:
        """Takes in statements, all or none; returns how many now stand (older ones than known do not).

        Raises:
            OfferError: TOO_MANY_CONSENTS, when the party has as many as are kept.
        """
        ...

    def withdraw(self, party: PartyId, handle: Handle, purpose: str, said_at: datetime | None = None) -> Ended:
        """Ends a consent, known before or not, and removes the queued offers that needed it.

        Args:
            party: Who says so.
            handle: Its name of the person.
            purpose: Of the consent.
            said_at: When the person said so; what the person stated after it, and not after now, stands. None: now.

        Raises:
            OfferError: TOO_MANY_CONSENTS, for a consent that was not known, when the party has twice what is kept.
        """
        ...

    def get(self, party: PartyId, handle: Handle, purpose: str) -> ConsentRecord | None:
        """One state."""
        ...

    def find(
        self, people: Collection[tuple[PartyId, Handle]], purposes: Collection[str]
    ) -> dict[tuple[PartyId, Handle, str], ConsentRecord]:
        """The states that there are of some people (party and handle) for some purposes, all of one moment."""
        ...

    def all_of(self, party: PartyId, handle: Handle) -> list[ConsentRecord]:
        """Every state of one person at one party, by purpose."""
        ...


def stated_at(fact: ConsentFact, now: datetime) -> datetime:
    """When a statement was made; a "given" without a time is the oldest, an end without one is now."""
    return fact.given_at or (_EARLIEST if fact.status == "given" else now)


def supersedes(new: ConsentRecord, known: ConsentRecord | None) -> bool:
    """Whether a statement replaces the known one: newer, or as old and not more permissive."""
    if known is None or new.stated_at > known.stated_at:
        return True
    same = new.fact.status == known.fact.status
    return new.stated_at == known.stated_at and (same or new.fact.status != "given")
