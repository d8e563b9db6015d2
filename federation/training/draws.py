"""Draws of training under local noise: which rows are in a step, and the noise. numpy alone.

Noise: torch's generators are Mersenne twisters, whose future can be computed from their past, so Opacus' own noise is
not used. Ours is Box-Muller in float64 on 53-bit uniforms from the given source of bytes (``os.urandom``), four draws
added and halved, which Opacus' secure mode does too: a single floating-point Gaussian has gaps that betray the value
under it. That makes the attack infeasible; it is not a proof of exactness, which only a discrete mechanism has.

Source: Mironov 2012 (the attack); Holohan and Braghin 2021, arXiv:2107.10138, section 5.1 (the sum of draws).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

RandomBytes = Callable[[int], bytes]
DRAWS = 4


def standard_gaussians(count: int, random_bytes: RandomBytes) -> npt.NDArray[np.float64]:
    """Independent standard normal draws: float64 (count,). See the module's docstring for how and why."""
    raw = np.frombuffer(random_bytes(2 * DRAWS * count * 8), dtype="<u8").reshape(2, DRAWS, count)
    # The half keeps the logarithm's argument above zero; the largest draw is 8.6 standard deviations.
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normal = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * np.pi * uniform[1])
    return np.asarray(normal.sum(axis=0) / np.sqrt(DRAWS), dtype=np.float64)


def poisson_sample(rows: int, rate: float, random_bytes: RandomBytes) -> npt.NDArray[np.int64]:
    """Indices of the rows of one step; each row is in it with chance ``rate``, whatever the others do."""
    raw = np.frombuffer(random_bytes(rows * 8), dtype="<u8")
    # 53 bits against a float in [0, 1]: exact, and rate 1 takes every row.
    return np.flatnonzero((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 < rate)
