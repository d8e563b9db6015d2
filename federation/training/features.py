"""Feature schemas: how a customer's columns become the numbers that a model sees.

Bands and categories are public and fixed in advance, the same at every partner; nothing here is fitted on rows, so
encoding costs no privacy. A row's places depend on that row alone, however the rest of a column makes a reader spell
it. Every feature is one-hot with a place of its own for a missing value and one for a value that the schema does not
know. Each encoded row has L2 norm 1, which bounds what one customer can do to a gradient before any clipping.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason

Floats = npt.NDArray[np.float32]
MISSING, UNSEEN = "missing", "unseen"
EMPTY_WORDS = frozenset({"", "nan", "none", "nat", "<na>", "null"})
"""What an empty cell looks like once it is text, whatever library read the file."""
FLAG_WORDS = {"no": 0, "false": 0, "yes": 1, "true": 1}


class Table(Protocol):
    """Columns by name: a DataFrame, or a dict of lists."""

    def __contains__(self, name: object, /) -> bool:
        """Whether there is such a column."""
        ...

    def __getitem__(self, name: Any, /) -> Any:
        """One column, a value per row."""
        ...


@dataclass(frozen=True)
class Banded:
    """A number, by bands [edge, next edge); below the first edge and from the last edge on are bands too."""

    name: str
    edges: tuple[float, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the bands, in order."""
        inner = tuple(f"{low:g} to {high:g}" for low, high in pairwise(self.edges))
        return f"below {self.edges[0]:g}", *inner, f"from {self.edges[-1]:g}"

    def place(self, word: str) -> int | None:
        """Index of the band of a number in text; None for what is no finite number."""
        try:
            number = float(word)
        except ValueError:
            return None
        return bisect_right(self.edges, number) if math.isfinite(number) else None


@dataclass(frozen=True)
class Categorical:
    """A word of a closed list; case and surrounding blanks do not matter."""

    name: str
    places: tuple[str, ...]

    def place(self, word: str) -> int | None:
        """Index of a word; None for one that is not in the list."""
        return self.places.index(word) if word in self.places else None


@dataclass(frozen=True)
class Flag:
    """Yes or no, written as the number 0 or 1, no or yes, false or true."""

    name: str
    places: tuple[str, ...] = ("no", "yes")

    def place(self, word: str) -> int | None:
        """0 for no, 1 for yes, None for anything else.

        Numbers count by their value: a reader writes them anew ("01" as "1", or as "1.0" beside an empty cell) or not,
        as the rest of the column is, and one row must not move another.
        """
        try:
            return {0.0: 0, 1.0: 1}.get(float(word))
        except ValueError:
            return FLAG_WORDS.get(word)


Feature = Banded | Categorical | Flag


def find_places(feature: Feature, column: Any) -> npt.NDArray[np.int64]:
    """The place of each value of a column: int64 (n,); after the feature's own places come missing and unseen."""
    values = np.asarray(column)
    if values.dtype.kind in "biuf":
        found, codes = np.unique(values, return_inverse=True)
        distinct = found.tolist()
    else:
        # In a dictionary: in an array of text every value takes the room of the longest one.
        texts = map(str, (values if values.dtype.kind in "OU" else values.astype(str)).tolist())
        known: dict[str, int] = {}
        codes = np.fromiter((known.setdefault(text, len(known)) for text in texts), dtype=np.int64, count=values.size)
        distinct = list(known)
    own = len(feature.places)
    table = np.empty(len(distinct), dtype=np.int64)
    for index, value in enumerate(distinct):
        word = str(value).strip().casefold()
        place = feature.place(word)
        table[index] = own if word in EMPTY_WORDS else own + 1 if place is None else place
    return table[codes.reshape(-1)]


@dataclass(frozen=True)
class FeatureSchema:
    """A versioned list of features; both ends of a run ship the same."""

    version: str
    features: tuple[Feature, ...]

    def select(self, names: Sequence[str]) -> tuple[Feature, ...]:
        """The named features in the schema's order, whatever the order of the names.

        Raises:
            DataError: BAD_FIELD where there is none, one is unknown or one is repeated.
        """
        strangers = sorted(set(names) - {feature.name for feature in self.features})
        if strangers or not names or len(set(names)) != len(names):
            raise DataError(Reason.BAD_FIELD, item=f"features: {', '.join(strangers) or 'none or repeated'}"[:200])
        return tuple(feature for feature in self.features if feature.name in set(names))

    def columns(self, names: Sequence[str]) -> list[str]:
        """Names of the encoded columns, ``feature=place``, in order."""
        return [f"{f.name}={place}" for f in self.select(names) for place in (*f.places, MISSING, UNSEEN)]

    def width(self, names: Sequence[str]) -> int:
        """Number of encoded columns for the named features."""
        return len(self.columns(names))

    def encode(self, table: Table, names: Sequence[str]) -> Floats:
        """Rows as a model sees them.

        Args:
            table: One row per customer; columns that are not named are not read.
            names: Which features.

        Returns:
            float32 (n, width); one place per feature holds 1/sqrt(number of features), so that each row has norm 1.

        Raises:
            DataError: MISSING_COLUMN, or BAD_FIELD for an unknown feature.
        """
        chosen = self.select(names)
        absent = [feature.name for feature in chosen if feature.name not in table]
        if absent:
            raise DataError(Reason.MISSING_COLUMN, item=f"column {', '.join(absent)}")
        places = [find_places(feature, table[feature.name]) for feature in chosen]
        out = np.zeros((len(places[0]), self.width(names)), dtype=np.float32)
        rows, start = np.arange(len(out)), 0
        for feature, place in zip(chosen, places, strict=True):
            out[rows, start + place] = 1 / math.sqrt(len(chosen))
            start += len(feature.places) + 2
        return out


MARKETING_V1 = FeatureSchema(
    version="marketing-v1",
    features=(
        Banded("age", (25, 30, 35, 40, 50, 60, 65, 75)),
        Categorical(
            "job",
            (
                "admin.",
                "blue-collar",
                "entrepreneur",
                "housemaid",
                "management",
                "retired",
                "self-employed",
                "services",
                "student",
                "technician",
                "unemployed",
                "unknown",
            ),
        ),
        Categorical("marital", ("divorced", "married", "single")),
        Categorical("education", ("primary", "secondary", "tertiary", "unknown")),
        Flag("in_default"),
        Banded("balance", (-200, 1, 100, 300, 600, 1000, 1500, 2500, 5000)),
        Flag("housing"),
        Flag("loan"),
        Banded("pdays", (0, 60, 90, 100, 150, 180, 190, 270, 365)),
        Banded("previous", (1, 2, 3, 5, 8)),
        Categorical("poutcome", ("failure", "other", "success", "unknown")),
    ),
)
"""Bands of a retail customer base: ages, EUR, days since and number of earlier contacts. Chosen by hand, for all."""

SCHEMAS = {schema.version: schema for schema in (MARKETING_V1,)}


def find_schema(version: str) -> FeatureSchema:
    """The schema of a version. Raises DataError (BAD_FIELD)."""
    if version not in SCHEMAS:
        raise DataError(Reason.BAD_FIELD, item=f"feature schema {version[:48]!r}")
    return SCHEMAS[version]


def read_labels(table: Table, name: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A yes-or-no column as 0 or 1, and which rows have it: float32 (n,), bool (n,).

    Raises:
        DataError: MISSING_COLUMN.
    """
    if name not in table:
        raise DataError(Reason.MISSING_COLUMN, item=f"column {name[:48]}")
    places = find_places(Flag(name), table[name])
    return (places == 1).astype(np.float32), places <= 1
