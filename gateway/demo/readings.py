"""Turns what the gateway and the partners' commands answer into the record of the demonstration."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from federation.client.audit.verifier import AuditReport
from federation.plots.answers import count_of, noise_of
from federation.plots.values import Noise, Region
from federation.v1 import budget_pb2, overlap_pb2
from gateway.demo.record import (
    Audit,
    Budget,
    Entry,
    Link,
    Links,
    OfferExample,
    OfferField,
    Ratio,
    ReasonCount,
    Scope,
    Training,
    Venn,
)
from gateway.demo.yardsticks import Curve, Yardsticks


def read_venn(answer: overlap_pb2.QueryCubeResponse) -> Venn:
    """The regions and, from them, the totals."""
    regions = tuple(Region(tuple(cell.members), count_of(cell)) for cell in answer.cells)
    totals = tuple(Region(tuple(total.members), count_of(total)) for total in answer.totals if not total.labels)
    return Venn(answer.epoch, answer.key_type, regions, totals, noise_of(answer))


def read_links(answer: overlap_pb2.QueryLinksResponse, products: Mapping[str, str]) -> Links:
    """The rules with the products' display names."""

    def name(column: str) -> str:
        party, _, product = column.partition(".holds_")
        return f"{products.get(product, product)} ({party})"

    def ratio(found: overlap_pb2.Ratio) -> Ratio:
        return Ratio(found.value, found.low, found.high if math.isfinite(found.high) else None)

    links = tuple(
        Link(tuple(map(name, link.left)), name(link.right), link.people, ratio(link.confidence), ratio(link.lift))
        for link in answer.links
    )
    noise = Noise(answer.epsilon, answer.delta, answer.sigma, "discrete_gaussian", answer.min_count)
    return Links(links, answer.candidates, answer.coverage, noise)


def read_training(run_id: str, card: Mapping[str, Any], joint: Curve, yardsticks: Yardsticks) -> Training:
    """The model card beside the yardsticks."""
    return Training(
        run_id=run_id,
        model=card["model"],
        rounds=card["rounds"],
        steps_per_round=card["steps_per_round"],
        sampling_rate=card["sampling_rate"],
        clipping_norm=card["clipping_norm"],
        noise_multiplier=card["noise_multiplier"],
        epsilon_per_customer=card["epsilon_per_customer"],
        epsilon_per_person=card["epsilon_per_person"],
        delta=card["delta"],
        joint=joint,
        yardsticks=yardsticks,
        measures={name: card[name] for name in ("metrics", "judged", "loss_by_round")},
    )


def count_reasons(decisions: Iterable[Mapping[str, Any]]) -> tuple[ReasonCount, ...]:
    """How many refused offers each reason is on, the most frequent first. An offer can have several."""
    counts: Counter[str] = Counter()
    first: dict[str, Mapping[str, str]] = {}
    for decision in decisions:
        for code in dict.fromkeys(reason["code"] for reason in decision["reasons"]):
            counts[code] += 1
        for reason in decision["reasons"]:
            first.setdefault(reason["code"], reason)
    return tuple(
        ReasonCount(code, first[code]["text"] or code, first[code]["legal_ref"], number)
        for code, number in counts.most_common()
    )


def read_permitted(waiting: Mapping[str, Any], masks: Mapping[str, str], product: str, recipient: str) -> OfferExample:
    """An offer as its recipient sees it; the handle stays out."""
    names = ("score_band", "channel", "benefit")
    fields = [OfferField(name.replace("_", " "), str(waiting[name])) for name in names]
    fields.append(OfferField("valid until", str(waiting["expires_at"])[:10]))
    fields += [OfferField(n, value, masks.get(n, "")) for n, value in sorted(waiting["attributes"].items())]
    return OfferExample(
        permitted=True,
        sender=waiting["from"],
        recipient=recipient,
        product=product,
        fields=tuple(fields),
        reasons=(),
    )


def read_refused(decisions: Sequence[Mapping[str, Any]], products: Mapping[str, str]) -> list[OfferExample]:
    """One refused offer for each kind of reason, each with all reasons that it was refused for."""
    examples: dict[str, OfferExample] = {}
    for decision in decisions:
        for reason in decision["reasons"]:
            if reason["code"] not in examples:
                examples[reason["code"]] = OfferExample(
                    permitted=False,
                    sender=decision["from"],
                    recipient=decision["recipient"],
                    product=products.get(decision["product"], decision["product"]),
                    fields=(),
                    reasons=tuple(
                        ReasonCount(r["code"], r["text"] or r["code"], r["legal_ref"], 1) for r in decision["reasons"]
                    ),
                )
    return list(dict.fromkeys(examples.values()))


def read_budget(answer: budget_pb2.GetBudgetResponse) -> Budget:
    """The ledger, the alliance's own limit first."""
    scopes = tuple(Scope(s.scope, s.epsilon_limit, s.epsilon_spent) for s in answer.scopes)
    entries = tuple(Entry(e.at, e.purpose, e.what, e.epsilon, e.state) for e in answer.entries)
    delta = answer.scopes[0].delta if answer.scopes else 0.0
    return Budget(answer.period_start, answer.period_end, delta, scopes, entries)


def read_audit(report: AuditReport) -> Audit:
    """A log that verified."""
    return Audit(report.size, report.root, verified=True, text=report.summary)
