"""The partner's inbox: offers from others about its own customers.

Guarantees that an offer is on disk here before the gateway is told that it arrived, and is stored once however often it
is sent. What is shown is judged when it is shown: a product that the customer has by now, a refusal of automated
marketing, a consent that has ended and an offer that has expired are never open. Of a refusal at another partner only
the gateway knows; what had arrived before it stays open here.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Engine, MetaData, Row, String, Table, select

from federation.client.data import PartnerData
from federation.client.eligible import refuses
from federation.client.handles import HandleBook
from federation.core.clock import from_text, to_text
from federation.core.errors import OfferError, Reason
from federation.core.ids import CustomerId, Handle
from federation.offers.offer import PURPOSE
from federation.policy.facts import ConsentFact
from federation.policy.vocabulary import OBJECTION_PURPOSE
from federation.v1 import offers_pb2 as pb
from federation.v1 import offers_pb2_grpc

OFFERS_PER_CALL = 200
CALL_TIMEOUT_S = 120.0
Status = Literal["open", "already_held", "objected", "consent_ended", "expired", "unknown_person"]

metadata = MetaData()
received = Table(
    "offers_received",
    metadata,
    Column("delivery_id", String, primary_key=True),
    Column("customer_id", String, index=True),  # none: the handle is not one of ours
    Column("sender", String, nullable=False),
    Column("product", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("score_band", String, nullable=False),
    Column("benefit", String, nullable=False),
    Column("attributes", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("delivered_at", String, nullable=False),
    Column("stored_at", String, nullable=False),
)


@dataclass(frozen=True)
class ReceivedOffer:
    """An offer as the partner sees it now."""

    delivery_id: str
    customer_id: CustomerId | None
    sender: str
    product: str
    channel: str
    score_band: str
    benefit: str
    attributes: dict[str, str]
    expires_at: datetime
    delivered_at: datetime
    status: Status


class OfferInbox:
    """Fetches and keeps offers.

    Args:
        stub: The gateway's offer service.
        data: The partner's data.
        handles: The partner's handles.
        engine: The partner's durable state.
    """

    def __init__(
        self, stub: offers_pb2_grpc.OfferServiceStub, data: PartnerData, handles: HandleBook, engine: Engine
    ) -> None:
        self._stub, self._data, self._handles, self._engine = stub, data, handles, engine
        metadata.create_all(engine)

    def pull(self) -> list[ReceivedOffer]:
        """Fetches until the gateway has nothing more, and returns what is new here.

        Raises:
            DataError: the partner's files are not usable.
            OfferError: UNAVAILABLE where the gateway does not take the acknowledgement.
            grpc.RpcError: the gateway cannot be reached; what was stored stays, what was not is sent again.
        """
        new: list[str] = []
        while True:
            request = pb.PullInboxRequest(max_offers=OFFERS_PER_CALL)
            batch = self._stub.PullInbox(request, timeout=CALL_TIMEOUT_S).offers
            if not batch:
                fresh = set(new)
                return [offer for offer in self.offers() if offer.delivery_id in fresh]
            new += self._store(batch)
            ids = [offer.delivery_id for offer in batch]
            reply = self._stub.AcknowledgeOffers(pb.AcknowledgeOffersRequest(delivery_ids=ids), timeout=CALL_TIMEOUT_S)
            if reply.acknowledged == 0:  # else we would fetch the same for ever
                raise OfferError(Reason.UNAVAILABLE, item="the gateway acknowledged none of the offers that it sent")

    def offers(self) -> list[ReceivedOffer]:
        """Every offer that ever arrived, oldest first, with its status of this moment. Raises DataError."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(received).order_by(received.c.stored_at, received.c.delivery_id)).all()
        status = self._judge(list({CustomerId(row.customer_id) for row in rows if row.customer_id is not None}))
        return [_to_offer(row, status(row)) for row in rows]

    def _store(self, batch: "list[pb.DeliveredOffer] | Any") -> list[str]:
        """Stores a batch in one transaction; returns the ids that were not there yet."""
        now = to_text(self._data.clock.now())
        rows = {}
        for offer in batch:
            from_text(offer.expires_at, item="expires_at of a delivered offer")
            rows[offer.delivery_id] = {
                "delivery_id": offer.delivery_id,
                "customer_id": self._handles.customer_of(Handle(offer.handle)),
                "sender": getattr(offer, "from"),
                "product": offer.product,
                "channel": offer.channel,
                "score_band": offer.score_band,
                "benefit": offer.benefit,
                "attributes": json.dumps(dict(offer.attributes), sort_keys=True),
                "expires_at": offer.expires_at,
                "delivered_at": offer.delivered_at,
                "stored_at": now,
            }
        with self._engine.begin() as connection:
            known = set(
                connection.scalars(select(received.c.delivery_id).where(received.c.delivery_id.in_(list(rows))))
            )
            fresh = [row for delivery_id, row in rows.items() if delivery_id not in known]
            if fresh:
                connection.execute(received.insert(), fresh)
        return [row["delivery_id"] for row in fresh]

    def _judge(self, people: Sequence[CustomerId]) -> Callable[[Row[Any]], Status]:
        """A function from a stored offer to one of these people to its status now."""
        at, holdings = self._data.clock.now(), self._data.holdings()
        theirs = holdings[holdings["customer_id"].isin(people)]
        held = set(zip(theirs["customer_id"], theirs["product"], strict=True))
        consents = self._data.consents.states_of(people, PURPOSE)
        objections = self._data.consents.states_of(people, OBJECTION_PURPOSE)

        def status(row: Row[Any]) -> Status:
            if row.customer_id is None:
                return "unknown_person"
            if (row.customer_id, row.product) in held:
                return "already_held"
            if refuses(objections.get(row.customer_id)):
                return "objected"
            if not _is_live(consents.get(row.customer_id), at):
                return "consent_ended"
            return "open" if at < from_text(row.expires_at) else "expired"

        return status


def _is_live(consent: ConsentFact | None, at: datetime) -> bool:
    return (
        consent is not None and consent.status == "given" and consent.expires_at is not None and at < consent.expires_at
    )


def _to_offer(row: Row[Any], status: Status) -> ReceivedOffer:
    return ReceivedOffer(
        delivery_id=row.delivery_id,
        customer_id=None if row.customer_id is None else CustomerId(row.customer_id),
        sender=row.sender,
        product=row.product,
        channel=row.channel,
        score_band=row.score_band,
        benefit=row.benefit,
        attributes=json.loads(row.attributes),
        expires_at=from_text(row.expires_at),
        delivered_at=from_text(row.delivered_at),
        status=status,
    )
