"""Released tables as plots: an UpSet plot of regions, a heat map of two label columns.

The data colours are Okabe and Ito's, which colour-blind readers can tell apart. Numbers that a reader wants exactly are
in tables beside the plots. A file also says which release it shows, because it is passed on without the page.
Source: https://jfly.uni-koeln.de/color/
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from federation.plots.answers import by_region, count_of, cross_table
from federation.plots.svg import BLUE, FAINT, INK, MUTED, PAPER, WIDTH_IN, new_figure, styled, to_file, to_inline
from federation.plots.values import Count, CrossTable, Region
from federation.v1 import overlap_pb2 as pb

LABEL_LETTERS = 40
"""As many fit side by side under a heat map; more are written aslant."""
TITLE_LETTERS = 62
"""As many of the title's size fit over the narrowest figure."""
LETTER_IN, SMALL_LETTER_IN, TITLE_LINE_IN = 0.085, 0.062, 0.17
"""Width of a letter of an axis and of an interval; height of a title's line."""


def draw_answer(answer: pb.QueryCubeResponse, path: Path) -> None:
    """Draws an answer into a file: without labels regions as UpSet, by one column a heat map of regions by label, by
    more one of the people who have all labels.

    Args:
        answer: At least one cell.
        path: Ends in .svg or .png.
    """
    columns = list(dict.fromkeys(name for cell in answer.cells for name in cell.labels))
    unit = answer.unit.capitalize()
    if columns:
        table = cross_table(answer, *columns) if len(columns) > 1 else by_region(answer, columns[0])
        figure = heat_map(table)
    else:
        partners = dict.fromkeys(party for cell in answer.cells for party in cell.members)
        regions = [Region(tuple(cell.members), count_of(cell)) for cell in answer.cells]
        figure = upset(regions, {party: party for party in partners}, unit)
    _entitle(figure, title_of(answer))
    to_file(figure, path)


def title_of(answer: pb.QueryCubeResponse) -> str:
    """Which release it is, of whom, what the numbers are, and why some are missing, one line each."""
    lines = [f"{answer.cube}, epoch {answer.epoch}, epsilon {answer.epsilon:g}"]
    owners = dict.fromkeys(name.partition(".")[0] for cell in answer.cells for name in sorted(cell.labels))
    if len(owners) > 1:  # who is at one of them alone has not all labels, and is not in the picture
        lines.append(f"customers of {' and '.join(owners)}")
    lines += [f"only where {column} is {value}" for column, value in sorted(answer.where.items())]
    lines.append(f"{answer.unit}, noisy, with {answer.coverage:.0%} intervals")
    lines += list({f"not shown: {cell.reason}" for cell in answer.cells if cell.suppressed and cell.reason})[:1]
    return "\n".join(lines)


@styled
def _entitle(figure: Figure, title: str) -> None:
    """Writes a title above, and makes the figure taller by as much."""
    wide = int(TITLE_LETTERS * figure.get_figwidth() / WIDTH_IN)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, wide)]
    figure.set_figheight(figure.get_figheight() + TITLE_LINE_IN * len(lines))
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=9, color=INK)


@styled
def draw_upset(regions: Sequence[Region], partners: Mapping[str, str]) -> str:
    """The UpSet plot for a page, with its numbers in words."""
    words = [f"{' and '.join(partners[m] for m in r.members)} only: {_describe(r.count)}" for r in _ordered(regions)]
    title = "How many people are customers of which partners"
    return to_inline(upset(regions, partners), "upset", title, "; ".join(words))


@styled
def draw_cross_table(table: CrossTable) -> str:
    """The heat map for a page, with its numbers in words."""
    words = [f"{cell.row}, {cell.column}: {_describe(cell.count)}" for cell in table.cells]
    return to_inline(heat_map(table), "cross", f"People by {table.row_name} and {table.column_name}", "; ".join(words))


@styled
def upset(regions: Sequence[Region], partners: Mapping[str, str], unit: str = "People") -> Figure:
    """Exclusive regions as bars with 95 % intervals over a matrix of who is in each.

    Args:
        regions: At least one; suppressed ones are drawn as "not shown".
        partners: Party to display name, in the order of the matrix.
        unit: What is counted.
    """
    order = _ordered(regions)
    figure, axes = new_figure(rows=2, height=4.0, height_ratios=(2.6, max(1.0, 0.38 * len(partners))))
    bars, matrix = axes
    names = list(partners)
    top = max([region.count.high for region in order] + [1])
    for x, region in enumerate(order):
        count = region.count
        if count.suppressed:
            bars.text(x, top * 0.02, "not\nshown", ha="center", va="bottom", color=MUTED, fontsize=8.5)
        else:
            bars.bar(x, max(count.count, 0), width=0.62, color=BLUE)
            error = [[count.count - count.low], [count.high - count.count]]
            bars.errorbar(x, count.count, yerr=error, fmt="none", color=INK, ecolor=INK, elinewidth=1.2, capsize=4)
            bars.text(x, count.high + top * 0.025, f"{count.count:,}", ha="center", va="bottom", fontsize=9.5)
        rows = [names.index(member) for member in region.members]
        matrix.scatter([x] * len(names), range(len(names)), s=52, color=FAINT, linewidths=0)
        matrix.plot([x] * len(rows), rows, color=INK, linewidth=1.8, marker="o", markersize=7.5)
    bars.set_ylabel(f"{unit} (noisy)")
    bars.set_ylim(0, top * 1.14)
    bars.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    bars.yaxis.set_major_formatter("{x:,.0f}")
    bars.yaxis.grid(visible=True)
    bars.set_axisbelow(True)
    bars.tick_params(axis="both", length=0)
    bars.set_xticks([])
    bars.set_xlim(-0.6, len(order) - 0.4)
    bars.spines["left"].set_visible(False)
    matrix.set_xlim(bars.get_xlim())
    matrix.set_ylim(len(names) - 0.5, -0.5)
    matrix.set_xticks([])
    matrix.set_yticks(range(len(names)), list(partners.values()))
    matrix.tick_params(axis="y", length=0, labelcolor=INK)
    for spine in matrix.spines.values():
        spine.set_visible(False)
    return figure


@styled
def heat_map(table: CrossTable) -> Figure:
    """A heat map with its numbers and their intervals; suppressed cells are hatched.

    A suppressed cell shows no bound: its noisy number is under the threshold, and the true one may be over it.
    """
    rows_title = table.row_name.replace(", ", ",\n")
    tall = max(0.62 * len(table.row_values), LETTER_IN * max(map(len, rows_title.splitlines())))
    longest = max(len(_interval(cell.count)) for cell in table.cells)
    labels = LETTER_IN * max(map(len, table.row_values)) + 0.5
    width = max(WIDTH_IN, labels + (SMALL_LETTER_IN * longest + 0.15) * len(table.column_values))
    figure, (axes,) = new_figure(height=0.9 + tall, width=width)
    top = max([cell.count.count for cell in table.cells] + [1])
    for cell in table.cells:
        x, y = table.column_values.index(cell.column), table.row_values.index(cell.row)
        square = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, linewidth=0)
        axes.add_patch(square)
        if cell.count.suppressed:
            square.set(facecolor="none", edgecolor=FAINT, hatch="////")
            back = {"boxstyle": "round,pad=0.2", "facecolor": PAPER, "edgecolor": "none"}
            axes.text(x, y, "not shown", ha="center", va="center", color=MUTED, fontsize=8.5, bbox=back)
        else:
            square.set(facecolor=BLUE, alpha=0.06 + 0.54 * max(cell.count.count, 0) / top)
            axes.text(x, y - 0.13, f"{cell.count.count:,}", ha="center", va="center", fontsize=11)
            axes.text(x, y + 0.25, _interval(cell.count), ha="center", va="center", fontsize=7.5)
    axes.set_xlim(-0.5, len(table.column_values) - 0.5)
    axes.set_ylim(len(table.row_values) - 0.5, -0.5)
    crowded = max(map(len, table.column_values)) * len(table.column_values) > LABEL_LETTERS
    axes.set_xticks(range(len(table.column_values)), list(table.column_values), rotation=30 if crowded else 0)
    axes.set_yticks(range(len(table.row_values)), list(table.row_values))
    axes.set_xlabel(table.column_name)
    axes.set_ylabel(rows_title)
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _ordered(regions: Sequence[Region]) -> list[Region]:
    """The largest first; what is not shown last."""
    return sorted(regions, key=lambda region: (-region.count.count, region.count.suppressed, len(region.members)))


def _describe(count: Count) -> str:
    """A noisy count in words."""
    return "not shown" if count.suppressed else f"{count.count:,} ({_interval(count)})"


def _interval(count: Count) -> str:
    return f"{count.low:,} to {count.high:,}"
