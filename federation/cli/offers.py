"""``entente offers``: propose offers about one's own customers, receive others', see how they were decided."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.console import (
    MAX_NUMBER,
    RPC_TIMEOUT_S,
    ConfigOption,
    JsonOption,
    connect,
    emit,
    out,
    styled,
    table,
)
from federation.cli.workplace import workplace
from federation.client.connection import translated
from federation.core.clock import to_text
from federation.core.errors import DataError, Reason
from federation.core.files import keep_secret
from federation.core.ids import Handle
from federation.v1 import offers_pb2 as pb

if TYPE_CHECKING:
    import pandas as pd

    from federation.client.offers.inbox import ReceivedOffer
    from federation.client.workplace import Workplace

app = typer.Typer(no_args_is_help=True, help="Offers between partners.")
MAX_PEEK = 1_000


@app.command(
    epilog="Example: entente offers propose --product home --recipient insurer --benefit '10 % off' --config bank"
)
def propose(
    config: ConfigOption,
    product: Annotated[str, typer.Option(help="Product of the recipient, as the policy lists it.")],
    recipient: Annotated[str, typer.Option(help="The partner that sells it.")],
    benefit: Annotated[str, typer.Option(help="What is in it for the customer, one line.")],
    channel: Annotated[str, typer.Option(help="app, email, phone or branch.")] = "app",
    top: Annotated[int, typer.Option(min=1, help="How many people at most, the best first.")] = 100,
    attributes: Annotated[str, typer.Option(help="Columns that go along, masked; separated by commas.")] = "",
    run_id: Annotated[str, typer.Option("--run", help="Run whose model scores; empty for the one in use.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Score the customers here, pick the best whom the own policy permits, and propose offers for them.

    What the gateway decides about each stays with the gateway: it would tell who is the other's customer.
    """
    from federation.client.offers.campaign import Campaign
    from federation.client.offers.proposer import MASK_KEY_FILE, OfferProposer

    with workplace(config) as place:
        _check_terms(place, product, recipient, channel, benefit)
        scores = _score(place, run_id)
        mask_key = keep_secret(place.config.state / MASK_KEY_FILE)
        proposer = OfferProposer(place.connection.offers, place.data, place.handles, place.engine, mask_key)
        columns = tuple(name.strip() for name in attributes.split(",") if name.strip())
        campaign = Campaign(product, recipient, channel, benefit, top, columns)
        with translated():
            done = proposer.propose(scores, campaign)
    value = {
        "scored": done.scored,
        "eligible": done.eligible,
        "picked": done.picked,
        "not_on_switchboard": done.not_on_switchboard,
        "already_proposed": done.already_proposed,
        "accepted": done.accepted,
        "rejected": done.rejected,
        "refused_by_own_policy": done.refused_by_own_policy,
        "own_reasons": [reason.to_json() for reason in done.own_reasons.values()],
    }

    def text() -> None:
        out.print(f"{done.picked:,} of {done.eligible:,} permitted customers proposed to {recipient} for {product}")
        if done.not_on_switchboard:
            out.print(
                f"  passed over, not on the switchboard: {done.not_on_switchboard:,}; they come with the next index"
            )
        out.print(f"  taken for decision by the gateway: {done.accepted:,}, proposed before: {done.already_proposed:,}")
        for title, counts in (("kept out by own policy", done.refused_by_own_policy), ("not taken", done.rejected)):
            for code, number in sorted(counts.items()):
                out.print(f"  {title}: {number:,} {code}")

    emit(as_json, value, text)


def _check_terms(place: "Workplace", product: str, recipient: str, channel: str, benefit: str) -> None:
    """Raises DataError for a slip of the pen, before a hundred proposals leave that nobody can take."""
    from federation.offers.offer import benefit_problem

    spec = place.policy.offers
    sold = [one.id for one in spec.products if one.owner == recipient]
    if product not in sold:
        item = f"product {product[:48]!r} of {recipient[:48]!r}"
        every = ", ".join(f"{one.id} of {one.owner}" for one in spec.products)
        raise DataError(Reason.BAD_FIELD, item=item, fix=f"The policy lists: {every}.")
    if channel not in spec.channels:
        raise DataError(Reason.BAD_FIELD, item=f"channel {channel[:48]!r}", fix=f"Use {', '.join(spec.channels)}.")
    if problem := benefit_problem(benefit):
        raise DataError(Reason.BAD_FIELD, item="benefit", fix=problem[1])


def _score(place: "Workplace", run_id: str) -> "pd.Series[float]":
    """Scores of the partner's own customers by a model whose card verifies; nothing leaves."""
    import pandas as pd

    from federation.client.models import ModelShelf

    shelf = ModelShelf(place.connection.training, place.connection.models, place.identity, place.config.state)
    with translated():
        model = shelf.of_run(run_id) if run_id else shelf.in_use()
    frame = place.data.customers()
    return pd.Series(model.score(frame), index=frame.index)


@app.command(epilog="Example: entente offers inbox --config insurer")
def inbox(
    config: ConfigOption,
    peek: Annotated[
        bool, typer.Option("--peek", help="Look at what waits at the gateway, and leave it there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch new offers, keep them here, and list all with their status now."""
    from federation.client.offers.inbox import OfferInbox

    with workplace(config) as place, translated():
        if peek:
            waiting = place.connection.offers.PullInbox(pb.PullInboxRequest(max_offers=MAX_PEEK), timeout=RPC_TIMEOUT_S)
            rows = [_waiting_to_json(place, offer) for offer in waiting.offers]
            fresh = 0
        else:
            box = OfferInbox(place.connection.offers, place.data, place.handles, place.engine)
            fresh = len(box.pull())
            rows = [_to_json(offer) for offer in box.offers()]

    def text() -> None:
        title = "Waiting at the gateway" if peek else f"Offers ({fresh} new)"
        shown = table(title, "customer", "from", "product", "band", "status", "fields")
        for row in rows:
            fields = ", ".join(f"{name} {value}" for name, value in sorted(row["attributes"].items()))
            shown.add_row(row["customer_id"], row["from"], row["product"], row["score_band"], row["status"], fields)
        out.print(shown if rows else f"{title}: none")

    emit(as_json, {"offers": rows, "new": fresh}, text)


@app.command(epilog="Example: entente offers decisions --config people/compliance")
def decisions(
    config: ConfigOption,
    after: Annotated[int, typer.Option(min=0, max=MAX_NUMBER, help="Only decisions after this audit index.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """List decisions with their reasons (compliance, auditor); no handle is in them."""
    with connect(config) as connection:
        request = pb.ListDecisionsRequest(after=after, max_decisions=limit)
        answer = connection.offers.ListDecisions(request, timeout=RPC_TIMEOUT_S)
    rows = [decision_to_json(decision) for decision in answer.decisions]

    def text() -> None:
        shown = table("Decisions", "index", "from", "to", "product", "decision", "reasons", right=["index"])
        for row in rows:
            said = styled("permitted", "green") if row["permitted"] else styled("refused", "red")
            codes = ", ".join(reason["code"] for reason in row["reasons"])
            shown.add_row(str(row["audit_index"]), row["from"], row["recipient"], row["product"], said, codes)
        out.print(shown)
        more = f"; there may be more: --after {rows[-1]['audit_index']}" if len(rows) == limit else ""
        out.print(f"{len(rows):,} decisions, {sum(row['permitted'] for row in rows):,} permitted{more}")

    emit(as_json, {"decisions": rows}, text)


def decision_to_json(decision: pb.Decision) -> dict[str, Any]:
    """A decision as plain values."""
    reasons = [{"rule": r.rule, "code": r.code, "text": r.text, "legal_ref": r.legal_ref} for r in decision.reasons]
    return {
        "audit_index": decision.audit_index,
        "at": decision.at,
        "from": getattr(decision, "from"),
        "recipient": decision.recipient,
        "product": decision.product,
        "permitted": decision.permitted,
        "reasons": reasons,
        "policy_version": decision.policy_version,
        "masked": dict(decision.masked),
    }


def _waiting_to_json(place: "Workplace", offer: pb.DeliveredOffer) -> dict[str, Any]:
    names = ("delivery_id", "product", "channel", "score_band", "benefit", "expires_at", "delivered_at")
    customer = place.handles.customer_of(Handle(offer.handle)) or ""
    about = {"customer_id": customer, "from": getattr(offer, "from"), "attributes": dict(offer.attributes)}
    return {**about, "status": "waiting", **{name: getattr(offer, name) for name in names}}


def _to_json(offer: "ReceivedOffer") -> dict[str, Any]:
    return {
        "delivery_id": offer.delivery_id,
        "customer_id": offer.customer_id or "",
        "from": offer.sender,
        "product": offer.product,
        "channel": offer.channel,
        "score_band": offer.score_band,
        "benefit": offer.benefit,
        "attributes": offer.attributes,
        "expires_at": to_text(offer.expires_at),
        "delivered_at": to_text(offer.delivered_at),
        "status": offer.status,
    }
