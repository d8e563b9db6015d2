"""The plots of the report: each takes a part of the record and gives one inline SVG with its description.

The data colours are Okabe and Ito's, which colour-blind readers can tell apart, and every curve also has its own line
style. Numbers that a reader wants exactly are in the page's tables, beside the plots.
Source: https://jfly.uni-koeln.de/color/
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.ticker import MaxNLocator

from federation.plots.svg import BLUE, FAINT, GREEN, MUTED, ORANGE, PURPLE, new_figure, styled, to_inline
from gateway.demo.record import ReasonCount, Scope, Training
from gateway.demo.yardsticks import Curve

UNIT_TICKS = [0, 0.25, 0.5, 0.75, 1]
ALONE_LOOKS = ((ORANGE, (0, (5, 1.5))), (GREEN, (0, (3, 1.2, 1, 1.2))), (PURPLE, (0, (1.2, 1.2))))


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
