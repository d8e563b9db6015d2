"""A partner's own customers, scored by a finished model, with deciles and reasons. Nothing here leaves the partner.

Only those are scored whom the partner's own policy lets be scored now; nobody else's row is looked at. The file is read
twice, some thousands of rows at a time: once for the scores, from which the deciles follow, and once to write them down
with their reasons. What stays in memory is a few bytes for each customer.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from federation.client.config import DataConfig
from federation.client.eligible import Eligible
from federation.client.files.tables import read_batches, stamp
from federation.core.errors import DataError, Reason
from federation.training.features import Feature, Flag, find_places
from federation.training.measures import Difference, compare
from federation.training.reasons import Explainer
from federation.training.saved import SavedModel

PURPOSE, CATEGORY = "offer_sharing", "score"
DECILES = 10
MAX_REASONS = 5
Progress = Callable[[str, int, int], None]
"""Called with the stage, rows done and rows in all."""


class ScoringData(Protocol):
    """What scoring needs of the partner's data."""

    @property
    def config(self) -> DataConfig:
        """Where the file is."""
        ...

    @property
    def party(self) -> str:
        """The partner."""
        ...

    def eligible(
        self, purpose: str, data_category: str, recipient: str, *, fields: frozenset[str] = frozenset()
    ) -> Eligible:
        """Who may be in a use now."""
        ...


@dataclass(frozen=True)
class Scored:
    """What became of a file of customers."""

    customers: int
    scored: int
    refused: dict[str, int]
    """Not scored, by the first reason's code of the own policy."""
    mean: float
    """Of the scores."""
    deciles: tuple[tuple[float, float], ...]
    """Lowest and highest score of each, the best first; () where nobody was scored."""


def score_customers(
    data: ScoringData, model: SavedModel, out: Path, *, reasons: int = 3, progress: Progress = lambda *_: None
) -> Scored:
    """Scores every customer whom the policy permits and writes a file: id, score, decile (1 is best), reasons.

    Args:
        data: The partner's own.
        model: Verified.
        out: Ends in .parquet or .csv; written whole or not at all.
        reasons: How many per customer, at most.
        progress: Hears how far it is.

    Raises:
        DataError: MISSING_COLUMN, BROKEN_ROW, MISSING_FILE; BAD_FIELD for another ending, or where the file changed
            meanwhile.
    """
    if not 0 <= reasons <= MAX_REASONS:
        raise DataError(Reason.BAD_FIELD, item=f"reasons: 0 to {MAX_REASONS}")
    reference = model.card.get("reference")
    explainer = Explainer(model.kind, model.weights, model.schema, model.features, reference)
    path, before = data.config.customers, stamp(data.config.customers)
    allowed = data.eligible(PURPOSE, CATEGORY, data.party, fields=frozenset(model.features))
    mask = np.zeros(len(allowed.customers), dtype=bool)
    mask[allowed.rows] = True
    scores, done = np.empty(len(allowed.rows)), 0
    for _, places in _read(data.config, explainer.features, mask, "scoring", progress):
        scores[done : done + len(places)] = explainer.scores(places)
        done += len(places)
    deciles, ends = _deciles(scores)
    scratch = out.with_name(f".{out.name}.part")
    try:
        with _open(out, scratch, [f"reason_{place + 1}" for place in range(reasons)]) as sink:
            done = 0
            for ids, places in _read(data.config, explainer.features, mask, "writing", progress):
                part = slice(done, done + len(ids))
                sink.write(ids, scores[part], deciles[part], explainer.reasons(places, reasons), explainer.texts)
                done += len(ids)
        if stamp(path) != before:
            raise DataError(Reason.BAD_FIELD, item=f"{path.name} changed while it was scored", fix="Start again.")
        scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)
    mean = float(scores.mean()) if len(scores) else 0.0
    return Scored(len(mask), len(scores), allowed.refused, mean, ends)


def compare_models(data: ScoringData, first: SavedModel, second: SavedModel) -> tuple[Difference, int, int]:
    """Two models on the partner's own customers who may be scored and have a label: second minus first.

    Args:
        data: The partner's own.
        first: Verified.
        second: Verified.

    Returns:
        The comparison, the rows and the positives among them. It is about the partner's own customers, exact, and
        stays there.

    Raises:
        DataError: as ``score_customers``; BAD_FIELD for models with other labels, or fewer than two of a label.
    """
    if first.card["label"] != second.card["label"]:
        raise DataError(Reason.BAD_FIELD, item="the models were trained for different labels")
    label = Flag(str(first.card["label"]))
    fields = frozenset({*first.features, *second.features, label.name})
    allowed = data.eligible(PURPOSE, CATEGORY, data.party, fields=fields)
    mask = np.zeros(len(allowed.customers), dtype=bool)
    mask[allowed.rows] = True
    scores: list[npt.NDArray[np.float64]] = []
    labels: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    for model in (first, second):
        explainer = Explainer(model.kind, model.weights, model.schema, model.features, None)
        read = _read(data.config, (*explainer.features, label), mask, "comparing", lambda *_: None)
        parts = [(explainer.scores(places[:, :-1]), places[:, -1]) for _, places in read]
        scores.append(np.concatenate([part for part, _ in parts] or [np.zeros(0)]))
        labels = np.concatenate([part for _, part in parts] or [labels])
    known = labels <= 1
    found = compare(scores[0][known], scores[1][known], labels[known].astype(np.float64))
    return found, int(known.sum()), int((labels == 1).sum())


def _read(
    config: DataConfig, features: Sequence[Feature], mask: npt.NDArray[np.bool_], stage: str, progress: Progress
) -> Iterator[tuple[pa.Array, npt.NDArray[np.int64]]]:
    """Ids and places of the permitted rows, batch by batch; places are int64 (n, features)."""
    names, start = [feature.name for feature in features], 0
    required = (config.columns.id, *names)
    for batch in read_batches(config.customers, required=required, encoded=frozenset(names)):
        here = mask[start : start + len(batch)]
        if len(here) != len(batch):
            raise DataError(Reason.BAD_FIELD, item=f"{config.customers.name} changed while it was scored")
        columns = [_places(feature, batch.column(feature.name))[here] for feature in features]
        yield batch.column(config.columns.id).filter(pa.array(here)), np.stack(columns, axis=1)
        start += len(batch)
        progress(stage, start, len(mask))


def _places(feature: Feature, column: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    """The place of each value; each distinct word is looked at once."""
    if not len(column):
        return np.zeros(0, dtype=np.int64)
    places = find_places(feature, column.dictionary.to_numpy(zero_copy_only=False))
    return np.asarray(places[np.asarray(column.indices)], dtype=np.int64)


def _deciles(scores: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int8], tuple[tuple[float, float], ...]]:
    """The tenth that each score belongs to, 1 the best, and where each begins and ends; equal scores go together."""
    if not len(scores):
        return np.zeros(0, dtype=np.int8), ()
    ranked = np.sort(scores)
    above = len(scores) - np.searchsorted(ranked, scores, side="right")
    deciles = (above * DECILES // len(scores) + 1).astype(np.int8)
    there = [scores[deciles == decile] for decile in range(1, DECILES + 1)]
    return deciles, tuple((float(part.min()), float(part.max())) for part in there if len(part))


class Sink(Protocol):
    """Where rows are written."""

    def write(
        self,
        ids: pa.Array,
        scores: npt.NDArray[np.float64],
        deciles: npt.NDArray[np.int8],
        reasons: npt.NDArray[np.int32],
        texts: Sequence[str],
    ) -> None:
        """Adds a batch."""
        ...

    def __enter__(self) -> "Sink":
        """Itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the file."""
        ...


def _open(out: Path, scratch: Path, names: list[str]) -> Sink:
    """Raises DataError (BAD_FIELD, MISSING_FILE)."""
    kinds: dict[str, Callable[[Path, list[str]], Sink]] = {".csv": _Csv, ".parquet": _Parquet}
    kind = kinds.get(out.suffix.lower())
    if kind is None:
        raise DataError(Reason.BAD_FIELD, item=f"--out {out.name}: .parquet or .csv")
    try:
        scratch.touch(mode=0o600)  # scores of people: for who asked alone
        return kind(scratch, names)
    except OSError as exc:
        raise DataError(Reason.MISSING_FILE, item=str(out), detail=exc.strerror or "") from exc


class _Csv:
    def __init__(self, path: Path, names: list[str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(("customer_id", "score", "decile", *names))

    def write(
        self,
        ids: pa.Array,
        scores: npt.NDArray[np.float64],
        deciles: npt.NDArray[np.int8],
        reasons: npt.NDArray[np.int32],
        texts: Sequence[str],
    ) -> None:
        said = ([texts[number] for number in column] for column in reasons.T.tolist())
        shown = np.char.mod("%.6f", scores).tolist()
        self._rows.writerows(zip(ids.to_pylist(), shown, deciles.tolist(), *said, strict=True))

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path, names: list[str]) -> None:
        words = [(name, pa.dictionary(pa.int32(), pa.string())) for name in names]
        numbers = [("customer_id", pa.string()), ("score", pa.float64()), ("decile", pa.int8())]
        self._schema = pa.schema([*numbers, *words])
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(
        self,
        ids: pa.Array,
        scores: npt.NDArray[np.float64],
        deciles: npt.NDArray[np.int8],
        reasons: npt.NDArray[np.int32],
        texts: Sequence[str],
    ) -> None:
        words = pa.array(texts, pa.string())
        said = [pa.DictionaryArray.from_arrays(pa.array(column), words) for column in reasons.T]
        columns = [ids, pa.array(scores), pa.array(deciles), *said]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
