"""What a data report means, finding by finding, in a sentence that says what happens and what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from federation.client.config import DataConfig
from federation.client.report.columns import PSI_CHANGED, PSI_MOVED, FeatureReport, IdentifierReport
from federation.client.report.report import IN_FORCE, Coverage, DataReport
from federation.training.features import MISSING, UNSEEN

STOP, WARNING, NOTE = "stop", "warning", "note"
LEVELS = (STOP, WARNING, NOTE)
"""Stop: the partner cannot join so. Warning: it can, and loses by it. Note: to know."""
MISSING_NOTE, MISSING_WARNING = 0.05, 0.2
UNSEEN_NOTE, UNSEEN_WARNING = 0.01, 0.05
OUTER_WARNING = 0.25
"""Share of customers in a band that has no end."""
ONE_PLACE = 0.99
RARE_LABEL, FREQUENT_LABEL = 0.005, 0.5
UNLABELLED_WARNING = 0.2
FEW_CUSTOMERS = 1_000
"""Fewer drown in the noise of a run."""
USUAL_KEY_TYPE = "email"
"""An epoch is built by it where nobody says otherwise."""
UNUSABLE_WARNING = 0.05
SHARED_NOTE, SHARED_WARNING = 0.001, 0.01
COVERED_WARNING = 0.5


@dataclass(frozen=True)
class Advice:
    """One finding."""

    level: str
    about: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"level": self.level, "about": self.about, "text": self.text}


def advise(report: DataReport, config: DataConfig) -> list[Advice]:
    """All findings, the gravest first, in the order of the report.

    Args:
        report: The counts.
        config: How empty an identifier may be.
    """
    found = [
        *_about_customers(report, config),
        *(advice for feature in report.features for advice in _about_feature(feature, f"{report.compared_with}")),
        *_about_label(report.label),
        *_about_identifiers(report, config),
        *(advice for coverage in report.coverage for advice in _about_coverage(coverage)),
    ]
    return sorted(found, key=lambda advice: LEVELS.index(advice.level))


def _about_customers(report: DataReport, config: DataConfig) -> Iterator[Advice]:
    before = report.customers_before or 0
    if before - report.customers > config.max_shrink_share * before:
        text = (
            f"{report.customers:,} customers, {before:,} in the report before, which is less by more than "
            f"data.max_shrink_share ({config.max_shrink_share:.0%}): was the file copied whole?"
        )
        yield Advice(WARNING, "customers", text)
    if report.customers < FEW_CUSTOMERS:
        text = f"{report.customers:,} customers: a joint model learns little from so few under noise."
        yield Advice(STOP if not report.customers else WARNING, "customers", text)
    if report.twins:
        text = (
            f"{report.twins:,} customers have the identifiers and all features of another: one person twice. "
            "Merge them; a person in two rows counts twice, also in what training costs that person."
        )
        yield Advice(WARNING, "customers", text)


def _about_feature(feature: FeatureReport, compared_with: str) -> Iterator[Advice]:
    name = f"feature {feature.name}"
    if not feature.there:
        text = "The file has no such column: a run that uses it is refused. Add it, or leave it out by limits.features."
        yield Advice(STOP, name, text)
        return
    missing, unseen = feature.share(MISSING), feature.share(UNSEEN)
    if missing >= MISSING_NOTE:
        text = f"{missing:.0%} are missing: they are learned as 'missing'. Fill them at the source if they are known."
        yield Advice(WARNING if missing >= MISSING_WARNING else NOTE, name, text)
    if unseen >= UNSEEN_NOTE:
        if feature.number:
            what = "no numbers: they are learned as 'unseen'. Check the column's decimal sign and units"
        else:
            words = ", ".join(f"{word!r} ({count:,})" for word, count in feature.strange)
            often = f"; most often {words}" if words else ""
            what = f"not in the schema's list: they are learned as 'unseen'{often}. Map them to the schema's words"
        yield Advice(WARNING if unseen >= UNSEEN_WARNING else NOTE, name, f"{unseen:.1%} are {what}.")
    for share, where in ((feature.below, feature.places[0]), (feature.beyond, feature.places[-3])):
        if share >= OUTER_WARNING and not _usual_end(feature, where):
            text = (
                f"{share:.0%} are {where}, where the schema has no more bands: all of them look alike. Check the unit."
            )
            yield Advice(WARNING, name, text)
    most = max(feature.counts) / max(sum(feature.counts), 1)
    if most >= ONE_PLACE:
        text = (
            f"{most:.1%} have the same value: it tells nothing about your customers, and takes its part of the noise."
        )
        yield Advice(NOTE, name, text)
    by_chance = len(feature.counts) / max(sum(feature.counts), 1)  # about what few customers make of no change at all
    if feature.psi is not None and feature.psi >= PSI_MOVED and by_chance < PSI_MOVED:
        grave = feature.psi >= PSI_CHANGED
        text = f"Not as in {compared_with}: stability index {feature.psi:.2f}, "
        text += f"{'above' if grave else 'near'} {PSI_CHANGED:g}. "
        text += "A model that was trained before may rank wrongly; find out why before the next run."
        yield Advice(WARNING if grave else NOTE, name, text)


def _usual_end(feature: FeatureReport, place: str) -> bool:
    """Whether nearly all numbers of an outer band are one value, such as 0 or -1 for "never": then it is a band."""
    return feature.low == feature.high or (place == feature.places[0] and feature.low in {0.0, -1.0})


def _about_label(label: FeatureReport) -> Iterator[Advice]:
    name = f"label {label.name}"
    if not label.there:
        yield Advice(STOP, name, "The file has no such column: there is nothing to learn. Add what customers answered.")
        return
    no, yes = label.counts[:2]
    answered = no + yes
    if not no or not yes:
        text = f"All {answered:,} answers are the same: there is nothing to learn. Check the column's coding."
        yield Advice(STOP, name, text)
        return
    left_out = 1 - answered / sum(label.counts)
    if left_out >= UNLABELLED_WARNING:
        yield Advice(WARNING, name, f"{left_out:.0%} have no answer: these customers are not trained on.")
    if yes / answered < RARE_LABEL:
        text = (
            f"{yes / answered:.2%} said yes: so few are hardly seen through the noise. Take a label that is less rare."
        )
        yield Advice(WARNING, name, text)
    if yes / answered > FREQUENT_LABEL:
        yield Advice(
            NOTE, name, f"{yes / answered:.0%} said yes, more than half. Check that yes and no are not swapped."
        )


def _about_identifiers(report: DataReport, config: DataConfig) -> Iterator[Advice]:
    if not any(identifier.usable for identifier in report.identifiers):
        text = "No customer has a usable identifier: the overlap finds nobody. Add e-mail, phone or national id."
        yield Advice(STOP, "identifiers", text)
    for identifier in report.identifiers:
        if identifier.kind == USUAL_KEY_TYPE and not identifier.there:
            text = "There is no such column: an epoch by this key type, which is the usual one, cannot be built."
            yield Advice(WARNING, f"identifier {identifier.kind}", text)
        if identifier.there and identifier.looked_at:
            yield from _about_identifier(identifier, config)


def _about_identifier(identifier: IdentifierReport, config: DataConfig) -> Iterator[Advice]:
    name, looked_at = f"identifier {identifier.kind}", identifier.looked_at
    missing, unusable, shared = (
        count / looked_at for count in (identifier.missing, identifier.unusable, identifier.shared)
    )
    if missing > config.max_empty_share:
        text = (
            f"{missing:.0%} are empty, more than data.max_empty_share ({config.max_empty_share:.0%}): an epoch by this "
        )
        yield Advice(STOP, name, text + "key type is refused. Check the file, or raise the limit if this is how it is.")
    elif missing >= MISSING_NOTE:
        text = f"{missing:.0%} are missing: an epoch by this key type does not find these customers."
        yield Advice(WARNING if missing >= MISSING_WARNING else NOTE, name, text)
    if unusable >= UNSEEN_NOTE:
        text = f"{unusable:.1%} are filled but unusable, such as a number that nobody can have: as good as missing."
        yield Advice(WARNING if unusable >= UNUSABLE_WARNING else NOTE, name, text)
    if shared >= SHARED_NOTE:
        text = (
            f"{shared:.1%} share it with another customer: the overlap takes them for one person. If they are, merge "
            "the rows; if they are a household, prefer a key type that is a person's own."
        )
        yield Advice(WARNING if shared >= SHARED_WARNING else NOTE, name, text)


def _about_coverage(coverage: Coverage) -> Iterator[Advice]:
    name = f"purpose {coverage.purpose}"
    if not coverage.customers:
        return
    share = coverage.permitted / coverage.customers
    if not coverage.permitted:
        reason = max(coverage.refused, key=lambda code: coverage.refused[code])
        yield Advice(STOP, name, f"Your own policy lets nobody in; most often by {reason}.")
    elif share < COVERED_WARNING:
        reasons = sorted(coverage.refused.items(), key=lambda item: -item[1])[:3]
        often = ", ".join(f"{code} {count:,}" for code, count in reasons)
        yield Advice(NOTE, name, f"Your own policy lets {share:.0%} of your customers in; the others: {often}.")
    for region, states in coverage.by_region.items():
        if coverage.permitted and not states.get(IN_FORCE):
            text = f"No consent of anybody in {region} is in force: {sum(states.values()):,} customers stay out."
            yield Advice(WARNING, name, text)
