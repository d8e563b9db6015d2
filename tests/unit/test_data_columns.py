"""Counts over one column: every value has its place, also the missing and the unseen."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from federation.client.config import DataConfig
from federation.client.report.columns import MAX_LOOKED_AT, report_feature, report_identifier, stability, twins
from federation.training.features import MARKETING_V1, Banded, Categorical

BALANCE = Banded("balance", (0, 1000))
JOB = Categorical("job", ("admin.", "retired"))
FEATURES = [feature.name for feature in MARKETING_V1.features]


def text(*values: str) -> pa.Array:
    return pa.array(values, pa.string())


def test_numbers_are_counted_by_band_with_range_and_what_is_no_number() -> None:
    found = report_feature(BALANCE, text("-5", "0", "999.5", "1000", "1e6", "", "nan", "12,5", "inf", "?"), None)
    assert dict(zip(found.places, found.counts, strict=True)) == {
        "below 0": 1,
        "0 to 1000": 2,
        "from 1000": 2,
        "missing": 2,
        "unseen": 3,
    }
    assert (found.low, found.high, found.not_numbers, found.strange) == (-5, 1e6, 3, ())
    assert (found.below, found.beyond, found.share("missing")) == (0.1, 0.2, 0.2)
    assert found.psi is None


def test_words_that_the_schema_does_not_know_are_shown_only_where_many_have_them() -> None:
    words = ["pilot"] * 12 + ["A name that one person has"] + ["x" * 99] * 10 + [" Admin. ", "RETIRED", ""]
    found = report_feature(JOB, text(*words), None)
    assert found.counts == (1, 1, 1, 23)
    assert found.strange == (("pilot", 12), ("x" * 24, 10))
    assert found.low is None
    assert not found.beyond


def test_column_that_is_not_there_and_one_without_rows_are_no_error() -> None:
    absent = report_feature(JOB, None, None)
    assert not absent.there
    assert absent.to_json()["places"] == {}
    empty = report_feature(BALANCE, text(), None)
    assert empty.there
    assert (sum(empty.counts), empty.low, empty.share("missing")) == (0, None, 0.0)


@pytest.mark.parametrize("feature", MARKETING_V1.features, ids=FEATURES)
def test_every_feature_of_the_schema_has_a_place_for_missing_and_for_unseen_values(feature: Any) -> None:
    found = report_feature(feature, text("", "  ", "None", "NaN", "!?", "inf", "12 apples"), None)
    assert found.places[-2:] == ("missing", "unseen")
    assert found.counts[-2:] == (4, 3)
    assert sum(found.counts) == 7


def test_places_agree_with_those_that_a_model_learns() -> None:
    rng = np.random.default_rng(1)
    values = [str(value) for value in rng.choice(["-300", "5", "", "nan", "7000", "?", "1e3"], 500)]
    encoded = MARKETING_V1.encode({"balance": values}, ["balance"])
    found = report_feature(next(f for f in MARKETING_V1.features if f.name == "balance"), text(*values), None)
    assert found.counts == tuple(np.count_nonzero(encoded, axis=0).tolist())


def test_stability_index_is_zero_for_the_same_and_grows_with_change() -> None:
    before = np.array([100, 200, 300])
    assert stability(before, before * 10) == pytest.approx(0, abs=1e-3)
    # by hand: (0.5 - 0.25) ln 2 + (0.5 - 0.75) ln (2/3) = 0.27465
    assert stability(np.array([10**7, 10**7]), np.array([10**7, 3 * 10**7])) == pytest.approx(0.27465, abs=1e-4)
    moved = [stability(np.array([100 + step, 200, 300 - step]), before) for step in (0, 50, 200, 300)]
    assert moved == sorted(moved)
    assert np.isfinite(moved[-1])


CONFIG = DataConfig(phone_numbers="possible")


def test_identifiers_are_usable_unusable_missing_or_shared() -> None:
    column = text("a@example.org", "A@Example.org ", "b@example.org", "no address", "", "null")
    found = report_identifier("email", column, CONFIG)
    assert (found.missing, found.unusable, found.usable, found.shared) == (2, 1, 3, 2)
    assert not report_identifier("national_id", None, CONFIG).there
    nobody = report_identifier("phone", text(), CONFIG)
    assert (nobody.looked_at, nobody.usable, nobody.shared) == (0, 0, 0)


def test_of_very_many_phone_numbers_a_sample_is_looked_at() -> None:
    found = report_identifier("phone", pa.array(["+49 30 1234567"] * (MAX_LOOKED_AT + 50)), CONFIG)
    assert found.looked_at == found.usable == found.shared == MAX_LOOKED_AT


def test_twins_are_equal_in_everything_and_have_an_identifier() -> None:
    same = [text("1", "1", "1", "2", "2"), text("x", "x", "x", "y", "y")]
    assert twins(same, [text("a", "a", "b", "", " ")]) == 1
    assert twins(same, []) == 0
    assert twins([], [text()]) == 0
