"""Noise in shares: what each partner adds so that the sum of all is private, and what that costs whom.

Unit: a person across the alliance, added or removed with everything that all partners hold. What is released in an
attempt is one vector of integers: the sum over partners p of S_p, plus the partners' shares of noise.

**Sensitivity.** What a row adds is up to the learner, which sees to it that its L2 norm is at most 1
(``federation.training.learner``). On the fine grid (units of 2^-FINE_BITS) rows are integers, added exactly. The sum is
brought to the grid of the wire (units of 2^-scale_bits) by rounding down: two sums that differ by u units in a place
differ by less than |u| + 1 there afterwards, not at all where u is 0. A row is other than 0 in ``touched`` places at
most, so two sums that differ by a row differ by at most ``2^scale_bits + sqrt(touched)`` units in L2. Limiting each
place to +-``box`` moves no two sums further apart. A person has at most one row at a partner, but may be a customer of
each of the n partners: ``n (2^scale_bits + sqrt(touched))`` is the sensitivity for a person, a n-th of it for a
customer of one partner alone. That ids are unique in a partner's file is checked; that nobody is in it under two ids
cannot be, and is the partner's duty: such a person counts as two there, and nothing here promises otherwise.

**Mechanism.** Each partner adds an independent discrete Gaussian of parameter ``share_sigma`` in every place, drawn
exactly by OpenDP from the operating system's generator. The promise counts only n - ``collusion`` shares, with the
whole sensitivity: it holds for what outsiders see though that many partners add no noise at all, and for what these
partners and the gateway see together. A sum of k shares is not quite a discrete Gaussian; the bound for it has a term
tau, which is far below a float's last digit for the shares we allow (``MIN_SHARE_SIGMA``) and is computed all the
same.

**No wrapping.** With ``box`` = floor((2^31 - 1) / n) - ceil(TAIL share_sigma), n values within the box and n shares
within TAIL share_sigma add up to less than 2^31. A share is beyond that with a chance below 2 exp(-TAIL^2 / 2) <
1e-30 in each place; then the model suffers, not privacy, because reducing modulo 2^32 comes after the noise.

**Composition.** Every attempt in which a partner answered counts, also one whose sum never came together. Each costs
rho-zCDP with rho = 1 / (2 multiplier^2), which has the Renyi curve of a Gaussian with that multiplier; attempts
compose adaptively like Gaussians. All rows are in every attempt, so nothing is claimed for sampling.

Source: Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", arXiv:2102.06387, Proposition 14; Canonne, Kamath, Steinke 2020, arXiv:2004.00010.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dp_accounting import DpEvent, GaussianDpEvent, SelfComposedDpEvent
from opendp.domains import atom_domain, vector_domain
from opendp.measurements import make_gaussian
from opendp.metrics import l2_distance
from opendp.mod import enable_features

from federation.core.errors import Reason, TrainingError
from federation.training.secure_sum import Integers

FINE_BITS = 30
"""Rows are added in units of 2^-30; 2^32 rows of norm 1 stay below 2^63."""
MAX_SCALE_BITS = 20
TAIL = 12.0
MIN_SHARE_SIGMA = 16.0
"""In units of the wire's grid; tau is below 1e-1000 from here on."""

enable_features("contrib")  # OpenDP's word for mechanisms whose proof is published elsewhere, see above


def sum_multiplier(sigma: float, shares: int, sensitivity: float, width: int) -> float:
    """The noise multiplier of a Gaussian with the same zCDP as a sum of discrete Gaussians.

    Args:
        sigma: Of each share, at least 1/2.
        shares: How many independent shares are in the sum.
        sensitivity: L2, of integers.
        width: Places.

    Source: Kairouz, Liu, Steinke 2021, Proposition 14.
    """
    tau = 10 * sum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, shares))
    alone = sensitivity / (math.sqrt(shares) * sigma)
    return 1 / min(math.sqrt(alone**2 + tau * width / 2), alone + tau * math.sqrt(width))


@dataclass(frozen=True)
class JointNoise:
    """The noise of a run's sums."""

    parties: int
    collusion: int
    """How many partners the promise does without."""
    width: int
    """Places of the released vector."""
    touched: int
    """In how many places one customer's vector may be other than 0, at most."""
    scale_bits: int
    noise_multiplier: float
    """Of the noise that is promised, over what a person can change."""

    @property
    def customer_sensitivity(self) -> float:
        """L2, in units of the wire's grid, for everything one partner holds about a person."""
        return 2.0**self.scale_bits + math.sqrt(self.touched)

    @property
    def person_sensitivity(self) -> float:
        """L2, in units of the wire's grid, for everything all partners hold about a person."""
        return self.parties * self.customer_sensitivity

    @property
    def share_sigma(self) -> float:
        """Parameter of each partner's share, in units of the wire's grid."""
        return self.noise_multiplier * self.person_sensitivity / math.sqrt(self.parties - self.collusion)

    @property
    def box(self) -> int:
        """Largest size of a partner's sum in each place, before noise; not above 0 where the noise alone would wrap."""
        return (2**31 - 1) // self.parties - math.ceil(TAIL * self.share_sigma)

    @property
    def sum_sigma(self) -> float:
        """Standard deviation of the noise in a place of a sum, in rows of norm 1, if every partner adds its share."""
        return math.sqrt(self.parties) * self.share_sigma / 2.0**self.scale_bits

    def person_event(self, attempts: int) -> DpEvent:
        """What attempts cost a person who is a customer of every partner."""
        return self._event(self.person_sensitivity, attempts)

    def customer_event(self, attempts: int) -> DpEvent:
        """What attempts cost a person who is a customer of one partner only."""
        return self._event(self.customer_sensitivity, attempts)

    def draw_share(self) -> Integers:
        """One partner's share of the noise of one attempt: int64 (width,)."""
        mechanism = make_gaussian(vector_domain(atom_domain(T="i64")), l2_distance(T="i64"), scale=self.share_sigma)
        return np.asarray(mechanism([0] * self.width), dtype=np.int64)

    def encode(self, fine: Integers) -> Integers:
        """A partner's sum on the grid of the wire, limited to the box.

        Args:
            fine: int64 (width,), in units of 2^-FINE_BITS.
        """
        coarse = fine >> np.int64(FINE_BITS - self.scale_bits)
        return np.asarray(np.clip(coarse, -self.box, self.box), dtype=np.int64)

    def read(self, total: Integers) -> npt.NDArray[np.float64]:
        """A released sum in units of a row's largest norm: float64 (width,).

        Raises:
            TrainingError: BAD_UPDATE for what partners within their limits cannot have sent.
        """
        # Rows of norm 1, as many as the grid was chosen for, add up to at most 2^31 in L2, not only place by place; a
        # vector under masks that do not cancel is sqrt(width / 3) times as long.
        noise = self.share_sigma * (math.sqrt(self.width) + TAIL) + math.sqrt(self.width)
        if np.linalg.norm(total.astype(np.float64)) > 2.0**31 + self.parties * noise:
            raise TrainingError(Reason.BAD_UPDATE, item="all partners: a sum beyond what their limits allow")
        return total.astype(np.float64) / 2.0**self.scale_bits

    def _event(self, sensitivity: float, attempts: int) -> DpEvent:
        honest = self.parties - self.collusion
        multiplier = sum_multiplier(self.share_sigma, honest, sensitivity, self.width)
        return SelfComposedDpEvent(GaussianDpEvent(multiplier), attempts)


def best_scale_bits(parties: int, max_rows: int) -> int:
    """The finest grid on which so many rows at each partner surely stay within the box; half the range is for noise.

    Args:
        parties: Of the run.
        max_rows: At one partner.
    """
    return max(0, min(MAX_SCALE_BITS, math.floor(math.log2(max(2.0**30 / (parties * max_rows), 1.0)))))
