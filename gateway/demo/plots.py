"""The plots of the report: each takes a part of the record and gives one inline SVG with its description.

The data colours are Okabe and Ito's, which colour-blind readers can tell apart, and every curve also has its own line
style. Numbers that a reader wants exactly are in the page's tables, beside the plots.
Source: https://jfly.uni-koeln.de/color/
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from gateway.demo.record import Count, CrossTable, ReasonCount, Region, Scope, Training
from gateway.demo.svg import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, PAPER, PURPLE, new_figure, styled, to_inline
from gateway.demo.yardsticks import Curve

UNIT_TICKS = [0, 0.25, 0.5, 0.75, 1]
ALONE_LOOKS = ((ORANGE, (0, (5, 1.5))), (GREEN, (0, (3, 1.2, 1, 1.2))), (PURPLE, (0, (1.2, 1.2))))


@styled
def draw_upset(regions: Sequence[Region], partners: Mapping[str, str]) -> str:
    """Exclusive regions as bars with 95 % intervals over a matrix of who is in each.

    Args:
        regions: At least one; suppressed ones are drawn as "not shown".
        partners: Party to display name, in the order of the matrix.
    """
    order = sorted(regions, key=lambda region: (-region.count.count, region.count.suppressed, len(region.members)))
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
    bars.set_ylabel("People (noisy)")
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
    described = "; ".join(f"{' and '.join(partners[m] for m in r.members)} only: " + _describe(r.count) for r in order)
    return to_inline(figure, "upset", "How many people are customers of which partners", described)


@styled
def draw_cross_table(table: CrossTable) -> str:
    """A heat map with its numbers; suppressed cells are hatched."""
    figure, (axes,) = new_figure(height=0.9 + 0.62 * len(table.row_values))
    top = max([cell.count.count for cell in table.cells] + [1])
    for cell in table.cells:
        x, y = table.column_values.index(cell.column), table.row_values.index(cell.row)
        square = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, linewidth=0)
        axes.add_patch(square)
        if cell.count.suppressed:
            square.set(facecolor="none", edgecolor=FAINT, hatch="////")
            back = {"boxstyle": "round,pad=0.2", "facecolor": PAPER, "edgecolor": "none"}
            axes.text(x, y, f"< {table.noise.min_count}", ha="center", va="center", color=MUTED, fontsize=11, bbox=back)
        else:
            square.set(facecolor=BLUE, alpha=0.06 + 0.54 * max(cell.count.count, 0) / top)
            axes.text(x, y, f"{cell.count.count:,}", ha="center", va="center", fontsize=11)
    axes.set_xlim(-0.5, len(table.column_values) - 0.5)
    axes.set_ylim(len(table.row_values) - 0.5, -0.5)
    axes.set_xticks(range(len(table.column_values)), list(table.column_values))
    axes.set_yticks(range(len(table.row_values)), list(table.row_values))
    axes.set_xlabel(table.column_name)
    axes.set_ylabel(table.row_name)
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    described = "; ".join(f"{cell.row}, {cell.column}: " + _describe(cell.count) for cell in table.cells)
    return to_inline(figure, "cross", f"People by {table.row_name} and {table.column_name}", described)


@styled
def draw_roc(training: Training, partners: Mapping[str, str]) -> str:
    """Receiver operating characteristic of the joint model and of the yardsticks."""
    figure, (axes,) = new_figure(height=4.2)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    axes.annotate("guessing", (0.80, 0.765), color=MUTED, fontsize=9, rotation=38, ha="center", va="center")
    for curve, label, look in _curves(training, partners):
        axes.plot(*zip(*curve.roc, strict=True), label=f"{label}  {curve.auc:.3f}", **look)
    axes.set_xlabel("False positive rate")
    axes.set_ylabel("True positive rate")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.005)
    axes.set_xticks(UNIT_TICKS, [f"{tick:g}" for tick in UNIT_TICKS])
    axes.set_yticks(UNIT_TICKS, [f"{tick:g}" for tick in UNIT_TICKS])
    axes.legend(loc="lower right", title="Area under the curve", fontsize=9, title_fontsize=9, alignment="left")
    described = "; ".join(f"{label}: AUC {curve.auc:.3f}" for curve, label, _ in _curves(training, partners))
    return to_inline(figure, "roc", "ROC curves on the test set", described)


@styled
def draw_lift(training: Training, partners: Mapping[str, str]) -> str:
    """Cumulative lift by decile of the score."""
    figure, (axes,) = new_figure(height=4.2)
    reach = [10 * place for place in range(1, 11)]
    axes.axhline(1, color=FAINT, linewidth=1)
    axes.annotate("everyone, in any order", (11, 1.02), color=MUTED, fontsize=9, ha="left", va="bottom")
    for curve, label, look in _curves(training, partners):
        axes.plot(reach, curve.lift, marker="o", markersize=3.5, label=label, **look)
    axes.set_xlabel("Customers contacted, best score first (%)")
    axes.set_ylabel("Lift: takers among them / takers in everyone")
    axes.set_xticks(reach)
    axes.set_ylim(0.8, None)
    axes.yaxis.grid(visible=True)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", fontsize=9)
    described = "; ".join(f"{label}: best 10 %: {curve.lift[0]:.2f}" for curve, label, _ in _curves(training, partners))
    return to_inline(figure, "lift", "Cumulative lift by decile on the test set", described)


@styled
def draw_reasons(reasons: Sequence[ReasonCount]) -> str:
    """How many offers each reason refused."""
    order = sorted(reasons, key=lambda reason: reason.offers)
    figure, (axes,) = new_figure(height=0.75 + 0.50 * len(order))
    top = max([reason.offers for reason in order] + [1])
    for y, reason in enumerate(order):
        axes.barh(y, reason.offers, height=0.34, color=ORANGE)
        axes.text(0, y + 0.24, reason.code.replace("_", " "), ha="left", va="bottom", fontsize=9.5)
        axes.text(reason.offers + top * 0.012, y, f"{reason.offers:,}", ha="left", va="center", fontsize=9.5)
    axes.set_xlabel("Offers refused (an offer may have several reasons)")
    axes.set_xlim(0, top * 1.1)
    axes.set_ylim(-0.4, len(order) - 0.3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    described = "; ".join(f"{reason.code}: {reason.offers:,}" for reason in reversed(order))
    return to_inline(figure, "reasons", "Refused offers by reason", described)


@styled
def draw_budget(scopes: Sequence[Scope]) -> str:
    """Epsilon spent and left, by scope."""
    figure, (axes,) = new_figure(height=0.75 + 0.62 * len(scopes))
    top = max([scope.limit for scope in scopes] + [1e-9])
    for y, scope in enumerate(reversed(scopes)):
        axes.barh(y, scope.limit, height=0.34, facecolor="none", edgecolor=MUTED, linewidth=1)
        axes.barh(y, scope.spent, height=0.34, color=BLUE)
        axes.text(0, y + 0.24, scope.name.replace("_", " "), ha="left", va="bottom", fontsize=9.5)
        words = f"{scope.spent:.2f} of {scope.limit:g}"
        axes.text(top, y + 0.24, words, ha="right", va="bottom", fontsize=9.5, color=MUTED)
    axes.set_xlabel("Privacy loss ε of one person, all releases composed")
    axes.set_xlim(0, top * 1.005)
    axes.set_ylim(-0.4, len(scopes) - 0.3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    described = "; ".join(f"{scope.name}: {scope.spent:.2f} of {scope.limit:g} spent" for scope in scopes)
    return to_inline(figure, "budget", "Privacy budget spent and left", described)


def name_curve(curve: Curve, partners: Mapping[str, str]) -> str:
    """What a curve is called in plots and tables."""
    fixed = {"joint": "joint, private", "pooled": "pooled, not private"}
    return fixed.get(curve.name) or f"{partners.get(curve.name, curve.name)} alone"


def _curves(training: Training, partners: Mapping[str, str]) -> Iterator[tuple[Curve, str, dict[str, Any]]]:
    """Every curve with its label and look; the joint one comes first and lies on top."""
    joint, pooled = training.joint, training.yardsticks.pooled
    yield joint, name_curve(joint, partners), {"color": BLUE, "linestyle": "-", "linewidth": 2.4, "zorder": 5}
    for curve, (color, style) in zip(training.yardsticks.alone, cycle(ALONE_LOOKS), strict=False):
        yield curve, name_curve(curve, partners), {"color": color, "linestyle": style, "linewidth": 1.5}
    yield pooled, name_curve(pooled, partners), {"color": MUTED, "linestyle": "-", "linewidth": 1.3}


def _describe(count: Count) -> str:
    """A noisy count in words."""
    return "not shown" if count.suppressed else f"{count.count:,} ({count.low:,} to {count.high:,})"
