"""Scores by the thousand, and why: which features raise or lower a customer's score, against the average person.

Encoded columns are one-hot, so a row is one place per feature, and a model's first layer is a table: scores are looked
up instead of multiplied. A feature's part in a score is what the log odds lose when that feature alone is replaced by
the average person of a public reference, the rest staying as it is. For a model whose log odds are a sum over features
that is exact, and all parts add up to the difference from the average person; for a perceptron it is occlusion, which
leaves out what features do only together. The reference is in the model's card; no private row is in it.

Source: Zeiler and Fergus 2014 (occlusion); Covert, Lundberg, Lee 2021, "Explaining by Removing", arXiv:2011.14878.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason
from federation.training.features import MISSING, UNSEEN, Banded, Feature, FeatureSchema, Floats
from federation.training.models import LINEAR, PERCEPTRON

Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
NEGLIGIBLE, CLEAR, STRONG = 0.02, 0.2, 0.7
"""In log odds: less is no reason; from CLEAR on it is not "slightly"; from STRONG on (the odds double) it is "much"."""
NONE = ""


class Explainer:
    """One model's scores and reasons. Holds tables only; safe to share between threads.

    Args:
        kind: Model kind.
        weights: Of the model.
        schema: That it was trained with.
        features: That it was trained with.
        reference: Share of public people in each encoded column; None: every place of a feature alike, for want of
            better.

    Raises:
        DataError: BAD_FIELD for a kind that has no sound reasons, or a reference of another width.
    """

    def __init__(
        self,
        kind: str,
        weights: Mapping[str, Floats],
        schema: FeatureSchema,
        features: Sequence[str],
        reference: Sequence[float] | None,
    ) -> None:
        self.features = schema.select(features)
        self._sizes = [len(feature.places) + 2 for feature in self.features]
        width = sum(self._sizes)
        if reference is not None and len(reference) != width:
            raise DataError(Reason.BAD_FIELD, item="reference of the model card")
        if kind in LINEAR:
            first, bias = weights["weight"].astype(np.float64), weights["bias"].astype(np.float64)
            self._second: Doubles | None = None
            self._last = 0.0
        elif kind == PERCEPTRON:
            first, bias = weights["hidden.weight"].astype(np.float64), weights["hidden.bias"].astype(np.float64)
            self._second, self._last = weights["output.weight"][0].astype(np.float64), float(weights["output.bias"][0])
        else:
            raise DataError(Reason.BAD_FIELD, item=f"model {kind[:48]!r} has no reasons")
        self._bias = bias
        self._tables = np.split(first.T / np.sqrt(len(self.features)), np.cumsum(self._sizes)[:-1])  # (places, units)
        shares = np.split(np.asarray(reference, dtype=np.float64), np.cumsum(self._sizes)[:-1]) if reference else None
        self._average = [
            (_alike(size) if shares is None else shares[place]) @ table
            for place, (table, size) in enumerate(zip(self._tables, self._sizes, strict=True))
        ]
        self.texts = (NONE, *(text for feature in self.features for text in _sentences(feature)))
        """What a reason's number stands for; 0 is none."""

    def scores(self, places: Places) -> Doubles:
        """Probability of the label for each row.

        Args:
            places: int64 (n, features).

        Returns:
            float64 (n,).
        """
        return np.asarray(0.5 * (1 + np.tanh(self._log_odds(self._units(places)) / 2)), dtype=np.float64)

    def parts(self, places: Places) -> Doubles:
        """What each feature adds to the log odds, compared with the average person: float64 (n, features)."""
        if self._second is None:
            columns = zip(self._tables, self._average, places.T, strict=True)
            return np.stack([(table - average)[place, 0] for table, average, place in columns], axis=1)
        units = self._units(places)
        whole = self._log_odds(units)
        without = [
            self._log_odds(units + (average - table)[place])
            for table, average, place in zip(self._tables, self._average, places.T, strict=True)
        ]
        return whole[:, None] - np.stack(without, axis=1)

    def reasons(self, places: Places, top: int) -> npt.NDArray[np.int32]:
        """The features with the largest parts, the largest first, as numbers of ``texts``: int32 (n, top)."""
        parts = self.parts(places)
        order = np.argsort(-np.abs(parts), axis=1, kind="stable")[:, :top]
        size = np.take_along_axis(parts, order, axis=1)
        strength = (np.abs(size) >= CLEAR).astype(np.int64) + (np.abs(size) >= STRONG)
        starts = 1 + 6 * np.concatenate(([0], np.cumsum(self._sizes)[:-1]))
        number = starts[order] + 6 * np.take_along_axis(places, order, axis=1) + 3 * (size > 0) + strength
        return np.where(np.abs(size) < NEGLIGIBLE, 0, number).astype(np.int32)

    def _units(self, places: Places) -> Doubles:
        """What the first layer makes of rows: float64 (n, units)."""
        total = np.repeat(self._bias[None, :], len(places), axis=0)
        for table, place in zip(self._tables, places.T, strict=True):
            total += table[place]
        return total

    def _log_odds(self, units: Doubles) -> Doubles:
        if self._second is None:
            return units[:, 0]
        return np.asarray(np.tanh(units) @ self._second + self._last, dtype=np.float64)


def _alike(size: int) -> Doubles:
    """Every place of a feature alike, missing and unseen left out."""
    shares = np.zeros(size)
    shares[:-2] = 1 / (size - 2)
    return shares


def _sentences(feature: Feature) -> list[str]:
    """Six a place: lowers the score slightly, clearly, much; raises it slightly, clearly, much."""
    degrees = (" slightly", "", " much")
    return [
        f"{_describe(feature, place)} {verb} the score{degree}"
        for place in (*feature.places, MISSING, UNSEEN)
        for verb in ("lowers", "raises")
        for degree in degrees
    ]


def _describe(feature: Feature, place: str) -> str:
    """A feature's place in words."""
    name = feature.name.replace("_", " ")
    if place == MISSING:
        return f"{name} not given"
    if place == UNSEEN:
        return f"{name} of a kind that the model does not know"
    return f"{name} {place}" if isinstance(feature, Banded) else f"{name} ({place})"
