"""The offer book in SQL."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import (
    Connection,
    Engine,
    and_,
    case,
    func,
    null,
    or_,
    select,
    update,
)

from federation.core.clock import Clock, from_text, to_text
from federation.core.database import reading, rows_with
from federation.core.errors import OfferError, Reason
from federation.core.ids import Handle, PartyId
from federation.offers.eligibility import PriorOffer
from federation.offers.offer import PURPOSE, Offer
from federation.policy.facts import Given
from federation.policy.vocabulary import OBJECTION_PURPOSE
from gateway.identity.caller import Caller
from gateway.offers.book import Barriers, Delivery, Held, Proposal, Receipt, no_barriers
from gateway.offers.rows import metadata, offers, to_delivery, to_proposal, to_row

_COUNTED = frozenset({"held", "queued", "acknowledged"})
_KEYS_PER_QUERY = 500  # SQLite allows 999 parameters in old builds
_ON_ITS_WAY = ("pending", "held", "queued")
_PURGED_PER_TRANSACTION = 5_000
_UNDECIDED = offers.c.state.in_(("pending", "held"))
MAX_WAITING = 10_000
"""Offers of one proposer that wait, or were proposed within ``LATELY``; of 500 bytes and one log entry or two each."""
LATELY = timedelta(minutes=5)

_NO_CONTENT = {
    # What was handed out counts for the person from then on, so whose it was stays.
    "recipient_handle": case((offers.c.delivered_at.is_(None), null()), else_=offers.c.recipient_handle),
    "benefit": "",
    "attributes": "{}",
}


class SqlOfferBook:
    """OfferBook over a SQL database.

    Args:
        engine: The gateway's database; the consent store must be in the same.
        clock: Dates what happens.
        new_id: Makes delivery ids; random but in tests.
        room: How many offers of one proposer may wait.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
        room: int = MAX_WAITING,
    ) -> None:
        self._engine, self._clock, self._new_id, self._room = engine, clock, new_id, room
        metadata.create_all(engine)
        self._reading = reading(engine)

    def receipts(self, party: PartyId, offers: Sequence[Offer]) -> dict[str, Receipt]:
        """See OfferBook."""
        with self._reading.begin() as connection:
            known = _on_file(connection, party, offers)
            self._check_room(connection, party, offers, known)
            return known

    def file(self, caller: Caller, answers: Sequence[tuple[Offer, Receipt]]) -> list[Receipt]:
        """See OfferBook."""
        at = to_text(self._clock.now())
        with self._engine.begin() as connection:
            new = [offer for offer, _ in answers]
            known = _on_file(connection, caller.party, new)
            self._check_room(connection, caller.party, new, known)
            for offer, receipt in answers:
                if offer.offer_id not in known:
                    connection.execute(offers.insert().values(**to_row(caller, offer, receipt, at)))
                    known[offer.offer_id] = receipt
        return [known[offer.offer_id] for offer, _ in answers]

    def waiting(self, limit: int, recipient: PartyId | None = None) -> list[Proposal]:
        """See OfferBook."""
        turn = func.row_number().over(partition_by=offers.c.party, order_by=offers.c.number).label("turn")
        mine = [] if recipient is None else [offers.c.recipient == recipient]
        line = select(offers.c.number, turn).where(_UNDECIDED, *mine).subquery()
        query = select(offers).join(line, offers.c.number == line.c.number)
        with self._reading.begin() as connection:
            rows = connection.execute(query.order_by(line.c.turn, offers.c.number).limit(limit)).all()
        return [to_proposal(row) for row in rows]

    def recipients(self) -> list[PartyId]:
        """See OfferBook."""
        query = select(offers.c.recipient).where(_UNDECIDED).distinct().order_by(offers.c.recipient)
        with self._reading.begin() as connection:
            return [PartyId(recipient) for recipient in connection.scalars(query)]

    def address(
        self, number: int, recipient_handle: Handle | None, person: Sequence[tuple[PartyId, Handle]]
    ) -> list[PriorOffer]:
        """See OfferBook."""
        this = offers.c.number == number, _UNDECIDED
        noted = {"recipient_handle": recipient_handle, "marks": offers.c.marks + 1}
        with self._engine.begin() as connection:
            connection.execute(update(offers).where(*this).values(**noted))
            return _prior(connection, person, number)

    def mark(self, number: int, times: int) -> None:
        """See OfferBook."""
        for _ in range(times):
            with self._engine.begin() as connection:
                connection.execute(update(offers).where(offers.c.number == number).values(marks=offers.c.marks + 1))

    def hold(
        self,
        number: int,
        recipient_handle: Handle,
        attributes: Mapping[str, str],
        person: Sequence[tuple[PartyId, Handle]] = (),
        barriers: Barriers = no_barriers,
    ) -> Held:
        """See OfferBook."""
        content = {
            "state": "held",
            "recipient_handle": recipient_handle,
            "attributes": json.dumps(dict(attributes)),
            "delivery_id": func.coalesce(offers.c.delivery_id, self._new_id()),
            "queued_at": to_text(self._clock.now()),
        }
        this = offers.c.number == number, _UNDECIDED
        with self._engine.begin() as connection:
            found = barriers(_prior(connection, person, number))
            if found:
                return Held(False, found)
            return Held(connection.execute(update(offers).where(*this).values(**content)).rowcount == 1)

    def conclude(self, queued: Sequence[int], refused: Sequence[int]) -> None:
        """See OfferBook."""
        with self._engine.begin() as connection:
            for number in queued:
                this = offers.c.number == number, offers.c.state == "held"
                connection.execute(update(offers).where(*this).values(state="queued"))
            for number in refused:
                this = offers.c.number == number, _UNDECIDED
                connection.execute(update(offers).where(*this).values(state="refused", **_NO_CONTENT))

    def inbox(self, recipient: PartyId, limit: int, after: int) -> list[Delivery]:
        """See OfferBook."""
        visible = offers.c.recipient == recipient, offers.c.state == "queued", offers.c.number > after
        with self._reading.begin() as connection:
            rows = connection.execute(select(offers).where(*visible).order_by(offers.c.number).limit(limit)).all()
        return [to_delivery(row) for row in rows]

    def remove(self, numbers: Sequence[int]) -> None:
        """See OfferBook."""
        with self._engine.begin() as connection:
            for number in numbers:
                this = offers.c.number == number, offers.c.state == "queued"
                connection.execute(update(offers).where(*this).values(state="removed", **_NO_CONTENT))

    def hand_out(self, numbers: Sequence[int], at: datetime) -> set[int]:
        """See OfferBook."""
        still = set()
        with self._engine.begin() as connection:
            for number in numbers:
                this = offers.c.number == number, offers.c.state == "queued"
                first = {"delivered_at": func.coalesce(offers.c.delivered_at, to_text(at))}
                if connection.execute(update(offers).where(*this).values(**first)).rowcount:
                    still.add(number)
        return still

    def acknowledge(self, recipient: PartyId, delivery_ids: Sequence[str]) -> int:
        """See OfferBook."""
        count = 0
        ids = list(dict.fromkeys(delivery_ids))
        with self._engine.begin() as connection:
            for start in range(0, len(ids), _KEYS_PER_QUERY):
                part = ids[start : start + _KEYS_PER_QUERY]
                mine = and_(offers.c.recipient == recipient, offers.c.delivery_id.in_(part))
                arrived = mine, offers.c.state == "queued"
                gone = {"state": "acknowledged", "benefit": "", "attributes": "{}"}
                connection.execute(update(offers).where(*arrived).values(**gone))
                done = select(func.count()).where(mine, offers.c.state == "acknowledged")
                count += connection.scalar(done) or 0
        return count

    def purge(self, expired_before: datetime, rejected_before: datetime) -> int:
        """See OfferBook."""
        expired = and_(offers.c.state.not_in(_ON_ITS_WAY), offers.c.expires_at < to_text(expired_before))
        rejected = and_(offers.c.state == "rejected", offers.c.proposed_at < to_text(rejected_before))
        some = select(offers.c.number).where(or_(expired, rejected)).limit(_PURGED_PER_TRANSACTION)
        count = 0
        while True:  # in pieces, so that nobody waits long for the database
            with self._engine.begin() as connection:
                gone = connection.execute(offers.delete().where(offers.c.number.in_(some))).rowcount
            count += gone
            if gone < _PURGED_PER_TRANSACTION:
                return count

    def _check_room(
        self, connection: Connection, party: PartyId, wanted: Sequence[Offer], known: Mapping[str, Receipt]
    ) -> None:
        new = len({offer.offer_id for offer in wanted} - set(known))
        lately = offers.c.proposed_at > to_text(self._clock.now() - LATELY)
        counted = select(func.count()).where(offers.c.party == party, or_(lately, _UNDECIDED))
        if new and (connection.scalar(counted) or 0) + new > self._room:
            item = f"{new} more offers of {party}: at most {self._room} wait or were proposed in the last {LATELY}"
            raise OfferError(Reason.TOO_MANY_OFFERS, item=item)

    def drop_for_consent(self, connection: Connection, party: PartyId, ended: Sequence[tuple[Handle, str]]) -> int:
        """Removes what needed consents, in the transaction that ends them: the ``Ending`` of the consent store.

        Who refuses automated marketing ends every offer to the person, whatever was agreed to before.

        Returns:
            How many of the party's own accepted and unexpired proposals about these people this ended, *whatever* had
            become of them, plus how many offers it removed from the party's inbox. Counting only the party's proposals
            that were still queued would tell it whose customer the person is.
        """
        now, count = to_text(self._clock.now()), 0
        handles = list({handle for handle, purpose in ended if purpose in (PURPOSE, OBJECTION_PURPOSE)})
        on_its_way = offers.c.state.in_(_ON_ITS_WAY)
        removed = {"state": "removed", **_NO_CONTENT}
        for start in range(0, len(handles), _KEYS_PER_QUERY):
            some = handles[start : start + _KEYS_PER_QUERY]
            proposed = and_(offers.c.party == party, offers.c.handle.in_(some), offers.c.state != "rejected")
            received = and_(offers.c.recipient == party, offers.c.recipient_handle.in_(some))
            visible = received, offers.c.state == "queued", offers.c.expires_at > now
            count += connection.scalar(select(func.count()).where(proposed, offers.c.expires_at > now)) or 0
            count += connection.scalar(select(func.count()).where(*visible)) or 0
            for mine in (proposed, received):
                connection.execute(update(offers).where(mine, on_its_way).values(**removed))
            # What was handed out keeps the handle at the recipient, which is enough to go on counting it.
            connection.execute(update(offers).where(proposed).values(handle=None))
        return count


def _prior(connection: Connection, person: Sequence[tuple[PartyId, Handle]], but: int) -> list[PriorOffer]:
    """Offers in or through an inbox with one of these handles at either end, but for one."""
    ends = (("party", "handle"), ("recipient", "recipient_handle"))
    rows = {row.number: row for end in ends for row in rows_with(connection, offers, end, person)}
    return [
        PriorOffer(row.product, from_text(row.queued_at), from_text(row.expires_at))
        for row in rows.values()
        if row.number != but and (row.state in _COUNTED or row.delivered_at is not None)
    ]


def _on_file(connection: Connection, party: PartyId, wanted: Sequence[Offer]) -> dict[str, Receipt]:
    digests: dict[str, str] = {}
    for offer in wanted:
        if digests.setdefault(offer.offer_id, offer.digest()) != offer.digest():
            raise OfferError(Reason.IDEMPOTENCY_CONFLICT, item=f"offer_id {offer.offer_id}")
    ids, found = list(digests), {}
    columns = offers.c.offer_id, offers.c.digest, offers.c.reasons
    for start in range(0, len(ids), _KEYS_PER_QUERY):
        part = ids[start : start + _KEYS_PER_QUERY]
        query = select(*columns).where(offers.c.party == party, offers.c.offer_id.in_(part))
        for row in connection.execute(query):
            if row.digest != digests[row.offer_id]:
                raise OfferError(Reason.IDEMPOTENCY_CONFLICT, item=f"offer_id {row.offer_id}")
            reasons = tuple(Given(*fields) for fields in json.loads(row.reasons))
            found[row.offer_id] = Receipt(row.offer_id, reasons)
    return found
