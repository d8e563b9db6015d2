"""``entente overlap``: build the index of an epoch, keep it up to date, ask its tables."""

from typing import Annotated

import typer

from federation.cli import questions
from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, err, follow, out, table
from federation.core.errors import EntenteError
from federation.v1 import common_pb2
from federation.v1 import overlap_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="How many customers partners share: build an index, ask its tables.")


@app.command(epilog="Example: entente overlap build --config people/operator")
def build(
    config: ConfigOption,
    epoch: Annotated[str, typer.Option(help="Name of the epoch; empty to go on, or for the next of today.")] = "",
    key_type: Annotated[str, typer.Option(help="email, phone, national_id, several joined by +, or any.")] = "email",
    as_json: JsonOption = False,
) -> None:
    """Blind every partner's identifiers through all others and build the index (operator).

    The same command again goes on with an epoch that was interrupted. Another key type or name begins another epoch,
    and abandons the one that is not complete.
    """
    named = epoch

    def progress(message: pb.BuildIndexResponse) -> common_pb2.Progress:
        nonlocal named
        if not as_json and message.epoch != named:
            err.print(f"Epoch [bold]{message.epoch}[/]")
        named = message.epoch
        return message.progress

    try:
        with connect(config) as connection:
            stream = connection.overlap.BuildIndex(pb.BuildIndexRequest(epoch=epoch, key_type=key_type))
            last = follow(stream, progress, quiet=as_json)
    except EntenteError as error:
        if named and named not in error.item:
            error.item = f"epoch {named}: {error.item}".removesuffix(": ")
        raise
    done = {"epoch": last.epoch if last else "", "complete": bool(last and last.complete)}
    emit(as_json, done, lambda: out.print(f"Epoch [bold]{done['epoch']}[/] is complete."))


@app.command(epilog="Example: entente overlap update --config people/operator")
def update(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Let every partner send what changed since its last batches: who came, went, or changed a label (operator).

    Answers that were released stay as they are; later fresh answers count the people as they are then. Running it again
    continues what was interrupted.
    """
    asked = 0

    def progress(message: pb.UpdateIndexResponse) -> common_pb2.Progress:
        nonlocal asked
        asked = max(asked, message.progress.total)
        return message.progress

    with connect(config) as connection:
        stream = connection.overlap.UpdateIndex(pb.UpdateIndexRequest())
        last = follow(stream, progress, quiet=as_json)
    changed = list(last.changed) if last else []
    done = {"epoch": last.epoch if last else "", "complete": bool(last and last.complete), "changed": changed}
    names = f": {', '.join(changed)}" if changed else ""
    text = f"Epoch [bold]{done['epoch']}[/] is up to date; {len(changed)} of {asked} partners changed{names}."
    emit(as_json, done, lambda: out.print(text))


app.command(
    epilog="Example: entente overlap query --partners bank,airline --where bank.value_tier=strategic "
    "--by airline.activity --dry-run --config people/marketing"
)(questions.query)
app.command(epilog="Example: entente overlap links holdings --config people/marketing")(questions.links)


@app.command(epilog="Example: entente overlap cubes --config people/marketing")
def cubes(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List the tables that compliance declared, and what each costs."""
    with connect(config) as connection:
        listed = connection.overlap.ListCubes(pb.ListCubesRequest(), timeout=RPC_TIMEOUT_S).cubes
    rows = [
        {
            "cube": c.cube,
            "partners": list(c.partners),
            "by": list(c.by),
            "measure": c.measure,
            "epsilon": c.epsilon,
            "released": c.released,
            "description": c.description,
        }
        for c in listed
    ]

    def text() -> None:
        shown = table("Cubes", "cube", "partners", "by", "measure", "epsilon", "released", right=["epsilon"])
        for c in listed:
            by, released = ",\n".join(c.by) or "-", "yes" if c.released else "no"
            shown.add_row(c.cube, ", ".join(c.partners), by, c.measure, f"{c.epsilon:g}", released)
        out.print(shown)

    emit(as_json, {"cubes": rows}, text)
