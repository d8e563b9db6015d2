"""A data report as one page of HTML for the partner's own people: no script, nothing from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape

from federation.client.report.advice import Advice
from federation.client.report.columns import PSI_CHANGED, PSI_MOVED, FeatureReport
from federation.client.report.report import DataReport
from federation.training.features import MISSING, UNSEEN

_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f4; --paper: #fff; --ink: #1b2126; --muted: #58636b; --line: #dde1e2;
  --bar: #0072b2; --odd: #d98200; --stop: #a8330f; --warning: #8a5a00; --note: #0a5c8a; }
@media (prefers-color-scheme: dark) { :root { --page: #12161a; --paper: #1a2026; --ink: #e8ecee; --muted: #a0abb3;
  --line: #2c353c; --bar: #56b4e9; --odd: #f0a83c; --stop: #ff9a76; --warning: #f0c060; --note: #8cc8f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; } h2 { font-size: 1.15rem; margin: 0 0 10px; }
p { margin: 0 0 10px; max-width: 76ch; } .small { color: var(--muted); font-size: .87rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px;
  margin: 16px 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--muted); font-size: .8rem; } tbody th { font-weight: 500; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.level { font-weight: 700; white-space: nowrap; } .stop { color: var(--stop); } .warning { color: var(--warning); }
.note { color: var(--note); }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 34px; min-width: 130px; padding: 0; margin: 0; }
.bars i { flex: 1 1 0; min-width: 4px; background: var(--bar); border-radius: 1px 1px 0 0; }
.bars i.odd { background: var(--odd); }
"""


def write_page(report: DataReport, advice: Sequence[Advice]) -> str:
    """The page.

    Args:
        report: The counts.
        advice: What they mean, the gravest first.
    """
    compared = (
        f"Compared with {report.compared_with}."
        if report.compared_with
        else ("The first report that was kept: there is nothing to compare with yet.")
    )
    parts = [
        f"<h1>{escape(report.party)}: what your data looks like</h1>",
        f'<p class="small">{escape(report.at[:16])} UTC, {report.customers:,} customers, schema '
        f"{escape(report.schema)}, your policy {escape(report.policy_version[:12])}. {escape(compared)} "
        "This page stays with you: nothing in it was sent, and no privacy budget was spent.</p>",
        _section("What to do", _advice(advice)),
        _section("Features", _features(report), _FEATURES_SMALL),
        _section("Identifiers", _identifiers(report)),
        _section("Consent", _coverage(report)),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(report.party)}: data report</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


_FEATURES_SMALL = (
    "Bars are the schema's places in order, then missing and unseen in orange. Moved is the population stability index "
    f"against what it is compared with: from {PSI_MOVED:g} on to be watched, from {PSI_CHANGED:g} on another feature."
)


def _section(title: str, body: str, small: str = "") -> str:
    note = f'<p class="small">{escape(small)}</p>' if small else ""
    return f"<section><h2>{escape(title)}</h2>{note}{body}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int]) -> str:
    """Cells are HTML; the first of each row is its head."""

    def cell(tag: str, place: int, text: str) -> str:
        return f"<{tag}{' class=n' if place in numbers else ''}>{text}</{tag}>"

    top = "".join(cell("th", place, escape(text)) for place, text in enumerate(head))
    body = "".join(
        "<tr>" + "".join(cell("td" if place else "th", place, text) for place, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _advice(advice: Sequence[Advice]) -> str:
    if not advice:
        return "<p>Nothing: the data is complete, within the schema and covered by consent.</p>"
    rows = [(f'<span class="level {a.level}">{a.level}</span>', escape(a.about), escape(a.text)) for a in advice]
    return _table(("", "about", "finding"), rows, frozenset())


def _features(report: DataReport) -> str:
    rows = [_feature(feature) for feature in (*report.features, report.label)]
    head = ("feature", "customers by place", "missing", "unseen", "range", "first band", "last band", "moved")
    return _table(head, rows, frozenset({2, 3, 5, 6, 7}))


def _feature(feature: FeatureReport) -> tuple[str, ...]:
    if not feature.there:
        return escape(feature.name), "no such column", "", "", "", "", "", ""
    tallest = max(*feature.counts, 1)
    bars = "".join(
        _bar(place, count, max(1, round(100 * count / tallest)))
        for place, count in zip(feature.places, feature.counts, strict=True)
    )
    extent = f"{feature.low:,g} to {feature.high:,g}" if feature.low is not None else ""
    outer = (f"{feature.below:.1%}", f"{feature.beyond:.1%}") if feature.number else ("", "")
    moved = "" if feature.psi is None else f"{feature.psi:.3f}"
    shares = (f"{feature.share(MISSING):.1%}", f"{feature.share(UNSEEN):.1%}")
    return escape(feature.name), f'<div class="bars">{bars}</div>', *shares, extent, *outer, moved


def _bar(place: str, count: int, percent: int) -> str:
    odd = " class=odd" if place in {MISSING, UNSEEN} else ""
    return f'<i{odd} style="height:{percent}%" title="{escape(place)}: {count:,}"></i>'


def _identifiers(report: DataReport) -> str:
    rows = [
        (escape(found.kind), f"{found.looked_at:,}", *(f"{n:,}" for n in (found.missing, found.unusable, found.shared)))
        if found.there
        else (escape(found.kind), "no such column", "", "", "")
        for found in report.identifiers
    ]
    head = ("key type", "looked at", "missing", "unusable", "shared with another customer")
    return _table(head, rows, frozenset({1, 2, 3, 4}))


def _coverage(report: DataReport) -> str:
    states = sorted({state for found in report.coverage for of in found.by_region.values() for state in of})
    rows = [
        (escape(found.purpose), escape(region), *(f"{of.get(state, 0):,}" for state in states))
        for found in report.coverage
        for region, of in found.by_region.items()
    ]
    table = _table(("purpose", "region", *states), rows, frozenset(range(2, 2 + len(states))))
    told = "; ".join(f"{c.purpose} {c.permitted:,} of {c.customers:,}" for c in report.coverage)
    return f"{table}<p class=small>Let in by your own policy: {escape(told)}.</p>"
