"""``entente train run``, ``propose`` and ``list``: begin a joint training run, follow it, see them all."""

import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.cli.console import (
    MAX_NUMBER,
    RPC_TIMEOUT_S,
    ConfigOption,
    JsonOption,
    Left,
    connect,
    emit,
    err,
    follow,
    moment,
    out,
    table,
)
from federation.core.errors import EntenteError, Reason, TrainingError
from federation.v1 import common_pb2
from federation.v1 import training_pb2 as pb

STATES = {
    pb.RUN_STATE_PROPOSED: "proposed",
    pb.RUN_STATE_APPROVED: "approved",
    pb.RUN_STATE_RUNNING: "running",
    pb.RUN_STATE_PAUSED: "paused",
    pb.RUN_STATE_FINISHED: "finished",
    pb.RUN_STATE_FAILED: "failed",
    pb.RUN_STATE_STOPPED: "stopped",
}
OVER = frozenset({pb.RUN_STATE_FINISHED, pb.RUN_STATE_FAILED, pb.RUN_STATE_STOPPED})
AWAY_S, AGAIN_S = 120.0, 1.0
"""How long a gateway may be away while a run is followed, and how often it is looked for."""

RoundsOption = Annotated[
    int,
    typer.Option(
        min=0, max=MAX_NUMBER, help="That learn; those that judge the model come on top. 0: as the policy says."
    ),
]
EpsilonOption = Annotated[float, typer.Option(min=0, help="For one person, over all partners; 0: as the policy says.")]
ModelOption = Annotated[str, typer.Option(help="Kind of model; empty: as the policy says.")]
FeaturesOption = Annotated[str, typer.Option(help="Columns, separated by commas; empty: as the policy says.")]
KeyOption = Annotated[str, typer.Option(help="Idempotency key: the same key finds the same run.")]


def run(
    config: ConfigOption,
    run_id: Annotated[str, typer.Argument(help="Of a proposal; empty for a new run.")] = "",
    rounds: RoundsOption = 0,
    epsilon: EpsilonOption = 0,
    model: ModelOption = "",
    features: FeaturesOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Start a run and follow it to its end (marketing, operator); it goes on if you leave.

    It begins when every partner has approved: by a standing rule at once, else when a person there says so. A gateway
    that is restarted meanwhile takes the run up again, and so does this command.
    """
    request = pb.StartRunRequest(idempotency_key=key or secrets.token_hex(8), run_id=run_id)
    if not run_id:
        request.proposal.CopyFrom(_proposal(rounds, epsilon, model, features))
    last = _follow_to_end(config, request, quiet=as_json)
    if last.state != pb.RUN_STATE_FINISHED:
        reason = Reason.RUN_STOPPED if last.state == pb.RUN_STATE_STOPPED else Reason.RUN_FAILED
        raise TrainingError(reason, item=last.reason, fix="See the agents' status, then start again.")
    value = {"run_id": last.run_id, "state": "finished"}
    emit(as_json, value, lambda: out.print(f"Run [bold]{last.run_id}[/] is finished. See: entente train show"))


def propose(
    config: ConfigOption,
    rounds: RoundsOption = 0,
    epsilon: EpsilonOption = 0,
    model: ModelOption = "",
    features: FeaturesOption = "",
    start: Annotated[bool, typer.Option(help="Start as soon as every partner has approved.")] = True,
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Propose a run to all partners (marketing, operator); policy and budget must allow it now."""
    request = pb.ProposeRunRequest(
        proposal=_proposal(rounds, epsilon, model, features),
        idempotency_key=key or secrets.token_hex(8),
        start_when_approved=start,
    )
    with connect(config) as connection:
        proposed = connection.training.ProposeRun(request, timeout=RPC_TIMEOUT_S).run
    show_run(proposed, as_json=as_json)


def list_runs(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List all runs and proposals, newest first."""
    with connect(config) as connection:
        runs = connection.training.ListRuns(pb.ListRunsRequest(), timeout=RPC_TIMEOUT_S).runs
    rows = [describe(run) for run in runs]

    def text() -> None:
        shown = table("Runs", "run", "state", "rounds", "epsilon", "since", "waits for", "reason", right=["rounds"])
        for row in rows:
            done = f"{row['rounds_done']}/{row['rounds']}"
            since = (row["started_at"] or row["proposed_at"])[:16]
            waits = ", ".join(row["waits_for"])
            shown.add_row(row["run_id"], row["state"], done, f"{row['epsilon']:g}", since, waits, row["reason"])
        out.print(shown)

    emit(as_json, {"runs": rows}, text)


def describe(run: pb.RunInfo) -> dict[str, Any]:
    """A run for a person: what it is, and on whom it waits."""
    said = {decision.party for decision in run.decisions if decision.approved}
    waits = [hold.party for hold in run.holds]
    if run.state == pb.RUN_STATE_PROPOSED:
        waits = [party for party in run.proposal.partners if party not in said]
    return {
        "run_id": run.run_id,
        "state": STATES.get(run.state, "unknown"),
        "purpose": run.proposal.purpose,
        "model": run.proposal.model,
        "features": list(run.proposal.features),
        "label": run.proposal.label,
        "epsilon": run.proposal.epsilon,
        "rounds": run.proposal.rounds,
        "partners": list(run.proposal.partners),
        "proposed_by": run.proposed_by,
        "proposed_at": run.proposed_at,
        "expires_at": run.expires_at if run.state in (pb.RUN_STATE_PROPOSED, pb.RUN_STATE_APPROVED) else "",
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "rounds_done": run.rounds_done,
        "waits_for": waits,
        "reason": run.reason,
    }


def show_run(run: pb.RunInfo, *, as_json: bool) -> None:
    """Prints one run or proposal."""
    value = describe(run)

    def text() -> None:
        shown = table(f"Run {run.run_id}", "what", "value")
        for name, told in value.items():
            if told and name != "run_id":
                words = ", ".join(told) if isinstance(told, list) else str(told)
                shown.add_row(name.replace("_", " "), moment(words) if name.endswith("_at") else words)
        out.print(shown)

    emit(as_json, value, text)


def _proposal(rounds: int, epsilon: float, model: str, features: str) -> pb.TrainingProposal:
    names = [name.strip() for name in features.split(",") if name.strip()]
    return pb.TrainingProposal(rounds=rounds, epsilon=epsilon, model=model, features=names)


def _follow_to_end(config: Path, request: pb.StartRunRequest, *, quiet: bool) -> pb.StartRunResponse:
    """Follows a run over breaks of the connection. Raises EntenteError, and Left where somebody interrupts it."""
    heard = time.monotonic()
    run_id = request.run_id

    def progress(told: pb.StartRunResponse) -> common_pb2.Progress:
        nonlocal run_id
        run_id = told.run_id
        return _progress(told)

    while True:
        try:
            with connect(config) as connection:
                last = follow(connection.training.StartRun(request), progress, quiet=quiet)
            if last is not None and last.state in OVER:
                return last
            heard = time.monotonic()  # the gateway stops in good order, and will come back
        except EntenteError as exc:
            if exc.reason is not Reason.UNAVAILABLE or time.monotonic() - heard > AWAY_S:
                raise
            err.print("[dim]the gateway is away; the run goes on when it is back[/]")
        except KeyboardInterrupt:  # the same command again would propose a second run, and pay for both
            if not run_id:
                raise
            err.print(
                f"Run {run_id} goes on. Follow it: entente train run {run_id}; end it: entente train stop {run_id}"
            )
            raise Left from None
        time.sleep(AGAIN_S)


def _progress(told: pb.StartRunResponse) -> common_pb2.Progress:
    progress = told.progress
    if told.seconds_left:
        progress.text += f", about {_duration(told.seconds_left)} left"
    return progress


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
