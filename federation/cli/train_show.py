"""``entente train show``: a finished model with its card, verified, and its plots."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.console import MAX_NUMBER, RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, out
from federation.v1 import training_pb2 as pb


def show(
    config: ConfigOption,
    run_id: Annotated[str, typer.Argument(help="Empty for the newest finished run.")] = "",
    version: Annotated[
        int, typer.Option(min=0, max=MAX_NUMBER, help="A version instead of a run, from: entente model list.")
    ] = 0,
    save: Annotated[
        Path | None, typer.Option(help="Write model.safetensors, the signed card.json and the plots to this folder.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Write the plots to this folder, as PNG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the model card of a finished run; its signature is verified first."""
    from federation.cli.export import need
    from federation.cli.model_card import print_card
    from federation.client.config import load_client_config
    from federation.core.identity import load_identity
    from federation.training.signed_card import save_model, verify_card

    if plots is not None:
        need("matplotlib")
    with connect(config) as connection:
        request = pb.GetModelRequest(run_id=run_id, version=version)
        answer = connection.training.GetModel(request, timeout=RPC_TIMEOUT_S)
    model = verify_card(answer.weights, answer.signed_card, load_identity(load_client_config(config).identity).ca)
    drawn: list[Path] = []
    if save is not None:
        save_model(model, save)
    # A saved model is of use without its plots, so where they cannot be drawn they are left out.
    targets = {plots, save if find_spec("matplotlib") else None}
    for folder in filter(None, targets):
        from federation.plots.models import draw_card

        drawn += draw_card(model.card, folder)

    def text() -> None:
        print_card(model.card, answer.version)
        for path in sorted(drawn):
            out.print(f"  drawn: {path}")

    value = {"run_id": answer.run_id, "version": answer.version, "card": model.card}
    emit(as_json, {**value, "plots": sorted(map(str, drawn))}, text)
