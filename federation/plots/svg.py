"""Matplotlib figures as inline SVG that takes the page's fonts and its light or dark colours, or as files.

Figures are drawn with marker colours that no plot would choose; ``to_inline`` replaces each by a CSS variable of the
page, and ``to_file`` by a plain colour. Text stays text, so it scales, prints and can be searched. What matplotlib adds
for stand-alone files (metadata, namespaces, group ids) is taken out of inline plots, so that several can live in one
page that names no address.
"""

import io
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

# Colours that stand for the page's CSS variables.
INK, MUTED, FAINT, PAPER = "#010203", "#020304", "#030405", "#040506"
BLUE, ORANGE, GREEN, PURPLE, RED = "#050607", "#060708", "#070809", "#08090a", "#090a0b"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    FAINT: "--faint",
    PAPER: "--paper",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
    RED: "--red",
}
PLAIN = {
    INK: "#1a1a1a",
    MUTED: "#555555",
    FAINT: "#c8c8c8",
    PAPER: "#ffffff",
    BLUE: "#0072b2",
    ORANGE: "#e69f00",
    GREEN: "#009e73",
    PURPLE: "#cc79a7",
    RED: "#d55e00",
}
WIDTH_IN = 4.7  # so that 10 points stay readable on a phone
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 1.0,
    "hatch.color": FAINT,
    "hatch.linewidth": 1.0,
}

NO_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".png": {"Software": None}}
"""Equal answers give equal files."""

styled = mpl.rc_context(STYLE)
"""Decorates a function that draws: artists take their style when they are made."""


def new_figure(
    *, height: float, rows: int = 1, height_ratios: tuple[float, ...] | None = None, width: float = WIDTH_IN
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the report's style.

    Args:
        height: In inches.
        rows: Axes, one above the other.
        height_ratios: Of the rows.
        width: In inches; figures are equally wide but for those that have more to show.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, height_ratios=height_ratios)
    return figure, list(axes[:, 0])


def to_inline(figure: Figure, name: str, title: str, described: str) -> str:
    """The figure as an ``<svg>`` element.

    Args:
        figure: From ``new_figure``.
        name: Unique in the page; goes into the ids.
        title: What it shows; for screen readers, as is the next.
        described: The numbers in words.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace("font-family: 'DejaVu Sans'; ", "")  # inherit the page's
    for marker, variable in VARIABLES.items():
        svg = svg.replace(marker, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    if box is None:
        raise AssertionError("matplotlib writes a viewBox")
    label = f'role="img" aria-labelledby="{name}-title {name}-text"'
    opening = f'<svg class="plot" {box[0]} {label}><title id="{name}-title">{escape(title)}</title>'
    return f'{opening}<desc id="{name}-text">{escape(described)}</desc>{svg[svg.index(">") + 1 :]}'


@styled
def to_file(figure: Figure, path: Path) -> None:
    """Writes the figure on white, as SVG or PNG after the file's ending.

    Args:
        figure: From ``new_figure``; its colours are changed.
        path: Ends in .svg or .png.
    """
    figure.draw_without_rendering()  # ticks take their colours when they are laid out
    artists = figure.findobj()
    artists += [box for text in artists if isinstance(text, Text) and (box := text.get_bbox_patch()) is not None]
    for artist in artists:
        for name in ("color", "facecolor", "edgecolor", "hatchcolor", "markerfacecolor", "markeredgecolor"):
            read, write = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if read is not None and write is not None:
                _recolour(read, write)
    figure.savefig(
        path, format=path.suffix[1:].lower(), dpi=200, facecolor="white", metadata=NO_DATE[path.suffix.lower()]
    )


def _recolour(read: Callable[[], Any], write: Callable[[Any], None]) -> None:
    """Puts the plain colour where a marker colour stands, and keeps its opacity."""
    found = read()
    one = isinstance(found, str) or (
        hasattr(found, "__len__") and len(found) in (3, 4) and not hasattr(found[0], "__len__")
    )
    colours = [found] if one else list(found)
    if not any(_marker(colour) for colour in colours):
        return
    plain = [to_rgba(PLAIN[to_hex(c)], to_rgba(c)[3]) if _marker(c) else c for c in colours]
    write(plain[0] if one else plain)


def _marker(colour: Any) -> bool:
    return not (isinstance(colour, str) and colour == "none") and to_hex(colour) in PLAIN
