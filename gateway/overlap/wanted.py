"""What a table is to cost, what it is drawn from, and what was made: the words that ``tables`` and its askers share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dp_accounting import DpEvent

from federation.core.ids import EpochId
from federation.overlap.matching import l2_sensitivity
from federation.overlap.questions import Cell, Columns, Question
from gateway.overlap.answers import Stored
from gateway.release import Terms


class Noise(Protocol):
    """Draws noise and says what it costs; ``federation.privacy.noise`` outside of tests."""

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        """The values with independent noise."""
        ...

    def calibrate_sigma(self, epsilon: float, delta: float, sensitivity: float) -> float:
        """The sigma that keeps a promise."""
        ...

    def gaussian_event(self, sigma: float, sensitivity: float) -> DpEvent:
        """What it costs."""
        ...


class Index(Protocol):
    """Exact numbers of complete epochs; ``gateway.overlap.index`` outside of tests."""

    def labels(self, epoch: str) -> Columns:
        """Party to column to values."""
        ...

    def exact(self, epoch: str, partners: Sequence[str], by: Sequence[str]) -> Mapping[Cell, int]:
        """People by region and labels."""
        ...

    def generation(self, epoch: str) -> int:
        """How many deltas are in the numbers."""
        ...


@dataclass(frozen=True)
class Wanted:
    """One table of one epoch, and what it may cost."""

    name: str
    question: Question
    shape: str
    epoch: EpochId
    key_type: str
    epsilon: float
    delta: float
    tokens: int
    purpose: str
    what: str  # for people: "cube venn"
    terms: Terms  # the policy version that declares it, or its price
    min_count: int = 0  # a cube's declared threshold, in people

    @property
    def sensitivity(self) -> float:
        """The most that one person moves the cells in L2, tokens together."""
        measure = self.question.measure
        return sensitivity(self.key_type, self.tokens, measure.cap if measure else 1)


def sensitivity(key_type: str, tokens: int, cap: int) -> float:
    """The most that one person with so many tokens moves cells to each of which a token adds at most ``cap``, in L2."""
    return l2_sensitivity(key_type, tokens) * cap


@dataclass(frozen=True)
class Made:
    """A table that may be answered from, under the policy of this moment."""

    stored: Stored
    min_k: int  # the policy's floor, in people
    drawn: bool

    def threshold(self, min_count: int) -> int:
        """The people under which a noisy number is not shown: the declared number, or the policy's if that is more."""
        return max(min_count, self.min_k)
