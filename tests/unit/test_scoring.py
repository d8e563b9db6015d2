"""A partner scores its own file: whom it may, deciles, reasons, both formats; the shelf takes only what verifies."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from federation.client.models import IN_USE_FILE, ModelShelf
from federation.client.scoring import compare_models, score_customers
from federation.core.canonical import canonical_json
from federation.core.clock import FixedClock, to_text
from federation.core.errors import DataError, EntenteError, IdentityError, Reason, TrainingError
from federation.core.identity import Identity, Role
from federation.core.ids import PartyId
from federation.policy.facts import Decision, Facts, Given, Obligations
from federation.policy.load import load_policy
from federation.training.features import MARKETING_V1
from federation.training.measures import auc_interval
from federation.training.models import LOGISTIC_REGRESSION, predict, save_weights, shapes, weights_digest
from federation.training.saved import SavedModel, verify_model
from federation.v1 import models_pb2, training_pb2
from tests.kits.offers import Partner
from tests.kits.training import NOW, identity_of

FEATURES = ("age", "job", "balance")
POLICIES = Path(__file__).resolve().parents[2] / "policies"
HEADER = "customer_id,email,phone,age,job,balance,accepted_offer,region"
CONSENTS = (
    "record_id,customer_id,purpose,status,recipients,given_at,expires_at,separate_consent,"
    "cross_border_consent,jurisdiction"
)


def make_model(seed: int = 1, identity: Identity | None = None, **changes: Any) -> SavedModel:
    data, signed = make_files(seed, identity, **changes)
    return verify_model(data, signed, identity_of("bank").ca)


def make_files(seed: int = 1, identity: Identity | None = None, **changes: Any) -> tuple[bytes, Any]:
    """A model file and its signed card."""
    width = MARKETING_V1.width(FEATURES)
    rng = np.random.default_rng(seed)
    made = {n: rng.normal(0, 2, s).astype(np.float32) for n, s in shapes(LOGISTIC_REGRESSION, width).items()}
    data = save_weights(made)
    card = {
        "alliance": "skyline",
        "run_id": f"run-{seed}",
        "model": LOGISTIC_REGRESSION,
        "feature_schema": MARKETING_V1.version,
        "features": list(FEATURES),
        "label": "accepted_offer",
        "trained_at": to_text(NOW),
        "weights_sha256": weights_digest(data),
        "reference": None,
        **changes,
    }
    return data, (identity or identity_of("gateway", Role.GATEWAY)).sign("model-card", canonical_json(card))


@dataclass
class Rules:
    """Lets everybody with consent be scored, and remembers what it was asked."""

    asked: list[Facts] = field(default_factory=list)

    def decide(self, facts: Facts) -> Decision:
        self.asked.append(facts)
        fine = facts.consent is not None and facts.consent.status == "given"
        return Decision(fine, (Given("test", "permitted" if fine else "no_consent", ""),), Obligations(), "v")  # type: ignore[arg-type]


def make_partner(folder: Path, people: int, policy: Any = None, consents: int | None = None) -> Partner:
    partner = Partner(folder, PartyId("bank"), FixedClock(NOW), policy or Rules())
    rng = np.random.default_rng(people)
    jobs = rng.choice(["retired", "student", "pilot", ""], people)
    rows = [
        f"C{n},,,{rng.integers(18, 90)},{jobs[n]},{rng.integers(-500, 6000)},{rng.integers(0, 2)},PT"
        for n in range(people)
    ]
    partner.lines("customers", HEADER, *rows)
    who = range(people) if consents is None else range(consents)
    said = [f"r{n},C{n},offer_sharing,given,insurer,2026-10-01T00:00:00Z,2027-10-01T00:00:00Z,0,0,GDPR" for n in who]
    partner.lines("consents", CONSENTS, *said)
    return partner


def test_only_who_agreed_is_scored_and_the_own_policy_is_asked(tmp_path: Path) -> None:
    rules = Rules()
    partner, model = make_partner(tmp_path / "bank", 300, rules, consents=250), make_model()
    out, heard = tmp_path / "scores.parquet", []
    done = score_customers(partner.data, model, out, progress=lambda *said: heard.append(said))
    assert (done.customers, done.scored, done.refused) == (300, 250, {"no_consent": 50})
    facts = rules.asked[0]
    assert (facts.purpose, facts.data_category, facts.origin, facts.recipient) == (
        "offer_sharing",
        "score",
        "bank",
        "bank",
    )
    assert facts.fields == frozenset(FEATURES)
    rows = pq.read_table(out).to_pydict()
    assert rows["customer_id"] == [f"C{n}" for n in range(250)]
    frame = partner.data.customers().iloc[:250]
    np.testing.assert_allclose(
        rows["score"], predict(model.kind, model.weights, MARKETING_V1.encode(frame, FEATURES)), atol=1e-6
    )
    assert heard[-1] == ("writing", 300, 300)
    assert {stage for stage, _, _ in heard} == {"scoring", "writing"}
    assert not list(tmp_path.glob(".*"))


def test_deciles_are_tenths_and_the_first_has_the_best(tmp_path: Path) -> None:
    partner = make_partner(tmp_path / "bank", 1_000)
    done = score_customers(partner.data, make_model(), tmp_path / "s.parquet", reasons=0)
    rows = pq.read_table(tmp_path / "s.parquet").to_pydict()
    by = {d: [s for s, e in zip(rows["score"], rows["decile"], strict=True) if e == d] for d in set(rows["decile"])}
    assert min(by[1]) > max(by[10])
    assert all(min(by[d]) > max(by[d + 1]) for d in range(1, 10) if d in by and d + 1 in by)
    assert done.deciles[0][1] == max(rows["score"])
    assert set(rows) == {"customer_id", "score", "decile"}


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_scores_are_for_their_owner_alone(tmp_path: Path, name: str) -> None:
    score_customers(make_partner(tmp_path / "bank", 50).data, make_model(), tmp_path / name)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_csv_says_the_same_as_parquet(tmp_path: Path) -> None:
    partner, model = make_partner(tmp_path / "bank", 60), make_model()
    for name in ("s.parquet", "s.csv"):
        score_customers(partner.data, model, tmp_path / name, reasons=2)
    table = pq.read_table(tmp_path / "s.parquet").to_pylist()
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["customer_id"] for row in rows] == [row["customer_id"] for row in table]
    assert [row["reason_1"] for row in rows] == [row["reason_1"] for row in table]
    assert any("raises the score" in row["reason_1"] for row in rows)
    assert all(abs(float(row["score"]) - said["score"]) < 1e-6 for row, said in zip(rows, table, strict=True))


def test_file_that_changes_or_has_a_strange_ending_leaves_nothing(tmp_path: Path) -> None:
    partner = make_partner(tmp_path / "bank", 50)

    def change(stage: str, done: int, total: int) -> None:
        if stage == "writing":
            path = partner.folder / "customers.csv"
            path.write_text(path.read_text() + "C99,,,40,pilot,5,1,PT\n")

    with pytest.raises(DataError, match="changed"):
        score_customers(partner.data, make_model(), tmp_path / "s.csv", progress=change)
    with pytest.raises(DataError, match=r"parquet or \.csv"):
        score_customers(partner.data, make_model(), tmp_path / "s.xlsx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank"]


def test_nobody_agreed_is_an_empty_file(tmp_path: Path) -> None:
    partner = make_partner(tmp_path / "bank", 20, consents=0)
    done = score_customers(partner.data, make_model(), tmp_path / "s.parquet")
    assert (done.scored, done.deciles) == (0, ())
    assert pq.read_table(tmp_path / "s.parquet").num_rows == 0


def test_the_shipped_policy_lets_a_partner_score_who_agreed_to_offers(tmp_path: Path) -> None:
    partner = make_partner(tmp_path / "bank", 40, load_policy(POLICIES), consents=30)
    done = score_customers(partner.data, make_model(), tmp_path / "s.parquet")
    assert (done.scored, sum(done.refused.values())) == (30, 10)


def test_two_models_on_the_own_rows(tmp_path: Path) -> None:
    partner = make_partner(tmp_path / "bank", 400)
    found, rows, positives = compare_models(partner.data, make_model(1), make_model(2))
    frame = partner.data.customers()
    labels = frame["accepted_offer"].to_numpy().astype(np.float64)
    assert (rows, positives) == (400, int(labels.sum()))
    expected = make_model(2).score(frame)
    assert found.second.value == pytest.approx(auc_interval(expected, labels).value)
    assert found.difference.low < found.difference.value < found.difference.high
    with pytest.raises(DataError, match="labels"):
        compare_models(partner.data, make_model(1), make_model(2, label="bought"))


@dataclass
class Gateway:
    """Says which version is in use, and hands out files."""

    in_use: int = 1
    files: dict[int, tuple[bytes, Any]] = field(default_factory=dict)
    fetched: int = 0

    def ListModels(self, request: Any, timeout: float) -> models_pb2.ListModelsResponse:
        models = [
            models_pb2.ModelInfo(
                version=version,
                run_id=json.loads(signed.payload)["run_id"],
                weights_sha256=weights_digest(data),
                in_use=version == self.in_use,
            )
            for version, (data, signed) in self.files.items()
        ]
        return models_pb2.ListModelsResponse(models=models)

    def GetModel(self, request: training_pb2.GetModelRequest, timeout: float) -> training_pb2.GetModelResponse:
        self.fetched += 1
        data, signed = self.files[request.version]
        run_id = json.loads(signed.payload)["run_id"]
        return training_pb2.GetModelResponse(run_id=run_id, weights=data, signed_card=signed, version=request.version)


def make_shelf(gateway: Any, state: Path) -> ModelShelf:
    return ModelShelf(gateway, gateway, identity_of("bank"), state)


def test_shelf_follows_the_version_in_use_and_fetches_each_once(tmp_path: Path) -> None:
    gateway = Gateway(files={1: make_files(1), 2: make_files(2)})
    shelf = make_shelf(gateway, tmp_path)
    assert [shelf.in_use().run_id for _ in range(3)] == ["run-1"] * 3
    gateway.in_use = 2
    assert make_shelf(gateway, tmp_path).in_use().run_id == "run-2"
    gateway.in_use = 1
    assert shelf.in_use().run_id == "run-1"
    assert gateway.fetched == 2
    assert json.loads((tmp_path / "models" / IN_USE_FILE).read_text())["version"] == 1


def test_shelf_takes_no_card_that_does_not_verify(tmp_path: Path) -> None:
    data, signed = make_files(1)
    forged = Gateway(files={1: make_files(1, identity_of("insurer"))})
    with pytest.raises(IdentityError):
        make_shelf(forged, tmp_path).in_use()
    swapped = Gateway(files={1: (make_files(2)[0], signed)})
    with pytest.raises(DataError) as caught:
        make_shelf(swapped, tmp_path).in_use()
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert not list((tmp_path / "models").glob("*")) if (tmp_path / "models").exists() else True
    with pytest.raises(TrainingError) as nothing:
        make_shelf(Gateway(), tmp_path).in_use()
    assert nothing.value.reason is Reason.UNKNOWN_RUN
    assert data


def test_what_was_changed_on_the_shelf_is_fetched_again(tmp_path: Path) -> None:
    gateway = Gateway(files={1: make_files(1)})
    model = make_shelf(gateway, tmp_path).in_use()
    path = tmp_path / "models" / model.digest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    assert make_shelf(gateway, tmp_path).in_use().digest == model.digest
    assert gateway.fetched == 2


def test_shelf_as_a_part_of_the_agent_outlives_a_model_that_does_not_verify(tmp_path: Path) -> None:
    gateway = Gateway(files={1: make_files(1, identity_of("insurer"))})
    rounds = iter([False, True])
    stop: Any = SimpleNamespace(is_set=lambda: next(rounds), wait=lambda _: None)
    make_shelf(gateway, tmp_path).serve(stop)
    assert gateway.fetched == 1
    with pytest.raises(EntenteError):
        make_shelf(gateway, tmp_path).in_use()
