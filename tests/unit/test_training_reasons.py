"""Scores by lookup and reasons in words: exact for sums over features, occlusion for a perceptron."""

import numpy as np
import pytest

from federation.core.errors import DataError
from federation.training.features import MARKETING_V1, find_places
from federation.training.models import KINDS, LINEAR, LOGISTIC_REGRESSION, PERCEPTRON, Weights, predict, shapes
from federation.training.reasons import NEGLIGIBLE, Explainer

FEATURES = ("age", "job", "housing", "balance")
CHOSEN = MARKETING_V1.select(FEATURES)
WIDTH = MARKETING_V1.width(FEATURES)


def make_weights(kind: str, seed: int = 4) -> Weights:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.8, shape).astype(np.float32) for name, shape in shapes(kind, WIDTH).items()}


def make_table(rows: int) -> dict[str, list[str]]:
    rng = np.random.default_rng(8)
    return {
        "age": [str(age) for age in rng.integers(18, 90, rows)],
        "job": rng.choice(["retired", "student", "management", "pilot", ""], rows).tolist(),
        "housing": rng.choice(["0", "1", ""], rows).tolist(),
        "balance": [f"{amount:.0f}" for amount in rng.normal(900, 2000, rows)],
    }


def places_of(table: dict[str, list[str]]) -> np.ndarray:
    return np.stack([find_places(feature, table[feature.name]) for feature in CHOSEN], axis=1)


def reference_of(table: dict[str, list[str]]) -> list[float]:
    return [float(share) for share in (MARKETING_V1.encode(table, FEATURES) > 0).mean(axis=0)]


@pytest.mark.parametrize("kind", KINDS)
def test_lookups_give_the_scores_of_the_model(kind: str) -> None:
    table, weights = make_table(500), make_weights(kind)
    explainer = Explainer(kind, weights, MARKETING_V1, FEATURES, None)
    expected = predict(kind, weights, MARKETING_V1.encode(table, FEATURES))
    np.testing.assert_allclose(explainer.scores(places_of(table)), expected, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(LINEAR))
def test_parts_of_a_sum_are_exact_and_add_up_to_the_difference_from_the_average(kind: str) -> None:
    table, weights = make_table(2_000), make_weights(kind)
    explainer = Explainer(kind, weights, MARKETING_V1, FEATURES, reference_of(table))
    parts = explainer.parts(places_of(table))
    scores = predict(kind, weights, MARKETING_V1.encode(table, FEATURES))
    log_odds = np.log(scores / (1 - scores))
    np.testing.assert_allclose(parts.sum(axis=1), log_odds - log_odds.mean(), atol=1e-6)
    np.testing.assert_allclose(parts.mean(axis=0), 0, atol=1e-6)  # the average person is the reference


def test_parts_of_a_perceptron_are_what_removing_a_feature_does() -> None:
    table, weights = make_table(50), make_weights(PERCEPTRON)
    reference = reference_of(make_table(3_000))
    explainer = Explainer(PERCEPTRON, weights, MARKETING_V1, FEATURES, reference)
    x = MARKETING_V1.encode(table, FEATURES)
    parts, start = explainer.parts(places_of(table)), 0
    whole = predict(PERCEPTRON, weights, x)
    for number, feature in enumerate(CHOSEN):
        stop = start + len(feature.places) + 2
        without = x.copy()
        without[:, start:stop] = np.array(reference[start:stop], dtype=np.float32) / np.sqrt(len(CHOSEN))
        rest = predict(PERCEPTRON, weights, without)
        np.testing.assert_allclose(parts[:, number], np.log(whole / (1 - whole)) - np.log(rest / (1 - rest)), atol=1e-4)
        start = stop


def test_reasons_name_the_largest_parts_in_words() -> None:
    weights = {"weight": np.zeros((1, WIDTH), dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}
    columns = MARKETING_V1.columns(FEATURES)
    for column, value in (("age=from 75", 4.0), ("job=student", -1.0), ("housing=yes", 0.5), ("balance=missing", -0.1)):
        weights["weight"][0, columns.index(column)] = value * np.sqrt(len(FEATURES)) / 2
    flat = [0.0] * WIDTH  # nobody is in these places on average, so parts are the weights themselves
    explainer = Explainer(LOGISTIC_REGRESSION, weights, MARKETING_V1, FEATURES, flat)
    table = {"age": ["80", "20"], "job": ["student", "pilot"], "housing": ["1", "0"], "balance": ["", "5"]}
    said = [[explainer.texts[number] for number in row] for row in explainer.reasons(places_of(table), 4).tolist()]
    assert said[0] == [
        "age from 75 raises the score much",
        "job (student) lowers the score",
        "housing (yes) raises the score",
        "balance not given lowers the score slightly",
    ]
    assert said[1] == ["", "", "", ""]
    assert NEGLIGIBLE > 0


def test_reference_of_another_width_and_unknown_kinds_are_refused() -> None:
    weights = make_weights(LOGISTIC_REGRESSION)
    with pytest.raises(DataError):
        Explainer(LOGISTIC_REGRESSION, weights, MARKETING_V1, FEATURES, [0.5])
    with pytest.raises(DataError):
        Explainer("forest", weights, MARKETING_V1, FEATURES, None)
