"""The synthetic alliance: the layout that the demo takes, and a truth that a recount from the files confirms."""

import csv
import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federation.core.errors import DataError, Reason
from gateway.demo.people import acceptance_chance, draw_identifiers
from gateway.demo.synthetic import CROSSING, PARTNERS, make_alliance

TODAY = datetime(2026, 11, 1, tzinfo=UTC)
PEOPLE = 3_000
ATTRIBUTES = [
    "age", "job", "marital", "education", "in_default", "balance", "housing", "loan", "pdays", "previous", "poutcome",
    "accepted_offer",
]  # fmt: skip
SEGMENTS = {"bank": "value_tier", "insurer": "life_stage", "airline": "activity"}
CONSENT_COLUMNS = [
    "record_id", "customer_id", "purpose", "status", "recipients", "given_at", "expires_at", "separate_consent",
    "cross_border_consent", "jurisdiction",
]  # fmt: skip


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alliance")
    make_alliance(folder, PEOPLE, seed=3, today=TODAY)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digest_files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def normalise(key: str, value: str) -> str:
    if key == "email":
        return value.strip().lower()
    digits = re.sub(r"\D", "", value)
    return digits.removeprefix("00")


def recount(folder: Path, key: str) -> dict[str, dict[str, str]]:
    """For each partner, identifier to segment of those with a live consent, from the files alone."""
    found = {}
    for partner in PARTNERS:
        agreed = {
            row["customer_id"]
            for row in read(folder / partner / "consents.csv")
            if row["purpose"] == "overlap_statistics"
            and row["status"] == "given"
            and datetime.fromisoformat(row["expires_at"]) > TODAY
        }
        found[partner] = {
            normalise(key, row[key]): row[SEGMENTS[partner]]
            for row in read(folder / partner / "customers.csv")
            if row[key] and row["customer_id"] in agreed
        }
    return found


@pytest.mark.parametrize("key", ["email", "phone"])
def test_truth_agrees_with_a_recount(alliance, key):
    truth = json.loads((alliance / "truth.json").read_text())[key]
    found = recount(alliance, key)
    regions: dict[str, int] = {}
    for identifier in set(chain.from_iterable(found.values())):
        members = "+".join(partner for partner in PARTNERS if identifier in found[partner])
        regions[members] = regions.get(members, 0) + 1
    assert regions == truth["exclusive_regions"]
    assert {partner: len(people) for partner, people in found.items()} == truth["sizes"]
    cells: dict[tuple[str, str], int] = {}
    for identifier in found["bank"].keys() & found["airline"].keys():
        pair = found["bank"][identifier], found["airline"][identifier]
        cells[pair] = cells.get(pair, 0) + 1
    told = {(row, column): n for row, columns in truth[CROSSING].items() for column, n in columns.items() if n}
    assert cells == told


def test_layout_has_the_columns_the_demo_reads(alliance):
    for partner in PARTNERS:
        customers = read(alliance / partner / "customers.csv")
        expected = ["customer_id", "email", "phone", *ATTRIBUTES, "region", SEGMENTS[partner]]
        assert list(customers[0]) == expected
        consents = read(alliance / partner / "consents.csv")
        assert list(consents[0]) == CONSENT_COLUMNS
        holdings = read(alliance / partner / "holdings.csv")
        assert list(holdings[0]) == ["customer_id", "product", "yearly_value_eur"]
        ids = {row["customer_id"] for row in customers}
        assert len(ids) == len(customers)
        assert {row["customer_id"] for row in consents} == ids
        assert len(consents) == 3 * len(ids) == len({row["record_id"] for row in consents})
        assert {row["customer_id"] for row in holdings} <= ids
    assert list(read(alliance / "test.csv")[0]) == ATTRIBUTES


def test_consents_hold_every_case_the_gates_must_handle(alliance):
    rows = [row for partner in PARTNERS for row in read(alliance / partner / "consents.csv")]
    assert {row["status"] for row in rows} == {"given", "withdrawn", "refused"}
    assert {row["purpose"] for row in rows} == {"overlap_statistics", "model_training", "offer_sharing"}
    assert {row["jurisdiction"] for row in rows} == {"GDPR", "PIPL", "PDPA"}
    expired = [datetime.fromisoformat(row["expires_at"]) <= TODAY for row in rows]
    assert 0.1 < sum(expired) / len(rows) < 0.3
    assert all(datetime.fromisoformat(row["given_at"]) < TODAY for row in rows)
    limited = {row["purpose"] for row in rows if " " not in row["recipients"]}
    assert limited == {"offer_sharing"}
    assert {row["separate_consent"] for row in rows} == {row["cross_border_consent"] for row in rows} == {"0", "1"}


def test_identifiers_reach_nobody(alliance):
    for partner in PARTNERS:
        for row in read(alliance / partner / "customers.csv"):
            assert not row["email"] or re.fullmatch(r"[^@\s]+@example\.(com|org|net)", normalise("email", row["email"]))
            assert not row["phone"] or re.fullmatch(r"1\d{3}55501\d{2}", normalise("phone", row["phone"]))


def test_more_people_than_fictional_numbers_get_a_country_code_that_nobody_has():
    emails, phones = draw_identifiers(80_001, np.random.default_rng(1))
    assert phones.str.fullmatch(r"\+999\d{11}").all()
    assert emails.is_unique
    assert phones.is_unique


def test_label_is_what_the_stated_model_says(alliance):
    test = pd.read_csv(alliance / "test.csv")
    chance = acceptance_chance(test)
    assert ((chance > 0) & (chance < 1)).all()
    assert 0.11 < test["accepted_offer"].mean() < 0.16
    # Six standard errors of a mean of 6,000 draws.
    assert abs(test["accepted_offer"].mean() - chance.mean()) < 6 * (0.25 / len(test)) ** 0.5


def test_same_seed_same_bytes_other_seed_other_people(alliance, tmp_path):
    make_alliance(tmp_path / "again", PEOPLE, seed=3, today=TODAY)
    make_alliance(tmp_path / "other", PEOPLE, seed=4, today=TODAY)
    assert digest_files(tmp_path / "again") == digest_files(alliance)
    changed = digest_files(tmp_path / "other")
    assert changed.keys() == digest_files(alliance).keys()
    assert not changed.items() & digest_files(alliance).items()


@pytest.mark.parametrize(
    ("people", "today", "reason"),
    [
        (99, TODAY, Reason.BAD_FIELD),
        (10_000_001, TODAY, Reason.BAD_FIELD),
        (1_000, TODAY.replace(tzinfo=None), Reason.BAD_TIME),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(tmp_path, people, today, reason):
    with pytest.raises(DataError) as caught:
        make_alliance(tmp_path / "new", people, today=today)
    assert caught.value.reason is reason
    assert not (tmp_path / "new").exists()
