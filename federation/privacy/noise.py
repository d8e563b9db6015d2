"""Noise for counts, and how much of it a promise needs.

Unit protected: one person across the alliance, added or removed with everything that all partners hold. Sensitivity:
the largest change, in L2, that one person makes to the whole vector of integers that is released at once. Mechanism:
the discrete Gaussian on the integers, drawn exactly (no floating point) by OpenDP from the operating system's
randomness. Composition: ``federation.privacy.composition``.

Guarantees that what ``discrete_gaussian`` returns satisfies the (epsilon, delta) that ``calibrate_sigma`` was asked
for, given the true sensitivity. It does not hide how many cells there are, nor the time it took.

Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010: for integer data the discrete Gaussian has the same zCDP, and
so the same RDP bound, as the continuous one (Theorem 4 and its multivariate form).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from dp_accounting import DpEvent, GaussianDpEvent, LowerEndpointAndGuess, calibrate_dp_mechanism
from dp_accounting.mechanism_calibration import NoBracketIntervalFoundError
from dp_accounting.rdp import RdpAccountant
from opendp.domains import atom_domain, vector_domain
from opendp.measurements import make_gaussian
from opendp.metrics import l2_distance
from opendp.mod import enable_features

from federation.core.errors import BudgetError, Reason
from federation.privacy.composition import NOISE_MULTIPLIERS, ORDERS, epsilon_of

MAX_VALUE = 2**61
"""Counts and sums beyond this could saturate in 64 bits."""
MAX_SIGMA = 2.0**55

# OpenDP asks for this word wherever a mechanism's proof is not formally verified by its own team; the discrete
# Gaussian's proof is published (see above).
enable_features("contrib")


def discrete_gaussian(values: Sequence[int], sigma: float) -> list[int]:
    """The values, each plus an independent draw from the discrete Gaussian with the parameter sigma.

    Args:
        values: Exact counts or capped sums, each within +-2^61.
        sigma: Above 0; the standard deviation, very nearly.

    Returns:
        As many integers; they may be negative.

    Raises:
        BudgetError: BAD_COST for a sigma that gives no privacy or no arithmetic, or a value out of range.
    """
    if not 0 < sigma <= MAX_SIGMA:
        raise BudgetError(Reason.BAD_COST, item="sigma")
    exact = [int(value) for value in values]
    if any(abs(value) > MAX_VALUE for value in exact):
        raise BudgetError(Reason.BAD_COST, item="value too large for noise")
    mechanism = make_gaussian(vector_domain(atom_domain(T="i64")), l2_distance(T="i64"), scale=float(sigma))
    noisy: list[int] = mechanism(exact)
    return noisy


@lru_cache(maxsize=256)
def calibrate_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """The smallest sigma with which one release satisfies (epsilon, delta), by Renyi DP.

    This is up to a tenth more noise than the tightest analysis of a single release needs; the ledger composes by the
    same rule, so that one release costs exactly what its policy says.

    Args:
        epsilon: Above 0.
        delta: Between 0 and 1, both exclusive.
        sensitivity: L2, of the whole vector; above 0.

    Raises:
        BudgetError: BAD_COST if a value is out of range or no sigma reaches so small an epsilon.
    """
    if not (0 < epsilon < math.inf and 0 < delta < 1 and 0 < sensitivity < math.inf):
        raise BudgetError(Reason.BAD_COST, item="epsilon, delta or sensitivity")
    try:
        multiplier = calibrate_dp_mechanism(
            lambda: RdpAccountant(ORDERS), GaussianDpEvent, epsilon, delta, LowerEndpointAndGuess(0.01, 1.0), tol=1e-9
        )
    except (NoBracketIntervalFoundError, ValueError) as exc:
        raise BudgetError(Reason.BAD_COST, item=f"epsilon {epsilon:g} cannot be reached at delta {delta:g}") from exc
    sigma = float(multiplier) * sensitivity
    # The product and the quotient in gaussian_event may round down; step up until the event itself keeps the promise.
    while epsilon_of([gaussian_event(sigma, sensitivity)], delta) > epsilon:
        sigma = math.nextafter(sigma, math.inf)
    return sigma


def gaussian_event(sigma: float, sensitivity: float) -> DpEvent:
    """The event of one ``discrete_gaussian`` call with that sigma and L2 sensitivity. Raises BudgetError (BAD_COST)."""
    if not (0 < sigma <= MAX_SIGMA and 0 < sensitivity < math.inf):
        raise BudgetError(Reason.BAD_COST, item="sigma or sensitivity")
    multiplier = sigma / sensitivity
    if not NOISE_MULTIPLIERS[0] <= multiplier <= NOISE_MULTIPLIERS[1]:
        raise BudgetError(Reason.BAD_COST, item="noise multiplier")
    return GaussianDpEvent(multiplier)
