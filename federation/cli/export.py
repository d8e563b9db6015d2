"""A released table as JSON, CSV, Parquet or a plot: the same numbers, in files that other tools read."""

import csv
import json
from pathlib import Path
from typing import Any

from federation.core.errors import ConfigError, Reason
from federation.v1 import overlap_pb2 as pb

PLOTS = {".svg", ".png"}


def check_targets(plot: Path | None, parquet: Path | None, csv: Path | None = None) -> None:
    """Says what is missing before anything is asked or spent.

    Raises:
        ConfigError: BAD_FIELD for another kind of picture, or a folder; MISSING_FILE where a folder is not there or a
            library is not installed.
    """
    for wanted in (plot, parquet, csv):
        if wanted is not None and not wanted.absolute().parent.is_dir():
            raise ConfigError(Reason.MISSING_FILE, item=f"folder {wanted.parent}", fix="Make it, or name another one.")
        if wanted is not None and wanted.is_dir():
            raise ConfigError(Reason.BAD_FIELD, item=f"{wanted} is a folder", fix="Name a file.")
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise ConfigError(Reason.BAD_FIELD, item=f"--plot {plot}", fix="Name a file that ends in .svg or .png.")
    for wanted, module in ((plot, "matplotlib"), (parquet, "pyarrow")):
        if wanted is not None:
            need(module)


def to_json(answer: pb.QueryCubeResponse) -> dict[str, Any]:
    """The answer as plain values; counts are noisy."""
    names = ("cube", "epoch", "key_type", "epsilon", "delta", "sigma", "mechanism", "policy_version", "released_at")
    more = ("spent_now", "min_count", "coverage", "unit", "sensitivity", "read_from")
    return {
        **{name: getattr(answer, name) for name in (*names, *more)},
        "where": dict(answer.where),
        "agrees_with": list(answer.agrees_with),
        "cells": [_plain(cell) for cell in answer.cells],
        "totals": [_plain(total) for total in answer.totals],
    }


def rows(answer: pb.QueryCubeResponse) -> list[dict[str, Any]]:
    """One flat row a cell: a truth value for each partner, a column for each label, and the number."""
    partners = list(dict.fromkeys(party for cell in answer.cells for party in cell.members))
    columns = sorted({name for cell in answer.cells for name in cell.labels})
    found = []
    for cell in answer.cells:
        plain = _plain(cell)
        found.append(
            {
                **{f"at_{party}": party in cell.members for party in partners},
                **{column: cell.labels.get(column) for column in columns},
                answer.unit: plain["count"],
                **{name: plain[name] for name in ("low", "high", "suppressed")},
            }
        )
    return found


def write_csv(answer: pb.QueryCubeResponse, path: Path) -> None:
    """Writes the cells; a suppressed number is an empty field."""
    found = rows(answer)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(found[0]) if found else [])
        writer.writeheader()
        writer.writerows(found)


def write_parquet(answer: pb.QueryCubeResponse, path: Path) -> None:
    """Writes the cells with what is known about the release as the schema's metadata, all but text as JSON.

    A suppressed number is null.
    """
    need("pyarrow")
    import pyarrow
    from pyarrow import parquet

    known = {name: value for name, value in to_json(answer).items() if not isinstance(value, list)}
    about = {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items()}
    parquet.write_table(pyarrow.Table.from_pylist(rows(answer)).replace_schema_metadata(about), path)


def write_plot(answer: pb.QueryCubeResponse, path: Path) -> None:
    """Draws it: regions as an UpSet plot, a table by two columns as a heat map."""
    need("matplotlib")
    from federation.plots.tables import draw_answer

    draw_answer(answer, path)


def _plain(cell: pb.Cell) -> dict[str, Any]:
    hidden = cell.suppressed
    return {
        "members": list(cell.members),
        "labels": dict(cell.labels),
        "count": None if hidden else cell.count,
        "low": None if hidden else cell.low,
        "high": None if hidden else cell.high,
        "suppressed": hidden,
        "reason": cell.reason,
    }


def need(module: str) -> None:
    """Raises ConfigError where an optional library is not installed."""
    try:
        __import__(module)
    except ModuleNotFoundError as exc:
        fix = f"Install it: pip install {module}"
        raise ConfigError(Reason.MISSING_FILE, item=f"library {module}", fix=fix) from exc
