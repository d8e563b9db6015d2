"""``entente partner report``: what a partner's own data looks like, before it joins and ever after."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.console import ConfigOption, JsonOption, emit, out, styled, table
from federation.cli.workplace import workplace

if TYPE_CHECKING:
    from federation.client.report.advice import Advice
    from federation.client.report.report import DataReport

CANNOT_JOIN = 3
"""Exit code where a finding stops the partner: bad input."""


def report(
    config: ConfigOption,
    page: Annotated[Path | None, typer.Option("--html", help="Also write it as a page: FILE.html.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Folder of a saved model: compare with the public people on its card, not the last report."),
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep it, so that the next report says what moved.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Count how complete this partner's data is, within which bounds, for whom consent is in force, and what moved.

    Reads the partner's own files, sends nothing and spends nothing. Exit code 3 where a finding stops the partner.
    """
    from federation.client.report.advice import STOP, advise
    from federation.client.report.page import write_page
    from federation.client.report.report import keep_report, last_report, make_report, read_reference
    from federation.training.saved import load_model

    with workplace(config) as place:
        settings = place.config
        earlier = (
            last_report(settings.state)
            if against is None
            else read_reference(load_model(against, place.identity.ca).card)
        )
        found = make_report(place.data, place.policy, place.data.consents, place.clock.now(), earlier)
    advice = advise(found, settings.data)
    kept = str(keep_report(found, settings.state)) if keep else None
    if page is not None:
        page.write_text(write_page(found, advice), encoding="utf-8")
    value = {**found.to_json(), "advice": [finding.to_json() for finding in advice], "kept": kept}
    emit(as_json, value, lambda: _show(found, advice))
    if any(finding.level == STOP for finding in advice):
        raise typer.Exit(CANNOT_JOIN)


def _show(found: "DataReport", advice: list["Advice"]) -> None:
    from federation.training.features import MISSING, UNSEEN

    before = f", compared with {found.compared_with}" if found.compared_with else ""
    out.print(f"[bold]{found.party}[/]: {found.customers:,} customers, schema {found.schema}{before}")
    numbers = ["missing", "unseen", "first band", "last band", "moved"]
    features = table("Features", "feature", *numbers, "range", right=numbers)
    for feature in (*found.features, found.label):
        if not feature.there:
            features.add_row(feature.name, "no column", "", "", "", "", "")
            continue
        outer = (f"{feature.below:.1%}", f"{feature.beyond:.1%}") if feature.number else ("", "")
        extent = f"{feature.low:,g} to {feature.high:,g}" if feature.low is not None else ""
        moved = "" if feature.psi is None else f"{feature.psi:.3f}"
        shares = (f"{feature.share(MISSING):.1%}", f"{feature.share(UNSEEN):.1%}")
        features.add_row(feature.name, *shares, *outer, moved, extent)
    out.print(features)
    columns = ["looked at", "missing", "unusable", "shared"]
    identifiers = table("Identifiers", "key type", *columns, right=columns)
    for one in found.identifiers:
        counts = [f"{n:,}" for n in (one.looked_at, one.missing, one.unusable, one.shared)]
        identifiers.add_row(one.kind, *(counts if one.there else ["no column", "", "", ""]))
    out.print(identifiers)
    states = sorted({state for coverage in found.coverage for of in coverage.by_region.values() for state in of})
    numbers = [*states, "let in"]
    consent = table("Consent", "purpose", "region", *numbers, right=numbers)
    for coverage in found.coverage:
        for region, of in coverage.by_region.items():
            consent.add_row(coverage.purpose, region, *(f"{of.get(state, 0):,}" for state in states), "")
        consent.add_row(coverage.purpose, "all", *("" for _ in states), f"{coverage.permitted:,}")
    out.print(consent)
    advised = table("What to do", "", "about", "finding")
    for finding in advice:
        advised.add_row(styled(finding.level, "bold"), finding.about, finding.text)
    out.print(advised if advice else "Nothing to do: complete, within the schema and covered by consent.")
    out.print("[dim]let in: customers whom your own policy lets in for that purpose. All of this stays here.[/]")
