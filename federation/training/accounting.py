"""What training under local noise costs, as pure functions over plain values; for sums see ``joint_noise``.

Unit: one customer of one partner, added to or removed from that partner's rows. A gradient step takes each customer
with a fixed chance of its own (Poisson sampling), clips every customer's gradient to a norm and adds Gaussian noise of
``noise_multiplier`` times that norm. The number of rows is not taken as public: the partner divides by a noisy size,
which is one more Gaussian of the same account. A person may be a customer of every partner, whose updates are all seen,
so for a person the partners' costs compose. Composition and the conversion to epsilon are those of the alliance's
ledger, so both ends read the same number from the same events.

Source: Abadi et al. 2016, arXiv:1607.00133 (DP-SGD); Mironov, Talwar, Zhang 2019, arXiv:1908.10530 (its RDP).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LowerEndpointAndGuess,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    calibrate_dp_mechanism,
)
from dp_accounting.mechanism_calibration import NoBracketIntervalFoundError
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from federation.core.errors import BudgetError, Reason
from federation.privacy.composition import epsilon_of

SIZE_NOISE = 100.0
"""Standard deviation, in rows, of the noisy size that gradients are divided by. Costs about epsilon 0.05 alone."""
CALIBRATION_ORDERS = (*range(2, 64), 80, 128, 256, 512)
"""Renyi orders for the search: whole numbers have a closed form, and are among those of ``epsilon_of``."""
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Steps:
    """A number of noisy gradient steps with the same settings."""

    noise_multiplier: float
    sampling_rate: float
    count: int

    def event(self) -> DpEvent:
        """The steps as the accountants know them."""
        one = PoissonSampledDpEvent(self.sampling_rate, GaussianDpEvent(self.noise_multiplier))
        return SelfComposedDpEvent(one, self.count)


def size_event() -> DpEvent:
    """Drawing the noisy number of rows once."""
    return GaussianDpEvent(SIZE_NOISE)


def run_events(steps: Steps) -> tuple[DpEvent, ...]:
    """Everything that a whole run costs a customer at one partner; ``steps.count`` is over all rounds."""
    return size_event(), steps.event()


def person_event(steps: Steps, partners: int) -> DpEvent:
    """What a run costs a person who is a customer of every partner: all partners' events together."""
    return ComposedDpEvent([event for _ in range(partners) for event in run_events(steps)])


@lru_cache(maxsize=256)
def calibrate_steps(epsilon: float, delta: float, sampling_rate: float, steps: int, partners: int) -> float:
    """The smallest noise multiplier (within ``TOLERANCE``) with which a run under local noise stays within epsilon.

    Args:
        epsilon: Of a whole run, for a person who is a customer of every partner; above 0.
        delta: Above 0, below 1.
        sampling_rate: Chance of each customer to be in a step, above 0, at most 1.
        steps: Gradient steps at one partner over all rounds.
        partners: Of the run.

    Raises:
        BudgetError: BAD_COST where no noise is enough.
    """

    def event_of(noise: float) -> DpEvent:
        # The loss of ``person_event``, because Renyi losses add up; the sampled Gaussian's series is summed once for
        # all partners. It takes a second of a search all the same, so found values are kept.
        together = Steps(noise, sampling_rate, steps * partners)
        return ComposedDpEvent([SelfComposedDpEvent(size_event(), partners), together.event()])

    return calibrate(epsilon, delta, event_of)


def calibrate_sums(epsilon: float, delta: float, attempts: int) -> float:
    """The smallest noise multiplier (within ``TOLERANCE``) with which so many noisy sums stay within epsilon.

    Args:
        epsilon: For a person across the alliance; above 0.
        delta: Above 0, below 1.
        attempts: Sums over the whole run, spare ones included.

    Raises:
        BudgetError: BAD_COST where no noise is enough.
    """
    return calibrate(epsilon, delta, lambda noise: SelfComposedDpEvent(GaussianDpEvent(noise), attempts))


def calibrate(epsilon: float, delta: float, event_of: Callable[[float], DpEvent]) -> float:
    """The smallest noise multiplier whose event stays within epsilon. Raises BudgetError (BAD_COST)."""
    try:
        found = calibrate_dp_mechanism(
            lambda: RdpAccountant(orders=CALIBRATION_ORDERS),
            event_of,
            epsilon,
            delta,
            bracket_interval=LowerEndpointAndGuess(0.3, 2.0),
            tol=TOLERANCE,
        )
    except (NoBracketIntervalFoundError, ValueError) as exc:
        raise BudgetError(Reason.BAD_COST, item="epsilon too small for this run", detail=str(exc)) from exc
    if not math.isfinite(found):
        raise BudgetError(Reason.BAD_COST, item="epsilon too small for this run")
    return float(found)


def tight_epsilon(events: Iterable[DpEvent], delta: float) -> float:
    """Epsilon of all events together by their privacy loss distribution: an upper bound, within a thousandth.

    Limits and ledgers count by Renyi DP, which is up to a seventh higher, adds up at once and has a proof for the
    discrete Gaussian. This number is for people: it is exact for continuous Gaussians. For the shares of a secure sum
    it takes the continuous Gaussian of the same zCDP; shares are so wide that the two cannot be told apart in a double,
    but that is a computation, not a proof. So nothing is permitted because of it.

    Source: Meiser and Mohammadi 2018; Doroshenko et al. 2022, arXiv:2207.04380 (the library's pessimistic estimate).
    """
    return float(PLDAccountant().compose(ComposedDpEvent(list(events))).get_epsilon(delta))


def total_epsilon(events: Iterable[DpEvent], delta: float) -> float:
    """Epsilon of everything a partner ever paid. Raises BudgetError (BAD_COST)."""
    return epsilon_of(events, delta)
