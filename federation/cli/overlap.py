"""``entente overlap``: build the index of an epoch, ask its tables."""

from typing import Annotated, Any

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, follow, out, table
from federation.overlap.answers import Total, inclusive_totals
from federation.v1 import overlap_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="How many customers partners share: build an index, ask its tables.")


@app.command(epilog="Example: entente overlap build --config people/operator")
def build(
    config: ConfigOption,
    epoch: Annotated[str, typer.Option(help="Name of the epoch; empty for the next free one of today.")] = "",
    key_type: Annotated[str, typer.Option(help="email or phone.")] = "email",
    as_json: JsonOption = False,
) -> None:
    """Blind every partner's identifiers through all others and build the index (operator).

    Running it again for an epoch that was interrupted continues it.
    """
    with connect(config) as connection:
        stream = connection.overlap.BuildIndex(pb.BuildIndexRequest(epoch=epoch, key_type=key_type))
        last = follow(stream, lambda message: message.progress, quiet=as_json)
    done = {"epoch": last.epoch if last else "", "complete": bool(last and last.complete)}
    emit(as_json, done, lambda: out.print(f"Epoch [bold]{done['epoch']}[/] is complete."))


@app.command(epilog="Example: entente overlap query venn --config people/marketing")
def query(
    cube: Annotated[str, typer.Argument(help="A cube that the policy declares; see `entente overlap cubes`.")],
    config: ConfigOption,
    epoch: Annotated[str, typer.Option(help="Empty for the newest complete epoch.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show a released table with 95 % intervals (marketing).

    The first answer of an epoch spends budget; every later one is the same answer and free.
    """
    with connect(config) as connection:
        answer = connection.overlap.QueryCube(pb.QueryCubeRequest(cube=cube, epoch=epoch), timeout=RPC_TIMEOUT_S)
    emit(as_json, to_json(answer), lambda: show(answer))


@app.command(epilog="Example: entente overlap cubes --config people/marketing")
def cubes(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List the tables that compliance declared, and what each costs."""
    with connect(config) as connection:
        listed = connection.overlap.ListCubes(pb.ListCubesRequest(), timeout=RPC_TIMEOUT_S).cubes
    rows = [
        {"cube": c.cube, "partners": list(c.partners), "by": list(c.by), "epsilon": c.epsilon, "released": c.released}
        for c in listed
    ]

    def text() -> None:
        shown = table("Cubes", "cube", "partners", "by", "epsilon", "released", right=["epsilon"])
        for c in listed:
            by, released = ", ".join(c.by) or "-", "yes" if c.released else "no"
            shown.add_row(c.cube, ", ".join(c.partners), by, f"{c.epsilon:g}", released)
        out.print(shown)

    emit(as_json, {"cubes": rows}, text)


def to_json(answer: pb.QueryCubeResponse) -> dict[str, Any]:
    """The answer as plain values; counts are people, noisy."""
    cells = [
        {
            "members": list(cell.members),
            "labels": dict(cell.labels),
            "count": None if cell.suppressed else cell.count,
            "low": None if cell.suppressed else cell.low,
            "high": None if cell.suppressed else cell.high,
            "suppressed": cell.suppressed,
        }
        for cell in answer.cells
    ]
    names = ("cube", "epoch", "key_type", "epsilon", "delta", "sigma", "mechanism", "policy_version")
    about = {name: getattr(answer, name) for name in (*names, "released_at", "spent_now", "min_count")}
    return {**about, "cells": cells}


def show(answer: pb.QueryCubeResponse) -> None:
    """The answer as tables for a person."""
    labels = sorted({name for cell in answer.cells for name in cell.labels})
    title = f"{answer.cube}, epoch {answer.epoch}, by {answer.key_type}"
    shown = table(title, "exactly at", *labels, "people", "95 % interval", right=["people", "95 % interval"])
    for cell in answer.cells:
        places = [" + ".join(cell.members), *(cell.labels.get(name, "") for name in labels)]
        if cell.suppressed:
            shown.add_row(*places, f"< {answer.min_count}", "suppressed")
        else:
            shown.add_row(*places, f"{cell.count:,}", f"{cell.low:,} to {cell.high:,}")
    out.print(shown)
    if not labels:
        wholes = table("Anywhere among", "partners", "people", "95 % interval", right=["people", "95 % interval"])
        for total in inclusive_totals(answer.cells, answer.sigma):
            wholes.add_row(*_total_row(total))
        out.print(wholes)
    spent = "spent now" if answer.spent_now else f"stored answer of {answer.released_at}, nothing spent"
    out.print(
        f"epsilon {answer.epsilon:g} at delta {answer.delta:g} ({spent}); noise: {answer.mechanism}, "
        f"sigma {answer.sigma:.1f} people a cell. Pseudonymised, not anonymous."
    )


def _total_row(total: Total) -> tuple[str, str, str]:
    if total.count is None:
        return " and ".join(total.members), "-", "a part is suppressed"
    return " and ".join(total.members), f"{total.count:,}", f"{total.low:,} to {total.high:,}"
