"""The steps after enrolment. Each is safe to repeat: the gateway and the agents know what they did before."""

import json
import threading
from dataclasses import replace
from typing import Any

from federation.client.audit.verifier import AuditVerifier
from federation.client.enrolment import LOG_KEY_FILE
from federation.core.errors import EntenteError, Reason
from federation.plots.answers import cross_table
from federation.policy.load import load_policy
from federation.v1 import budget_pb2, offers_pb2, overlap_pb2, training_pb2
from gateway.demo import readings
from gateway.demo.processes import run_command
from gateway.demo.record import Offers, Story, Withdrawal
from gateway.demo.stage import PARTNERS, Stage
from gateway.demo.yardsticks import Curve, Yardsticks, measure

CALL_S = 60.0
CROSS = ("bank.value_tier", "airline.activity")
CAMPAIGNS = (
    # origin, product, recipient, what is in it for the customer, columns that go along
    ("bank", "home", "insurer", "10 % off the first year", "age,region,balance"),
    ("bank", "miles_card", "airline", "5,000 miles to start with", "age,region"),
    ("insurer", "gold_card", "bank", "no fee for a year", "age,region"),
    ("airline", "gold_card", "bank", "no fee for a year, lounge access", "region"),
    ("airline", "term_deposit", "bank", "0.5 % extra interest", "region"),
)
TOP = "150"
DECISIONS_PER_CALL = 1_000
DECIDE_S = 60.0


def overlap(stage: Stage) -> tuple[Story, str]:
    """Blinds and routes identifiers through all three, builds the index, releases three tables."""
    epoch = stage.remember("epoch", f"{stage.clock.now():%Y-%m-%d}.1")
    with stage.calling_as("operator") as connection:
        for message in connection.overlap.BuildIndex(overlap_pb2.BuildIndexRequest(epoch=epoch)):
            stage.watch(message.progress)
    with stage.calling_as("marketing") as connection:
        ask = connection.overlap.QueryCube
        venn = ask(overlap_pb2.QueryCubeRequest(cube="venn", epoch=epoch), timeout=CALL_S)
        cross = ask(overlap_pb2.QueryCubeRequest(cube="tier_by_activity", epoch=epoch), timeout=CALL_S)
        request = overlap_pb2.QueryLinksRequest(cube="holdings", epoch=epoch)
        links = connection.overlap.QueryLinks(request, timeout=CALL_S)
    partners = tuple(
        replace(partner, blinded=_report(stage, partner.id, epoch)["statistics"]["used"])
        for partner in stage.story.partners
    )
    story = replace(
        stage.story,
        partners=partners,
        venn=readings.read_venn(venn),
        cross=cross_table(cross, *CROSS),
        links=readings.read_links(links, _products(stage)),
    )
    everywhere = next(cell for cell in venn.cells if len(cell.members) == len(PARTNERS))
    shown = f"under {venn.min_count}" if everywhere.suppressed else f"{everywhere.low:,} to {everywhere.high:,}"
    spent = " + ".join(f"{table.epsilon:g}" for table in (venn, cross, links))
    rules = f"{len(links.links)} of {links.candidates} links between products are certain"
    return story, f"People at all three: {shown} (95 %); {rules}; epsilon {spent} for three tables."


def _products(stage: Stage) -> dict[str, str]:
    """What each product is called."""
    return {product.id: product.display_name for product in load_policy(stage.alliance / "policies").offers.products}


def _report(stage: Stage, party: str, epoch: str) -> dict[str, Any]:
    """The partner's own report of a build, which stays at the partner."""
    path = stage.partner(party) / "state" / "reports" / f"overlap-{epoch}.json"
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def train(stage: Stage) -> tuple[Story, str]:
    """Trains one model over the harmonised columns, and measures what nobody could in real life beside it."""
    measured: list[Yardsticks] = []
    # The yardsticks are the demonstration's own arithmetic; they run beside the joint training.
    helper = threading.Thread(target=lambda: measured.append(measure(stage.data, stage.clock.now())))
    helper.start()
    try:
        run_id = _finished_run(stage)
    finally:
        helper.join()
    if not measured:
        raise EntenteError(Reason.BAD_FIELD, item=f"rows and labels in {stage.data}")
    with stage.calling_as("marketing") as connection:
        model = connection.training.GetModel(training_pb2.GetModelRequest(run_id=run_id), timeout=CALL_S)
    card = json.loads(model.card_json)
    rows = {curve.name: curve.rows for curve in measured[0].alone}
    metrics = card["metrics"]
    joint = Curve(
        name="joint",
        rows=sum(rows.values()),
        auc=metrics["auc"],
        roc=tuple((x, y) for x, y in metrics["roc"]),
        lift=tuple(metrics["lift"]),
    )
    partners = tuple(replace(partner, trained=rows[partner.id]) for partner in stage.story.partners)
    training = readings.read_training(run_id, card, joint, measured[0])
    alone = ", ".join(f"{curve.name} {curve.auc:.3f}" for curve in measured[0].alone)
    line = (
        f"AUC {joint.auc:.3f} jointly at epsilon {training.epsilon_per_customer:g} a customer and partner "
        f"({training.epsilon_per_person:.2f} a person); without privacy: pooled {measured[0].pooled.auc:.3f}; {alone}."
    )
    return replace(stage.story, partners=partners, training=training), line


def _finished_run(stage: Stage) -> str:
    """Starts a run, or follows the one that an interrupted demonstration started; one that failed is tried again.

    The budget of a failed run stays spent, so there is one further try, not many.
    """
    with stage.calling_as("marketing") as connection:
        last = training_pb2.StartRunResponse()
        for attempt in ("first", "second"):
            key = f"demo {stage.key} {attempt}"
            for last in connection.training.StartRun(training_pb2.StartRunRequest(idempotency_key=key)):
                stage.watch(last.progress)
            if last.state == training_pb2.RUN_STATE_FINISHED:
                return last.run_id
    raise EntenteError(Reason.RUN_FAILED, item=last.reason)


def offers(stage: Stage) -> tuple[Story, str]:
    """Every partner scores its own customers and proposes; the gateway decides, masks and queues."""
    kept_out: list[dict[str, Any]] = []
    for number, (origin, product, recipient, benefit, columns) in enumerate(CAMPAIGNS):
        stage.show(f"{origin} proposes {product} to {recipient}", number, len(CAMPAIGNS) + 1)
        options = ("--product", product, "--recipient", recipient, "--benefit", benefit, "--attributes", columns)
        done = run_command("offers", "propose", *options, "--top", TOP, "--config", str(stage.partner(origin)))
        kept_out.append({**done, "from": origin, "recipient": recipient, "product": product})
    stage.show("deciding", len(CAMPAIGNS), len(CAMPAIGNS) + 1)
    decisions = _decisions(stage)
    permitted = [decision for decision in decisions if decision["permitted"]]
    refused = [decision for decision in decisions if not decision["permitted"]]
    products = _products(stage)
    examples = readings.read_refused([*refused, *_kept_out(kept_out)], products)
    waiting = run_command("offers", "inbox", "--peek", "--config", str(stage.partner("insurer")))["offers"]
    if waiting and permitted:
        product = products[waiting[0]["product"]]
        examples.insert(0, readings.read_permitted(waiting[0], permitted[0]["masked"], product, "insurer"))
    summary = Offers(
        proposed=len(decisions),
        permitted=len(permitted),
        refused=len(refused),
        reasons=readings.count_reasons(refused),
        examples=tuple(examples),
    )
    kinds = len(summary.reasons)
    line = f"{summary.permitted} of {summary.proposed} offers permitted; {kinds} kinds of refusal at the gateway."
    return replace(stage.story, offers=summary), line


def _kept_out(campaigns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the partners' own policies refused before anything was proposed, as decisions."""
    return [
        {**{name: campaign[name] for name in ("from", "recipient", "product")}, "reasons": [reason]}
        for campaign in campaigns
        for reason in campaign["own_reasons"]
    ]


def _decisions(stage: Stage) -> list[dict[str, Any]]:
    """Every decision about an offer, as compliance reads it, once nothing waits for one."""
    from federation.cli.offers import decision_to_json  # noqa: PLC0415 - a command's module, for one function

    found: list[dict[str, Any]] = []
    # A call for an inbox, and for the decisions, first decides what waits; together far more than is proposed here.
    for party in PARTNERS:
        run_command("offers", "inbox", "--peek", "--config", str(stage.partner(party)))
    with stage.calling_as("compliance") as connection:
        while True:
            after = found[-1]["audit_index"] if found else 0
            request = offers_pb2.ListDecisionsRequest(after=after, max_decisions=DECISIONS_PER_CALL)
            page = connection.offers.ListDecisions(request, timeout=DECIDE_S).decisions
            found += [decision_to_json(decision) for decision in page]
            if len(page) < DECISIONS_PER_CALL:
                return found


def withdraw(stage: Stage) -> tuple[Story, str]:
    """A customer with a waiting offer withdraws; the offer is gone before the answer."""
    party = "insurer"
    insurer = ("--config", str(stage.partner(party)))
    before = run_command("offers", "inbox", "--peek", *insurer)["offers"]
    if not before:
        raise EntenteError(Reason.BAD_FIELD, item="no offer is waiting at the insurer; is the data large enough?")
    customer = stage.remember("withdrawing", before[0]["customer_id"])
    queued = int(stage.remember("queued", str(len(before))))
    done = run_command("consent", "withdraw", customer, "--purpose", "offer_sharing", *insurer)
    after = run_command("offers", "inbox", "--peek", *insurer)["offers"]
    if any(offer["customer_id"] == customer for offer in after):
        raise EntenteError(Reason.INTERNAL, item="an offer outlived the consent that it needed")
    for recipient in PARTNERS:
        run_command("offers", "inbox", "--config", str(stage.partner(recipient)))
    withdrawal = Withdrawal(
        partner=party,
        purpose="offer_sharing",
        queued_before=queued,
        queued_after=len(after),
        removed=queued - len(after),
        effective_at=done["at"],
    )
    line = f"Offers waiting at the {party}: {queued} before, {len(after)} after; the gateway acknowledged at once."
    return replace(stage.story, withdrawal=withdrawal), line


def verify(stage: Stage) -> tuple[Story, str]:
    """The auditor recomputes the log, compliance reads the ledger."""
    vkey = (stage.person("auditor") / "identity" / LOG_KEY_FILE).read_text()
    with stage.calling_as("auditor") as connection:
        report = AuditVerifier(connection.audit, vkey, stage.person("auditor") / "state" / "seen-checkpoint").verify()
    with stage.calling_as("compliance") as connection:
        budget = readings.read_budget(connection.budget.GetBudget(budget_pb2.GetBudgetRequest(), timeout=CALL_S))
    spent = "; ".join(f"{s.name.replace('_', ' ')} {s.spent:.2f} of {s.limit:g}" for s in budget.scopes)
    story = replace(stage.story, audit=readings.read_audit(report), budget=budget)
    return story, f"Audit log: {report.summary}. Epsilon spent: {spent}."
