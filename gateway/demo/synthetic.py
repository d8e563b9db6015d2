"""A synthetic alliance: bank, insurer and airline with customers that nobody is.

Everything is drawn from stated distributions with a seed; no row comes from any real table. The identifiers are in the
blocks that are reserved for examples (``example.com`` and its siblings, 555-01xx numbers), so they reach nobody.

Written to ``folder``, as any alliance that the demo takes:

- ``{bank,insurer,airline}/customers.csv``: identifiers in messy spellings, the harmonised attributes, the label
  ``accepted_offer``, the region of residence and one segment column a partner;
- ``{...}/consents.csv``: one record for each customer and purpose, some withdrawn, refused, expired or limited;
- ``{...}/holdings.csv``: what the customer already has;
- ``test.csv``: people who are nobody's customer, to judge a model with;
- ``truth.json``: the true overlaps of those with a usable identifier and a live ``overlap_statistics`` consent.

Who the people are, what they answer to an offer and whose customers they become: ``gateway.demo.people``.
"""

import json
from datetime import datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from federation.core.errors import DataError, Reason
from gateway.demo.people import draw_identifiers, draw_people, membership_chances, spell_email, spell_phone

PARTNERS = ("bank", "insurer", "airline")
SEGMENTS = {
    "bank": ("value_tier", ("basic", "potential", "high", "strategic")),
    "insurer": ("life_stage", ("starter", "family", "established", "senior")),
    "airline": ("activity", ("silent", "occasional", "active")),
}
CROSSING = "bank.value_tier x airline.activity within bank and airline"
REGIONS = {"PT": 0.48, "DE": 0.18, "CN": 0.24, "SG": 0.10}
JURISDICTIONS = {"PT": "GDPR", "DE": "GDPR", "CN": "PIPL", "SG": "PDPA"}
CONSENT_RATES = {"overlap_statistics": 0.92, "model_training": 0.86, "offer_sharing": 0.72}
WITHDRAWN_RATE = 0.05
CONSENT_DAYS = 730
OLDEST_CONSENT_DAYS = 900  # so that about a fifth has expired
LOST_EMAIL_RATE, LOST_PHONE_RATE = 0.04, 0.10
TEST_PEOPLE = 6_000
MAX_PEOPLE = 10_000_000


Places = npt.NDArray[np.int64]


class _Filed(NamedTuple):
    """What the truth needs of one partner: who counts, as places in the table of everyone, and the labels by place."""

    email: Places
    phone: Places
    label: pd.Series


def make_alliance(folder: Path, people: int = 12_000, seed: int = 7, *, today: datetime) -> None:
    """Writes a synthetic alliance; the same arguments write the same bytes.

    Args:
        folder: Made if it is not there; files of an earlier alliance are replaced.
        people: How many there are, 100 to 10,000,000. Some are nobody's customer, many are several partners'.
        seed: Of every draw.
        today: Consents were given before it, and ``truth.json`` holds as of it. With a time zone.

    Raises:
        DataError: BAD_FIELD, BAD_TIME.
    """
    if not 100 <= people <= MAX_PEOPLE:
        raise DataError(Reason.BAD_FIELD, item=f"people: got {people}, expected 100 to {MAX_PEOPLE}")
    if today.tzinfo is None:
        raise DataError(Reason.BAD_TIME, item="today: time without zone")
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    draw_people(TEST_PEOPLE, rng).to_csv(folder / "test.csv", index=False)
    everyone = draw_people(people, rng)
    everyone["region"] = rng.choice(list(REGIONS), people, p=list(REGIONS.values()))
    emails, phones = draw_identifiers(people, rng)
    everyone.insert(0, "email", emails)
    everyone.insert(1, "phone", phones)
    filed = {}
    for partner, chance in membership_chances(everyone).items():
        who = rng.permutation(np.flatnonzero(rng.random(people) < chance))
        filed[partner] = _write_partner(folder / partner, everyone.iloc[who], today, rng)
    (folder / "truth.json").write_text(json.dumps(_count_truth(people, filed, today), indent=1))


def _label_segment(partner: str, mine: pd.DataFrame) -> pd.Series:
    """The partner's own segment of each of its customers."""
    labels = list(SEGMENTS[partner][1])
    if partner == "bank":
        return pd.qcut(mine["balance"].rank(method="first"), 4, labels=labels).astype(str)
    if partner == "insurer":
        return pd.cut(mine["age"], [0, 30, 45, 60, 200], labels=labels).astype(str)
    return pd.cut(mine["previous"], [-1, 0, 2, 10_000], labels=labels).astype(str)


def _write_partner(folder: Path, people: pd.DataFrame, today: datetime, rng: np.random.Generator) -> _Filed:
    """Writes one partner's three files. The index of ``people`` says who is who across partners."""
    partner, count = folder.name, len(people)
    folder.mkdir(exist_ok=True)
    ids = pd.Series([f"{partner[0].upper()}{k:08d}" for k in rng.permutation(10 * count)[:count]], index=people.index)
    has_email, has_phone = rng.random(count) >= LOST_EMAIL_RATE, rng.random(count) >= LOST_PHONE_RATE
    ways = rng.integers(0, 4, (2, count))
    segment = _label_segment(partner, people)
    customers = people.assign(**{SEGMENTS[partner][0]: segment})
    customers["email"] = [
        spell_email(address, way) if has else ""
        for address, way, has in zip(people["email"], ways[0], has_email, strict=True)
    ]
    customers["phone"] = [
        spell_phone(number, way) if has else ""
        for number, way, has in zip(people["phone"], ways[1], has_phone, strict=True)
    ]
    customers.insert(0, "customer_id", ids)
    customers.to_csv(folder / "customers.csv", index=False)
    consents = _draw_consents(partner, ids, people["region"], today, rng)
    consents.to_csv(folder / "consents.csv", index=False)
    _draw_holdings(partner, ids, people, rng).to_csv(folder / "holdings.csv", index=False)
    counted = (consents["purpose"] == "overlap_statistics") & (consents["status"] == "given")
    live = counted & (pd.to_datetime(consents["expires_at"]) > today)
    agreed = ids.isin(consents.loc[live, "customer_id"]).to_numpy()
    who = people.index.to_numpy()
    return _Filed(who[has_email & agreed], who[has_phone & agreed], segment)


def _draw_consents(
    partner: str, ids: pd.Series, region: pd.Series, today: datetime, rng: np.random.Generator
) -> pd.DataFrame:
    """One record for each customer and purpose."""
    count, others = len(ids), [p for p in PARTNERS if p != partner]
    days = [(today - timedelta(days=age)).isoformat() for age in range(OLDEST_CONSENT_DAYS + 1)]
    ends = [(today - timedelta(days=age - CONSENT_DAYS)).isoformat() for age in range(OLDEST_CONSENT_DAYS + 1)]
    tables = []
    for purpose, rate in CONSENT_RATES.items():
        draw, age = rng.random(count), rng.integers(1, OLDEST_CONSENT_DAYS, count)
        # Only sharing offers may be agreed to for a single recipient.
        single = (rng.random(count) < 0.2) & (purpose == "offer_sharing")
        columns: dict[str, Any] = {
            "record_id": [f"{partner}-{purpose}-{customer}" for customer in ids],
            "customer_id": ids.to_numpy(),
            "purpose": purpose,
            "status": np.select([draw < rate, draw < rate + WITHDRAWN_RATE], ["given", "withdrawn"], "refused"),
            "recipients": np.where(single, rng.choice(others, count), " ".join(others)),
            "given_at": [days[a] for a in age],
            "expires_at": [ends[a] for a in age],
            "separate_consent": (rng.random(count) < 0.90).astype(int),
            "cross_border_consent": (rng.random(count) < 0.60).astype(int),
            "jurisdiction": region.map(JURISDICTIONS).to_numpy(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _draw_holdings(partner: str, ids: pd.Series, people: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """What each customer already has of the partner's own products, with its value a year.

    Cards and home insurance go with wealth, so they are found together across partners.
    """
    age, wealth = people["age"].to_numpy(), people["balance"].rank(pct=True).to_numpy()
    housing, loan = people["housing"].to_numpy(), people["loan"].to_numpy()
    chances = {
        "bank": {
            "housing_loan": housing * 1.0,
            "personal_loan": loan * 1.0,
            "gold_card": 0.04 + 0.6 * (wealth > 0.75),
        },
        "insurer": {
            "motor": np.full(len(ids), 0.42),
            "home": 0.05 + 0.2 * housing + 0.6 * (wealth > 0.75),
            "term_life": 0.06 + 0.3 * (age > 45),
        },
        "airline": {"miles_card": 0.06 + 0.6 * (wealth > 0.75), "lounge_pass": 0.03 + 0.2 * (wealth > 0.9)},
    }[partner]
    tables = []
    for product, chance in chances.items():
        owners = ids.to_numpy()[rng.random(len(ids)) < chance]
        values = np.round(rng.lognormal(5.2, 0.9, len(owners)), 2)
        tables.append(pd.DataFrame({"customer_id": owners, "product": product, "yearly_value_eur": values}))
    return pd.concat(tables, ignore_index=True)


def _count_truth(people: int, filed: dict[str, _Filed], today: datetime) -> dict[str, Any]:
    """The true overlaps by e-mail and by phone, which in a real alliance nobody knows."""
    truth: dict[str, Any] = {}
    for key in ("email", "phone"):
        inside = {p: np.isin(np.arange(people), getattr(filed[p], key)) for p in PARTNERS}
        regions = {}
        for size in range(1, len(PARTNERS) + 1):
            for group in combinations(PARTNERS, size):
                exactly = np.logical_and.reduce([inside[p] == (p in group) for p in PARTNERS])
                regions["+".join(group)] = int(exactly.sum())
        both = np.flatnonzero(inside["bank"] & inside["airline"])
        pairs = pd.crosstab(filed["bank"].label[both], filed["airline"].label[both])
        pairs = pairs.reindex(index=SEGMENTS["bank"][1], columns=SEGMENTS["airline"][1], fill_value=0)
        truth[key] = {
            "exclusive_regions": regions,
            "sizes": {p: int(inside[p].sum()) for p in PARTNERS},
            CROSSING: {str(row): {str(c): int(n) for c, n in cells.items()} for row, cells in pairs.iterrows()},
        }
    truth["note"] = (
        "Synthetic. People with a usable identifier and a given, unexpired overlap_statistics consent, as of "
        + today.isoformat()
    )
    return truth
