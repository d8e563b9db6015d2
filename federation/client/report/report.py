"""What a partner's own data looks like before it joins: how complete, within which bounds, for whom, and how it moved.

Nothing here leaves the partner: the report is for its own people, is shown where it is made, and is kept in the
partner's state so that the next one can be compared with it. It spends no budget, because nothing is released.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from federation.client.consent.book import ConsentBook
from federation.client.data import PartnerData
from federation.client.digests import IN_PROCESS
from federation.client.overlap.labels import derived
from federation.client.report.columns import (
    FeatureReport,
    IdentifierReport,
    report_feature,
    report_identifier,
    report_label,
    twins,
)
from federation.core.clock import to_text
from federation.core.errors import DataError, Reason
from federation.overlap.plan import KEY_TYPES
from federation.policy.policy_set import PolicySet
from federation.training.features import find_schema

LEARNING = "model_update"
USES = (
    ("overlap_statistics", "blinded_identifier"),
    ("model_training", LEARNING),
    ("offer_sharing", "blinded_identifier"),
)
"""Purpose and data category of what a partner's customers may be in."""
GATEWAY = "gateway"
IN_FORCE, NOT_YET, OVER, UNDATED, NOTHING = "in force", "not yet", "expired", "unreadable", "nothing on file"
ELSEWHERE = "no region"
REFERENCE_PEOPLE = 1_000_000
"""So many people have the shares that a card states; enough that counting them loses nothing."""
FOLDER, SUFFIX = "data-reports", ".json"


@dataclass(frozen=True)
class Coverage:
    """Who may be in a use, by the partner's own policy and by the state of the consent for its purpose."""

    purpose: str
    by_region: dict[str, dict[str, int]]
    """Region, then state of the consent, to customers."""
    permitted: int
    refused: dict[str, int]
    """First reason of the policy to customers."""

    @property
    def customers(self) -> int:
        """All."""
        return self.permitted + sum(self.refused.values())

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "purpose": self.purpose,
            "permitted": self.permitted,
            "refused": self.refused,
            "consent_by_region": self.by_region,
        }


@dataclass(frozen=True)
class DataReport:
    """The counts."""

    party: str
    at: str
    schema: str
    policy_version: str
    customers: int
    customers_before: int | None
    """In the earlier report of the same partner; None without one."""
    twins: int
    """Customers who are equal to another in all that is learned, and in their identifiers."""
    features: tuple[FeatureReport, ...]
    label: FeatureReport
    identifiers: tuple[IdentifierReport, ...]
    coverage: tuple[Coverage, ...]
    compared_with: str | None
    """When the earlier report was made, or whose card it was."""

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON, and what is kept."""
        return {
            "party": self.party,
            "at": self.at,
            "schema": self.schema,
            "policy_version": self.policy_version,
            "customers": self.customers,
            "customers_before": self.customers_before,
            "equal_but_for_the_id": self.twins,
            "features": [feature.to_json() for feature in self.features],
            "label": self.label.to_json(),
            "identifiers": [identifier.to_json() for identifier in self.identifiers],
            "coverage": [coverage.to_json() for coverage in self.coverage],
            "compared_with": self.compared_with,
        }


def make_report(
    data: PartnerData, policy: PolicySet, consents: ConsentBook, at: datetime, earlier: Mapping[str, Any] | None
) -> DataReport:
    """Counts everything.

    Args:
        data: The partner's rows.
        policy: Its own rules, which name the features, and who is of which region.
        consents: Its consent book.
        at: Now.
        earlier: A kept report to compare with.

    Raises:
        DataError: a file is missing or cannot be read; the holdings only where labels come from them.
    """
    spec, names = policy.training, data.config.columns
    schema = find_schema(spec.feature_schema)
    features = schema.select(spec.features)
    kinds = {kind: str(getattr(names, kind)) for kind in KEY_TYPES}
    wanted = (*(feature.name for feature in features), spec.label, *kinds.values())
    table = data.columns((names.region,), wanted)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    # As a build does it: where labels come from the holdings, one that cannot be read stops the partner.
    derived(policy.parties[data.party], names, columns[names.id], data.holdings)
    before = _places_of(earlier) if earlier is not None and earlier.get("schema") == schema.version else {}
    learned = [columns[name] for name in (*spec.features, spec.label) if name in columns]
    identifiers = [columns[name] for name in kinds.values() if name in columns]
    return DataReport(
        party=data.party,
        at=to_text(at.replace(microsecond=0)),  # people read it
        schema=schema.version,
        policy_version=str(policy.version),
        customers=len(table),
        customers_before=None if earlier is None else earlier.get("customers"),
        twins=twins(learned, identifiers),
        features=tuple(report_feature(f, columns.get(f.name), before.get(f.name)) for f in features),
        label=report_label(spec.label, columns.get(spec.label)),
        identifiers=tuple(report_identifier(kind, columns.get(name), data.config) for kind, name in kinds.items()),
        coverage=_coverage(data, policy, consents, at, (columns[names.id], columns[names.region])),
        compared_with=str(earlier["at"]) if before and earlier is not None else None,
    )


def _places_of(report: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    return {feature["name"]: feature["places"] for feature in report["features"] if feature["there"]}


def _coverage(
    data: PartnerData, policy: PolicySet, consents: ConsentBook, at: datetime, people: tuple[pa.Array, pa.Array]
) -> tuple[Coverage, ...]:
    ids, countries = people
    digests = IN_PROCESS.of(ids)
    encoded = countries.dictionary_encode()
    words = [str(word).strip() for word in encoded.dictionary.to_pylist()]
    region = np.asarray(encoded.indices, dtype=np.int64)
    learned = frozenset({*policy.training.features, policy.training.label})
    found = []
    for purpose, category in USES:
        may = data.eligible(purpose, category, GATEWAY, fields=learned if category == LEARNING else frozenset())
        standing = consents.standing(digests, purpose, at)
        classes, first, number = np.unique(standing.classes(slice(None)), return_index=True, return_inverse=True)
        states = [_state(standing.fact(int(row)), at) for row in first]
        cells = np.bincount(number.reshape(-1) * max(len(words), 1) + region, minlength=len(classes) * len(words))
        by_region: dict[str, Counter[str]] = {}
        for place, count in enumerate(cells.tolist()):
            if count:
                state, word = states[place // len(words)], words[place % len(words)]
                by_region.setdefault(policy.region_of.get(word, ELSEWHERE), Counter())[state] += count
        told = {name: dict(states) for name, states in sorted(by_region.items())}
        found.append(Coverage(purpose, told, len(may.rows), may.refused))
    return tuple(found)


def _state(fact: Any, at: datetime) -> str:
    """The state of a consent in a word: in force, or why not."""
    if fact is None:
        return NOTHING
    if fact.status != "given":
        return str(fact.status or UNDATED)
    if fact.given_at is None or fact.expires_at is None:
        return UNDATED
    if fact.given_at > at:
        return NOT_YET
    return OVER if fact.expires_at <= at else IN_FORCE


def kept_reports(state: Path) -> list[Path]:
    """All that were kept, oldest first."""
    return sorted((state / FOLDER).glob(f"*{SUFFIX}"))


def last_report(state: Path) -> dict[str, Any] | None:
    """The newest that was kept, None without one. Raises DataError (BROKEN_ROW) where it cannot be read."""
    kept = kept_reports(state)
    if not kept:
        return None
    try:
        found = json.loads(kept[-1].read_text())
        _places_of(found)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        fix = "Move the file away; the next report is then compared with the one before it."
        raise DataError(Reason.BROKEN_ROW, item=f"kept report {kept[-1].name}", fix=fix) from exc
    return dict(found)


def read_reference(card: Mapping[str, Any]) -> dict[str, Any]:
    """The public people whom a model's card compares with, in the form of an earlier report.

    Args:
        card: Verified.

    Raises:
        DataError: BAD_FIELD for a card that knows no such people.
    """
    if not card.get("reference"):
        raise DataError(Reason.BAD_FIELD, item="card: no public people to compare with")
    shares = dict(zip(card["columns"], card["reference"], strict=True))
    features = [
        {
            "name": name,
            "there": True,
            "places": {place: round(REFERENCE_PEOPLE * float(shares[f"{name}={place}"])) for place in places},
        }
        for name, places in card["bounds"].items()
    ]
    told = f"the public people on the card of run {card['run_id']}"
    return {"schema": str(card["feature_schema"]), "at": told, "features": features}


def keep_report(report: DataReport, state: Path) -> Path:
    """Writes a report where the next one finds it, for its owner's eyes, named by its time; whole or not at all."""
    folder = state / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    name = report.at.replace(":", "").replace("+0000", "Z")
    path, scratch = folder / f"{name}{SUFFIX}", folder / f".{name}.new"
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(report.to_json(), file, ensure_ascii=False, indent=1)
    scratch.rename(path)
    return path
