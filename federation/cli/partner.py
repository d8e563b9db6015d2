"""``entente partner``: get an identity, run the agent, see how it is doing."""

import json
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from federation.cli.console import ConfigOption, JsonOption, emit, err, out
from federation.cli.partner_report import report
from federation.cli.partner_status import STATUS_FILE, status
from federation.cli.partner_supernode import supernode
from federation.cli.workplace import workplace
from federation.client.connection import Connection, translated
from federation.core.clock import SystemClock, to_text
from federation.core.errors import ConfigError, Reason
from federation.core.files import keep_secret, write_secret
from federation.core.identity import Role

if TYPE_CHECKING:
    from federation.client.workplace import Workplace

PHONE_NUMBERS = ("valid", "possible")
app = typer.Typer(no_args_is_help=True, help="A partner institution's agent, beside its own data.")
app.command(epilog="Example: entente partner report --config bank --html report.html")(report)
app.command(epilog="Example: entente partner supernode --config bank --runtime 127.0.0.1:9094")(supernode)
app.command(epilog="Example: entente partner status --config bank")(status)


@app.command(
    "enrol",
    epilog="Example: entente partner enrol bank.yaml --dir bank --data /srv/bank --contact privacy@bank.example "
    "--notice https://bank.example/privacy",
)
def enrol_command(
    invitation: Annotated[Path, typer.Argument(help="Invitation file from the operator.")],
    folder: Annotated[Path, typer.Option("--dir", help="The partner's folder; made if it is not there.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with customers.csv, consents.csv and holdings.csv; not for people.")
    ] = None,
    contact: Annotated[str, typer.Option(help="How customers reach you about their data; not for people.")] = "",
    notice: Annotated[
        str, typer.Option(help="The privacy notice that customers saw, by address; not for people.")
    ] = "",
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the operator's signature.")] = 600,
    phone_numbers: Annotated[str, typer.Option(help="valid, or possible for invented test numbers.")] = "valid",
    as_json: JsonOption = False,
) -> None:
    """Make a key, ask for a certificate, and write partner.yaml and a first copy of the policy.

    For a person (compliance, marketing, auditor) it writes client.yaml instead.
    Prints the request's id: read it out to the operator, who approves exactly that. Run it again to continue.
    """
    from federation.client.config import CLIENT_FILE_NAME, FILE_NAME, load_partner_config
    from federation.client.enrolment import copy_policy, enrol, load_invitation, starting_terms
    from federation.policy.load import load_policy

    if phone_numbers not in PHONE_NUMBERS:
        raise typer.BadParameter(f"one of {', '.join(PHONE_NUMBERS)}", param_hint="--phone-numbers")
    invited = load_invitation(invitation)
    person = invited.role is not Role.PARTNER
    data = data or Path()
    if not person and not (data / "customers.csv").is_file():
        raise ConfigError(Reason.MISSING_FILE, item=str(data / "customers.csv"), fix="Name the data folder by --data.")

    if not person and not (contact and notice):
        fix = "Name both by --contact and --notice: a consent record without them is incomplete and does not count."
        raise ConfigError(Reason.BAD_FIELD, item="contact and privacy notice for customers", fix=fix)

    identity = enrol(invited, folder / "identity", wait_s, partial(_waiting, as_json))
    if person:
        write_secret(folder / CLIENT_FILE_NAME, yaml.safe_dump({"gateway": invited.gateway}).encode())
        told = f"[bold]{invited.party}[/] is enrolled in {folder}. Call the gateway with: --config {folder}"
        emit(as_json, {"party": invited.party, "folder": str(folder)}, lambda: out.print(told))
        return
    config_file = folder / FILE_NAME
    if not config_file.exists():
        files = {name: str((data / f"{name}.csv").absolute()) for name in ("customers", "consents", "holdings")}
        settings = {"party": invited.party, "gateway": invited.gateway}
        text = yaml.safe_dump({**settings, "data": {**files, "phone_numbers": phone_numbers}}, sort_keys=False)
        write_secret(config_file, text.encode())
    config = load_partner_config(folder)
    with Connection(config.gateway, identity) as connection:
        connection.wait_ready(10)
        version = copy_policy(connection, config.policy)
    if config.consent is None:
        policy = load_policy(config.policy)
        terms = starting_terms(policy.parties[invited.party], policy.countries["gateway"], contact, notice)
        whole = {**yaml.safe_load(config_file.read_text()), "consent": terms.model_dump(mode="json")}
        write_secret(config_file, yaml.safe_dump(whole, sort_keys=False, allow_unicode=True).encode())
    value = {"party": invited.party, "folder": str(folder), "policy_version": version}

    def text_result() -> None:
        out.print(f"[bold]{invited.party}[/] is enrolled in {folder}. Start it: entente partner run --config {folder}")

    emit(as_json, value, text_result)


@app.command("renew", epilog="Example: entente partner renew --config bank")
def renew_command(
    config: ConfigOption,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the operator's signature.")] = 600,
    as_json: JsonOption = False,
) -> None:
    """Renew the certificate of a partner or a person, for the same key, from ten days after it was issued on.

    The operator approves the request, whose id is the one of the enrolment. An agent has to be started again then.
    """
    from cryptography import x509

    from federation.client.config import load_client_config
    from federation.client.enrolment import renew
    from federation.core.identity import load_identity

    settings = load_client_config(config)
    before = load_identity(settings.identity)
    with Connection(settings.gateway, before) as connection:
        connection.wait_ready(10)
        identity = renew(connection, before, settings.identity, wait_s, partial(_waiting, as_json))
    until = x509.load_pem_x509_certificate(identity.certificate_pem).not_valid_after_utc
    new = identity.certificate_pem != before.certificate_pem
    value = {"party": identity.subject.party, "renewed": new, "valid_until": to_text(until)}
    said = "is renewed" if new else "needs no renewal yet"
    emit(as_json, value, lambda: out.print(f"The certificate {said}: valid until {value['valid_until']}."))


@app.command(epilog="Example: entente partner run --config bank")
def run(config: ConfigOption) -> None:
    """Run the agent until it is stopped (SIGTERM or Ctrl-C)."""
    from federation.client.agent import Agent, Part, Status
    from federation.client.alone import alone
    from federation.client.config import load_partner_config
    from federation.client.models import ModelShelf
    from federation.client.offers.proposer import MASK_KEY_FILE, OfferProposer
    from federation.client.overlap.agent import OverlapAgent
    from federation.client.overlap.withdrawals import WithdrawalWatch
    from federation.client.training.agent import TrainingAgent

    settings = load_partner_config(config)
    with alone(settings.state), workplace(config) as place:
        connection = place.connection
        state = Status(settings.state / STATUS_FILE, place.clock)
        # Consent states go up before the people they are about appear on the switchboard.
        overlap = OverlapAgent(
            connection.overlap,
            place.identity,
            place.data,
            place.handles,
            settings,
            place.policy,
            place.clock,
            before_switchboard=lambda people: _upload(place, people),
            on_refused=lambda why: state.refused("overlap", why),
        )

        def on_progress(run_id: str, done: int, rounds: int, left_s: float) -> None:
            state.set("training", "serving", f"{run_id}: {done} of {rounds} rounds, about {left_s:.0f} s left")

        def revision() -> object:
            return overlap.epoch(), place.clock.now().date(), place.data.consents.revision()

        training = TrainingAgent(
            connection.training,
            data=place.data,
            config=settings,
            policy=place.policy,
            clock=place.clock,
            identity=place.identity,
            engine=place.engine,
            on_progress=on_progress,
        )
        mask_key = keep_secret(settings.state / MASK_KEY_FILE)
        offers = OfferProposer(connection.offers, place.data, place.handles, place.engine, mask_key)
        parts: dict[str, Part] = {
            "overlap": overlap,
            "withdrawals": WithdrawalWatch(overlap, revision),
            "training": training,
            "models": ModelShelf(connection.training, connection.models, place.identity, settings.state),
            "consents": place.consents,
            "offers": offers,
        }
        agent = Agent(parts, state, connection.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        out.print(f"Agent of [bold]{settings.party}[/] serves {settings.gateway}; stop it with Ctrl-C.")
        agent.run()


@app.command("accept-shrink", epilog="Example: entente partner accept-shrink 14103 --config bank")
def accept_shrink(
    config: ConfigOption,
    people: Annotated[int, typer.Argument(min=1, help="At most so many, as the refusal said.")],
    as_json: JsonOption = False,
) -> None:
    """Say that so many people really went: lets one update within a day take them away.

    An update that would take away more than data.max_shrink_share of the partner's people is refused, because a file
    that was copied half looks just like that. Look at the files first.
    """
    from federation.client.config import load_partner_config
    from federation.client.overlap.shrink import ShrinkLimit

    settings = load_partner_config(config)
    ShrinkLimit(settings.state, settings.data.max_shrink_share, SystemClock()).permit(people)
    text = f"The next update may take away {people:,} people, once, within a day."
    emit(as_json, {"party": settings.party, "people": people}, lambda: out.print(text))


def _waiting(as_json: bool, request_id: str) -> None:
    if as_json:
        print(json.dumps({"waiting": request_id}), flush=True)
    else:
        err.print(f"Request [bold]{request_id}[/] waits for the operator: entente operator approve {request_id}")


def _upload(place: "Workplace", people: Any) -> None:
    with translated():
        place.consents.upload(people)
