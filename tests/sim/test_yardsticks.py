"""The yardsticks: what models without privacy reach, on rows with a live consent only."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federation.core.errors import DataError, Reason
from gateway.demo.synthetic import make_alliance
from gateway.demo.yardsticks import judge, measure

TODAY = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alliance")
    make_alliance(folder, today=TODAY)
    return folder


def test_joining_helps_and_the_model_is_worth_having(alliance):
    found = measure(alliance, TODAY)
    assert 0.73 < found.pooled.auc < 0.82
    assert {curve.name for curve in found.alone} == {"bank", "insurer", "airline"}
    assert all(0.65 < curve.auc < found.pooled.auc for curve in found.alone)
    assert found.test_rows == 6_000
    assert found.pooled.rows == sum(curve.rows for curve in found.alone)
    assert found.pooled.lift[0] > 2


def test_only_live_consents_count(alliance):
    consents = pd.read_csv(alliance / "bank" / "consents.csv")
    given = consents[(consents["purpose"] == "model_training") & (consents["status"] == "given")]
    at = TODAY - timedelta(days=400)  # some were not yet given, others have expired since
    moment = at.isoformat()
    expected = ((given["given_at"] <= moment) & (given["expires_at"] > moment)).sum()
    rows = {curve.name: curve.rows for curve in measure(alliance, at).alone}
    assert rows["bank"] == expected < len(given)


def test_perfect_and_reversed_ranking():
    labels = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    best = judge("best", -np.arange(10.0), labels, rows=1)
    assert best.auc == 1
    assert best.lift[:3] == (5.0, 5.0, 3.333)
    assert best.lift[-1] == 1
    worst = judge("worst", np.arange(10.0), labels, rows=1)
    assert worst.auc == 0
    assert worst.lift[0] == 0


def test_roc_rises_from_corner_to_corner():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 500)
    curve = judge("some", rng.normal(size=500) + labels, labels, rows=1)
    assert curve.roc[0] == (0, 0)
    assert curve.roc[-1] == (1, 1)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(curve.roc, curve.roc[1:], strict=False))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(curve.roc, curve.roc[1:], strict=False))
    assert area == pytest.approx(curve.auc, abs=0.005)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (np.array([0.1, np.nan]), np.array([0, 1])),
        (np.array([0.1, 0.2, 0.3]), np.array([0, 1])),
        (np.array([0.1, 0.2]), np.array([1, 1])),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(scores, labels):
    with pytest.raises(DataError) as caught:
        judge("model", scores, labels, rows=2)
    assert caught.value.reason is Reason.BAD_FIELD


def test_broken_alliance_is_named(alliance, tmp_path):
    with pytest.raises(DataError) as caught:
        measure(tmp_path, TODAY)
    assert (caught.value.reason, "test.csv" in caught.value.item) == (Reason.MISSING_FILE, True)
    shutil.copytree(alliance, tmp_path / "copy")
    broken = tmp_path / "copy" / "airline" / "customers.csv"
    pd.read_csv(broken).drop(columns="balance").to_csv(broken, index=False)
    with pytest.raises(DataError) as caught:
        measure(tmp_path / "copy", TODAY)
    assert caught.value.reason is Reason.MISSING_COLUMN
    assert "airline/customers.csv: balance" in caught.value.item


def test_real_attributes(real_data):
    found = measure(real_data, TODAY)
    assert 0.70 < found.pooled.auc < 0.80
    assert all(curve.auc < found.pooled.auc for curve in found.alone)
