"""Counts over one column of a partner's customers, for its data report: completeness, bounds, drift, identifiers.

Of values a count holds the largest and smallest number of a feature, and words outside of the schema that at least
``MIN_SHOWN`` customers have; nothing here leaves the partner, see ``report``.

Every value has a place: what is missing is learned as "missing", what the schema does not know as "unseen", a number
beyond the last band in that band. So nothing has to be right for a run to go on, and this report says what would be
learned instead.

Source: the population stability index, sum (p - q) ln (p / q) over places, and its thresholds: Siddiqi 2006, "Credit
Risk Scorecards", chapter 9.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from federation.client.config import DataConfig
from federation.overlap.normalise import normalise_column
from federation.training.features import EMPTY_WORDS, MISSING, UNSEEN, Banded, Feature, Flag, find_places

PSI_MOVED, PSI_CHANGED = 0.1, 0.25
"""Below the first a feature is stable; from the second on it is another feature."""
MIN_SHOWN = 10
MAX_SHOWN, MAX_SHOWN_CHARS = 3, 24
MAX_LOOKED_AT = 200_000
"""Phone numbers, which take a library some 40 microseconds each; beyond, an even sample stands for all."""
_SLICE_ROWS = 1 << 16
Places = NDArray[np.int64]


@dataclass(frozen=True)
class FeatureReport:
    """One feature of the schema in the partner's file."""

    name: str
    places: tuple[str, ...]
    """The schema's, then missing and unseen."""
    counts: tuple[int, ...]
    """Customers in each place; empty where there is no such column."""
    number: bool = False
    """Whether it is a number in bands."""
    low: float | None = None
    """Smallest and largest number; None where there is none."""
    high: float | None = None
    not_numbers: int = 0
    """Of the unseen: no finite number, where one is expected."""
    strange: tuple[tuple[str, int], ...] = ()
    """The most frequent words that the schema does not know, with how many have them."""
    psi: float | None = None
    """Against the earlier report; None without one."""

    @property
    def there(self) -> bool:
        """Whether the file has the column."""
        return bool(self.counts)

    def share(self, place: str) -> float:
        """Of all customers."""
        total = sum(self.counts)
        return self.counts[self.places.index(place)] / total if total else 0.0

    @property
    def below(self) -> float:
        """Share of customers below the first edge."""
        return self.counts[0] / max(sum(self.counts), 1) if self.number and self.there else 0.0

    @property
    def beyond(self) -> float:
        """Share of customers from the last edge on."""
        return self.counts[-3] / max(sum(self.counts), 1) if self.number and self.there else 0.0

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.name,
            "there": self.there,
            "number": self.number,
            "places": dict(zip(self.places, self.counts, strict=self.there)),
            "low": self.low,
            "high": self.high,
            "not_numbers": self.not_numbers,
            "strange": [list(pair) for pair in self.strange],
            "psi": None if self.psi is None else round(self.psi, 4),
        }


@dataclass(frozen=True)
class IdentifierReport:
    """One key type."""

    kind: str
    column: str
    there: bool
    looked_at: int = 0
    missing: int = 0
    unusable: int = 0
    """Filled, but nothing that can be blinded."""
    shared: int = 0
    """Customers whose identifier another customer has too."""

    @property
    def usable(self) -> int:
        """Of those looked at."""
        return self.looked_at - self.missing - self.unusable

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "key_type": self.kind,
            "column": self.column,
            "there": self.there,
            "looked_at": self.looked_at,
            "missing": self.missing,
            "unusable": self.unusable,
            "usable": self.usable,
            "shared": self.shared,
        }


def report_feature(feature: Feature, column: pa.Array | None, earlier: Mapping[str, int] | None) -> FeatureReport:
    """Counts the places of one column.

    Args:
        feature: Of the schema.
        column: Text of every customer; None where the file has no such column.
        earlier: Customers in each place in the earlier report, if there is one for the same schema.
    """
    places, number = (*feature.places, MISSING, UNSEEN), isinstance(feature, Banded)
    if column is None:
        return FeatureReport(feature.name, places, (), number)
    encoded = column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    sizes = np.bincount(np.asarray(encoded.indices), minlength=len(words))
    place_of = find_places(feature, np.array(words, dtype=object)) if words else np.zeros(0, dtype=np.int64)
    counts = np.bincount(place_of, weights=sizes, minlength=len(places)).astype(np.int64)
    known = [word for word, place in zip(words, place_of, strict=True) if place < len(feature.places)]
    numbers = [float(word) for word in known] if number else []
    strangers = zip(words, sizes.tolist(), (place_of == len(places) - 1).tolist(), strict=True)
    unseen = {word: size for word, size, strange in strangers if strange}
    shown = tuple((word, size) for word, size in Counter(unseen).most_common(MAX_SHOWN) if size >= MIN_SHOWN)
    return FeatureReport(
        feature.name,
        places,
        tuple(counts.tolist()),
        number,
        min(numbers, default=None),
        max(numbers, default=None),
        not_numbers=sum(unseen.values()) if number else 0,
        strange=() if number else tuple((word[:MAX_SHOWN_CHARS], size) for word, size in shown),
        psi=None if earlier is None else stability(counts, np.array([earlier.get(place, 0) for place in places])),
    )


def stability(now: Places, before: Places) -> float:
    """The population stability index of two sets of counts; half a customer in each place keeps it finite."""
    p, q = ((counts + 0.5) / (counts.sum() + len(counts) / 2) for counts in (now, before))
    return float(((p - q) * np.log(p / q)).sum())


def report_identifier(kind: str, column: pa.Array | None, config: DataConfig) -> IdentifierReport:
    """Counts who has a usable identifier of a kind, and who shares it.

    Args:
        kind: Key type.
        column: Text of every customer; None where the file has no such column.
        config: How phone numbers are written.
    """
    name = str(getattr(config.columns, kind))
    if column is None:
        return IdentifierReport(kind, name, there=False)
    if kind == "phone" and len(column) > MAX_LOOKED_AT:
        column = column.take(pa.array(np.linspace(0, len(column) - 1, MAX_LOOKED_AT).astype(np.int64)))
    filled = pc.invert(
        pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(column)), value_set=pa.array(sorted(EMPTY_WORDS)))
    )
    slices = [column.slice(start, _SLICE_ROWS) for start in range(0, len(column), _SLICE_ROWS)]
    normal = [normalise_column(part, kind, region=config.phone_region, mode=config.phone_numbers) for part in slices]
    # What stands for nothing is nothing, whatever form it would have.
    usable = pc.if_else(filled, pa.concat_arrays(normal), None) if normal else pa.array([], pa.string())
    known = usable.drop_null()
    sizes = np.bincount(np.asarray(known.dictionary_encode().indices)) if len(known) else np.zeros(0, dtype=np.int64)
    missing = len(column) - int(pc.sum(filled).as_py() or 0)
    return IdentifierReport(
        kind,
        name,
        there=True,
        looked_at=len(column),
        missing=missing,
        unusable=len(column) - missing - len(known),
        shared=int(sizes[sizes > 1].sum()),
    )


def report_label(name: str, column: pa.Array | None) -> FeatureReport:
    """Counts the answers that a model learns."""
    return report_feature(Flag(name), column, None)


def twins(columns: Sequence[pa.Array], identifiers: Sequence[pa.Array]) -> int:
    """Customers who are equal to an earlier customer in all columns, some identifier included.

    Args:
        columns: Of the features and the label.
        identifiers: Of all key types; customers without any are not counted.
    """
    if not identifiers or not len(identifiers[0]):
        return 0
    named = np.zeros(len(identifiers[0]), dtype=np.bool_)
    number = np.zeros(len(named), dtype=np.int64)
    for column in identifiers:
        named |= np.asarray(pc.not_equal(pc.utf8_trim_whitespace(column), ""))
    for column in (*columns, *identifiers):
        codes = np.asarray(column.dictionary_encode().indices, dtype=np.int64)
        # Dense again after each column, so that the product stays below the square of the rows.
        mixed = pa.array(number * (int(codes.max()) + 1) + codes)
        number = np.asarray(mixed.dictionary_encode().indices, dtype=np.int64)
    return int(named.sum()) - len(np.unique(number[named]))
