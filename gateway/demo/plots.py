"""The plots of the report: each takes a part of the record and gives one inline SVG with its description.

The data colours are Okabe and Ito's, which colour-blind readers can tell apart, and every curve also has its own line
style. Numbers that a reader wants exactly are in the page's tables, beside the plots.
Source: https://jfly.uni-koeln.de/color/
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.ticker import MaxNLocator

from federation.plots.models import Line, card_figures, lift_figure, lift_points, roc_figure
from federation.plots.svg import BLUE, GREEN, MUTED, ORANGE, PURPLE, new_figure, styled, to_inline
from gateway.demo.record import ReasonCount, Scope, Training
from gateway.demo.yardsticks import Curve

ALONE_LOOKS = ((ORANGE, (0, (5, 1.5))), (GREEN, (0, (3, 1.2, 1, 1.2))), (PURPLE, (0, (1.2, 1.2))))


@styled
def draw_roc(training: Training, partners: Mapping[str, str]) -> str:
    """Receiver operating characteristic of the joint model and of the yardsticks."""
    curves = list(_curves(training, partners))
    lines = [Line(curve.roc, f"{label}  {curve.auc:.3f}", look) for curve, label, look in curves]
    described = "; ".join(f"{label}: AUC {curve.auc:.3f}" for curve, label, _ in curves)
    return to_inline(roc_figure(lines, "Area under the curve"), "roc", "ROC curves on the test set", described)


@styled
def draw_lift(training: Training, partners: Mapping[str, str]) -> str:
    """Cumulative lift by decile of the score."""
    curves = list(_curves(training, partners))
    lines = [Line(lift_points(curve.lift), label, look) for curve, label, look in curves]
    described = "; ".join(f"{label}: best 10 %: {curve.lift[0]:.2f}" for curve, label, _ in curves)
    return to_inline(lift_figure(lines), "lift", "Cumulative lift by decile on the test set", described)


@styled
def draw_measures(training: Training) -> dict[str, str]:
    """What the joint model's card says of calibration, of groups and of the loss by round, by name."""
    titles = {
        "calibration": "What the joint model promised, and what came",
        "groups": "How well the joint model ranks each group",
        "loss": "Loss of the joint model after each round",
    }
    words = {name: _describe(name, training.measures) for name in titles}
    figures = card_figures(training.measures)
    return {name: to_inline(figures[name], name, titles[name], words[name]) for name in titles if name in figures}


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


def _describe(name: str, measures: Mapping[str, Any]) -> str:
    """The numbers of a plot in words."""
    metrics, judged, losses = (measures.get(part) or {} for part in ("metrics", "judged", "loss_by_round"))
    if name == "calibration":
        return "; ".join(f"score {bar[0]:.3f}: {bar[1]:.3f} took it" for bar in metrics.get("calibration", ()))
    if name == "loss":
        return f"{losses[0][1]:.4f} after the first round, {losses[-1][1]:.4f} after round {losses[-1][0]}"
    groups = [(column, part) for column, parts in judged.get("by", {}).items() for part in parts if "auc" in part]
    return "; ".join(
        f"{column} {part['group']}: AUC {part['auc'][0]:.3f} ({part['auc'][1]:.3f} to {part['auc'][2]:.3f})"
        for column, part in groups
    )


def _curves(training: Training, partners: Mapping[str, str]) -> Iterator[tuple[Curve, str, dict[str, Any]]]:
    """Every curve with its label and look; the joint one comes first and lies on top."""
    joint, pooled = training.joint, training.yardsticks.pooled
    yield joint, name_curve(joint, partners), {"color": BLUE, "linestyle": "-", "linewidth": 2.4, "zorder": 5}
    for curve, (color, style) in zip(training.yardsticks.alone, cycle(ALONE_LOOKS), strict=False):
        yield curve, name_curve(curve, partners), {"color": color, "linestyle": style, "linewidth": 1.5}
    yield pooled, name_curve(pooled, partners), {"color": MUTED, "linestyle": "-", "linewidth": 1.3}
