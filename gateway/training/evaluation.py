"""How good a finished model is, on rows of people who are in no partner's file: numpy only.

The model is private already and the set is public, so nothing here costs budget. The set must hold no partner's
customers; who configures it vouches for that.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.core.errors import ConfigError, DataError, Reason
from federation.training.features import FeatureSchema, Floats, read_labels
from federation.training.judging import REGION, Doubles, Grouping
from federation.training.measures import Difference, compare, log_losses, measure_group, measure_scores, need_both
from federation.training.models import Weights, predict

MAX_ROWS = 1_000_000
MAX_LOSS_ROWS = 50_000
"""For a point of a run's curve, once a round."""
SELECTED_SHARE = 0.1
"""Who is among the best scored tenth counts as selected."""


@dataclass(frozen=True)
class Judge:
    """How a model's rows are made: kind, schema, features and label."""

    kind: str
    schema: FeatureSchema
    features: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Comparison:
    """Two models on the same labelled rows."""

    rows: int
    positives: int
    difference: Difference


@dataclass(frozen=True)
class PublicSet:
    """Labelled rows that are nobody's customers. Rows are encoded once for each choice of features."""

    columns: dict[str, list[str]]
    _encoded: dict[tuple[str, tuple[str, ...]], Floats] = field(default_factory=dict, repr=False)

    def score(self, judge: Judge, weights: Weights) -> Doubles:
        """Scores of all rows, labelled or not: float64 (n,). Raises DataError (MISSING_COLUMN)."""
        return predict(judge.kind, weights, self._rows(judge))

    def measure(
        self,
        judge: Judge,
        weights: Weights,
        groupings: Sequence[Grouping] = (),
        region_of: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """All metrics of a model, ready for JSON.

        Args:
            judge: How the model reads rows.
            weights: The model.
            groupings: By which groups too; those whose column the set has not are left out.
            region_of: Country of residence to region.

        Raises:
            DataError: MISSING_COLUMN, or BAD_FIELD where the labels are all the same.
        """
        labels, labelled = self._labels(judge)
        scores = self.score(judge, weights)[labelled]
        selected = scores >= np.quantile(scores, 1 - SELECTED_SHARE)
        by: dict[str, list[dict[str, Any]]] = {}
        for grouping in groupings:
            if grouping.column not in self.columns:
                continue
            values = self.columns[grouping.column]
            if grouping.column == REGION:
                values = [region_of.get(country, "") for country in values]
            places = grouping.place(values)[labelled]
            by[grouping.column] = [
                {"group": name, **(measure_group(scores[here], labels[here], selected[here]) or {"too_few": True})}
                for place, name in enumerate(grouping.places)
                if (here := places == place).any()
            ]
        return {**measure_scores(scores, labels), "by": by}

    def check(self, judge: Judge) -> None:
        """Whether a model can be measured here: before it costs anything.

        Raises:
            DataError: MISSING_COLUMN, or BAD_FIELD where there are fewer than two rows of a label.
        """
        try:
            judge.schema.encode(dict.fromkeys(self.columns, ()), judge.features)  # no rows: many may be proposed
            need_both(self._labels(judge)[0])
        except DataError as exc:
            raise DataError(exc.reason, item=f"the gateway's evaluation set: {exc.item}") from exc

    def loss(self, judge: Judge, weights: Weights) -> float:
        """Mean log loss of the first labelled rows. Raises DataError (MISSING_COLUMN)."""
        labels, labelled = self._labels(judge)
        rows = self._rows(judge)[np.flatnonzero(labelled)[:MAX_LOSS_ROWS]]
        return float(log_losses(predict(judge.kind, weights, rows), labels[: len(rows)]).mean())

    def compare(self, first: tuple[Judge, Weights], second: tuple[Judge, Weights]) -> Comparison:
        """Two models on the same rows: second minus first.

        Raises:
            DataError: MISSING_COLUMN; BAD_FIELD where the models have other labels, or the labels are all the same.
        """
        if first[0].label != second[0].label:
            raise DataError(Reason.BAD_FIELD, item="the models were trained for different labels")
        labels, labelled = self._labels(first[0])
        found = compare(self.score(*first)[labelled], self.score(*second)[labelled], labels)
        return Comparison(len(labels), int(labels.sum()), found)

    def shares(self, judge: Judge) -> list[float]:
        """Share of rows in each encoded column: what the average person looks like to a model. Sums to 1 a feature."""
        return [round(float(share), 6) for share in (self._rows(judge) > 0).mean(axis=0)]

    def _labels(self, judge: Judge) -> tuple[Doubles, npt.NDArray[np.bool_]]:
        """Labels of the labelled rows, and which rows those are. Raises DataError (MISSING_COLUMN)."""
        y, labelled = read_labels(self.columns, judge.label)
        return y[labelled].astype(np.float64), labelled

    def _rows(self, judge: Judge) -> Floats:
        key = judge.schema.version, judge.features
        if key not in self._encoded:
            self._encoded[key] = judge.schema.encode(self.columns, judge.features)
        return self._encoded[key]


def load_public_set(path: Path) -> PublicSet:
    """Reads a CSV file with a header.

    Raises:
        ConfigError: MISSING_FILE.
        DataError: BROKEN_ROW, TOO_LARGE.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows: list[list[str]] = []
            for row in reader:
                if len(row) != len(header):
                    raise DataError(Reason.BROKEN_ROW, item=f"{path.name}, line {reader.line_num}")
                rows.append(row)
                if len(rows) > MAX_ROWS:
                    raise DataError(Reason.TOO_LARGE, item=path.name)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(path), detail=type(exc).__name__) from exc
    return PublicSet({name: [row[index] for row in rows] for index, name in enumerate(header)})
