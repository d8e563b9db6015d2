"""The learner of a linear discriminant: one-hot counts by label and by pairs of features, added up, every round again.

**A row's norm.** A row is in one place of each feature. It adds ``place_unit`` of the feature to the place's count for
its label, and ``pair_unit`` to each pair of its places; what it adds is the same integers for every row but for where
they stand. The squares of these units, over all features and pairs, add up to at most 1 in units of 2^FINE_BITS (they
are rounded down), so the row's norm is at most 1 exactly. A row that is not one-hot is read as if it were: by its
largest place of each feature. One row per customer is the caller's duty. Partners are told nothing, so nothing that the
gateway says can change what is summed.

**Rounds.** Every round sums the same, with fresh noise; what is used is the mean, so R rounds are as good as one with
the noise of all. They are many for two reasons: an attempt that is lost costs one part in R, and every sum of a run
costs the same.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason, TrainingError
from federation.training.discriminant import Counts, blocks_of, fit
from federation.training.features import Feature
from federation.training.joint_noise import FINE_BITS, TAIL
from federation.training.learner import Rows, State
from federation.training.models import LINEAR_DISCRIMINANT, Weights, initial
from federation.training.secure_sum import Integers

PAIRS_SHARE = 0.2
"""Of a row's squared norm; the rest is for the counts by label, where a feature with more places gets more."""
MIN_CLASS_SIGMAS = 3.0
"""After the last round each label must have this many standard deviations of customers."""
CHUNK = 65_536
MAX_ROWS = 2**32
"""Of which the sum in units of 2^-FINE_BITS surely fits 64 bits."""


class CountsLearner:
    """See the module's docstring.

    Args:
        features: In the schema's order.
        rounds: At least 1.
    """

    def __init__(self, features: tuple[Feature, ...], *, rounds: int) -> None:
        self._features, self._rounds = features, rounds
        self._blocks = blocks_of(features)
        self._columns = self._blocks[-1].stop
        many = len(features) * (len(features) - 1) // 2
        pairs = PAIRS_SHARE if many else 0.0
        sizes = np.sqrt([len(feature.places) for feature in features])
        shares = (1 - pairs) * sizes / sizes.sum()
        self._units = [math.floor(math.sqrt(share) * 2**FINE_BITS * _SHRINK) for share in shares]
        self._pair_unit = math.floor(math.sqrt(pairs / many) * 2**FINE_BITS * _SHRINK) if many else 0
        # Places of the upper triangle that belong to two features.
        other = np.zeros((self._columns, self._columns), dtype=bool)
        for block in self._blocks:
            other[block, block.stop :] = True
        self._pairs = np.flatnonzero(other)
        self._width: int = 2 * self._columns + int(other.sum())
        self.begin(initial(LINEAR_DISCRIMINANT, self._columns))

    @property
    def rounds(self) -> int:
        """How many sums."""
        return self._rounds

    def width(self, number: int) -> int:
        """Places with the label, places without it, pairs of places."""
        return self._width

    def touched(self, number: int) -> int:
        """One place of each feature with the row's label, one of each pair of features."""
        return len(self._features) + len(self._features) * (len(self._features) - 1) // 2

    def begin(self, model: Weights) -> None:
        """Starts from nothing, whatever the model: counts have no use for one."""
        self._given = model
        self._mean, self._variance, self._done = np.zeros(self.width(1)), 0.0, 0

    def told(self, number: int) -> Weights:
        """Nothing."""
        return {}

    def check_told(self, number: int, arrays: Mapping[str, npt.NDArray[np.generic]], *, item: str) -> Weights:
        """See Learner."""
        if arrays:
            raise TrainingError(Reason.BAD_UPDATE, item=f"{item}: this model is told nothing")
        return {}

    def sums(self, number: int, told: Weights, rows: Rows) -> Integers:
        """Counts times their units; see Learner."""
        x, y = rows.x, rows.y
        if len(x) >= MAX_ROWS:
            raise DataError(Reason.TOO_LARGE, item="customers")
        square = np.zeros((self._columns, self._columns), dtype=np.int64)
        labels = np.zeros((2, self._columns), dtype=np.int64)
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK]
            places = [block.start + part[:, block].argmax(axis=1) for block in self._blocks]
            with_label = (y[start : start + CHUNK] > 0.5).astype(np.int64)
            for index, first in enumerate(places):
                cells = np.bincount(with_label * self._columns + first, minlength=2 * self._columns)
                labels += cells.reshape(2, -1)
                for second in places[index + 1 :]:
                    square += np.bincount(first * self._columns + second, minlength=square.size).reshape(square.shape)
        units = np.repeat(np.array(self._units, dtype=np.int64), [b.stop - b.start for b in self._blocks])
        pairs = square.reshape(-1)[self._pairs] * self._pair_unit
        return np.concatenate([labels[1] * units, labels[0] * units, pairs])

    def step(self, number: int, total: npt.NDArray[np.float64], sigma: float) -> None:
        """See Learner."""
        self._check(self._read(total, sigma))
        self._mean = (self._mean * self._done + total) / (self._done + 1)
        self._variance += sigma**2
        self._done += 1
        if number == self._rounds:
            positives, negatives, spread = self._counts().totals(self._blocks)
            if min(positives, negatives) < MIN_CLASS_SIGMAS * spread:
                raise TrainingError(Reason.RUN_FAILED, item="too few customers for this noise")

    def model(self) -> Weights:
        """See Learner."""
        return fit(self._counts(), self._features) if self._done else self._given

    def state(self) -> State:
        """See Learner."""
        return {"mean": self._mean, "noise": np.array([self._variance, self._done])}

    def restore(self, state: State) -> None:
        """See Learner."""
        self._mean = state["mean"].copy()
        variance, done = state["noise"].tolist()
        self._variance, self._done = variance, int(done)

    def _counts(self) -> Counts:
        """Of all rounds so far."""
        return self._read(self._mean, math.sqrt(self._variance) / self._done)

    def _read(self, total: npt.NDArray[np.float64], sigma: float) -> Counts:
        units = np.repeat([unit / 2**FINE_BITS for unit in self._units], [b.stop - b.start for b in self._blocks])
        pair_unit = max(self._pair_unit, 1) / 2**FINE_BITS
        square = np.zeros(self._columns**2)
        square[self._pairs] = total[2 * self._columns :] / pair_unit
        square = square.reshape(self._columns, self._columns)
        return Counts(
            positives=total[: self._columns] / units,
            negatives=total[self._columns : 2 * self._columns] / units,
            pairs=square + square.T,
            sigma=sigma / units,
            pair_sigma=sigma / pair_unit,
        )

    def _check(self, counts: Counts) -> None:
        """Raises TrainingError (BAD_UPDATE) for numbers that no rows and no noise of this size can give.

        Counts are not below zero, and all features, and all pairs of them, count the same rows: up to ``TAIL`` standard
        deviations of the noise.
        """
        positives, negatives, spread = counts.totals(self._blocks)
        pair_sigma = np.full(1, counts.pair_sigma)
        low = [(counts.positives, counts.sigma), (counts.negatives, counts.sigma), (counts.pairs, pair_sigma)]
        # What is not a number is not above anything.
        wrong = any(not (values >= -TAIL * sigma).all() or np.isinf(values).any() for values, sigma in low)
        for index, block in enumerate(self._blocks):
            size = float(np.sqrt(np.square(counts.sigma[block]).sum()))
            for values, whole in ((counts.positives, positives), (counts.negatives, negatives)):
                wrong = wrong or bool(abs(values[block].sum() - whole) > TAIL * (size + spread))
            for other in self._blocks[index + 1 :]:
                table = counts.pairs[block, other]
                size = counts.pair_sigma * math.sqrt(table.size)
                wrong = wrong or bool(abs(table.sum() - positives - negatives) > TAIL * (size + 2 * spread))
        if wrong:
            raise TrainingError(Reason.BAD_UPDATE, item="all partners: counts that do not fit each other")


_SHRINK = 1 - 2.0**-40
"""Room for the rounding errors of the float arithmetic that units are made with."""
