"""Whether a declared transfer mechanism is enough for the number of people whose data has left a region this year.

The counts come with the facts (see ``TransferCounts``); the thresholds stand in localization.yaml. Pure.
Source: CAC, Provisions on Promoting and Regulating Cross-Border Data Flows (22 March 2024), articles 5, 7 and 8; "more
than" there includes the number itself.
"""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import NamedTuple

from federation.policy.alliance import Alliance, Limit
from federation.policy.facts import Facts


class Export(NamedTuple):
    """A transfer that must be counted."""

    region: str  # whose residents' data leaves
    year: int  # of that region's calendar
    sensitive: bool


def export_of(facts: Facts, alliance: Alliance) -> Export | None:
    """What to count for a request, or None when it leaves no region whose transfers are counted.

    A recipient whose country is not known counts as abroad.
    """
    limit = alliance.limits.get((facts.subject_region or "", facts.data_category or ""))
    if limit is None or facts.at is None or facts.at.tzinfo is None:
        return None
    region = limit.spec.subject_region
    if alliance.countries.get(facts.recipient or "") in alliance.areas[region]:
        return None
    sensitive = any(limit.spec.sensitive in alliance.catalogue.categories(name) for name in facts.fields)
    return Export(region, limit.year(facts.at), sensitive)


def too_weak(facts: Facts, at: datetime, limit: Limit, live: Collection[str]) -> Iterator[tuple[str, str]]:
    """Why no mechanism in force is enough for the counts, with the number and the threshold; nothing when one is."""
    counts, region = facts.transfer_counts, limit.spec.subject_region
    if counts is None or counts.year is None or counts.people is None or counts.sensitive is None:
        text = f"It is not known of how many residents of {region} {facts.origin} has sent data abroad this year."
        yield "missing_transfer_counts", text
        return
    if counts.year != limit.year(at):
        text = f"The count of transfers out of {region} is of {counts.year}, not of {limit.year(at)}."
        yield "stale_transfer_counts", text
        return
    tier = limit.tier(counts.people, counts.sensitive)
    if not set(tier.mechanism).isdisjoint(live):
        return
    reached = []
    for before in limit.spec.tiers[: limit.spec.tiers.index(tier)][-1:]:
        if before.people_below is not None and counts.people >= before.people_below:
            reached.append(f"from {before.people_below} people on")
        if before.sensitive_below is not None and counts.sensitive >= before.sensitive_below:
            reached.append(f"from {before.sensitive_below} people with sensitive data on")
    when = " and ".join(reached) or "always"
    sent = f"With this one, {facts.origin} has sent data of {counts.people} residents of {region} abroad"
    yield (
        "transfer_mechanism_too_weak",
        f"{sent} in {counts.year}, sensitive data of {counts.sensitive}. {limit.spec.legal_ref} asks {when} for one "
        f"of: {', '.join(tier.mechanism)}. In force: {', '.join(sorted(live))}.",
    )
