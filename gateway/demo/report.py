"""The demonstration's report: one HTML page that needs nothing but itself.

No script, no address, no font from elsewhere: the page opens without a network and prints. Every value goes through
Jinja's escaping; only the plots are marked as safe, and those are made of escaped text by ``federation.plots.svg``.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from federation.plots import tables
from federation.plots.values import Count
from gateway.demo import plots
from gateway.demo.record import Ratio, Story

TEMPLATE = "report.html.j2"


def render(story: Story) -> str:
    """The report as HTML. Parts of the story that are not there yet are said to be missing.

    Args:
        story: The record of a demonstration, finished or not.
    """
    folder = Path(__file__).parent
    pages = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(
        number=_write_number,
        small=_write_small,
        count=_write_count,
        interval=_write_interval,
        ratio=_write_ratio,
        day=_write_day,
    )
    names = {partner.id: partner.display_name for partner in story.partners}
    return pages.get_template(TEMPLATE).render(
        story=story,
        names=names,
        plots={name: Markup(svg) for name, svg in _draw(story, names).items()},  # noqa: S704 - made by us, escaped there
        curves=_list_curves(story, names),
        cells={} if story.cross is None else {(cell.row, cell.column): cell.count for cell in story.cross.cells},
        everyone=_find_everyone(story),
    )


def _draw(story: Story, names: dict[str, str]) -> dict[str, str]:
    """The plots that the story has values for."""
    drawn = {}
    if story.venn is not None and story.venn.regions:
        drawn["upset"] = tables.draw_upset(story.venn.regions, names)
    if story.cross is not None and story.cross.cells:
        drawn["cross"] = tables.draw_cross_table(story.cross)
    if story.training is not None:
        drawn["roc"] = plots.draw_roc(story.training, names)
        drawn["lift"] = plots.draw_lift(story.training, names)
        drawn |= plots.draw_measures(story.training)
    if story.offers is not None and story.offers.reasons:
        drawn["reasons"] = plots.draw_reasons(story.offers.reasons)
    if story.budget is not None and story.budget.scopes:
        drawn["budget"] = plots.draw_budget(story.budget.scopes)
    return drawn


def _list_curves(story: Story, names: dict[str, str]) -> list[tuple[str, Any]]:
    """The models with their names, the joint one first."""
    if story.training is None:
        return []
    training = story.training
    curves = (training.joint, training.yardsticks.pooled, *training.yardsticks.alone)
    return [(plots.name_curve(curve, names), curve) for curve in curves]


def _find_everyone(story: Story) -> Count | None:
    """The region of people who are customers of every partner."""
    regions = story.venn.regions if story.venn is not None else ()
    everyone = {partner.id for partner in story.partners}
    return next((region.count for region in regions if set(region.members) == everyone), None)


def _write_number(value: float, digits: int = 0) -> str:
    """A number with thousands separated."""
    return f"{value:,.{digits}f}"


def _write_small(value: float) -> str:
    """A tiny number, such as a delta, in powers of ten: 10⁻⁶ or 2.5 × 10⁻⁷."""
    mantissa, exponent = f"{value:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1.0" else f"{mantissa.removesuffix('.0')} × {power}"


def _write_count(count: Count, min_count: int) -> str:
    """A noisy count, or that it is too small to show; the true one may be larger."""
    return f"noisy < {min_count}" if count.suppressed else f"{count.count:,}"


def _write_interval(count: Count) -> str:
    """The 95 % interval of a noisy count."""
    return "not shown" if count.suppressed else f"{count.low:,} to {count.high:,}"


def _write_ratio(ratio: Ratio) -> str:
    """A ratio and its interval."""
    reach = f"above {ratio.low:.2f}" if ratio.high is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
    return f"{ratio.value:.2f} ({reach})"


def _write_day(text: str) -> str:
    """A time as a reader wants it; what is no RFC 3339 stays as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M %Z").strip(", ")
    except ValueError:
        return text
