"""The offer book's table, and how its rows are written and read."""

import json
from typing import Any

from sqlalchemy import Column, Integer, LargeBinary, MetaData, Row, String, Table, UniqueConstraint
from sqlalchemy import Index as TableIndex

from federation.core.clock import from_text, to_text
from federation.core.identity import Role
from federation.core.ids import HANDLE_BYTES, Handle, PartyId
from federation.offers.offer import Offer
from gateway.identity.caller import Caller
from gateway.offers.book import Delivery, Proposal, Receipt

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
    Column("certificate", String, nullable=False),  # of the caller: serial and end
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
    Column("marks", Integer, nullable=False, default=0),  # says nothing: written so that every decision writes as often
    UniqueConstraint("party", "offer_id"),
    TableIndex("offers_waiting", "state", "party", "recipient", "number"),
    TableIndex("offers_lately", "party", "proposed_at"),
    TableIndex("offers_inbox", "recipient", "state", "number"),
    TableIndex("offers_origin_person", "party", "handle"),
    TableIndex("offers_recipient_person", "recipient", "recipient_handle"),
)


def to_row(caller: Caller, offer: Offer, receipt: Receipt, at: str) -> dict[str, Any]:
    """A new offer with its answer."""
    kept = receipt.accepted  # of a rejected offer only the answer is kept
    return {
        "party": caller.party,
        "offer_id": offer.offer_id,
        "digest": offer.digest(),
        "state": "pending" if kept else "rejected",
        "reasons": json.dumps([[g.rule, g.code, g.text, g.legal_ref] for g in receipt.reasons]),
        "certificate": json.dumps([caller.serial, to_text(caller.expires_at)]),
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


def to_proposal(row: Row[Any]) -> Proposal:
    """A waiting offer."""
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
    return Proposal(row.number, _proposer(row), offer, from_text(row.proposed_at), held=row.state == "held")


def to_delivery(row: Row[Any]) -> Delivery:
    """An offer in an inbox."""
    return Delivery(
        number=row.number,
        delivery_id=row.delivery_id,
        proposer=_proposer(row),
        origin_handle=Handle(row.handle),
        recipient=PartyId(row.recipient),
        handle=Handle(row.recipient_handle),
        product=row.product,
        channel=row.channel,
        score_band=row.score_band,
        benefit=row.benefit,
        attributes=json.loads(row.attributes),
        proposed_at=from_text(row.proposed_at),
        expires_at=from_text(row.expires_at),
        delivered_at=from_text(row.delivered_at) if row.delivered_at else None,
    )


def _proposer(row: Row[Any]) -> Caller:
    """As its certificate was when it proposed."""
    serial, expires_at = json.loads(row.certificate)
    return Caller(PartyId(row.party), Role.PARTNER, serial, from_text(expires_at))
