"""Canaries: what an auditor puts into a simulated run to see whether it can be seen in what comes out.

Two kinds, for two questions:

- **Crafted** canaries audit the mechanism. They are what the strongest adversary that the promise speaks of could add:
  in each round a vector of the largest norm that a row may have, along one place, whose signs over the rounds are a
  row of a Hadamard matrix. Canaries are orthogonal over the whole run, so one can be looked for as if it were alone.
  No customer has such rows.
- **Rows** audit what an outsider could do: rows within the public feature schema with features that rarely go
  together, and a label. They pass through everything that a customer's row does, encoding excepted.

Each canary is in the run or not, by a fair coin of its own from a CSPRNG.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from federation.training.audit.bounds import Coins, Doubles
from federation.training.draws import RandomBytes
from federation.training.learner import Rows
from federation.training.plan import Plan


def toss(count: int, random_bytes: RandomBytes) -> Coins:
    """Fair coins: bool (count,)."""
    return (np.frombuffer(random_bytes(count), dtype=np.uint8) & 1).astype(np.bool_)


def hadamard(most: int) -> npt.NDArray[np.int64]:
    """The largest Hadamard matrix of at most so many rows that Paley's first construction and doubling give.

    Args:
        most: At least 1.

    Returns:
        int64 (n, n) of +-1 with orthogonal rows; n is above most / 2.

    Source: Paley 1933, "On Orthogonal Matrices"; Sylvester 1867 (doubling).
    """
    for order in range(most, 0, -1):
        doublings = 0
        while True:
            core, odd = divmod(order, 1 << doublings)
            if odd:
                break
            if core == 1 or (core % 4 == 0 and _is_prime(core - 1)):
                matrix = np.ones((1, 1), dtype=np.int64) if core == 1 else _paley(core - 1)
                for _ in range(doublings):
                    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
                return matrix
            doublings += 1
    raise ValueError("a matrix has a row")


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, math.isqrt(number) + 1))


def _paley(prime: int) -> npt.NDArray[np.int64]:
    """A Hadamard matrix of order prime + 1, for a prime that is 3 modulo 4."""
    residue = -np.ones(prime, dtype=np.int64)
    residue[(np.arange(1, prime) ** 2) % prime] = 1
    residue[0] = 0
    places = np.arange(prime)
    matrix = np.ones((prime + 1, prime + 1), dtype=np.int64)
    matrix[1:, 0] = -1
    matrix[1:, 1:] = residue[(places[None, :] - places[:, None]) % prime] + np.eye(prime, dtype=np.int64)
    return matrix


MAX_CRAFTED = 4096
"""In one run; wide sums have room for more, which would tell little more."""


class Crafted:
    """Orthogonal canaries of norm 1 in every round but the last few, for which there is no Hadamard matrix.

    Args:
        places: Of the released vector; the narrowest if there are several.
        rounds: Of the run.
    """

    def __init__(self, places: int, rounds: int) -> None:
        self.signs = hadamard(rounds)
        """int64 (codes, rounds used)."""
        self.places = max(1, min(places, MAX_CRAFTED // len(self.signs)))

    @property
    def count(self) -> int:
        """How many canaries."""
        return self.places * len(self.signs)

    @property
    def rounds(self) -> int:
        """In how many rounds they are."""
        return int(self.signs.shape[1])

    def of_round(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Place and sign of each canary in a round, from 1, that it is in: int64 (m,), int64 (m,)."""
        return np.repeat(np.arange(self.places), len(self.signs)), np.tile(self.signs[:, number - 1], self.places)

    def added(self, number: int, included: Coins, width: int) -> npt.NDArray[np.int64]:
        """The sum of the canaries that are in, in a round: int64 (width,); zeros where they are in none."""
        total = np.zeros(width, dtype=np.int64)
        if number <= self.rounds:
            places, signs = self.of_round(number)
            np.add.at(total, places[included], signs[included])
        return total

    def scores(self, seen: Sequence[Doubles]) -> Doubles:
        """Each canary's length in what was seen, where one canary adds 1: float64 (m,).

        Args:
            seen: Per round, float64 (at least places,), without what is known to be there.
        """
        stacked = np.stack([values[: self.places] for values in seen[: self.rounds]])
        return np.asarray((self.signs @ stacked / self.rounds).T.reshape(-1), dtype=np.float64)


def canary_rows(plan: Plan, count: int, random_bytes: RandomBytes) -> Rows:
    """Rows within a plan's schema whose every feature has any of its places with the same chance, and either label.

    Args:
        plan: Of the run.
        count: How many.
        random_bytes: A cryptographic source.

    Returns:
        As a partner's own rows: float32 (count, width) of norm 1, float32 (count,), and any group of each grouping.
    """
    chosen = plan.schema.select(plan.features)
    x = np.zeros((count, plan.width), dtype=np.float32)
    start = 0
    for feature in chosen:
        places = len(feature.places) + 2
        x[np.arange(count), start + _draw(places, count, random_bytes)] = 1 / math.sqrt(len(chosen))
        start += places
    groups = None
    if plan.judging is not None:
        drawn = [_draw(len(grouping.places), count, random_bytes) for grouping in plan.judging.groupings]
        groups = np.stack(drawn, axis=1)
    return Rows(x, toss(count, random_bytes).astype(np.float32), groups)


def _draw(places: int, count: int, random_bytes: RandomBytes) -> npt.NDArray[np.int64]:
    """Uniform, but for less than one in ten million: int64 (count,)."""
    return (np.frombuffer(random_bytes(4 * count), dtype="<u4") % places).astype(np.int64)


def row_scores(parts: npt.NDArray[np.float64], seen: Doubles, noise: float) -> Doubles:
    """How likely each row was in a sum, for rows whose parts of the sum overlap: float64 (m,), about 0 or 1.

    The best linear estimate of the coins, from what was seen, under noise of a known size.

    Args:
        parts: What each row adds, over all rounds: float64 (m, d).
        seen: float64 (d,), without what is known to be there.
        noise: Standard deviation in each place.
    """
    centred = seen - parts.sum(axis=0) / 2
    gram = parts @ parts.T + 4 * noise**2 * np.eye(len(parts))
    return np.asarray(0.5 + np.linalg.solve(gram, parts @ centred), dtype=np.float64)
