"""Lower bounds on epsilon from guesses about who was in a run: what an auditor may conclude, with which confidence.

The experiment: each of m canaries is in the run or not, by a fair coin of its own. An adversary sees what the run
releases, gives each canary a score that may depend on everything but the coins, and guesses "in" for those with the
highest and "out" for those with the lowest; how many guesses there are is fixed beforehand. Too many right guesses are
at odds with the claim. The bounds differ in what they take for granted:

- ``any_mechanism``: nothing. If releasing is (epsilon, delta)-DP for each canary, so many right guesses are that
  unlikely, however the canaries' outcomes depend on each other.
- ``gaussian_curve``: that the trade-off curve is that of a Gaussian mechanism, of unknown noise (mu-GDP). It extends
  what is seen at a tenth or a half of the guesses to the delta of the claim, where no experiment reaches. Dependence
  between canaries is allowed.
- ``gaussian_noise``: also that the scores are independent and normal, with one shift for all who are in: true for
  canaries in orthogonal directions under independent Gaussian noise. The tightest; not given where the scores do not
  look normal.

A bound holds with the stated confidence: a mechanism with a smaller epsilon gives it with a chance of at most one minus
the confidence. The numbers of guesses and the bounds that are tried share that chance (Bonferroni). A bound says what
is not private; that nothing was found is no proof of privacy.

Several runs with their own canaries and coins may be put together as one: a canary is in one of them only.

Source: Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run", arXiv:2305.08846, Theorem 5.2 and
Appendix D (``any_mechanism``); Mahloujifar, Melis, Chaudhuri 2024, "Auditing f-Differential Privacy in One Run",
arXiv:2410.22235, Algorithm 3 (``gaussian_curve``); Nasr et al. 2023, "Tight Auditing of Differentially Private Machine
Learning", arXiv:2302.07956 (mu-GDP for the extension to small delta); Dong, Roth, Su 2019, arXiv:1905.02383,
Corollary 2.13, and Balle, Wang 2018, arXiv:1805.06530, Theorem 8 (mu to epsilon and delta).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import log_ndtr, ndtr, ndtri

from federation.core.errors import DataError, Reason

Doubles = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]
GUESS_SHARES = (0.02, 0.1, 0.5)
"""Shares of the canaries for which "in" is guessed, and as many for "out". Few sure guesses show a large epsilon, many
unsure ones a small one; which is better is not known before."""
MIN_CANARIES = 20
"""Fewer cannot show anything."""
MIN_NORMAL = 100
"""Canaries for the approximation in ``shift_mu``."""
NOT_NORMAL = 1e-4
"""Chance of a false alarm of the test for normal scores."""
MAX_EPSILON = 50.0
"""Bounds are not told beyond."""
_STEPS = 60


@dataclass(frozen=True)
class Bound:
    """One lower bound on epsilon."""

    name: str
    epsilon: float
    guesses: int
    """0 where every score counted."""
    right: int


def lower_bounds(
    scores: Doubles, included: Coins, delta: float, confidence: float, *, gaussian: bool, independent: bool
) -> tuple[Bound, ...]:
    """The best bound of each kind; all of them hold together with the confidence.

    Args:
        scores: One for each canary, higher for "in": float64 (m,).
        included: Which canaries were in: bool (m,).
        delta: At which epsilon is claimed.
        confidence: For example 0.95.
        gaussian: Whether the claim rests on a Gaussian trade-off curve.
        independent: Whether scores have independent noise of one size, and one shift.

    Raises:
        DataError: BAD_FIELD for fewer than ``MIN_CANARIES``, or scores that are no numbers.
    """
    canaries = len(scores)
    if canaries < MIN_CANARIES or canaries != len(included) or not np.isfinite(scores).all():
        raise DataError(Reason.BAD_FIELD, item=f"canaries: {canaries}")
    normal = gaussian and independent and _looks_normal(scores, included)
    chance = (1 - confidence) / (len(GUESS_SHARES) * (1 + gaussian) + normal)
    tries = [_guess(scores, included, share) for share in GUESS_SHARES]

    def best(name: str, epsilon_of: Callable[[int, int], float]) -> Bound:
        return max((Bound(name, epsilon_of(*found), *found) for found in tries), key=lambda bound: bound.epsilon)

    found = [best("any_mechanism", lambda r, v: one_run_epsilon(canaries, r, v, delta, 1 - chance))]
    if gaussian:
        found.append(best("gaussian_curve", lambda r, v: epsilon_of_mu(one_run_mu(canaries, r, v, 1 - chance), delta)))
    if normal:
        found.append(Bound("gaussian_noise", epsilon_of_mu(shift_mu(scores, included, 1 - chance), delta), 0, 0))
    return tuple(found)


def _guess(scores: Doubles, included: Coins, share: float) -> tuple[int, int]:
    """Number of guesses and of right ones, if "in" is guessed for the top share and "out" for the bottom share."""
    each = max(1, math.floor(len(scores) * share))
    order = np.argsort(scores, kind="stable")
    return 2 * each, int(included[order[-each:]].sum() + (~included[order[:each]]).sum())


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The chance, at most, of so many right guesses if the run is (epsilon, delta)-DP.

    Args:
        canaries: In or out by fair coins.
        guesses: Of which there were this many, whatever was seen.
        right: At least this many.
        epsilon: Of the claim, at least 0.
        delta: Of the claim.

    Source: Steinke, Nasr, Jagielski 2023, Theorem 5.2: with W binomial (guesses, e^eps / (1 + e^eps)),
        P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i.
    """
    accuracy = 1 / (1 + math.exp(-epsilon))
    pure = float(stats.binom.sf(right - 1, guesses, accuracy))
    if delta == 0 or right == 0:
        return min(1.0, pure)
    below = np.arange(1, right + 1)
    slope = float(((stats.binom.sf(right - 1 - below, guesses, accuracy) - pure) / below).max())
    return min(1.0, pure + 2 * canaries * delta * max(slope, 0.0))


def one_run_epsilon(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """The largest epsilon that so many right guesses rule out, for any mechanism; 0 where they rule out none.

    Args:
        canaries: As in ``one_run_p_value``, and so the next three.
        guesses: See there.
        right: See there.
        delta: See there.
        confidence: That the mechanism's epsilon is not below the answer.
    """
    # Up to the epsilon at which so many are to be expected, both terms of the p-value grow with epsilon.
    return _last(lambda epsilon: one_run_p_value(canaries, guesses, right, epsilon, delta) <= 1 - confidence)


def one_run_mu(canaries: int, guesses: int, right: int, confidence: float) -> float:
    """The largest mu of Gaussian differential privacy that so many right guesses rule out; 0 where they rule out none.

    Suppose that v right guesses or more, of g, had the chance t. Let r_k (h_k) be the chance, averaged over canaries,
    that a canary's guess is right (wrong) and k or more guesses are right in all; so r_v >= t v / m and
    r_v + h_v = t g / m. Turning a canary's coin turns "its guess is right, and k others'" into "its guess is wrong, and
    k others'". So h_k >= F(r_(k+1)) with F(x) = Phi(Phi^-1(x) - mu), which is convex, so the average over canaries
    obeys it too. With p_k for the chance of exactly k right ones, r_k - r_(k+1) = k p_k / m and
    h_k - h_(k+1) = (g - k) p_k / m. Going down from k = v gives the least that r_0 + h_0 can be; but it is g / m. Where
    it would have to be more, the chance of v or more is less than t.

    Args:
        canaries: In or out by fair coins.
        guesses: Of which there were this many, whatever was seen.
        right: At least this many.
        confidence: That the mechanism's mu is not below the answer.

    Source: Mahloujifar, Melis, Chaudhuri 2024, Theorem 3.2 and Algorithm 3.
    """
    chance = 1 - confidence

    def ruled_out(mu: float) -> bool:
        right_mass, wrong_mass = chance * right / canaries, chance * (guesses - right) / canaries
        for count in range(right - 1, -1, -1):
            least = max(wrong_mass, float(ndtr(ndtri(min(right_mass, 1.0)) - mu)))
            if least == wrong_mass:
                break  # nothing changes further down
            right_mass += count / (guesses - count) * (least - wrong_mass)
            wrong_mass = least
        return right_mass + wrong_mass > guesses / canaries

    return _last(ruled_out)


def shift_mu(scores: Doubles, included: Coins, confidence: float) -> float:
    """A lower bound on mu: by how many standard deviations being in shifts a normal score.

    Takes the scores for independent and normal with one variance. The difference of the means over its standard error
    then has a noncentral t distribution, whose variance is close to 1 + t^2 / 2n for ``MIN_NORMAL`` canaries or more.

    Source: Hedges, Olkin 1985, "Statistical Methods for Meta-Analysis", chapter 5, equation 8 (the variance).
    """
    inside, outside = scores[included], scores[~included]
    degrees = len(scores) - 2
    spread = math.sqrt((len(inside) * float(inside.var()) + len(outside) * float(outside.var())) / degrees)
    unit = spread * math.sqrt(1 / len(inside) + 1 / len(outside))
    shift = float(inside.mean() - outside.mean()) / unit
    least = shift - float(ndtri(confidence)) * math.sqrt(1 + shift**2 / (2 * degrees))
    return max(0.0, least * unit / spread)


def _looks_normal(scores: Doubles, included: Coins) -> bool:
    inside, outside = scores[included], scores[~included]
    if min(len(inside), len(outside)) < MIN_NORMAL:
        return False
    left = np.concatenate([inside - inside.mean(), outside - outside.mean()])
    return float(left.std()) > 0 and float(stats.normaltest(left).pvalue) > NOT_NORMAL


def delta_of_mu(mu: float, epsilon: float) -> float:
    """The delta of a Gaussian mechanism of sensitivity mu and noise 1. Source: Balle, Wang 2018, Theorem 8."""
    first = float(ndtr(-epsilon / mu + mu / 2))
    return first - math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """The epsilon of a Gaussian mechanism of sensitivity mu and noise 1; at most ``MAX_EPSILON``."""
    return _last(lambda epsilon: delta_of_mu(mu, epsilon) > delta) if mu > 0 else 0.0


def _last(holds: Callable[[float], bool]) -> float:
    """The end of the values, from 0, for which something holds, looked for up to ``MAX_EPSILON``; 0 if for none."""
    if not holds(0.0):
        return 0.0
    if holds(MAX_EPSILON):
        return MAX_EPSILON
    low, high = 0.0, MAX_EPSILON
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def best_of(bounds: Sequence[Bound]) -> Bound:
    """The largest bound."""
    return max(bounds, key=lambda bound: bound.epsilon)
