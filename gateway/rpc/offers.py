"""Offers over gRPC: checks sizes and fields, the offer desk decides.

How long a call takes is in the hands of those who propose to its caller, so each party's calls have threads of their
own: however many it makes, and however much waits for it, all others are answered meanwhile.
"""

import re
from typing import Any

import grpc

from federation.core.clock import from_text, to_text
from federation.core.errors import OfferError, Reason
from federation.offers.offer import Offer
from federation.policy.mask import MAX_VALUE_CHARS
from federation.v1 import offers_pb2 as pb
from federation.v1 import offers_pb2_grpc, policy_pb2
from gateway.identity.caller import current_caller
from gateway.offers.book import Delivery, Receipt
from gateway.offers.decisions import AuditReader, LoggedDecision, list_decisions
from gateway.offers.service import OfferDesk
from gateway.rpc.consent import read_handle
from gateway.rpc.threads import PartyThreads

MAX_OFFERS = 1_000
MAX_ATTRIBUTES = 20
MAX_LINE_CHARS = 500
DEFAULT_PULL, MAX_PULL = 100, 1_000
DEFAULT_DECISIONS, MAX_DECISIONS = 1_000, 10_000
DECIDED_PER_LIST = 1_000
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
"""Also keeps anything that could name a person out of the audit log, where these words go."""
Context = grpc.aio.ServicerContext[Any, Any]


class OfferServicer(offers_pb2_grpc.OfferServiceServicer):
    """Serves partners, and compliance for the decisions."""

    def __init__(self, desk: OfferDesk, log: AuditReader) -> None:
        self._desk, self._log = desk, log
        self._inboxes, self._short = PartyThreads(1, "inbox"), PartyThreads(2, "offers")

    async def ProposeOffers(self, request: pb.ProposeOffersRequest, _context: Context) -> pb.ProposeOffersResponse:
        """One receipt for each offer, in order; a message that breaks a limit is refused whole."""
        caller = current_caller()
        _limit("offers", len(request.offers), MAX_OFFERS)
        offers = [_read_offer(offer, f"offers[{index}]") for index, offer in enumerate(request.offers)]
        receipts = await self._short.run(caller.party, self._desk.propose, caller, offers)
        return pb.ProposeOffersResponse(receipts=[_write_receipt(receipt) for receipt in receipts])

    async def PullInbox(self, request: pb.PullInboxRequest, _context: Context) -> pb.PullInboxResponse:
        """The same offers until they are acknowledged."""
        caller = current_caller()
        limit = min(request.max_offers or DEFAULT_PULL, MAX_PULL)
        deliveries = await self._inboxes.run(caller.party, self._desk.pull, caller, limit)
        return pb.PullInboxResponse(offers=[_write_delivery(delivery) for delivery in deliveries])

    async def AcknowledgeOffers(
        self, request: pb.AcknowledgeOffersRequest, _context: Context
    ) -> pb.AcknowledgeOffersResponse:
        """Safe to repeat."""
        caller = current_caller()
        _limit("delivery_ids", len(request.delivery_ids), MAX_PULL)
        ids = [_match(_ID, text, f"delivery_ids[{index}]") for index, text in enumerate(request.delivery_ids)]
        count = await self._short.run(caller.party, self._desk.acknowledge, caller, ids)
        return pb.AcknowledgeOffersResponse(acknowledged=count)

    async def ListDecisions(self, request: pb.ListDecisionsRequest, _context: Context) -> pb.ListDecisionsResponse:
        """What waits is decided first, up to a bound; the rest comes with a later call."""
        party = current_caller().party
        limit = min(request.max_decisions or DEFAULT_DECISIONS, MAX_DECISIONS)
        await self._inboxes.run(party, self._desk.decide_waiting, most=DECIDED_PER_LIST)
        decisions = await self._inboxes.run(party, list_decisions, self._log, request.after, limit)
        return pb.ListDecisionsResponse(decisions=[_write_decision(decision) for decision in decisions])


def _limit(name: str, size: int, largest: int) -> None:
    if size > largest:
        raise OfferError(Reason.TOO_LARGE, item=f"{name}: {size}, at most {largest}")


def _match(pattern: re.Pattern[str], text: str, where: str) -> str:
    if not pattern.fullmatch(text):
        raise OfferError(Reason.BAD_FIELD, item=where)
    return text


def _read_offer(offer: pb.Offer, where: str) -> Offer:
    """Words and sizes only; whether they make sense is the desk's to say, offer by offer."""
    _limit(f"{where}.attributes", len(offer.attributes), MAX_ATTRIBUTES)
    _limit(f"{where}.benefit", len(offer.benefit), MAX_LINE_CHARS)
    for name, value in offer.attributes.items():
        _match(_NAME, name, f"{where}.attributes: a name")
        _limit(f"{where}.attributes[{name}]", len(value), MAX_VALUE_CHARS)
    return Offer(
        offer_id=_match(_ID, offer.offer_id, f"{where}.offer_id"),
        handle=read_handle(offer.handle, f"{where}.handle"),
        product=_match(_NAME, offer.product, f"{where}.product"),
        recipient=_match(_NAME, offer.recipient, f"{where}.recipient"),
        channel=_match(_NAME, offer.channel, f"{where}.channel"),
        score_band=_match(_NAME, offer.score_band, f"{where}.score_band"),
        purpose=_match(_NAME, offer.purpose, f"{where}.purpose"),
        benefit=offer.benefit,
        attributes=dict(offer.attributes),
        expires_at=from_text(offer.expires_at, item=f"{where}.expires_at"),
    )


def _write_receipt(receipt: Receipt) -> pb.OfferReceipt:
    reasons = [policy_pb2.DecisionReason(**reason.to_json()) for reason in receipt.reasons]
    return pb.OfferReceipt(offer_id=receipt.offer_id, accepted=receipt.accepted, reasons=reasons)


def _write_delivery(delivery: Delivery) -> pb.DeliveredOffer:
    message = pb.DeliveredOffer(
        delivery_id=delivery.delivery_id,
        handle=delivery.handle,
        product=delivery.product,
        channel=delivery.channel,
        score_band=delivery.score_band,
        benefit=delivery.benefit,
        attributes=delivery.attributes,
        expires_at=to_text(delivery.expires_at),
        delivered_at=to_text(delivery.delivered_at) if delivery.delivered_at else "",
    )
    setattr(message, "from", delivery.origin)  # a keyword of Python
    return message


def _write_decision(decision: LoggedDecision) -> pb.Decision:
    reasons = [policy_pb2.DecisionReason(**reason.to_json()) for reason in decision.reasons]
    message = pb.Decision(
        audit_index=decision.audit_index,
        at=decision.at,
        recipient=decision.recipient,
        product=decision.product,
        permitted=decision.permitted,
        reasons=reasons,
        policy_version=decision.policy_version,
        masked=decision.masked,
    )
    setattr(message, "from", decision.origin)
    return message
