"""``entente train``: start a joint training run, look at its model."""

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, follow, out, table
from federation.cli.train_audit import audit
from federation.core.errors import Reason, TrainingError
from federation.v1 import training_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Joint models under differential privacy.")
app.command(epilog="Example: entente train audit --config people/marketing --plot audit.svg")(audit)


@app.command(epilog="Example: entente train run --config people/marketing --epsilon 2")
def run(
    config: ConfigOption,
    rounds: Annotated[int, typer.Option(min=0, help="0: as the policy says.")] = 0,
    epsilon: Annotated[
        float, typer.Option(min=0, help="For one person, over all partners; 0: as the policy says.")
    ] = 0,
    key: Annotated[str, typer.Option(help="Idempotency key: the same key follows the same run.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Start a run with all partners and follow it to its end (marketing, operator)."""
    proposal = pb.TrainingProposal(rounds=rounds, epsilon=epsilon)
    request = pb.StartRunRequest(proposal=proposal, idempotency_key=key or secrets.token_hex(8))
    with connect(config) as connection:
        last = follow(connection.training.StartRun(request), lambda message: message.progress, quiet=as_json)
    if last is None or last.state != pb.RUN_STATE_FINISHED:
        reason = last.reason if last else "no answer"
        raise TrainingError(Reason.RUN_FAILED, item=reason, fix="See the agents' status, then start again.")
    value = {"run_id": last.run_id, "state": "finished"}
    emit(as_json, value, lambda: out.print(f"Run [bold]{last.run_id}[/] is finished. See: entente train show"))


@app.command(epilog="Example: entente train show --config people/marketing --save model/")
def show(
    config: ConfigOption,
    run_id: Annotated[str, typer.Argument(help="Empty for the newest finished run.")] = "",
    save: Annotated[Path | None, typer.Option(help="Write model.safetensors and card.json to this folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the model card of a finished run."""
    with connect(config) as connection:
        answer = connection.training.GetModel(pb.GetModelRequest(run_id=run_id), timeout=RPC_TIMEOUT_S)
    card: dict[str, Any] = json.loads(answer.card_json)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        (save / "model.safetensors").write_bytes(answer.weights)
        (save / "card.json").write_text(json.dumps(card, indent=1))

    def text() -> None:
        shown = table(f"Model of run {answer.run_id}", "what", "value")
        for name, value in sorted(card.items()):
            if isinstance(value, (str, int, float)):
                shown.add_row(name, str(value))
        for name, value in sorted((card["metrics"] or {}).items()):
            if isinstance(value, (int, float)):
                shown.add_row(name, f"{value:.4f}")
        out.print(shown)

    emit(as_json, {"run_id": answer.run_id, "card": card}, text)


@app.command("list", epilog="Example: entente train list --config people/marketing")
def list_runs(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List all runs."""
    with connect(config) as connection:
        runs = connection.training.ListRuns(pb.ListRunsRequest(), timeout=RPC_TIMEOUT_S).runs
    names = {pb.RUN_STATE_RUNNING: "running", pb.RUN_STATE_FINISHED: "finished", pb.RUN_STATE_FAILED: "failed"}
    rows: list[dict[str, Any]] = [
        {
            "run_id": r.run_id,
            "state": names.get(r.state, "unknown"),
            "started_at": r.started_at,
            "ended_at": r.ended_at,
            "rounds_done": r.rounds_done,
            "reason": r.reason,
        }
        for r in runs
    ]

    def text() -> None:
        shown = table("Runs", "run", "state", "rounds", "started", "reason", right=["rounds"])
        for r in rows:
            shown.add_row(r["run_id"], r["state"], str(r["rounds_done"]), r["started_at"][:19], r["reason"])
        out.print(shown)

    emit(as_json, {"runs": rows}, text)
