"""``entente consent``: what a customer said, as the partner's agent and the gateway know it."""

import json
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from federation.cli.console import ConfigOption, JsonOption, emit, err, moment, out, table
from federation.cli.workplace import workplace
from federation.client.connection import translated
from federation.core.clock import from_text, to_text
from federation.core.errors import DataError, EntenteError, Reason
from federation.core.files import write_secret
from federation.core.identity import load_identity
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX

if TYPE_CHECKING:
    from federation.client.consent.importing import Imported
    from federation.client.workplace import Workplace
    from federation.consent.record import Record
    from federation.consent.terms import PurposeTerms

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

    An objection to automated marketing is `--purpose automated_marketing`; it needs no consent before.
    Exit code 0 even while the gateway is away: the agent keeps telling it, and the output says so.
    """
    with workplace(config) as place:
        _check_known(place.data.customers().index, customer)
        # A purpose that a later policy dropped can still be withdrawn; a misspelt one must not look withdrawn.
        known = {OBJECTION_PURPOSE, *place.data.consents.purposes_of(CustomerId(customer))}
        _check_purpose(place, purpose, also=known)
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
    jurisdiction: Annotated[
        str, typer.Option(help="GDPR, PIPL or PDPA; empty for the law of the customer's region.")
    ] = "",
    expires_at: Annotated[str, typer.Option(help="RFC 3339 with zone; empty for two years from now.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Record that a customer gave a consent, now.

    A separate consent to sensitive fields is a record of its own: `--purpose offer_sharing_sensitive --separate`.
    """
    with workplace(config) as place:
        _check_known(place.data.customers().index, customer)
        about = purpose.removesuffix(SENSITIVE_SUFFIX)
        laws = sorted(_check_purpose(place, about)[about].legal_basis)
        now = place.clock.now()
        end = from_text(expires_at, item="--expires-at") if expires_at else now + timedelta(days=DAYS_VALID)
        named = frozenset(name.strip() for name in recipients.split(",") if name.strip())
        parties = sorted(place.policy.parties)
        if not named or not named <= set(parties):
            unknown = ", ".join(sorted(named - set(parties))) or "nobody"
            raise DataError(Reason.BAD_FIELD, item=f"--recipients {unknown}", fix=f"Known are {', '.join(parties)}.")
        law = jurisdiction or _law_of(place, customer, laws)
        if law not in laws:  # it would count for nothing, and no receipt could be made of it
            fix = f"The policy has a legal basis of {purpose} under {', '.join(laws)}."
            raise DataError(Reason.BAD_FIELD, item=f"--jurisdiction {law[:48]}", fix=fix)
        if end <= now:
            raise DataError(Reason.BAD_FIELD, item="--expires-at is over")
        fact = ConsentFact("given", named, now, end, separate, cross_border, law)
        known = place.consents.record(CustomerId(customer), purpose, fact)
    value = {"purpose": purpose, "given_at": to_text(now), "expires_at": to_text(end), "at_gateway": known}
    value["jurisdiction"] = law
    told = "The gateway has it." if known else "The gateway gets it with the next index build."
    emit(as_json, value, lambda: out.print(f"Recorded under {law} until {to_text(end)[:10]}. {told}"))


@app.command(epilog="Example: entente consent show B00122425 --config bank")
def show(customer: CustomerArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show what a customer said, purpose by purpose; with --json the whole records (ISO/IEC TS 27560)."""
    from federation.consent.record import EXPIRED, state_of

    with workplace(config) as place:
        _check_known(place.data.customers().index, customer)
        found = place.data.consents.purposes_of(CustomerId(customer))
        at = place.clock.now()
        rows = {}
        for purpose, fact in found.items():
            try:
                record: Any = _record(place, customer, purpose).model_dump(mode="json", exclude_none=True)
            except DataError as exc:
                record = {"incomplete": exc.item}
            rows[purpose] = {**_to_json(fact), "state": state_of(fact, at), "record": record}

    def text() -> None:
        shown = table(
            f"Consents of {customer}", "purpose", "status", "recipients", "until", "law", "separate", "cross-border"
        )
        for purpose, row in sorted(rows.items()):
            flags = ("yes" if row["separate"] else "no", "yes" if row["cross_border"] else "no")
            status = "expired" if row["state"] == EXPIRED else row["status"]
            until, law = row["expires_at"][:10], row["jurisdiction"]
            shown.add_row(purpose, status, ", ".join(row["recipients"]), until, law, *flags)
        out.print(shown)

    emit(as_json, {"customer": customer, "consents": rows}, text)


@app.command("import", epilog="Example: entente consent import register.csv --skip-broken broken.jsonl --config bank")
def import_command(
    file: Annotated[Path, typer.Argument(help="CSV with the columns of consents.csv, or .jsonl with the same names.")],
    config: ConfigOption,
    skip_broken: Annotated[
        Path | None, typer.Option(help="Set broken rows aside in this file and go on; it holds personal data.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take in a register of any size, then tell the gateway of everybody on the switchboard.

    Killed and started again it goes on where it was; the same file again changes nothing; a file that has grown costs
    only what is new. The newest statement stands: a withdrawal is never undone by an older consent.
    """
    from federation.client.consent.importing import ConsentImport

    with workplace(config) as place:
        with _progress(as_json) as show:
            done = ConsentImport(place.engine, place.clock).run(file, skip_broken, show)
        try:
            with translated():
                sent: int | None = place.consents.upload_imported()
        except EntenteError as exc:
            if exc.reason is not Reason.UNAVAILABLE:
                raise
            sent = None
    value = {
        "rows": done.rows,
        "stored": done.stored,
        "broken": done.broken,
        "resumed_row": done.resumed_row,
        "acknowledged": sent is not None,
        "sent": sent or 0,
    }

    def text() -> None:
        if done.resumed_row:
            out.print(f"Went on after row {done.resumed_row:,}, where an earlier run had come.")
        out.print(f"{done.rows:,} rows read, {done.stored:,} statements new or newer, {done.broken:,} set aside.")
        told = "The gateway does NOT have them yet. The agent keeps trying."
        out.print(told if sent is None else f"The gateway has the states of people on the switchboard: {sent:,} sent.")

    emit(as_json, value, text)


@app.command(
    epilog="Example: entente consent receipt B00122425 --purpose offer_sharing --out receipt.json --config bank"
)
def receipt(
    customer: CustomerArgument,
    config: ConfigOption,
    purpose: PurposeOption = "offer_sharing",
    to: Annotated[Path | None, typer.Option("--out", help="Write the signed receipt to this file.")] = None,
    lang: Annotated[str, typer.Option(help="Of the text: en or zh; the receipt has both.")] = "en",
    as_json: JsonOption = False,
) -> None:
    """Make the receipt that the person gets: the record, the same in plain words, and the partner's signature."""
    from federation.consent.receipt import sign_receipt

    _check_language(lang)
    with workplace(config) as place:
        _check_known(place.data.customers().index, customer)
        record = _record(place, customer, purpose)
        signed = sign_receipt(record, place.identity, place.clock.now())
    if to is not None:
        write_secret(to, json.dumps(signed, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n")
    emit(as_json, signed, lambda: out.print(signed["receipt"]["text"][lang], markup=False, end=""))


@app.command(epilog="Example: entente consent verify receipt.json --config bank")
def verify(
    file: Annotated[Path, typer.Argument(help="A receipt.")],
    config: ConfigOption,
    lang: Annotated[str, typer.Option(help="Of the text: en or zh.")] = "en",
    as_json: JsonOption = False,
) -> None:
    """Check a receipt's signature, offline; any party of the alliance can."""
    from federation.client.config import load_client_config
    from federation.consent.receipt import MAX_BYTES, verify_receipt

    _check_language(lang)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as exc:
        raise DataError(Reason.MISSING_FILE, item=str(file), detail=str(exc.strerror)) from exc
    found = verify_receipt(content, load_identity(load_client_config(config).identity).ca)
    value = {"issuer": found.issuer.party, "issued_at": to_text(found.issued_at), "state": found.record.state}

    def text() -> None:
        out.print(f"Signed by [bold]{found.issuer.party}[/] of {found.issuer.alliance}, {moment(value['issued_at'])}.")
        out.print(found.text.get(lang, ""), markup=False, end="")

    emit(as_json, {**value, "record": found.record.model_dump(mode="json", exclude_none=True)}, text)


@contextmanager
def _progress(quiet: bool) -> "Iterator[Callable[[Imported], None]]":
    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as bars:
        bar = bars.add_task("importing")

        def show(done: "Imported") -> None:
            bars.update(bar, completed=done.done_bytes, total=done.size_bytes)

        yield show


def _record(place: "Workplace", customer: str, purpose: str) -> "Record":
    """Raises DataError (BAD_FIELD) naming what is missing."""
    from federation.consent.record import build_record

    declared = _check_purpose(place, purpose)[purpose]
    said, record_id = place.data.consents.history_of(CustomerId(customer), purpose)
    terms = place.config.consent
    return build_record(customer, said, purpose=declared, terms=terms, at=place.clock.now(), record_id=record_id)


def _check_purpose(place: "Workplace", purpose: str, also: Container[str] = ()) -> "dict[str, PurposeTerms]":
    """The purposes that the partner's policy declares. Raises DataError (BAD_FIELD) for another that is not in also."""
    from federation.consent.terms import PurposeTerms

    declared = yaml.safe_load(place.policy.files["purposes.yaml"])["purposes"]  # valid: the policy was loaded from it
    known = {entry["id"]: PurposeTerms.model_validate(entry) for entry in declared}
    if purpose not in known and purpose not in also:
        raise DataError(Reason.BAD_FIELD, item=f"purpose {purpose[:48]!r}, known are {', '.join(sorted(known))}")
    return known


def _law_of(place: "Workplace", customer: str, laws: list[str]) -> str:
    """The law of the customer's region. Raises DataError (BAD_FIELD) where partner or policy does not know it."""
    region = place.data.regions([CustomerId(customer)]).get(CustomerId(customer))
    law = place.policy.tables.jurisdiction_of.get(region or "")
    if law is None:
        item = f"no region of the policy has {region[:48]}" if region else "the customer's region is not known"
        raise DataError(Reason.BAD_FIELD, item=item, fix=f"Name the law: --jurisdiction {' or '.join(laws)}.")
    return law


def _check_language(lang: str) -> None:
    from federation.consent.receipt import LANGUAGES

    if lang not in LANGUAGES:
        raise typer.BadParameter("give en or zh", param_hint="--lang")


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
