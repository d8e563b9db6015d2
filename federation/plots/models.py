"""Plots of a model card: ROC, lift, calibration, loss by round, and how groups fare.

Each takes plain values of a card, so everything that is drawn was released; numbers that a reader wants exactly are in
the card. The data colours are Okabe and Ito's, which colour-blind readers can tell apart, and what is measured on the
partners' own rows has its own marker and line style too. Source: https://jfly.uni-koeln.de/color/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from federation.plots.svg import BLUE, FAINT, INK, MUTED, ORANGE, new_figure, styled, to_file

UNIT_TICKS = [0, 0.25, 0.5, 0.75, 1]
PUBLIC, JUDGED = "public set", "partners' own rows, private"
Points = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Line:
    """A curve: its points, what it is called, and how it looks."""

    points: Points
    label: str = ""
    look: Mapping[str, Any] = field(default_factory=lambda: {"color": BLUE, "linewidth": 2.2})


@styled
def roc_figure(lines: Sequence[Line], title: str = "") -> Figure:
    """Receiver operating characteristics; points are (false positive rate, true positive rate)."""
    figure, (axes,) = new_figure(height=4.2)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    axes.annotate("guessing", (0.80, 0.765), color=MUTED, fontsize=9, rotation=38, ha="center", va="center")
    for line in lines:
        axes.plot(*zip(*line.points, strict=True), label=line.label, **line.look)
    axes.set_xlabel("False positive rate")
    axes.set_ylabel("True positive rate")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.005)
    axes.set_xticks(UNIT_TICKS, [f"{tick:g}" for tick in UNIT_TICKS])
    axes.set_yticks(UNIT_TICKS, [f"{tick:g}" for tick in UNIT_TICKS])
    axes.legend(loc="lower right", title=title, fontsize=9, title_fontsize=9, alignment="left")
    return figure


@styled
def lift_figure(lines: Sequence[Line]) -> Figure:
    """Cumulative lift; points are (share of customers in percent, lift)."""
    figure, (axes,) = new_figure(height=4.2)
    axes.axhline(1, color=FAINT, linewidth=1)
    axes.annotate("everyone, in any order", (11, 1.02), color=MUTED, fontsize=9, ha="left", va="bottom")
    for line in lines:
        axes.plot(*zip(*line.points, strict=True), marker="o", markersize=3.5, label=line.label, **line.look)
    axes.set_xlabel("Customers contacted, best score first (%)")
    axes.set_ylabel("Lift: takers among them / takers in everyone")
    axes.set_xticks([10 * place for place in range(1, 11)])
    axes.set_ylim(0.8, None)
    axes.yaxis.grid(visible=True)
    axes.set_axisbelow(True)
    if any(line.label for line in lines):
        axes.legend(loc="upper right", fontsize=9)
    return figure


@styled
def calibration_figure(public: Points, judged: Points = ()) -> Figure:
    """Share of takers by score, with 95 % intervals; points are (score, share, low, high)."""
    figure, (axes,) = new_figure(height=4.2)
    top = max([0.05, *(value for point in (*public, *judged) for value in (point[0], min(point[3], 1.0)))]) * 1.05
    axes.plot([0, top], [0, top], color=FAINT, linewidth=1)
    at = 0.62 * top
    axes.annotate("as promised", (at, at), xytext=(4, -10), textcoords="offset points", color=MUTED, fontsize=9)
    for points, label, color, marker in ((public, PUBLIC, BLUE, "o"), (judged, JUDGED, ORANGE, "s")):
        if points:
            _bars(axes, points, label, color, marker)
    axes.set_xlabel("Score: chance that the model states")
    axes.set_ylabel("Share of takers among them")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.legend(loc="upper left", fontsize=9)
    return figure


@styled
def loss_figure(points: Points) -> Figure:
    """Log loss on the public set after each round; points are (round, loss)."""
    figure, (axes,) = new_figure(height=3.0)
    axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.8, marker="o", markersize=3)
    axes.set_xlabel(f"Round; {points[-1][1]:.4f} after the last")
    axes.set_ylabel("Log loss on the public set")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.margins(x=0.03, y=0.15)
    axes.yaxis.grid(visible=True)
    axes.set_axisbelow(True)
    return figure


@styled
def group_figure(public: Mapping[str, Any] | None, judged: Mapping[str, Any] | None) -> Figure:
    """AUC by group with 95 % intervals, of the public set and of the partners' own rows.

    Args:
        public: A card's "metrics".
        judged: A card's "judged".
    """
    rows = [("everyone", "", _whole(public), (judged or {}).get("everyone"))]
    columns = dict.fromkeys([*(judged or {}).get("by", {}), *(public or {}).get("by", {})])
    for column in columns:
        groups = {part["group"]: part for part in (public or {}).get("by", {}).get(column, ())}
        own = {part["group"]: part for part in (judged or {}).get("by", {}).get(column, ())}
        rows += [
            (name, column, groups.get(name), own.get(name))
            for name in dict.fromkeys([*own, *groups])
            if name != "unknown" or "auc" in {**groups.get(name, {}), **own.get(name, {})}
        ]
    figure, (axes,) = new_figure(height=1.5 + 0.36 * len(rows))
    for y, (_, _, theirs, ours) in enumerate(rows):
        for part, shift, color, marker in ((theirs, -0.13, BLUE, "o"), (ours, 0.13, ORANGE, "s")):
            if part is not None and "auc" in part:
                value, low, high = part["auc"]
                error = [[value - low], [high - value]]
                look: dict[str, Any] = {
                    "fmt": marker,
                    "color": color,
                    "ecolor": color,
                    "markersize": 5,
                    "elinewidth": 1.5,
                }
                axes.errorbar(value, y + shift, xerr=error, capsize=2.5, **look)
        if ours is not None and "auc" not in ours:
            frame = axes.get_yaxis_transform()  # places the words at the frame's edge; an AUC would be outside of it
            look = {"color": MUTED, "fontsize": 8, "ha": "right", "va": "center"}
            axes.text(0.995, y + 0.13, "too few for the noise", transform=frame, **look)
    axes.axvline(0.5, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(rows)), [name if not column else f"{column}: {name}" for name, column, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*_reach(rows))
    axes.set_xlabel("AUC, with 95 % interval")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.xaxis.grid(visible=True)
    axes.set_axisbelow(True)
    for label, color, marker, there in ((PUBLIC, BLUE, "o", public), (JUDGED, ORANGE, "s", judged)):
        if there is not None:
            axes.plot([], [], color=color, marker=marker, linestyle="none", label=label)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure


def card_figures(card: Mapping[str, Any]) -> dict[str, Figure]:
    """The plots that a card has values for, by name."""
    metrics, judged, losses = card.get("metrics"), card.get("judged"), card.get("loss_by_round")
    drawn: dict[str, Figure] = {}
    if metrics:
        low, high = metrics["auc_interval"]
        drawn["roc"] = roc_figure([Line(metrics["roc"], f"{metrics['auc']:.3f} ({low:.3f} to {high:.3f})")], "AUC")
        drawn["lift"] = lift_figure([Line(lift_points(metrics["lift"]))])
    own = (judged or {}).get("everyone", {}).get("calibration", ())
    if metrics or own:
        drawn["calibration"] = calibration_figure(metrics["calibration"] if metrics else (), own)
    if metrics or judged:
        drawn["groups"] = group_figure(metrics, judged)
    if losses:
        drawn["loss"] = loss_figure(losses)
    return drawn


def draw_card(card: Mapping[str, Any], folder: Path, ending: str = ".png") -> list[Path]:
    """Writes every plot of a card into a folder, which is made.

    Args:
        card: A model card.
        folder: Where to.
        ending: ".png" or ".svg".

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in card_figures(card).items():
        paths.append(folder / f"{name}{ending}")
        to_file(figure, paths[-1])
    return paths


def lift_points(lift: Sequence[float]) -> list[tuple[float, float]]:
    """A card's lift by tenth as points."""
    return [(100 * (place + 1) / len(lift), value) for place, value in enumerate(lift)]


def _bars(axes: Axes, points: Points, label: str, color: str, marker: str) -> None:
    """Points with their intervals."""
    score, share, low, high = zip(*points, strict=True)
    below = [max(0.0, s - least) for s, least in zip(share, low, strict=True)]
    above = [max(0.0, most - s) for s, most in zip(share, high, strict=True)]
    look: dict[str, Any] = {"fmt": marker, "color": color, "ecolor": color, "markersize": 4.5, "elinewidth": 1.2}
    axes.errorbar(score, share, yerr=[below, above], capsize=2.5, label=label, **look)


def _whole(public: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Everyone of the public set, like a group."""
    return None if public is None else {"auc": [public["auc"], *public["auc_interval"]]}


def _reach(rows: Sequence[tuple[str, str, Mapping[str, Any] | None, Mapping[str, Any] | None]]) -> tuple[float, float]:
    """Limits of an axis of AUCs, 0.5 included."""
    parts = [part for row in rows for part in row[2:] if part is not None and "auc" in part]
    lows, highs = [part["auc"][1] for part in parts], [part["auc"][2] for part in parts]
    return max(0.0, min([0.48, *lows]) - 0.02), min(1.0, max([0.7, *highs]) + 0.03)
