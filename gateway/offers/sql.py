"""The offer book in SQL."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    UniqueConstraint,
    and_,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy import Index as TableIndex

from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import OfferError, Reason
from federation.core.identity import Role
from federation.core.ids import HANDLE_BYTES, Handle, PartyId
from federation.offers.eligibility import PriorOffer
from federation.offers.offer import Offer
from federation.policy.facts import Given
from gateway.identity.caller import Caller
from gateway.offers.book import Delivery, Proposal, Receipt

_KEYS_PER_QUERY = 500  # SQLite allows 999 parameters in old builds
_ON_ITS_WAY = ("pending", "held", "queued")

metadata = MetaData()
offers = Table(
    "offers",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("party", String, nullable=False),
    Column("offer_id", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reasons", String, nullable=False),
    Column("certificate", String, nullable=False),  # of the caller: serial and times
    Column("handle", LargeBinary(HANDLE_BYTES)),
    Column("recipient", String, nullable=False),
    Column("recipient_handle", LargeBinary(HANDLE_BYTES)),
    Column("product", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("score_band", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("benefit", String, nullable=False),
    Column("attributes", String, nullable=False),
    Column("proposed_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("delivery_id", String, unique=True),
    Column("queued_at", String),
    Column("delivered_at", String),
    UniqueConstraint("party", "offer_id"),
    TableIndex("offers_waiting", "state", "number"),
    TableIndex("offers_inbox", "recipient", "state", "number"),
    TableIndex("offers_origin_person", "party", "handle"),
    TableIndex("offers_recipient_person", "recipient", "recipient_handle"),
)
_NO_CONTENT = {"recipient_handle": None, "benefit": "", "attributes": "{}"}


class SqlOfferBook:
    """OfferBook over a SQL database.

    Args:
        engine: The gateway's database; the consent store must be in the same.
        clock: Dates what happens.
        new_id: Makes delivery ids; random but in tests.
    """

    def __init__(self, engine: Engine, clock: Clock, new_id: Callable[[], str] = lambda: secrets.token_hex(16)) -> None:
        self._engine, self._clock, self._new_id = engine, clock, new_id
        metadata.create_all(engine)

    def receipts(self, party: PartyId, offers: Sequence[Offer]) -> dict[str, Receipt]:
        """See OfferBook."""
        with self._engine.begin() as connection:
            return _on_file(connection, party, offers)

    def file(self, caller: Caller, answers: Sequence[tuple[Offer, Receipt]]) -> list[Receipt]:
        """See OfferBook."""
        at = to_text(self._clock.now())
        with self._engine.begin() as connection:
            known = _on_file(connection, caller.party, [offer for offer, _ in answers])
            for offer, receipt in answers:
                if offer.offer_id not in known:
                    connection.execute(offers.insert().values(**_to_row(caller, offer, receipt, at)))
                    known[offer.offer_id] = receipt
        return [known[offer.offer_id] for offer, _ in answers]

    def waiting(self, limit: int) -> list[Proposal]:
        """See OfferBook."""
        query = select(offers).where(offers.c.state.in_(("pending", "held"))).order_by(offers.c.number).limit(limit)
        with self._engine.begin() as connection:
            return [_proposal(row) for row in connection.execute(query)]

    def prior(self, handles: Sequence[tuple[PartyId, Handle]], but: int) -> list[PriorOffer]:
        """See OfferBook."""
        person = or_(
            tuple_(offers.c.party, offers.c.handle).in_(handles),
            tuple_(offers.c.recipient, offers.c.recipient_handle).in_(handles),
        )
        counted = offers.c.state.in_(("held", "queued", "acknowledged"))
        columns = offers.c.product, offers.c.queued_at, offers.c.expires_at
        query = select(*columns).where(person, counted, offers.c.number != but)
        with self._engine.begin() as connection:
            rows = connection.execute(query).all()
        return [PriorOffer(r.product, from_text(r.queued_at), from_text(r.expires_at)) for r in rows]

    def hold(self, number: int, recipient_handle: Handle, attributes: Mapping[str, str]) -> bool:
        """See OfferBook."""
        content = {
            "state": "held",
            "recipient_handle": recipient_handle,
            "attributes": json.dumps(dict(attributes)),
            "delivery_id": func.coalesce(offers.c.delivery_id, self._new_id()),
            "queued_at": to_text(self._clock.now()),
        }
        this = offers.c.number == number, offers.c.state.in_(("pending", "held"))
        with self._engine.begin() as connection:
            return connection.execute(update(offers).where(*this).values(**content)).rowcount == 1

    def conclude(self, queued: Sequence[int], refused: Sequence[int]) -> None:
        """See OfferBook."""
        with self._engine.begin() as connection:
            for number in queued:
                this = offers.c.number == number, offers.c.state == "held"
                connection.execute(update(offers).where(*this).values(state="queued"))
            for number in refused:
                this = offers.c.number == number, offers.c.state.in_(("pending", "held"))
                connection.execute(update(offers).where(*this).values(state="refused", **_NO_CONTENT))

    def inbox(self, recipient: PartyId, limit: int, after: int) -> list[Delivery]:
        """See OfferBook."""
        visible = offers.c.recipient == recipient, offers.c.state == "queued", offers.c.number > after
        with self._engine.begin() as connection:
            rows = connection.execute(select(offers).where(*visible).order_by(offers.c.number).limit(limit)).all()
        return [_delivery(row) for row in rows]

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

    def drop_for_consent(self, connection: Connection, party: PartyId, handle: Handle, purpose: str) -> int:
        """Removes what needed a consent, in the transaction that ends it: the ``Ending`` of the consent store.

        Returns:
            How many of the party's own accepted and unexpired proposals about the person this ended, *whatever* had
            become of them, plus how many offers it removed from the party's inbox. Counting only the party's proposals
            that were still queued would tell it whose customer the person is.
        """
        now = to_text(self._clock.now())
        about = offers.c.purpose == purpose
        proposed = and_(about, offers.c.party == party, offers.c.handle == handle, offers.c.state != "rejected")
        received = and_(about, offers.c.recipient == party, offers.c.recipient_handle == handle)
        own = connection.scalar(select(func.count()).where(proposed, offers.c.expires_at > now)) or 0
        visible = received, offers.c.state == "queued", offers.c.expires_at > now
        inbox = connection.scalar(select(func.count()).where(*visible)) or 0
        on_its_way = offers.c.state.in_(_ON_ITS_WAY)
        removed = {"state": "removed", **_NO_CONTENT}
        connection.execute(update(offers).where(or_(proposed, received), on_its_way).values(**removed))
        # Acknowledged offers keep the handle at the recipient, which is enough to go on counting them.
        connection.execute(update(offers).where(proposed).values(handle=None))
        return own + inbox


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


def _to_row(caller: Caller, offer: Offer, receipt: Receipt, at: str) -> dict[str, Any]:
    kept = receipt.accepted  # of a rejected offer only the answer is kept
    return {
        "party": caller.party,
        "offer_id": offer.offer_id,
        "digest": offer.digest(),
        "state": "pending" if kept else "rejected",
        "reasons": json.dumps([[g.rule, g.code, g.text, g.legal_ref] for g in receipt.reasons]),
        "certificate": json.dumps([caller.serial, to_text(caller.issued_at), to_text(caller.expires_at)]),
        "handle": offer.handle if kept else None,
        "recipient": offer.recipient,
        "product": offer.product,
        "channel": offer.channel,
        "score_band": offer.score_band,
        "purpose": offer.purpose,
        "benefit": offer.benefit if kept else "",
        "attributes": json.dumps(dict(offer.attributes)) if kept else "{}",
        "proposed_at": at,
        "expires_at": to_text(offer.expires_at),
    }


def _proposal(row: Row[Any]) -> Proposal:
    serial, issued_at, expires_at = json.loads(row.certificate)
    caller = Caller(PartyId(row.party), Role.PARTNER, serial, from_text(issued_at), from_text(expires_at))
    offer = Offer(
        offer_id=row.offer_id,
        handle=Handle(row.handle),
        product=row.product,
        recipient=row.recipient,
        channel=row.channel,
        score_band=row.score_band,
        purpose=row.purpose,
        benefit=row.benefit,
        attributes=json.loads(row.attributes),
        expires_at=from_text(row.expires_at),
    )
    return Proposal(row.number, caller, offer)


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        number=row.number,
        delivery_id=row.delivery_id,
        origin=PartyId(row.party),
        origin_handle=Handle(row.handle),
        recipient=PartyId(row.recipient),
        handle=Handle(row.recipient_handle),
        product=row.product,
        channel=row.channel,
        score_band=row.score_band,
        benefit=row.benefit,
        attributes=json.loads(row.attributes),
        expires_at=from_text(row.expires_at),
        delivered_at=from_text(row.delivered_at) if row.delivered_at else None,
    )
