"""``entente score``: a partner scores its own customers, with reasons in words; nothing leaves."""

import time
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from federation.cli.console import MAX_NUMBER, ConfigOption, JsonOption, emit, err, out, table


def score(
    config: ConfigOption,
    out_file: Annotated[Path, Option("--out", help="File to write: .parquet or .csv.")],
    model: Annotated[
        str, Option(help="Folder of a saved model, a run's id, or a version; empty: the version in use.")
    ] = "",
    reasons: Annotated[int, Option(min=0, max=5, help="Reasons per customer, at most.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Score the own customers who agreed to offers: score, decile (1 is best), and why.

    The own policy is asked about each customer; the card's signature is verified before the model is used.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from federation.cli.workplace import workplace
    from federation.client.connection import translated
    from federation.client.models import ModelShelf
    from federation.client.scoring import score_customers
    from federation.training.saved import load_model

    started = time.monotonic()
    with workplace(config) as place:
        if Path(model).is_dir() and model:
            chosen = load_model(Path(model), place.identity.ca)
        else:
            shelf = ModelShelf(place.connection.training, place.connection.models, place.identity, place.config.state)
            with translated():
                if not model:
                    chosen = shelf.in_use()
                else:
                    is_version = model.isdecimal() and int(model) <= MAX_NUMBER
                    chosen = shelf.of_version(int(model)) if is_version else shelf.of_run(model)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, disable=as_json or not err.is_terminal) as bars:
            stages: dict[str, TaskID] = {}

            def show(stage: str, done: int, total: int) -> None:
                if stage not in stages:
                    stages[stage] = bars.add_task(stage)
                bars.update(stages[stage], completed=done, total=total)

            done = score_customers(place.data, chosen, out_file, reasons=reasons, progress=show)
    seconds = time.monotonic() - started
    value: dict[str, Any] = {
        "run_id": chosen.run_id,
        "out": str(out_file),
        "customers": done.customers,
        "scored": done.scored,
        "not_scored": done.refused,
        "mean_score": round(done.mean, 6),
        "deciles": [[round(low, 6), round(high, 6)] for low, high in done.deciles],
        "seconds": round(seconds, 2),
    }

    def text() -> None:
        out.print(f"{done.scored:,} of {done.customers:,} customers scored by run {chosen.run_id}: {out_file}")
        for code, count in sorted(done.refused.items()):
            out.print(f"  not scored: {count:,} {code}")
        shown = table("Deciles, the best first", "decile", "lowest score", "highest score", right=["lowest score"])
        for number, (low, high) in enumerate(done.deciles, 1):
            shown.add_row(str(number), f"{low:.4f}", f"{high:.4f}")
        out.print(shown)

    emit(as_json, value, text)
