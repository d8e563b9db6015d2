"""``entente overlap query`` and ``links``: ask, see what a question would cost, keep the answer as a file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, err, out, table
from federation.cli.export import check_targets, to_json, write_csv, write_parquet, write_plot
from federation.core.errors import ConfigError, Reason
from federation.v1 import overlap_pb2 as pb

DROWNED = 10
"""An error of so many times the threshold, and next to everything that a table shows is noise."""
EpochOption = Annotated[str, typer.Option(help="Empty for the newest complete epoch.")]


def query(
    config: ConfigOption,
    cube: Annotated[str, typer.Argument(help="A declared cube, see `entente overlap cubes`; or leave it out.")] = "",
    partners: Annotated[str, typer.Option(help="Ask for a table of your own: partners, separated by commas.")] = "",
    where: Annotated[str, typer.Option(help="Only people with these labels: partner.column=value, ...")] = "",
    by: Annotated[str, typer.Option(help="Split by these columns: partner.column, ...")] = "",
    epsilon: Annotated[float, typer.Option(help="What a new answer may cost; 0 for the policy's default.", min=0)] = 0,
    purpose: Annotated[str, typer.Option(help="What it is asked for; empty for overlap_statistics.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; spend nothing.")] = False,
    epoch: EpochOption = "",
    plot: Annotated[Path | None, typer.Option(help="Also draw it: FILE.svg or FILE.png.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write it as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Also write it as Parquet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a table with 95 % intervals (marketing): a declared cube, or a question of your own.

    The first answer of an epoch spends budget; every later one is the same answer and free, also for whoever asks a
    part of it. A question that a released table answers is free at once. An interval is that of a number which reached
    the threshold: it can begin at 0 where it did so narrowly.

    Exit code 1 when a gate says no, with --dry-run as without: the policy, a price above its limit, or the budget.
    """
    if bool(cube) == bool(partners):
        raise typer.BadParameter("name a cube, or --partners for a question of your own")
    if cube and (where or by or epsilon or purpose or dry_run):
        raise typer.BadParameter(
            "--where, --by, --epsilon, --purpose and --dry-run are for a question of your own: name --partners instead "
            "of a cube. What a cube costs: entente overlap cubes"
        )
    if dry_run and (plot or parquet or csv):
        raise typer.BadParameter("--dry-run has no answer that --plot, --csv or --parquet could write")
    check_targets(plot, parquet, csv)
    asked = pb.TableQuestion(
        partners=_names(partners), by=_names(by), where=_pairs(where), epoch=epoch, epsilon=epsilon, purpose=purpose
    )
    with connect(config) as connection:
        stub = connection.overlap
        if dry_run:
            seen = stub.PreviewTable(pb.PreviewTableRequest(question=asked), timeout=RPC_TIMEOUT_S)
            emit(as_json, _preview_json(seen), lambda: _show_preview(seen))
            if not seen.fits:  # as the question itself would end
                raise typer.Exit(1)
            return
        if cube:
            answer = stub.QueryCube(pb.QueryCubeRequest(cube=cube, epoch=epoch), timeout=RPC_TIMEOUT_S)
        else:
            answer = stub.QueryTable(pb.QueryTableRequest(question=asked), timeout=RPC_TIMEOUT_S).table
    for path, write in ((plot, write_plot), (csv, write_csv), (parquet, write_parquet)):
        if path is not None:
            write(answer, path)
            if not as_json:
                err.print(f"Written: {path}", markup=False)
    emit(as_json, to_json(answer), lambda: show(answer))


def links(
    config: ConfigOption,
    cube: Annotated[str, typer.Argument(help="A declared cube over holds_ columns of two partners.")] = "holdings",
    min_lift: Annotated[float, typer.Option(help="The lift's interval must lie above this.", min=0)] = 1.0,
    min_confidence: Annotated[float, typer.Option(help="The confidence's interval must lie above this.", min=0)] = 0.0,
    epoch: EpochOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show which products go together across partners (marketing), from a noisy cube.

    Only rules whose interval supports them; all intervals hold together with 95 %. Reading them off a released cube is
    free; the cube itself costs what the policy says, once an epoch.
    """
    request = pb.QueryLinksRequest(cube=cube, epoch=epoch, min_lift=min_lift, min_confidence=min_confidence)
    with connect(config) as connection:
        answer = connection.overlap.QueryLinks(request, timeout=RPC_TIMEOUT_S)
    emit(as_json, _links_json(answer), lambda: _show_links(answer))


def show(answer: pb.QueryCubeResponse) -> None:
    """The answer as tables for a person."""
    from federation.policy.specs import UNKNOWN

    partners = list(dict.fromkeys(party for cell in answer.cells for party in cell.members))
    named = {name for cell in answer.cells for name in cell.labels}
    labels = sorted(named, key=lambda name: (partners.index(name.partition(".")[0]), name))
    fixed = "".join(f", where {column} is {value}" for column, value in sorted(answer.where.items()))
    title = f"{answer.cube}: {', '.join(partners)}{fixed}; epoch {answer.epoch}, matched by {answer.key_type}"
    numbers = [answer.unit, f"{answer.coverage:.0%} interval"]
    shown = table(title, "exactly at", *labels, *numbers, right=numbers)
    withheld = 0
    for cell in answer.cells:
        if cell.suppressed and UNKNOWN in cell.labels.values():
            withheld += 1
        else:
            shown.add_row(" + ".join(cell.members), *(cell.labels.get(name, "") for name in labels), *_number(cell))
    out.print(shown)
    if withheld:
        out.print(f"and {withheld} with a label that is unknown, all suppressed", style="dim")
    label = ["label"] if any(total.labels for total in answer.totals) else []
    wholes = table("Sums of these cells", "at all of", *label, *numbers, right=numbers)
    for total in answer.totals:
        named_by = [", ".join(f"{name}={value}" for name, value in total.labels.items())] if label else []
        wholes.add_row(" and ".join(total.members), *named_by, *_number(total))
    out.print(wholes)
    if reason := next((cell.reason for cell in answer.cells if cell.suppressed), ""):
        out.print(f"Suppressed: {reason}.")
    source = f", read off {answer.read_from}" if answer.read_from else ""
    out.print(
        f"epsilon {answer.epsilon:g} at delta {answer.delta:g} ({_spent(answer)}{source}); "
        f"{answer.mechanism.replace('_', ' ')} noise of sigma {answer.sigma:.1f} {answer.unit} a cell, which one "
        f"person moves by at most {answer.sensitivity:g}. Pseudonymised, not anonymous."
    )
    if answer.agrees_with:
        out.print(f"Adds up with {', '.join(answer.agrees_with)}.")


def _spent(answer: pb.QueryCubeResponse | pb.QueryLinksResponse) -> str:
    if answer.spent_now:
        return "spent now"
    # Whether anything did change since is not told: that somebody withdrew would show at once, and for nothing.
    return f"stored since {answer.released_at[:19].replace('T', ' ')} UTC, without what changed later; nothing spent"


def _number(cell: pb.Cell) -> tuple[str, str]:
    return ("-", "suppressed") if cell.suppressed else (f"{cell.count:,}", f"{cell.low:,} to {cell.high:,}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in _names(text):
        column, equals, value = part.partition("=")
        if not equals or column.strip() in pairs:
            raise ConfigError(Reason.BAD_FIELD, item=f"--where {part!r}", fix="Write partner.column=value, once each.")
        pairs[column.strip()] = value.strip()
    return pairs


def _preview_json(seen: pb.PreviewTableResponse) -> dict[str, Any]:
    names = ("epoch", "read_from", "epsilon", "delta", "sigma", "cells", "expected_error", "fits", "min_count")
    scopes = ("scope", "epsilon_limit", "epsilon_spent", "epsilon_after")
    return {
        **{name: getattr(seen, name) for name in names},
        "scopes": [{name: getattr(scope, name) for name in scopes} for scope in seen.scopes],
    }


def _show_preview(seen: pb.PreviewTableResponse) -> None:
    error = f"95 % of its numbers are within {seen.expected_error:,.0f} people of the truth"
    if seen.read_from:
        out.print(f"Free: it is read off {seen.read_from}, epoch {seen.epoch}. {seen.cells} cells; {error}.")
        _warn(seen)
        return
    out.print(f"It would cost epsilon {seen.epsilon:g} at delta {seen.delta:g}. {seen.cells} cells; {error}.")
    numbers = ["limit", "spent", "after", "left"]
    scopes = table("Privacy budget", "scope", *numbers, right=numbers)
    for scope in seen.scopes:
        left = scope.epsilon_limit - scope.epsilon_after
        values = (scope.epsilon_limit, scope.epsilon_spent, scope.epsilon_after, left)
        scopes.add_row(scope.scope, *(f"{value:.3f}" for value in values))
    out.print(scopes)
    _warn(seen)
    out.print("Nothing was spent." if seen.fits else "The budget does not allow it. Nothing was spent.")


def _warn(seen: pb.PreviewTableResponse) -> None:
    """Says where an answer is mostly noise. By price and threshold alone: how many people there are nobody tells."""
    if seen.expected_error > DROWNED * max(seen.min_count, 1):
        fix = "" if seen.read_from else " A larger --epsilon makes the error smaller."
        out.print(
            f"[yellow]Warning[/] Fewer than {seen.expected_error:,.0f} people cannot be told from none, so where there "
            f"are not many more than that the answer is noise.{fix}"
        )


def _links_json(answer: pb.QueryLinksResponse) -> dict[str, Any]:
    def ratio(found: pb.Ratio) -> dict[str, float | None]:
        return {
            "value": found.value,
            "low": found.low,
            "high": found.high if found.high != float("inf") else None,
        }

    names = ("cube", "epoch", "candidates", "coverage", "epsilon", "delta", "sigma", "min_count", "spent_now")
    return {
        **{name: getattr(answer, name) for name in (*names, "released_at", "policy_version")},
        "links": [
            {
                "left": list(link.left),
                "right": link.right,
                "people": link.people,
                **{name: ratio(getattr(link, name)) for name in ("support", "confidence", "lift")},
            }
            for link in answer.links
        ],
    }


def _show_links(answer: pb.QueryLinksResponse) -> None:
    numbers = ["people", "support", "confidence", "lift"]
    title = f"Links in {answer.cube}, epoch {answer.epoch}"
    shown = table(title, "who holds", "also holds", *numbers, right=numbers)
    for link in answer.links:
        names = [name.replace(".holds_", " ") for name in (*link.left, link.right)]
        ratios = [f"{r.value:.2f} ({r.low:.2f}-{r.high:.2f})" for r in (link.support, link.confidence, link.lift)]
        shown.add_row(" and ".join(names[:-1]), names[-1], f"{link.people:,}", *ratios)
    if answer.links:
        out.print(shown)
    out.print(
        f"{len(answer.links)} of {answer.candidates} rules are certain: the intervals of lift and confidence lie above "
        f"the bar, at least {answer.min_count} people have all of it, and all intervals hold at once with "
        f"{answer.coverage:.0%}. Shares are among customers of every partner that a rule names. epsilon "
        f"{answer.epsilon:g} at delta {answer.delta:g} ({_spent(answer)})."
    )
