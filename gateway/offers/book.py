"""What the offer book keeps: each proposal with the answer it got, and each recipient's inbox.

An offer moves through these states, never back but for ``held`` after a crash:

    rejected                        the proposer was told what is wrong on its own side
    pending -> held -> queued -> acknowledged
       |         \\-------\\-> removed     consent ended, it expired, or the policy now says no
       \\-> refused                      decided; the proposer is not told

What was handed out once counts for the person, whatever became of it: the recipient has read it, so ending a consent
and giving it again is no way to more offers than the caps allow.

``held`` is in the inbox but not yet visible: the outcome is not in the audit log. Whatever is not on its way any more
keeps no content. The proposer's handle stays until the proposal expires or its consent ends, because what a withdrawal
reports to the proposer must not depend on what became of its proposals.

A person is not stored. Rows carry the handles at both ends, which stay when an epoch changes all tokens, so that caps
can be counted over epochs: the switchboard says which handles belong to one person *now*, and every row that has one
of them at either end counts. An offer between two partners who both dropped the person is then not found; without
consent at either, joining it to the person would be wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from federation.core.ids import Handle, PartyId
from federation.offers.eligibility import PriorOffer
from federation.offers.offer import Offer
from federation.policy.facts import Given
from gateway.identity.caller import Caller


@dataclass(frozen=True)
class Receipt:
    """What the proposer is told about one offer."""

    offer_id: str
    reasons: tuple[Given, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether it was taken for decision; not whether it will be delivered."""
        return not self.reasons


@dataclass(frozen=True)
class Proposal:
    """An accepted offer that waits for its decision."""

    number: int
    caller: Caller
    offer: Offer
    proposed_at: datetime
    held: bool = False
    """A crash came between its decision and its end: the attributes are masked, and it is decided again."""


@dataclass(frozen=True)
class Delivery:
    """An offer in a recipient's inbox."""

    number: int
    delivery_id: str
    proposer: Caller
    origin_handle: Handle
    recipient: PartyId
    handle: Handle  # the recipient's
    product: str
    channel: str
    score_band: str
    benefit: str
    attributes: Mapping[str, str]
    proposed_at: datetime
    expires_at: datetime
    delivered_at: datetime | None  # when it was first handed out

    @property
    def origin(self) -> PartyId:
        """Who proposed it."""
        return self.proposer.party


Barriers = Callable[[Sequence[PriorOffer]], tuple[Given, ...]]
"""From the person's other offers to what stands against one more."""


def no_barriers(_prior: Sequence[PriorOffer]) -> tuple[Given, ...]:
    """Nothing stands against it."""
    return ()


@dataclass(frozen=True)
class Held:
    """What came of holding an offer."""

    done: bool
    barriers: tuple[Given, ...] = ()
    """What stood against it; empty where its consent was withdrawn or another process decided it meanwhile."""


class OfferBook(Protocol):
    """Keeps proposals and inboxes; durable when a call returns. Safe to call from several threads and processes."""

    def receipts(self, party: PartyId, offers: Sequence[Offer]) -> dict[str, Receipt]:
        """The receipts of offers that are on file, by id.

        Raises:
            OfferError: IDEMPOTENCY_CONFLICT where an id is on file with other content; TOO_MANY_OFFERS where there is
                no room for those that are not.
        """
        ...

    def file(self, caller: Caller, answers: Sequence[tuple[Offer, Receipt]]) -> list[Receipt]:
        """Files new offers with their answers, all or none; one on file keeps its first answer.

        A party has room for so many that wait for their decision. What it proposed in the last minutes counts with
        them, whatever became of it: room is then given back by the clock, and tells nothing of decisions.

        Returns:
            The answer that stands for each, in order.

        Raises:
            OfferError: IDEMPOTENCY_CONFLICT, TOO_MANY_OFFERS.
        """
        ...

    def waiting(self, limit: int, recipient: PartyId | None = None) -> list[Proposal]:
        """Proposals to decide, of one recipient or of all; also those that a crash left half decided.

        Proposers take turns: the oldest of each, then the next of each, so that nobody waits behind another's many.
        """
        ...

    def recipients(self) -> list[PartyId]:
        """For whom proposals wait."""
        ...

    def address(
        self, number: int, recipient_handle: Handle | None, person: Sequence[tuple[PartyId, Handle]]
    ) -> list[PriorOffer]:
        """Notes for whom a waiting proposal is: from now on, a withdrawal at either end takes it away.

        So whoever reads the consents *after* this, and then finds the proposal still there in ``hold``, knows that
        both held all the time.

        Args:
            number: The proposal.
            recipient_handle: The person at the recipient; None where there is none, and it writes all the same.
            person: All handles of the person that are known.

        Returns:
            Other offers in or through an inbox, or handed out, with one of these handles at either end.
        """
        ...

    def mark(self, number: int, times: int) -> None:
        """Writes so many times, each on disk by itself, what means nothing: see ``gateway.offers.decider``."""
        ...

    def hold(
        self,
        number: int,
        recipient_handle: Handle,
        attributes: Mapping[str, str],
        person: Sequence[tuple[PartyId, Handle]] = (),
        barriers: Barriers = no_barriers,
    ) -> Held:
        """Puts a waiting proposal into the inbox, not yet visible, unless something stands against it by now.

        Args:
            number: The proposal.
            recipient_handle: The person at the recipient.
            attributes: As masked.
            person: As in ``address``.
            barriers: Says of the person's other offers what stands against one more. It is asked in the transaction
                that holds the offer, so two deciders cannot both use a person's last place.
        """
        ...

    def conclude(self, queued: Sequence[int], refused: Sequence[int]) -> None:
        """Makes held offers visible and closes refused proposals, in one transaction."""
        ...

    def inbox(self, recipient: PartyId, limit: int, after: int) -> list[Delivery]:
        """Visible offers numbered above ``after`` that the recipient has not acknowledged, oldest first."""
        ...

    def remove(self, numbers: Sequence[int]) -> None:
        """Takes offers out of their inbox."""
        ...

    def hand_out(self, numbers: Sequence[int], at: datetime) -> set[int]:
        """Notes when offers were first handed out; returns which of them are still in the inbox."""
        ...

    def acknowledge(self, recipient: PartyId, delivery_ids: Sequence[str]) -> int:
        """Closes offers that arrived; returns how many of the ids are the recipient's and acknowledged by now."""
        ...

    def purge(self, expired_before: datetime, rejected_before: datetime) -> int:
        """Deletes, for good, closed offers that expired before a time, and rejected ones proposed before another.

        When a rejected offer says that it expires counts for nothing: no rule held it.

        Returns:
            How many.
        """
        ...
