"""Encoding: every value has one place, the missing and the unseen too, and a row's norm is bounded."""

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federation.client.files.tables import read_table
from federation.core.errors import DataError, Reason
from federation.training.features import MARKETING_V1, Banded, Categorical, Flag, find_places, find_schema, read_labels
from federation.training.models import initial, predict

NAMES = [feature.name for feature in MARKETING_V1.features]
AGE = Banded("age", (25, 40))


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([24.9, 25, 39, 40, 99], [0, 1, 1, 2, 2]),
        (["24", " 25 ", "4e1"], [0, 1, 2]),
        ([None, "", "NaN", " "], [3, 3, 3, 3]),
        (["old", "inf", "-inf", "1;2"], [4, 4, 4, 4]),
        ([float("nan"), float("inf")], [3, 4]),
    ],
)
def test_number_has_its_band(values: list[object], places: list[int]) -> None:
    assert find_places(AGE, values).tolist() == places
    assert find_places(AGE, pd.Series(values)).tolist() == places


def test_word_and_flag_have_their_places() -> None:
    job = Categorical("job", ("admin.", "retired"))
    assert find_places(job, ["Admin.", " RETIRED ", "pilot", "", None]).tolist() == [0, 1, 3, 2, 2]
    assert find_places(Flag("loan"), [0, 1, 0]).tolist() == [0, 1, 0]
    assert find_places(Flag("loan"), ["yes", "False", 1.0, 2, None]).tolist() == [1, 0, 1, 3, 2]
    assert find_places(Flag("loan"), np.array([True, False])).tolist() == [1, 0]


@pytest.mark.parametrize(
    "word", ["0", "1", "01", "1.00", "1e0", "+1", " 1", "-0", "True", "inf", "7", "24.999999999999999", ""]
)
def test_a_row_is_encoded_alike_whatever_the_others_make_of_its_column(tmp_path: Path, word: str) -> None:
    path, found = tmp_path / "customers.csv", []
    for other in ("1", "1.5", "", "no number", "False"):
        path.write_text(f"customer_id,age,loan\nA,{word},{word}\nB,{other},{other}\n")
        table = read_table(path, required=("customer_id",), text={"customer_id"})
        found.append((find_places(AGE, table["age"])[0], *(column[0] for column in read_labels(table, "loan"))))
    assert len(set(found)) == 1


def test_rows_have_norm_one_whatever_they_hold() -> None:
    table = {name: [None, "?", "1", "single", -5] for name in NAMES}
    encoded = MARKETING_V1.encode(table, NAMES)
    assert encoded.dtype == np.float32
    assert encoded.shape == (5, MARKETING_V1.width(NAMES)) == (5, len(MARKETING_V1.columns(NAMES)))
    assert np.allclose(np.linalg.norm(encoded, axis=1), 1)
    columns = MARKETING_V1.columns(NAMES)
    assert {columns[place] for place in np.flatnonzero(encoded[0])} == {f"{name}=missing" for name in NAMES}
    assert {columns[place] for place in np.flatnonzero(encoded[1])} == {f"{name}=unseen" for name in NAMES}


def test_order_of_names_does_not_matter_and_other_columns_are_not_read() -> None:
    table = {"age": [30], "loan": [1], "email": [object()]}
    assert (MARKETING_V1.encode(table, ["loan", "age"]) == MARKETING_V1.encode(table, ["age", "loan"])).all()


def test_one_long_word_does_not_make_all_others_long() -> None:
    words = np.array(["admin.", "retired"] * 5_000 + ["x" * 20_000], dtype=object)
    tracemalloc.start()
    places = find_places(Categorical("job", ("admin.", "retired")), words)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (places.tolist()[:2], places[-1]) == ([0, 1], 3)
    assert most < 10_000_000  # as one array of text: 800 million bytes, and as much again to sort it


def test_no_rows_are_no_rows() -> None:
    assert MARKETING_V1.encode(pd.DataFrame({"age": []}), ["age"]).shape == (0, MARKETING_V1.width(["age"]))


@pytest.mark.parametrize("names", [[], ["age", "age"], ["age", "duration"]])
def test_list_of_features_that_makes_no_sense_is_refused(names: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        MARKETING_V1.encode({"age": [1]}, names)
    assert caught.value.reason == Reason.BAD_FIELD


def test_missing_column_and_unknown_schema_are_named() -> None:
    with pytest.raises(DataError, match="column loan") as caught:
        MARKETING_V1.encode({"age": [1]}, ["age", "loan"])
    assert caught.value.reason == Reason.MISSING_COLUMN
    with pytest.raises(DataError, match="marketing-v9"):
        find_schema("marketing-v9")


def test_labels_know_which_rows_have_one() -> None:
    y, labelled = read_labels({"y": [1, 0, None, "maybe"]}, "y")
    assert y.tolist() == [1, 0, 0, 0]
    assert labelled.tolist() == [True, True, False, False]


def test_scores_are_probabilities() -> None:
    frame = pd.DataFrame({"age": [20, 50], "loan": [0, 1]})
    weights = initial("logistic_regression", MARKETING_V1.width(["age", "loan"]))
    weights["bias"][0] = 800
    assert predict("logistic_regression", weights, MARKETING_V1.encode(frame, ["age", "loan"])).tolist() == [1, 1]
    weights["bias"][0] = 0
    assert predict("logistic_regression", weights, MARKETING_V1.encode(frame, ["loan", "age"])).tolist() == [0.5, 0.5]
