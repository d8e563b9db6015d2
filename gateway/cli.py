"""The ``entente`` command: the parties' commands, and those that need the gateway's own code (init, gateway, demo).

Heavy parts are imported by the command that needs them, and a group of commands when one of its own is run, so that
help and small commands start fast and a partner-only or gateway-only installation works without the other's libraries.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli import score
from federation.cli.console import (
    FAULT,
    INTERRUPTED,
    MAX_NUMBER,
    RPC_TIMEOUT_S,
    UNREAD,
    ConfigOption,
    JsonOption,
    Left,
    connect,
    emit,
    err,
    exit_code,
    out,
    report,
    table,
)
from federation.cli.groups import LazyRoot, add_groups
from federation.core.errors import ConfigError, DataError, EntenteError, IdentityError, Reason
from federation.core.logs import configure_logs

if TYPE_CHECKING:
    from federation.client.connection import Connection
    from federation.v1 import enrolment_pb2

app = typer.Typer(
    cls=LazyRoot,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Sell to each other's customers, lawfully and privately. Start with: entente demo",
)
gateway_app = typer.Typer(no_args_is_help=True, help="The gateway itself.")
operator_app = typer.Typer(no_args_is_help=True, help="The operator's work: certificates, runs on a SuperLink.")
app.add_typer(gateway_app, name="gateway")
app.add_typer(operator_app, name="operator")
add_groups(app)
app.command("score", epilog="Example: entente score --config bank --out scores.parquet")(score.score)

AuthorityOption = Annotated[Path, typer.Option("--ca", help="Folder with the CA's key (ca.key, ca.pem).")]


@app.command(epilog="Example: entente init my-alliance --host gateway.example.org")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    host: Annotated[str, typer.Option(help="Name or address by which partners reach the gateway.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1024, max=65534, help="Mutual TLS; the next port is for enrolment.")] = 7443,
    policies: Annotated[Path | None, typer.Option(help="Policy files to copy; empty for the shipped set.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an alliance folder: CA, gateway, identities for people, invitations for partners, policies."""
    from federation.core.clock import SystemClock
    from gateway.alliance import create_alliance

    made = create_alliance(folder, SystemClock(), policies=policies, host=host, port=port)
    value = {"alliance": made.alliance, "folder": str(folder), "partners": made.partners, "people": made.people}

    def text() -> None:
        out.print(f"Alliance [bold]{made.alliance}[/] is in {folder}")
        out.print(f"  start it      entente gateway serve --config {folder}/gateway")
        for party in made.partners:
            out.print(
                f"  {party:<12}  entente partner enrol {folder}/invitations/{party}.yaml --dir {party} --data DATA "
                "--contact ADDRESS --notice URL"
            )
        out.print(f"  approve them  entente operator approve --all --config {folder}/people/operator --ca {folder}/ca")

    emit(as_json, {**value, "policy_version": made.policy_version}, text)


@gateway_app.command(epilog="Example: entente gateway serve --config my-alliance/gateway")
def serve(
    config: Annotated[Path, typer.Option("--config", "-c", envvar="ENTENTE_CONFIG", help="Folder with gateway.yaml.")],
) -> None:
    """Serve until stopped (SIGTERM or Ctrl-C)."""
    from federation.core.clock import SystemClock
    from gateway.config import load_gateway_config
    from gateway.server import run

    run(load_gateway_config(config), SystemClock())


def _waiting(connection: "Connection") -> "Iterator[enrolment_pb2.CertificateRequest]":
    """Every certificate request that waits, page by page."""
    from federation.v1 import enrolment_pb2

    request = enrolment_pb2.ListCertificateRequestsRequest()
    while True:
        page = connection.enrolment.ListCertificateRequests(request, timeout=RPC_TIMEOUT_S)
        yield from page.requests
        if not page.next:
            return
        request.after = page.next


@gateway_app.command("renew", epilog="Example: entente gateway renew --config my-alliance/gateway --ca my-alliance/ca")
def renew_gateway_command(
    config: Annotated[Path, typer.Option("--config", "-c", envvar="ENTENTE_CONFIG", help="Folder with gateway.yaml.")],
    authority: AuthorityOption,
    as_json: JsonOption = False,
) -> None:
    """Renew the gateway's own certificate with the CA's key; start the gateway again then."""
    from federation.core.clock import SystemClock
    from gateway.alliance import renew_gateway
    from gateway.identity.authority import Authority

    path = renew_gateway(config, Authority.load(authority), SystemClock())
    emit(as_json, {"certificate": str(path)}, lambda: out.print(f"The gateway's new certificate is in {path}"))


@operator_app.command(epilog="Example: entente operator pending --config people/operator")
def pending(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List certificate requests that wait for a signature."""
    with connect(config) as connection:
        rows = [
            {"request_id": r.request_id, "party": r.party, "role": r.role, "requested_at": r.requested_at}
            for r in _waiting(connection)
        ]

    def text() -> None:
        shown = table("Waiting", "request", "party", "role", "since")
        for r in rows:
            shown.add_row(r["request_id"], r["party"], r["role"], r["requested_at"][:19])
        out.print(shown if rows else "Nobody waits.")

    emit(as_json, {"requests": rows}, text)


@operator_app.command(epilog="Example: entente operator approve 3f0c... --config people/operator --ca ca")
def approve(
    config: ConfigOption,
    authority: AuthorityOption,
    requests: Annotated[list[str] | None, typer.Argument(help="Request ids, as the parties told you.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that wait; trusts the gateway for who asked.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign certificate requests with the CA's key and hand in the certificates.

    The key is used here, on the operator's machine; the gateway never sees it. The id of a request is a digest of the
    key in it: if it is the one that the party told you, the gateway has not put in its own.
    """
    from federation.core.clock import SystemClock
    from federation.core.identity import request_id_of
    from federation.v1 import enrolment_pb2
    from gateway.identity.authority import Authority, read_csr

    if bool(requests) == every:
        raise typer.BadParameter("name the requests, or say --all")
    signer, clock, done = Authority.load(authority), SystemClock(), []
    with connect(config) as connection:
        asked = [read_csr(request.csr_pem) for request in _waiting(connection)]
        read = {request_id_of(*one): one for one in asked}
        for wanted in read if every else requests or []:
            if wanted not in read:
                raise IdentityError(Reason.UNKNOWN_REQUEST, item=wanted, fix="See: entente operator pending.")
            key, subject = read[wanted]
            pem = signer.issue(key, subject, clock.now()).decode()
            connection.enrolment.IssueCertificate(
                enrolment_pb2.IssueCertificateRequest(request_id=wanted, certificate_pem=pem)
            )
            done.append(str(subject.party))
    emit(as_json, {"approved": done}, lambda: out.print(f"Approved: {', '.join(done) or 'none waiting'}"))


@operator_app.command(
    epilog="Example: entente operator revoke --party bank --reason 'key lost' --config people/operator"
)
def revoke(
    config: ConfigOption,
    reason: Annotated[str, typer.Option(help="Kept in the registry.")],
    party: Annotated[str, typer.Option(help="All certificates that the party holds now.")] = "",
    serial: Annotated[
        str, typer.Option(help="One certificate and all others of its key, by its serial number as OpenSSL prints it.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Revoke certificates; in force before the command returns. Says which worked until now."""
    from federation.v1 import enrolment_pb2

    with connect(config) as connection:
        gone = connection.enrolment.RevokeCertificate(
            enrolment_pb2.RevokeCertificateRequest(serial=serial, party=party, reason=reason)
        )
    value = {"party": gone.party, "serials": list(gone.serials), "whole_party": not serial}
    value |= {"requests": gone.requests, "invitations": gone.invitations}

    def text() -> None:
        whole = "" if serial else ", and whatever else it has"
        out.print(f"Revoked of {gone.party}: {', '.join(gone.serials) or 'nothing that worked until now'}{whole}.")
        out.print(f"Certificate requests that waited: {gone.requests} dropped; invitations: {gone.invitations} void.")

    emit(as_json, {"revoked": value}, text)


@operator_app.command(epilog="Example: entente operator invite bank --dir my-alliance --out bank.yaml")
def invite(
    party: Annotated[str, typer.Argument(help="A partner or person of the agreement in force.")],
    folder: Annotated[Path, typer.Option("--dir", help="The alliance folder.")],
    out_file: Annotated[Path, typer.Option("--out", help="Invitation file to write.")],
    as_json: JsonOption = False,
) -> None:
    """Make a new invitation, for a party that lost its key or its first invitation (on the gateway's machine)."""
    from federation.core.clock import SystemClock
    from gateway.alliance import invite_party

    invite_party(folder, party, SystemClock()).save(out_file)
    emit(as_json, {"invitation": str(out_file)}, lambda: out.print(f"Invitation for {party} is in {out_file}"))


@operator_app.command(
    "flower-run", epilog="Example: entente operator flower-run run-7 --policies my-alliance/policies && flwr run run-7"
)
def flower_run(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name is the run's.")],
    policies: Annotated[Path, typer.Option(help="The alliance's policy.")],
    epsilon: Annotated[float, typer.Option(min=0, help="For a person, all partners together; 0: the policy's.")] = 0,
    rounds: Annotated[int, typer.Option(min=0, max=MAX_NUMBER, help="0: the policy's.")] = 0,
    model: Annotated[str, typer.Option(help="Kind of model; empty: the policy's.")] = "",
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one phase of a round.")] = 300,
    as_json: JsonOption = False,
) -> None:
    """Propose a training run for a stock Flower SuperLink: the folder that `flwr run` takes, without code.

    Such a run is in no ledger or audit log of the alliance; each partner decides and pays as always.
    """
    from federation.policy.load import load_policy
    from federation.training.stock.bundle import write_bundle
    from federation.v1 import training_pb2
    from gateway.training.proposals import TrainingRules, complete

    policy = load_policy(policies)
    spec = policy.training.model_copy(update={"judging": None})  # there is no model card for it at a SuperLink
    rules = TrainingRules(spec, policy.budget.delta, policy.partners)
    asked = training_pb2.TrainingProposal(epsilon=epsilon, rounds=rounds, model=model)
    proposal = complete(asked, rules, frozenset(rules.partners))
    proposal.run_id = folder.name
    write_bundle(folder, proposal, timeout_s)
    value = {"run_id": proposal.run_id, "folder": str(folder), "partners": list(proposal.partners)}
    emit(
        as_json, value, lambda: out.print(f"Run [bold]{proposal.run_id}[/] is in {folder}. Start it: flwr run {folder}")
    )


@app.command(epilog="Example: entente demo --data my-data")
def demo(
    data: Annotated[Path | None, typer.Option(help="Alliance data; empty for a synthetic one made here.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Where the demo lives.")] = Path("demo-alliance"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over even if a demo was interrupted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Play the whole story: three companies overlap, train and share offers through one gateway.

    An interrupted demo continues from where it was; a finished one starts over.
    """
    from gateway.demo.story import play

    report_file = play(folder, data, fresh=fresh, quiet=as_json)
    emit(as_json, {"report": str(report_file)}, lambda: out.print(f"\nReport: [bold]{report_file}[/]"))


def main() -> None:
    """Entry point: runs the command; an error ends it with a message and an exit code of its kind."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a handshake that fails would be told by a line for each attempt
    configure_logs()  # every process of ours starts here, but for those that Flower starts
    try:
        app()
    except EntenteError as error:
        report(error)
        sys.exit(exit_code(error))
    except OSError as error:  # a folder that cannot be written, a full disk
        report(DataError(Reason.MISSING_FILE, item=str(error.filename or ""), detail=error.strerror or str(error)))
        sys.exit(3)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(UNREAD)
        if end.code != INTERRUPTED:
            raise
        if not isinstance(end, Left):  # typer made it of the KeyboardInterrupt
            err.print("Interrupted; run the same command again.")
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # grpc closes its channels once more when they are collected, and can wait for ever then
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("gateway", "federation"):
            raise
        fix = f"This installation leaves {missing} out; install entente[partner], [gateway] or [demo]."
        report(ConfigError(Reason.BAD_CONFIG, item=f"missing library {missing}", fix=fix))
        sys.exit(3)
    except Exception:
        traceback.print_exc()
        sys.exit(FAULT)  # Python's own 1 would say that a gate refused
