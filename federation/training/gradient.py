"""One partner's part of a joint gradient step: the clipped gradients of all its rows, added as integers.

Guarantees that adding or removing one row changes the result by a vector whose norm is at most
``JointNoise.row_norm`` in units of 2^-FINE_BITS, exactly: rows become integers before they are added. One row per
customer is the caller's duty.
"""

import numpy as np
import numpy.typing as npt

from federation.core.errors import DataError, Reason
from federation.training.features import Floats
from federation.training.joint_noise import COUNT_SHARE, FINE_BITS
from federation.training.models import LOGISTIC_REGRESSION, Weights
from federation.training.secure_sum import Integers

BIAS_SCALE = 0.3
"""The constant term is learned in steps of this size: every row has it, so at full length it would take half of each
row's norm and tell least."""
CHUNK = 65_536
_SHRINK = 1 - 2.0**-40
"""Room for the rounding errors of the float arithmetic before a row becomes integers."""


def gradient_width(columns: int) -> int:
    """Places of a summed vector for a model with so many encoded columns: weights, constant term, count."""
    return columns + 2


def sum_gradients(kind: str, weights: Weights, rows: tuple[Floats, Floats], clipping_norm: float) -> Integers:
    """Gradients of the log loss of each row, clipped, with a count behind them, added up.

    Args:
        kind: Model kind.
        weights: Where the step begins.
        rows: Encoded rows, float32 (n, d), and labels, float32 (n,), 0 or 1.
        clipping_norm: Above 0.

    Returns:
        int64 (d + 2,), in units of 2^-FINE_BITS: weights, constant term, rows times ``COUNT_SHARE`` times the norm.

    Raises:
        DataError: BAD_FIELD for another model, TOO_LARGE for more rows than 64 bits can add.
    """
    if kind != LOGISTIC_REGRESSION:
        raise DataError(Reason.BAD_FIELD, item=f"model {kind[:48]!r}")
    x, y = rows
    unit = 2.0**FINE_BITS
    if len(x) * clipping_norm * unit >= 2.0**62:
        raise DataError(Reason.TOO_LARGE, item="customers")
    theta = np.append(weights["weight"][0], weights["bias"]).astype(np.float64)
    total = np.zeros(gradient_width(x.shape[1]), dtype=np.int64)
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK].astype(np.float64)
        # Row by row, not by a matrix product, whose rounding of one row may depend on how many others there are.
        logits = (part * theta[:-1]).sum(axis=1) + theta[-1]
        errors = 0.5 * (1 + np.tanh(logits / 2)) - y[start : start + CHUNK]
        lengths = np.abs(errors) * np.sqrt(np.square(part).sum(axis=1) + BIAS_SCALE**2)
        errors *= np.minimum(1.0, clipping_norm / np.maximum(lengths, 1e-300)) * _SHRINK * unit
        # Towards zero: a shorter row is never more than was clipped.
        total[:-2] += np.trunc(part * errors[:, None]).astype(np.int64).sum(axis=0)
        total[-2] += np.trunc(errors * BIAS_SCALE).astype(np.int64).sum()
    total[-1] = len(x) * int(COUNT_SHARE * clipping_norm * unit * _SHRINK)
    return total


def read_sum(total: Integers, scale_bits: int, clipping_norm: float) -> tuple[npt.NDArray[np.float64], float]:
    """The noisy summed gradient, float64 (d + 1,), and the noisy number of rows, from a released vector."""
    values = total.astype(np.float64) / 2.0**scale_bits
    return values[:-1], float(values[-1] / (COUNT_SHARE * clipping_norm))
