"""``entente train audit``: is the privacy that a run claims at odds with what can be measured?"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, err, out, styled, table
from federation.cli.export import check_targets
from federation.cli.workplace import workplace
from federation.client.connection import translated
from federation.core.errors import DataError, Reason, TrainingError
from federation.core.identity import load_identity
from federation.v1 import training_pb2 as pb

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from federation.training.audit.findings import Audit, Claim
    from federation.training.audit.membership import Membership
    from federation.training.learner import Rows
    from federation.training.plan import Plan
    from federation.training.saved import SavedModel
    from federation.v1.training_pb2_grpc import TrainingServiceStub

NOT_HELD = 1
"""Exit code where the claim does not stand: a gate says no."""
UNITS = ("person", "customer")
MIN_ROWS, MAX_ROWS = 100, 1_000_000


def audit(
    config: ConfigOption,
    run_id: Annotated[str, typer.Argument(help="A run or proposal; empty for the newest finished run.")] = "",
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate/--membership",
            help="Play the run again here with canaries; or look for the rows it was trained on in its model.",
        ),
    ] = True,
    own_rows: Annotated[
        bool, typer.Option("--own-rows", help="Put canaries among this partner's customers, not among invented rows.")
    ] = False,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Membership: CSV of people who were not trained on; else customers the policy leaves out."),
    ] = None,
    rows: Annotated[int, typer.Option(min=MIN_ROWS, max=MAX_ROWS, help="Invented rows at each partner.")] = 4000,
    canaries: Annotated[int, typer.Option(min=100, max=100_000, help="Crafted canaries, at least.")] = 3000,
    canary_rows: Annotated[int, typer.Option(min=20, max=10_000, help="Canary rows, at least.")] = 192,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999999, help="Of all bounds together.")] = 0.95,
    plot: Annotated[Path | None, typer.Option(help="Also draw it: FILE.svg or FILE.png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what a run claims with what can be measured. Exit code 1 where the claim does not stand.

    By default the run is played again on this machine with canaries: nothing is asked of the partners, no budget is
    spent and the model is left alone. With --membership a partner looks whether the finished model tells whom it was
    trained on; that reads the partner's own rows, and nothing leaves.
    """
    check_targets(plot, None)
    if not simulate:
        _membership(config, run_id, held_out, confidence, as_json)
        return
    from federation.training.audit.findings import Effort, audit_run, synthetic_rows

    with connect(config) as connection:
        run = find_run(connection.training, run_id, _ca(config))
    among = _own_rows(config, run.plan) if own_rows else synthetic_rows(run.plan, rows)
    effort = Effort(crafted=canaries, rows=canary_rows, confidence=confidence)
    with _steps(as_json) as on_progress:
        found = audit_run(run.plan, among, run.claim, effort, attempts=run.attempts, on_progress=on_progress)
    if plot is not None:
        from federation.plots.audit import draw_audit
        from federation.plots.svg import to_file

        to_file(draw_audit(found), plot)
    emit(as_json, found.to_json(), lambda: _show(found))
    if not found.holds:
        raise typer.Exit(NOT_HELD)


def _membership(config: Path, run_id: str, held_out: Path | None, confidence: float, as_json: bool) -> None:
    import numpy as np

    from federation.client.training.audit_rows import deal, file_rows, left_out_rows, trained_rows
    from federation.training.audit.membership import infer_membership
    from federation.training.audit.replay import loss

    with workplace(config) as place:
        place.connection.wait_ready(10)
        with translated():
            plan, claim, _, model = find_run(place.connection.training, run_id, place.identity.ca)
        if model is None:
            raise TrainingError(Reason.UNKNOWN_RUN, item=f"{plan.run_id} has no model yet")
        members = trained_rows(place, plan)
        others = left_out_rows(place, plan) if held_out is None else file_rows(held_out, plan)
    (others,) = deal(others, 1, np.random.default_rng(secrets.randbits(128)))
    scores = (-loss(plan.kind, model.weights, rows) for rows in (members, others))
    found = infer_membership(*scores, epsilon=claim.person, delta=claim.delta, confidence=confidence)
    value = {"run_id": plan.run_id, "others_from": "file" if held_out else "customers left out", **found.to_json()}
    emit(as_json, value, lambda: _show_membership(plan.run_id, found, held_out is not None))
    if not found.holds:
        raise typer.Exit(NOT_HELD)


class Found(NamedTuple):
    """A run, and what is claimed of it."""

    plan: "Plan"
    claim: "Claim"
    attempts: int
    """Sums or updates that the claim is for."""
    model: "SavedModel | None"
    """Verified; None before the run is finished."""


def find_run(stub: "TrainingServiceStub", run_id: str, ca: "Certificate") -> Found:
    """A run's plan, and what is claimed: by its signed card if it has one, else by its own account.

    Args:
        stub: Of the gateway.
        run_id: Of the run; empty for the newest finished one.
        ca: Of the alliance, whose gateway signs cards.

    Raises:
        TrainingError: UNKNOWN_RUN.
        DataError: as ``verify_model``; BAD_FIELD for the card of another run.
        IdentityError: as ``verify_model``.
    """
    from federation.training.audit.findings import Claim, account_of
    from federation.training.plan import read_plan
    from federation.training.saved import verify_model

    runs = {run.run_id: run for run in stub.ListRuns(pb.ListRunsRequest(), timeout=RPC_TIMEOUT_S).runs}
    if not run_id:
        finished = [run for run in runs.values() if run.state == pb.RUN_STATE_FINISHED]
        run_id = max(finished, key=lambda run: run.ended_at).run_id if finished else ""
    if run_id not in runs:
        raise TrainingError(Reason.UNKNOWN_RUN, item=run_id or "no finished run", fix="See: entente train list")
    plan = read_plan(runs[run_id].proposal)
    if runs[run_id].state != pb.RUN_STATE_FINISHED:
        return Found(plan, account_of(plan, plan.rounds), plan.rounds, None)
    asked = pb.GetModelRequest(run_id=run_id)
    answer = stub.GetModel(asked, timeout=RPC_TIMEOUT_S)
    model = verify_model(answer.weights, answer.signed_card, ca)
    if model.run_id != run_id:
        raise DataError(Reason.BAD_FIELD, item="card of another run")
    # The strictest number on the card is what is audited.
    person, customer = (min(model.card[f"{tight}epsilon_per_{unit}"] for tight in ("", "tight_")) for unit in UNITS)
    claim = Claim(float(person), float(customer), float(model.card["delta"]))
    return Found(plan, claim, int(model.card["attempts"]), model)


def _ca(config: Path) -> "Certificate":
    from federation.client.config import load_client_config

    return load_identity(load_client_config(config).identity).ca


def _own_rows(config: Path, plan: "Plan") -> list["Rows"]:
    """This partner's rows that may be in training, dealt out to as many partners as the plan has."""
    import numpy as np

    from federation.client.training.audit_rows import deal, trained_rows

    with workplace(config) as place:
        return deal(trained_rows(place, plan), len(plan.partners), np.random.default_rng(secrets.randbits(128)))


@contextmanager
def _steps(quiet: bool) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as bars:
        task = bars.add_task("audit", total=None)
        yield lambda done, total, what: bars.update(task, completed=done, total=total, description=what or "audit")


def _show(audit: "Audit") -> None:
    from federation.training.audit.findings import THREATS

    out.print(
        f"Run [bold]{audit.plan.run_id}[/], {audit.plan.kind}, {audit.plan.rounds} rounds, played again here with "
        "canaries. Nobody was asked, no budget was spent."
    )
    numbers = ["number", "runs", "at least", "claimed"]
    columns = ("canaries", "unit", "seen is", *numbers, "bound", "claim")
    shown = table("Epsilon, measured at least and claimed", *columns, right=numbers)
    for found in audit.findings:
        shown.add_row(
            found.canaries,
            found.unit,
            found.view,
            f"{found.count:,}",
            str(found.runs),
            f"{found.best.epsilon:.3f}",
            f"{found.claimed:.3f}",
            found.best.name.replace("_", " "),
            "stands" if found.holds else styled("does not stand", "bold red"),
        )
    out.print(shown)
    for canaries, view in dict.fromkeys((found.canaries, found.view) for found in audit.findings):
        out.print(f"{canaries}, {view}: {THREATS[canaries, view]}", style="dim")
    spent, ok = audit.account, audit.account_holds
    out.print(
        f"Books: the plan's noise costs {spent.person:.3f} for a person and {spent.customer:.3f} for a customer; "
        f"{'not more than claimed' if ok else '[bold red]more than claimed[/]'}."
    )
    if audit.longest is not None:
        verdict = "within" if audit.clipping_holds else "[bold red]beyond[/]"
        out.print(f"Clipping: the longest of many rows was {audit.longest:.6f} of what is allowed; {verdict}.")
    end = "Nothing is at odds with the claim." if audit.holds else "[bold red]The claim does not stand.[/]"
    out.print(f"{end} Bounds hold together with {audit.confidence:.4g} confidence; they are no proof of privacy.")


def _show_membership(run_id: str, found: "Membership", from_file: bool) -> None:
    others = "rows of the file" if from_file else "customers left out"
    out.print(f"Run [bold]{run_id}[/]: {found.members:,} customers who may be in training, {found.others:,} {others}.")
    out.print(f"AUC {found.auc:.4f} ({found.auc_low:.4f} to {found.auc_high:.4f}); 0.5 is guessing.")
    numbers = ["false alarms aimed", "counted", "members found", "at least", "claim allows"]
    shown = table("", *numbers, "claim", right=numbers)
    for rate in found.rates:
        shown.add_row(
            f"{rate.aimed:.1%}",
            f"{rate.false_alarms:.2%}",
            f"{rate.found:.2%}",
            f"{rate.found_low:.2%}",
            f"{rate.allowed:.2%}",
            "stands" if rate.holds else styled("does not stand", "bold red"),
        )
    out.print(shown)
    out.print(
        f"Claimed: epsilon {found.epsilon:.3f} for a person. If the others differ from the members in kind, what is "
        "found may be that, not memory. All of this stays here."
    )
