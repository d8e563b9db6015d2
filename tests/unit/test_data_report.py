"""The partner's data report: every count has its place, and every finding says what happens."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from federation.client.config import DataConfig
from federation.client.consent.book import ConsentBook
from federation.client.data import PartnerData
from federation.client.report.advice import LEVELS, NOTE, STOP, WARNING, advise
from federation.client.report.page import write_page
from federation.client.report.report import (
    IN_FORCE,
    NOTHING,
    OVER,
    DataReport,
    keep_report,
    kept_reports,
    last_report,
    make_report,
    read_reference,
)
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import DataError
from federation.policy.load import load_policy
from federation.training.features import MARKETING_V1, Categorical, Flag

NOW = datetime(2026, 11, 22, tzinfo=UTC)
POLICY = load_policy(Path(__file__).parents[2] / "policies")
FEATURES = [feature.name for feature in MARKETING_V1.features]


def text(*values: str) -> pa.Array:
    return pa.array(values, pa.string())


class World:
    """A partner's files, which a test changes before it asks for the report."""

    def __init__(self, folder: Path) -> None:
        self.folder, rng, count = folder, np.random.default_rng(1), 2000
        options = {
            feature.name: list(feature.places)
            if isinstance(feature, Categorical)
            else ["0", "1"]
            if isinstance(feature, Flag)
            else [str(edge) for edge in feature.edges]
            for feature in MARKETING_V1.features
        }
        columns = {name: rng.choice(words, count) for name, words in options.items()}
        columns["accepted_offer"] = np.where(rng.random(count) < 0.1, "1", "0")
        self.customers = pd.DataFrame(columns)
        self.customers.insert(0, "customer_id", [f"B{number:05d}" for number in range(count)])
        self.customers["email"] = [f"person{number}@example.org" for number in range(count)]
        self.customers["region"] = rng.choice(["DE", "FR", "SG"], count)
        self.purposes = ["overlap_statistics", "model_training", "offer_sharing"]
        self.expires = NOW + timedelta(days=300)
        (folder / "holdings.csv").write_text("customer_id,product\nB00001,gold_card\n")

    def report(self, earlier: dict[str, Any] | None = None) -> DataReport:
        data = self.folder
        self.customers.to_csv(data / "customers.csv", index=False)
        ids = self.customers["customer_id"]
        rows = [
            {
                "record_id": f"{purpose}-{customer}",
                "customer_id": customer,
                "purpose": purpose,
                "status": "given",
                "recipients": "insurer airline",
                "given_at": "2026-01-01T00:00:00+00:00",
                "expires_at": self.expires.isoformat(),
                "separate_consent": 1,
                "cross_border_consent": 1,
                "jurisdiction": {"SG": "PDPA"}.get(region, "GDPR"),
            }
            for purpose in self.purposes
            for customer, region in zip(ids, self.customers["region"], strict=True)
        ]
        pd.DataFrame(rows).to_csv(data / "consents.csv", index=False)
        files = {name: data / f"{name}.csv" for name in ("customers", "consents", "holdings")}
        config = DataConfig(**files)
        clock = FixedClock(NOW)
        book = ConsentBook(config.consents, open_database(data / "state.db"), clock)
        return make_report(PartnerData(config, "bank", POLICY, book, clock), POLICY, book, NOW, earlier)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def findings(report: DataReport) -> set[tuple[str, str]]:
    return {(advice.level, advice.about) for advice in advise(report, DataConfig())}


def test_complete_data_needs_no_advice(world: World) -> None:
    report = world.report()
    assert findings(report) == set()
    assert report.customers == 2000
    coverage = {found.purpose: found for found in report.coverage}
    assert coverage["model_training"].permitted == 2000
    assert set(coverage["model_training"].by_region) == {"EEA", "SG"}
    assert sum(of[IN_FORCE] for of in coverage["model_training"].by_region.values()) == 2000


def test_holdings_that_would_stop_a_build_stop_the_report(world: World) -> None:
    (world.folder / "holdings.csv").write_text("customer_id,produkt\n")
    with pytest.raises(DataError, match=r"holdings\.csv, column product"):
        world.report()
    (world.folder / "holdings.csv").unlink()
    with pytest.raises(DataError, match=r"holdings\.csv"):
        world.report()


def test_of_a_handful_of_customers_nothing_is_said_to_have_moved(world: World) -> None:
    before = world.report().to_json()
    world.customers = world.customers.head(3)
    about = {name for _, name in findings(world.report(before)) if name.startswith("feature")}
    texts = [advice.text for advice in advise(world.report(before), DataConfig()) if advice.about in about]
    assert not any("stability index" in text for text in texts)


def change_income(customers: pd.DataFrame) -> None:
    customers.loc[: 0.23 * len(customers), "balance"] = ""


def map_jobs(customers: pd.DataFrame) -> None:
    customers.loc[: 0.08 * len(customers), "job"] = "pilot"


def lose_column(customers: pd.DataFrame) -> None:
    del customers["housing"]


def spoil_numbers(customers: pd.DataFrame) -> None:
    customers["age"] = customers["age"] + ",5"


def take_other_unit(customers: pd.DataFrame) -> None:
    customers["balance"] = "123456789"


def agree_all(customers: pd.DataFrame) -> None:
    customers["accepted_offer"] = "1"


def share_mail(customers: pd.DataFrame) -> None:
    customers.loc[:100, "email"] = "info@company.example"


def lose_mail(customers: pd.DataFrame) -> None:
    customers["email"] = ""


def forget_mail(customers: pd.DataFrame) -> None:
    customers["phone"] = [f"+49 30 {number:07d}" for number in range(len(customers))]
    del customers["email"]


def move_away(customers: pd.DataFrame) -> None:
    customers["region"] = "XX"


def repeat(customers: pd.DataFrame) -> None:
    copy = customers.iloc[0].copy()
    copy["customer_id"] = "B99999"
    customers.loc[len(customers)] = copy


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_income, (WARNING, "feature balance")),
        (map_jobs, (WARNING, "feature job")),
        (lose_column, (STOP, "feature housing")),
        (spoil_numbers, (WARNING, "feature age")),
        (take_other_unit, (NOTE, "feature balance")),
        (agree_all, (STOP, "label accepted_offer")),
        (share_mail, (WARNING, "identifier email")),
        (lose_mail, (STOP, "identifiers")),
        (forget_mail, (WARNING, "identifier email")),
        (move_away, (STOP, "purpose model_training")),
        (repeat, (WARNING, "customers")),
    ],
)
def test_each_fault_has_its_finding(
    world: World, change: Callable[[pd.DataFrame], None], expected: tuple[str, str]
) -> None:
    change(world.customers)
    assert expected in findings(world.report())


def test_findings_say_what_happens_and_the_gravest_are_first(world: World) -> None:
    for change in (change_income, map_jobs, lose_column):
        change(world.customers)
    advice = advise(world.report(), DataConfig())
    texts = [finding.text for finding in advice]
    assert any(told.startswith("23% are missing: they are learned as 'missing'") for told in texts)
    assert any("'pilot' (161)" in told and "learned as 'unseen'" in told for told in texts)
    levels = [LEVELS.index(finding.level) for finding in advice]
    assert levels == sorted(levels)
    assert levels[0] == LEVELS.index(STOP)


def test_consents_that_are_over_or_not_there_are_counted_as_that(world: World) -> None:
    world.expires, world.purposes = NOW - timedelta(days=1), ["model_training"]
    report = world.report()
    coverage = {found.purpose: found for found in report.coverage}
    assert {state for of in coverage["model_training"].by_region.values() for state in of} == {OVER}
    assert {state for of in coverage["offer_sharing"].by_region.values() for state in of} == {NOTHING}
    assert coverage["model_training"].permitted == 0
    assert coverage["model_training"].customers == 2000
    assert (STOP, "purpose model_training") in findings(report)


def test_drift_is_measured_against_the_report_that_was_kept_last(world: World, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert last_report(state) is None
    kept = keep_report(world.report(), state)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept_reports(state) == [kept]
    change_income(world.customers)
    report = world.report(last_report(state))
    assert report.compared_with == "2026-11-22T00:00:00+00:00"
    moved = {feature.name: feature.psi for feature in report.features}
    assert moved["balance"] is not None
    assert moved["balance"] > 0.25
    assert moved["age"] == pytest.approx(0, abs=1e-9)
    assert any("stability index" in finding.text for finding in advise(report, DataConfig()))
    assert any("2026-11-22T00:00:00+00:00" in finding.text for finding in advise(report, DataConfig()))
    other = {**json.loads(kept.read_text()), "schema": "marketing-v0"}
    assert world.report(other).compared_with is None
    kept.write_text("[]")
    with pytest.raises(DataError, match="kept report"):
        last_report(state)


def test_a_file_that_was_copied_half_is_noticed_beside_the_last_report(world: World) -> None:
    whole = world.report().to_json()
    world.customers = world.customers.head(1700)
    assert findings(world.report(whole)) == set()
    world.customers = world.customers.head(1000)
    halved = world.report(whole)
    assert any("1,000 customers, 2,000 in the report before" in told.text for told in advise(halved, DataConfig()))
    assert (WARNING, "customers") in findings(halved)


def test_drift_is_measured_against_the_public_people_on_a_card(world: World) -> None:
    encoded = MARKETING_V1.encode(world.customers, FEATURES)
    card = {
        "run_id": "run-1",
        "feature_schema": MARKETING_V1.version,
        "bounds": {feature.name: [*feature.places, "missing", "unseen"] for feature in MARKETING_V1.features},
        "columns": MARKETING_V1.columns(FEATURES),
        "reference": (encoded > 0).mean(axis=0).tolist(),
    }
    same = world.report(read_reference(card))
    assert same.compared_with == "the public people on the card of run run-1"
    assert max(feature.psi or 0 for feature in same.features) < 0.01
    assert findings(same) == set()
    map_jobs(world.customers)
    moved = {feature.name: feature.psi or 0 for feature in world.report(read_reference(card)).features}
    assert moved["job"] > 0.25 > moved["age"]
    with pytest.raises(DataError, match="no public people"):
        read_reference({**card, "reference": None})


def test_page_has_everything_and_nothing_from_elsewhere(world: World) -> None:
    world.customers.loc[:500, "job"] = "<script>alert(1)</script>"
    lose_column(world.customers)
    report = world.report()
    page = write_page(report, advise(report, DataConfig()))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http:" not in page
    assert "https:" not in page
    assert all(f">{name}<" in page for name in FEATURES)
    assert "no such column" in page
    assert page.count("<section>") == 4


def test_command_shows_keeps_and_stops(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import federation.client.workplace
    from federation.cli.partner import app

    world.report()
    (tmp_path / "partner.yaml").write_text("party: bank\ngateway: 127.0.0.1:1\n")

    def open_place(config: Any, clock: Any) -> Any:
        book = ConsentBook(config.data.consents, open_database(tmp_path / "p.db"), FixedClock(NOW))
        data = PartnerData(config.data, "bank", POLICY, book, FixedClock(NOW))
        return SimpleNamespace(config=config, data=data, policy=POLICY, clock=FixedClock(NOW), close=lambda: None)

    monkeypatch.setattr(federation.client.workplace, "open_workplace", open_place)
    page, runner = tmp_path / "report.html", CliRunner()
    done = runner.invoke(app, ["report", "--config", str(tmp_path), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "Nothing to do" in done.output
    assert page.read_text().startswith("<!doctype html>")
    assert len(kept_reports(tmp_path / "state")) == 1
    lose_column(world.customers)
    world.report()
    stopped = runner.invoke(app, ["report", "--config", str(tmp_path), "--no-keep", "--json"])
    assert stopped.exit_code == 3
    told = json.loads(stopped.output)
    assert (told["kept"], told["advice"][0]["level"]) == (None, STOP)
    assert len(kept_reports(tmp_path / "state")) == 1
