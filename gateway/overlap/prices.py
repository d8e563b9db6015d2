"""What the declared questions would still cost: now, and again in the next epoch."""

from collections.abc import Callable
from dataclasses import dataclass

from federation.core.errors import EntenteError, Reason
from federation.overlap.matching import l2_sensitivity
from federation.privacy import noise
from gateway.overlap.adhoc import Prices
from gateway.overlap.cubes import PURPOSE, CubeRelease

PriceList = Callable[[], "list[Price]"]


@dataclass(frozen=True)
class Price:
    """One declared question."""

    what: str
    purpose: str
    released: bool  # in the newest epoch: asking again is free until the next one
    epsilon: float  # alone, at the budget's delta
    epsilon_more: float  # by how much its next release raises what the alliance has spent
    fits: bool


def price_list(cubes: CubeRelease, prices: Prices) -> list[Price]:
    """Every declared cube with its price on top of everything spent so far, in order of name."""
    policy = cubes.policy
    done = {cube.cube for cube in cubes.list_cubes().cubes if cube.released}
    key_type = cubes.newest_key_type()
    found = []
    for name, cube in sorted(policy.cubes.items()):
        sensitivity = l2_sensitivity(key_type, cube.max_tokens_per_person) * (cube.sum.cap if cube.sum else 1)
        try:
            sigma = noise.calibrate_sigma(cube.epsilon, policy.budget.delta, sensitivity)
        except EntenteError as exc:
            if exc.reason is not Reason.BAD_COST:
                raise
            continue  # a price that no noise reaches cannot be released either
        alliance, purpose = prices.preview(PURPOSE, noise.gaussian_event(sigma, sensitivity))
        more = alliance.epsilon_after - alliance.epsilon_spent
        fits = alliance.fits and purpose.fits
        found.append(Price(f"cube {name}", PURPOSE, name in done, cube.epsilon, more, fits))
    return found
