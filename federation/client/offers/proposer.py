"""Proposes offers about the partner's own customers.

Guarantees that nobody is proposed whom the partner's own policy does not permit, that attributes are masked as that
policy demands before they are sent, and that an offer is in the outbox, with its whole content, before it is sent: a
process that is killed and started again sends the same offers under the same ids, which the gateway takes once.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pandas as pd
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, func, select

from federation.client.data import PartnerData
from federation.client.eligible import refuses
from federation.client.handles import HandleBook
from federation.client.offers.campaign import Campaign, ProposalSummary, offer_id_of, rank_customers
from federation.core.clock import to_text
from federation.core.errors import DataError, Reason
from federation.core.ids import CustomerId, Handle
from federation.offers.offer import PURPOSE, score_band
from federation.policy.facts import Decision, Facts
from federation.policy.mask import apply_obligations, recipient_key
from federation.policy.scan import identifiers
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX
from federation.v1 import offers_pb2 as pb
from federation.v1 import offers_pb2_grpc

DATA_CATEGORY = "offer_proposal"
MASK_KEY_FILE = "mask.key"
FLUSH_EVERY_S = 5.0
PURGE_EVERY_S = 3600.0
KEEP_CLOSED_DAYS = 90
"""A proposal is deleted from the outbox that long after it expired."""
OFFERS_PER_CALL = 500
CALL_TIMEOUT_S = 120.0
_Decide = Callable[[CustomerId, str, str, Iterable[str]], Decision]
"""Customer, recipient, channel, fields."""

metadata = MetaData()
outbox = Table(
    "offer_outbox",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("offer_id", String, nullable=False, unique=True),
    Column("customer_id", String, nullable=False, index=True),
    Column("recipient", String, nullable=False),
    Column("product", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("score_band", String, nullable=False),
    Column("benefit", String, nullable=False),
    Column("attributes", String, nullable=False),
    Column("proposed_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("answer", String),  # "accepted", or the first reason's code; none: not answered yet
)


class OfferProposer:
    """Picks, masks and sends.

    Args:
        stub: The gateway's offer service.
        data: The partner's data under its own policy.
        handles: The partner's handles.
        engine: The partner's durable state.
        mask_key: Secret of the partner, at least 32 bytes, for pseudonym masks.
    """

    def __init__(
        self,
        stub: offers_pb2_grpc.OfferServiceStub,
        data: PartnerData,
        handles: HandleBook,
        engine: Engine,
        mask_key: bytes,
    ) -> None:
        self._stub, self._data, self._handles, self._engine = stub, data, handles, engine
        self._mask_key, self._flushing = mask_key, threading.Lock()
        metadata.create_all(engine)

    def propose(self, scores: "Mapping[CustomerId, float] | pd.Series[float]", campaign: Campaign) -> ProposalSummary:
        """Proposes an offer to the best-scored people whom the partner's own policy permits.

        Only the best quarter of all scored people is ever proposed, because no score band reaches further.

        Args:
            scores: By customer id; higher is better.
            campaign: What to propose.

        Raises:
            DataError: an unusable file, MISSING_COLUMN for an attribute that is no column, BAD_FIELD for an identifier
                as attribute or in the benefit, or a score that is no number.
            PolicyError: OBLIGATION_FAILED where a mask cannot be applied; nothing is sent.
            grpc.RpcError: the gateway cannot be reached; the outbox keeps what was not sent. Call again, or ``flush``.
        """
        self._check_attributes(campaign)
        fields = frozenset(campaign.attributes)
        allowed = self._data.eligible(
            PURPOSE, DATA_CATEGORY, campaign.recipient, channel=campaign.channel, fields=fields
        )
        ids = set(allowed.ids)
        picked: dict[CustomerId, str] = {}
        ranked = rank_customers(scores)
        known, passed_over = self._handles.known([customer for customer in ranked if customer in ids]), 0
        for rank, customer in enumerate(ranked):
            band = score_band(rank, len(ranked))
            if band is None or len(picked) == campaign.top:
                break
            if customer in known:
                picked[customer] = band
            elif customer in ids:
                passed_over += 1
        offer_ids, already = self._enqueue(picked, campaign)
        self.flush()
        answers = self._answers(offer_ids)
        return ProposalSummary(
            scored=len(ranked),
            eligible=len(ids),
            picked=len(picked),
            not_on_switchboard=passed_over,
            already_proposed=already,
            accepted=answers.pop("accepted", 0),
            rejected=answers,
            refused_by_own_policy=allowed.refused,
            own_reasons=allowed.reasons,
        )

    def flush(self) -> int:
        """Sends what waits in the outbox; returns how many offers were answered.

        What the partner's own policy does not permit any more, after a withdrawal say, is closed and never sent.

        Raises:
            DataError: the partner's files are not usable.
            grpc.RpcError: the gateway cannot be reached; the rest waits.
        """
        with self._flushing:
            return self._flush()

    def serve(self, stop: threading.Event) -> None:
        """Sends what waits until told to stop, also what another process put into the outbox; a part of the agent."""
        purge_at = time.monotonic()
        while not stop.is_set():
            self.flush()
            if time.monotonic() >= purge_at:
                self.purge()
                purge_at = time.monotonic() + PURGE_EVERY_S
            stop.wait(FLUSH_EVERY_S)

    def purge(self) -> int:
        """Deletes proposals that expired long ago; returns how many."""
        long_ago = to_text(self._data.clock.now() - timedelta(days=KEEP_CLOSED_DAYS))
        with self._engine.begin() as connection:
            return connection.execute(outbox.delete().where(outbox.c.expires_at < long_ago)).rowcount

    def _flush(self) -> int:
        sent = 0
        while waiting := self._waiting():
            decide = self._deciding([CustomerId(row["customer_id"]) for row in waiting])
            barriers = {row["offer_id"]: self._barrier(row, decide) for row in waiting}
            answers = {offer_id: code for offer_id, code in barriers.items() if code is not None}
            going = [row for row in waiting if row["offer_id"] not in answers]
            if going:
                handles = self._handles.handles_for([CustomerId(row["customer_id"]) for row in going])
                offers = [_to_message(row, handle) for row, handle in zip(going, handles, strict=True)]
                reply = self._stub.ProposeOffers(pb.ProposeOffersRequest(offers=offers), timeout=CALL_TIMEOUT_S)
                answers |= {receipt.offer_id: _answer(receipt) for receipt in reply.receipts}
            with self._engine.begin() as connection:
                for row in waiting:
                    # A gateway that leaves one out breaks the contract; sending it for ever would not mend that.
                    answer = answers.get(row["offer_id"], "no_receipt")
                    connection.execute(outbox.update().where(outbox.c.number == row["number"]).values(answer=answer))
            sent += len(going)
        return sent

    def _check_attributes(self, campaign: Campaign) -> None:
        names, table = self._data.config.columns, self._data.customers()
        for column in campaign.attributes:
            if column in {names.id, names.email, names.phone}:
                raise DataError(Reason.BAD_FIELD, item=f"attribute {column}: an identifier never goes along")
            if column not in table.columns:
                raise DataError(Reason.MISSING_COLUMN, item=f"{self._data.config.customers.name}, column {column}")
        if held := identifiers(campaign.benefit):
            raise DataError(Reason.BAD_FIELD, item=f"benefit, which holds: {', '.join(held)}")

    def _enqueue(self, picked: Mapping[CustomerId, str], campaign: Campaign) -> tuple[list[str], int]:
        """Puts an offer per person into the outbox unless a live one is there; ids, and how many were there before."""
        at = self._data.clock.now()
        handles = dict(zip(picked, self._handles.handles_for(list(picked)), strict=True))
        decide = self._deciding(list(picked))
        content = {customer: self._content(customer, decide, campaign) for customer in picked}
        route = {"recipient": campaign.recipient, "product": campaign.product, "channel": campaign.channel}
        dates = {"proposed_at": to_text(at), "expires_at": to_text(at + timedelta(days=campaign.valid_days))}
        offer_ids, already = [], 0
        with self._engine.begin() as connection:
            earlier, live = Counter[str](), dict[str, str]()
            for row in connection.execute(select(outbox).where(*(outbox.c[name] == route[name] for name in route))):
                earlier[row.customer_id] += 1
                if row.expires_at > to_text(at) and row.answer in {None, "accepted"}:
                    live[row.customer_id] = row.offer_id
            for customer, band in picked.items():
                if customer not in live:
                    live[customer] = offer_id_of(handles[customer], campaign, earlier[customer])
                    person = {"offer_id": live[customer], "customer_id": customer, "score_band": band}
                    what = {"benefit": campaign.benefit, "attributes": content[customer]}
                    connection.execute(outbox.insert().values(**person, **what, **route, **dates))
                else:
                    already += 1
                offer_ids.append(live[customer])
        return offer_ids, already

    def _deciding(self, customers: Sequence[CustomerId]) -> _Decide:
        """Decides about some customers, by what each said until now; read for all at once, which takes most time."""
        regions = self._data.regions(customers)
        consents, sensitive, objections = (
            self._data.consents.states_of(customers, purpose)
            for purpose in (PURPOSE, PURPOSE + SENSITIVE_SUFFIX, OBJECTION_PURPOSE)
        )

        def decide(customer: CustomerId, recipient: str, channel: str, fields: Iterable[str]) -> Decision:
            facts = Facts(
                purpose=PURPOSE,
                data_category=DATA_CATEGORY,
                origin=self._data.party,
                recipient=recipient,
                at=self._data.clock.now(),
                channel=channel,
                subject_region=regions.get(customer),
                consent=consents.get(customer),
                fields=frozenset(fields),
                sensitive_consent=sensitive.get(customer),
                objected=refuses(objections.get(customer)),
            )
            return self._data.policy.decide(facts)

        return decide

    def _content(self, customer: CustomerId, decide: _Decide, campaign: Campaign) -> str:
        """The attributes of one person, masked, as JSON. Raises PolicyError (OBLIGATION_FAILED)."""
        decision = decide(customer, campaign.recipient, campaign.channel, campaign.attributes)
        row = self._data.customers().loc[customer]
        # Whoever is not permitted any more goes without content, and ``flush`` closes the offer.
        columns = campaign.attributes if decision.permitted else ()
        values = {column: str(row[column]) for column in columns if not pd.isna(row[column])}
        return json.dumps(self._mask(values, decision, campaign.recipient), sort_keys=True)

    def _barrier(self, row: Mapping[str, Any], decide: _Decide) -> str | None:
        """Why a waiting offer may not be sent now, as a code; None when it may."""
        values = json.loads(row["attributes"])
        decision = decide(CustomerId(row["customer_id"]), row["recipient"], row["channel"], values)
        if not decision.permitted:
            return decision.reasons[0].code if decision.reasons else "no_reason"
        # Masks are idempotent: a difference means that the policy became stricter, and one id has one content.
        return None if self._mask(values, decision, row["recipient"]) == values else "masks_changed"

    def _mask(self, values: Mapping[str, str], decision: Decision, recipient: str) -> dict[str, str]:
        return apply_obligations(values, decision.obligations, recipient_key(self._mask_key, recipient))

    def _waiting(self) -> list[dict[str, Any]]:
        unsent = outbox.c.answer.is_(None), outbox.c.expires_at > to_text(self._data.clock.now())
        query = select(outbox).where(*unsent).order_by(outbox.c.number).limit(OFFERS_PER_CALL)
        with self._engine.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _answers(self, offer_ids: Sequence[str]) -> dict[str, int]:
        found = Counter[str]()
        with self._engine.begin() as connection:
            for start in range(0, len(offer_ids), OFFERS_PER_CALL):
                part = outbox.c.offer_id.in_(offer_ids[start : start + OFFERS_PER_CALL])
                for answer, count in connection.execute(
                    select(outbox.c.answer, func.count()).where(part).group_by(outbox.c.answer)
                ):
                    found[answer or "not_sent"] += count
        return dict(found)


def _answer(receipt: pb.OfferReceipt) -> str:
    if receipt.accepted:
        return "accepted"
    return receipt.reasons[0].code if receipt.reasons else "no_reason"


def _to_message(row: Mapping[str, Any], handle: Handle) -> pb.Offer:
    return pb.Offer(
        offer_id=row["offer_id"],
        handle=handle,
        product=row["product"],
        recipient=row["recipient"],
        channel=row["channel"],
        score_band=row["score_band"],
        purpose=PURPOSE,
        benefit=row["benefit"],
        attributes=json.loads(row["attributes"]),
        expires_at=row["expires_at"],
    )
