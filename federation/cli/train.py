"""``entente train``: propose, approve and follow joint training runs, look at their models."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, out, table
from federation.cli.train_audit import audit
from federation.cli.train_control import approve, pause, refuse, resume, stop
from federation.cli.train_runs import list_runs, propose, run
from federation.v1 import training_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Joint models under differential privacy.")
app.command(epilog="Example: entente train run --config people/marketing --epsilon 2")(run)
app.command(epilog="Example: entente train propose --epsilon 1.5 --rounds 30 --config people/marketing")(propose)
app.command("list", epilog="Example: entente train list --config people/marketing")(list_runs)
app.command(epilog="Example: entente train approve RUN --config bank")(approve)
app.command(epilog='Example: entente train refuse RUN --reason "not before the audit" --config bank')(refuse)
app.command(epilog="Example: entente train pause RUN --config people/marketing")(pause)
app.command(epilog="Example: entente train resume RUN --config people/marketing")(resume)
app.command(epilog="Example: entente train stop RUN --config people/operator")(stop)
app.command(epilog="Example: entente train audit --config people/marketing --plot audit.svg")(audit)


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
