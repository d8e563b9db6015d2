"""``entente consent``: what a customer said, as the partner's agent and the gateway know it."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from federation.cli.console import ConfigOption, JsonOption, emit, out, table
from federation.cli.partner import workplace
from federation.core.clock import from_text, to_text
from federation.core.errors import DataError, Reason
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact

app = typer.Typer(no_args_is_help=True, help="Consents of a partner's own customers.")
CustomerArgument = Annotated[str, typer.Argument(help="The partner's own customer id.")]
PurposeOption = Annotated[str, typer.Option(help="overlap_statistics, model_training or offer_sharing.")]
DAYS_VALID = 730


@app.command(epilog="Example: entente consent withdraw B00122425 --purpose offer_sharing --config bank")
def withdraw(
    customer: CustomerArgument,
    config: ConfigOption,
    purpose: PurposeOption = "offer_sharing",
    as_json: JsonOption = False,
) -> None:
    """Withdraw a consent: here at once, and at the gateway, where queued offers that needed it are removed.

    Exit code 0 even while the gateway is away: the agent keeps telling it, and the output says so.
    """
    with workplace(config) as place:
        _check_known(place.data.customers().index, customer)
        done = place.consents.withdraw(CustomerId(customer), purpose)
    value = {
        "at": to_text(done.at),
        "acknowledged": done.acknowledged,
        "offers_removed": done.offers_removed,
        "purpose": purpose,
    }
    emit(as_json, value, lambda: out.print(done.text))


@app.command(epilog="Example: entente consent record B00122425 --recipients insurer,airline --config bank")
def record(
    customer: CustomerArgument,
    config: ConfigOption,
    recipients: Annotated[str, typer.Option(help="Partners that the consent names, separated by commas.")],
    purpose: PurposeOption = "offer_sharing",
    separate: Annotated[bool, typer.Option("--separate", help="Given separately from other terms.")] = False,
    cross_border: Annotated[bool, typer.Option("--cross-border", help="Covers processing abroad.")] = False,
    jurisdiction: Annotated[str, typer.Option(help="GDPR, PIPL or PDPA.")] = "GDPR",
    expires_at: Annotated[str, typer.Option(help="RFC 3339 with zone; empty for two years from now.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Record that a customer gave a consent, now."""
    with workplace(config) as place:
        _check_known(place.data.customers().index, customer)
        now = place.clock.now()
        end = from_text(expires_at, item="--expires-at") if expires_at else now + timedelta(days=DAYS_VALID)
        named = frozenset(name.strip() for name in recipients.split(",") if name.strip())
        unknown = sorted(named - set(place.policy.parties))
        if unknown or end <= now:
            raise DataError(Reason.BAD_FIELD, item=f"--recipients {unknown}" if unknown else "--expires-at is over")
        fact = ConsentFact("given", named, now, end, separate, cross_border, jurisdiction)
        known = place.consents.record(CustomerId(customer), purpose, fact)
    value = {"purpose": purpose, "given_at": to_text(now), "expires_at": to_text(end), "at_gateway": known}
    told = "The gateway has it." if known else "The gateway gets it with the next index build."
    emit(as_json, value, lambda: out.print(f"Recorded until {to_text(end)[:10]}. {told}"))


@app.command(epilog="Example: entente consent show B00122425 --config bank")
def show(customer: CustomerArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show what a customer said, purpose by purpose."""
    with workplace(config) as place:
        _check_known(place.data.customers().index, customer)
        found = place.data.consents.purposes_of(CustomerId(customer))
    rows = {purpose: _to_json(fact) for purpose, fact in found.items()}

    def text() -> None:
        shown = table(f"Consents of {customer}", "purpose", "status", "recipients", "until", "separate", "cross-border")
        for purpose, row in sorted(rows.items()):
            flags = ("yes" if row["separate"] else "no", "yes" if row["cross_border"] else "no")
            shown.add_row(purpose, row["status"], ", ".join(row["recipients"]), row["expires_at"][:10], *flags)
        out.print(shown)

    emit(as_json, {"customer": customer, "consents": rows}, text)


def _check_known(known: Any, customer: str) -> None:
    if customer not in known:
        raise DataError(Reason.BAD_FIELD, item="customer id", fix="It is not in customers.csv of this partner.")


def _to_json(fact: ConsentFact) -> dict[str, Any]:
    return {
        "status": fact.status or "unreadable",
        "recipients": sorted(fact.recipients or ()),
        "given_at": to_text(fact.given_at) if fact.given_at else "",
        "expires_at": to_text(fact.expires_at) if fact.expires_at else "",
        "separate": bool(fact.separate),
        "cross_border": bool(fact.cross_border),
        "jurisdiction": fact.jurisdiction or "",
    }
