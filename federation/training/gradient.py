"""Logistic regression by gradient descent on noisy sums: each round, the clipped gradients of all rows and their count.

**A row's norm.** A gradient is clipped to ``clipping_norm`` (C) and divided by it; beside it stands one more number,
``COUNT_SHARE``, that counts the row; the whole is divided by sqrt(1 + COUNT_SHARE^2), and rounded towards zero on the
fine grid, which never lengthens it. So its norm is at most 1. One row per customer is the caller's duty.

The step is gradient descent with momentum on the noisy mean: the noisy sum over the mean of all noisy counts so far.
The model is the mean of the models after the later half of the rounds, which takes out much of the last steps' noise.
All of it is post-processing of the sums.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason, TrainingError
from federation.training.joint_noise import FINE_BITS, TAIL
from federation.training.learner import Rows, State
from federation.training.models import LOGISTIC_REGRESSION, Weights, check_weights, initial
from federation.training.secure_sum import Integers

BIAS_SCALE = 0.3
"""The constant term is learned in steps of this size: every row has it, so at full length it would take half of each
row's norm and tell least."""
COUNT_SHARE = 0.1
"""Length of a row's count beside its gradient: half a hundredth of the norm, and no size is told apart."""
ROW_NORM = math.sqrt(1 + COUNT_SHARE**2)
MIN_COUNT_SIGMAS = 3.0
"""A noisy count must be this many of its standard deviations above zero to be divided by."""
CHUNK = 65_536
MAX_ROWS = 2**32
"""Of which the sum in units of 2^-FINE_BITS surely fits 64 bits."""
_SHRINK = 1 - 2.0**-40
"""Room for the rounding errors of the float arithmetic before a row becomes integers."""


class GradientLearner:
    """One gradient step of all partners' rows a round.

    Args:
        columns: Encoded columns.
        rounds: At least 1.
        clipping_norm: Of a row's gradient, above 0.
        learning_rate: Of the steps.
        momentum: Of the steps, from 0 to below 1.
    """

    def __init__(
        self, columns: int, *, rounds: int, clipping_norm: float, learning_rate: float, momentum: float
    ) -> None:
        self._columns, self._rounds, self._clipping_norm = columns, rounds, clipping_norm
        self._learning_rate, self._momentum = learning_rate, momentum
        self.begin(initial(LOGISTIC_REGRESSION, columns))

    @property
    def rounds(self) -> int:
        """How many steps."""
        return self._rounds

    def width(self, number: int) -> int:
        """Weights, constant term, count."""
        return self._columns + 2

    def touched(self, number: int) -> int:
        """All: that a row is one-hot is not checked here."""
        return self.width(number)

    def begin(self, model: Weights) -> None:
        """See Learner."""
        self._theta = np.append(model["weight"][0], model["bias"]).astype(np.float64)
        self._velocity = np.zeros(self._columns + 1)
        self._later = np.zeros(self._columns + 1)  # sum of the models after the later half of the rounds
        self._kept = 0
        self._count, self._counted = 0.0, 0

    def told(self, number: int) -> Weights:
        """The model so far."""
        return _model(self._theta)

    def check_told(self, number: int, arrays: Mapping[str, npt.NDArray[np.generic]], *, item: str) -> Weights:
        """See Learner."""
        return check_weights(arrays, LOGISTIC_REGRESSION, self._columns, item=item)

    def sums(self, number: int, told: Weights, rows: Rows) -> Integers:
        """Gradients of the log loss of each row, clipped, with a count behind them, added up; see Learner."""
        x, y = rows.x, rows.y
        if len(x) >= MAX_ROWS:
            raise DataError(Reason.TOO_LARGE, item="customers")
        unit = 2.0**FINE_BITS * _SHRINK / ROW_NORM
        theta = np.append(told["weight"][0], told["bias"]).astype(np.float64)
        total = np.zeros(self._columns + 2, dtype=np.int64)
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK].astype(np.float64)
            # Row by row, not by a matrix product, whose rounding of one row may depend on how many others there are.
            logits = (part * theta[:-1]).sum(axis=1) + theta[-1]
            errors = 0.5 * (1 + np.tanh(logits / 2)) - y[start : start + CHUNK]
            lengths = np.abs(errors) * np.sqrt(np.square(part).sum(axis=1) + BIAS_SCALE**2)
            errors /= np.maximum(lengths, self._clipping_norm)
            errors *= unit
            # Towards zero: a shorter row is never more than was clipped.
            total[:-2] += np.trunc(part * errors[:, None]).astype(np.int64).sum(axis=0)
            total[-2] += np.trunc(errors * BIAS_SCALE).astype(np.int64).sum()
        total[-1] = len(x) * int(COUNT_SHARE * unit)
        return total

    def step(self, number: int, total: npt.NDArray[np.float64], sigma: float) -> None:
        """See Learner."""
        gradient, count = self.read(total)
        self._check(total, sigma, count)
        self._count, self._counted = self._count + count, self._counted + 1
        size = self._count / self._counted
        if size < MIN_COUNT_SIGMAS * sigma * ROW_NORM / COUNT_SHARE / math.sqrt(self._counted):
            raise TrainingError(Reason.RUN_FAILED, item="too few customers for this noise")
        gradient /= size
        self._velocity = self._momentum * self._velocity + gradient
        step = self._learning_rate * (gradient + self._momentum * self._velocity)
        step[-1] *= BIAS_SCALE
        self._theta -= step
        if number > self._rounds // 2:
            self._later += self._theta
            self._kept += 1

    def _check(self, total: npt.NDArray[np.float64], sigma: float, count: float) -> None:
        """Raises TrainingError (BAD_UPDATE) for a gradient longer than all rows and noise of this size can make it."""
        spread = TAIL * sigma * ROW_NORM / COUNT_SHARE  # of the count
        longest = max(count + spread, 0.0) / ROW_NORM + sigma * (math.sqrt(len(total)) + TAIL)
        # What is not a number is not below anything.
        if not (np.linalg.norm(total[:-1]) <= longest and count >= -spread):
            raise TrainingError(Reason.BAD_UPDATE, item="all partners: a gradient beyond what their rows allow")

    def read(self, total: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
        """The summed gradient, float64 (d + 1,), and the number of rows, from a vector."""
        return total[:-1] * (ROW_NORM * self._clipping_norm), float(total[-1]) * ROW_NORM / COUNT_SHARE

    def model(self) -> Weights:
        """See Learner."""
        return _model(self._later / self._kept if self._kept else self._theta)

    def state(self) -> State:
        """See Learner."""
        counts = np.array([self._kept, self._count, self._counted])
        return {"theta": self._theta, "velocity": self._velocity, "later": self._later, "counts": counts}

    def restore(self, state: State) -> None:
        """See Learner."""
        self._theta, self._velocity, self._later = (state[name].copy() for name in ("theta", "velocity", "later"))
        kept, self._count, counted = state["counts"].tolist()
        self._kept, self._counted = int(kept), int(counted)


def _model(theta: npt.NDArray[np.float64]) -> Weights:
    return {"weight": theta[None, :-1].astype(np.float32), "bias": theta[-1:].astype(np.float32)}
