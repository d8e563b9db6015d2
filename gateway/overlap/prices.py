"""What questions would still cost: each declared one again in the next epoch, and one that nobody declared."""

from collections.abc import Callable
from dataclasses import dataclass

from federation.core.errors import EntenteError, Reason
from federation.privacy import noise
from gateway.overlap.adhoc import Prices
from gateway.overlap.cubes import PURPOSE, CubeRelease
from gateway.overlap.wanted import sensitivity

PriceList = Callable[[], "list[Price]"]
OWN = "a question of your own"


@dataclass(frozen=True)
class Price:
    """One question."""

    what: str
    purpose: str
    released: bool  # in the newest epoch: asking again is free until the next one
    epsilon: float  # alone, at the budget's delta
    epsilon_more: float  # by how much its next release raises what the alliance has spent
    fits: bool


def price_list(cubes: CubeRelease, prices: Prices) -> list[Price]:
    """Every declared cube in order of name, and an ad hoc question at its default price where policy allows one.

    Each price is on top of everything spent so far. What no noise reaches cannot be released and has no price.
    """
    policy = cubes.policy
    done = {cube.cube for cube in cubes.list_cubes().cubes if cube.released}
    # What, whether it is released, epsilon, tokens of a person, largest value.
    asked = [
        (f"cube {name}", name in done, cube.epsilon, cube.max_tokens_per_person, cube.sum.cap if cube.sum else 1)
        for name, cube in sorted(policy.cubes.items())
    ]
    if policy.ad_hoc.allowed:
        asked.append((OWN, False, policy.ad_hoc.default_epsilon, policy.ad_hoc.max_tokens_per_person, 1))
    key_type = cubes.newest_key_type()
    found = []
    for what, released, epsilon, tokens, cap in asked:
        moved = sensitivity(key_type, tokens, cap)
        try:
            sigma = noise.calibrate_sigma(epsilon, policy.budget.delta, moved)
        except EntenteError as exc:
            if exc.reason is not Reason.BAD_COST:
                raise
            continue
        alliance, purpose = prices.preview(PURPOSE, noise.gaussian_event(sigma, moved))
        more = alliance.epsilon_after - alliance.epsilon_spent
        fits = alliance.fits and purpose.fits
        found.append(Price(what, PURPOSE, released, epsilon, more, fits))
    return found
