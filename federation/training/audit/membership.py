"""Membership inference against a finished model: can one tell from its losses whose rows it was trained on?

Members are rows that were trained on, others are rows of the same kind that were not. A row's score is how well the
model fits it. What is reported never leaves the partner whose rows these are.

If training is (epsilon, delta)-DP then no test finds members at a rate above e^epsilon times its rate of false alarms
plus delta, for rows that come from the same source. So a rate surely above that speaks against the claim, or against
the choice of the other rows: where they differ from the members, a model tells them apart without having seen either.
The thresholds are set on one half of the others, and false alarms counted on the other half.

Source: Yeom et al. 2018, arXiv:1709.01604 (loss as the score); Carlini et al. 2022, arXiv:2112.03570 (rates at few
false alarms); Kairouz, Oh, Viswanath 2015, arXiv:1311.0776, Theorem 2.1 (the bound); Hanley, McNeil 1982 (the standard
error of the AUC); Clopper, Pearson 1934 (intervals of rates).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from federation.core.errors import DataError, Reason
from federation.training.audit.bounds import MAX_EPSILON, Doubles

FALSE_ALARMS = (0.001, 0.01, 0.1)
MIN_ROWS = 100
"""Members, and other rows: fewer say nothing at these rates."""


@dataclass(frozen=True)
class Rate:
    """How many members are found at one threshold."""

    aimed: float
    """Rate of false alarms that the threshold was set for."""
    found: float
    found_low: float
    false_alarms: float
    false_alarms_high: float
    allowed: float
    """Largest rate of members found that the claim allows, at the most false alarms there may be."""
    epsilon: float
    """Lower bound."""

    @property
    def holds(self) -> bool:
        """Whether the claim stands."""
        return self.found_low <= self.allowed


@dataclass(frozen=True)
class Membership:
    """The outcome."""

    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    rates: tuple[Rate, ...]
    epsilon: float
    """As claimed."""
    delta: float
    confidence: float

    @property
    def holds(self) -> bool:
        """Whether the claim stands at every threshold."""
        return all(rate.holds for rate in self.rates)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "members": self.members,
            "others": self.others,
            "claimed_epsilon": self.epsilon,
            "delta": self.delta,
            "confidence": self.confidence,
            "auc": [round(self.auc, 4), round(self.auc_low, 4), round(self.auc_high, 4)],
            "epsilon_at_least": round(max(rate.epsilon for rate in self.rates), 4),
            "rates": [
                {
                    "aimed_false_alarms": rate.aimed,
                    "found": round(rate.found, 5),
                    "found_low": round(rate.found_low, 5),
                    "false_alarms": round(rate.false_alarms, 5),
                    "false_alarms_high": round(rate.false_alarms_high, 5),
                    "allowed": round(rate.allowed, 5),
                    "holds": rate.holds,
                }
                for rate in self.rates
            ],
            "holds": self.holds,
        }


def infer_membership(
    members: Doubles, others: Doubles, *, epsilon: float, delta: float, confidence: float = 0.95
) -> Membership:
    """Compares scores of rows that were trained on with those of rows that were not.

    Args:
        members: Scores, higher for a better fit: float64 (n,).
        others: The same of other rows, in an order that says nothing: float64 (m,).
        epsilon: As claimed for one of these customers.
        delta: As claimed.
        confidence: Of all intervals together.

    Raises:
        DataError: BAD_FIELD for fewer than ``MIN_ROWS`` of either.
    """
    if min(len(members), len(others)) < MIN_ROWS:
        raise DataError(Reason.BAD_FIELD, item=f"{len(members)} members and {len(others)} others, needs {MIN_ROWS}")
    auc = area(members, others)
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = auc * (1 - auc) + (len(members) - 1) * (q1 - auc * auc) + (len(others) - 1) * (q2 - auc * auc)
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(variance / (len(members) * len(others)))
    claim = _Claim(epsilon, delta, (1 - confidence) / (2 * len(FALSE_ALARMS)))
    rates = tuple(_rate(aimed, members, others, claim) for aimed in FALSE_ALARMS)
    low, high = max(0.0, auc - reach), min(1.0, auc + reach)
    return Membership(len(members), len(others), auc, low, high, rates, epsilon, delta, confidence)


def area(members: Doubles, others: Doubles) -> float:
    """Chance that a member's score is above another's, ties counting half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left") + np.searchsorted(ordered, members, side="right")
    return float(below.mean() / 2 / len(others))


@dataclass(frozen=True)
class _Claim:
    epsilon: float
    delta: float
    chance: float
    """Of an interval to be wrong at one end."""


def _rate(aimed: float, members: Doubles, others: Doubles, claim: _Claim) -> Rate:
    """The outcome at the threshold that gives the first half of the others so many false alarms."""
    chosen, counted = np.array_split(others, 2)
    threshold = float(np.quantile(chosen, 1 - aimed))
    found, alarms = int((members > threshold).sum()), int((counted > threshold).sum())
    low = float(stats.beta.ppf(claim.chance, found, len(members) - found + 1)) if found else 0.0
    most = float(stats.beta.ppf(1 - claim.chance, alarms + 1, len(counted) - alarms))
    high = most if alarms < len(counted) else 1.0
    least = math.log((low - claim.delta) / high) if low > claim.delta else 0.0
    return Rate(
        aimed=aimed,
        found=found / len(members),
        found_low=low,
        false_alarms=alarms / len(counted),
        false_alarms_high=high,
        allowed=min(1.0, math.exp(claim.epsilon) * high + claim.delta),
        epsilon=min(MAX_EPSILON, max(0.0, least)),
    )
