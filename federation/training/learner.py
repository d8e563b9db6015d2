"""What a run learns from noisy sums, and how: one learner per kind of model, apart from keys, masks and messages.

A learner says what each partner adds up in a round, and what the gateway makes of the noisy sum of all. It knows
nothing of partners, attempts or the transport, draws no randomness and keeps nothing on disk; equal calls give equal
results. Whoever drives it sees to noise, secure sums and accounts.

**The bound.** Whatever the round and whatever it was told, the vector that one customer adds at one partner has an L2
norm of at most 1 in units of 2^FINE_BITS (``joint_noise.FINE_BITS``), exactly, and depends on that customer's row, on
what was told and on public constants alone. Rows are added as integers. Each learner's docstring argues why.
``JointNoise`` rests on this bound and on nothing else, so the sums of all learners, and of all rounds, cost the same:
rounds of different kinds can share a run. What should get a larger part of a run's budget takes more rounds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from federation.training.features import Floats
from federation.training.models import Weights
from federation.training.secure_sum import Integers

State = dict[str, npt.NDArray[Any]]
"""Named arrays; what ``numpy.savez`` or safetensors can keep."""


class Rows(NamedTuple):
    """One partner's customers who may be in training now, one row each."""

    x: Floats
    """Encoded: float32 (n, d), each row of norm 1."""
    y: Floats
    """Labels: float32 (n,), 0 or 1."""
    groups: npt.NDArray[np.int64] | None = None
    """The group of each row in every grouping of the plan's judging: int64 (n, groupings); None where it has none."""


class Learner(Protocol):
    """See the module's docstring. Rounds count from 1."""

    @property
    def rounds(self) -> int:
        """How many sums it needs."""
        ...

    def width(self, number: int) -> int:
        """Places of the vector that is summed in a round."""
        ...

    def touched(self, number: int) -> int:
        """In how many of these places one customer's vector may be other than 0, at most."""
        ...

    def begin(self, model: Weights) -> None:
        """Starts from a model: one that knows nothing, or what the rounds before these have made."""
        ...

    def told(self, number: int) -> Weights:
        """What partners are told before a round; on the gateway."""
        ...

    def check_told(self, number: int, arrays: Mapping[str, npt.NDArray[np.generic]], *, item: str) -> Weights:
        """What the gateway told, as arrays to be used; at a partner.

        Raises:
            TrainingError: BAD_UPDATE for wrong names, shapes, types or values, naming ``item``.
        """
        ...

    def sums(self, number: int, told: Weights, rows: Rows) -> Integers:
        """One partner's exact sum over its customers, in units of 2^-FINE_BITS: int64 (width,); at a partner.

        Raises:
            DataError: TOO_LARGE for more rows than 64 bits can add.
        """
        ...

    def step(self, number: int, total: npt.NDArray[np.float64], sigma: float) -> None:
        """Learns from the noisy sum of all partners; on the gateway.

        Args:
            number: Of the round.
            total: float64 (width,), in units of a row's largest norm.
            sigma: Standard deviation of the noise in each place, if every partner added its share.

        Raises:
            TrainingError: BAD_UPDATE for what no noisy sum of rows can be, RUN_FAILED for too few customers.
        """
        ...

    def model(self) -> Weights:
        """The model as far as it is known; after the last round, the one that is released."""
        ...

    def state(self) -> State:
        """Everything that rounds so far have left, to go on from after a restart."""
        ...

    def restore(self, state: State) -> None:
        """Takes back what ``state`` gave."""
        ...


class Course:
    """Learners one after another in one run; itself a learner.

    Args:
        parts: In order. Each begins with the model that the one before it has made.
    """

    def __init__(self, *parts: Learner) -> None:
        self._parts = parts
        self._begun = 0

    @property
    def parts(self) -> tuple[Learner, ...]:
        """The learners, in order."""
        return self._parts

    @property
    def rounds(self) -> int:
        """Of all parts."""
        return sum(part.rounds for part in self._parts)

    def width(self, number: int) -> int:
        """See Learner."""
        index, within = self._place(number)
        return self._parts[index].width(within)

    def touched(self, number: int) -> int:
        """See Learner."""
        index, within = self._place(number)
        return self._parts[index].touched(within)

    def begin(self, model: Weights) -> None:
        """See Learner."""
        self._begun = 0
        self._parts[0].begin(model)

    def told(self, number: int) -> Weights:
        """See Learner."""
        index, within = self._place(number)
        while self._begun < index:
            self._parts[self._begun + 1].begin(self._parts[self._begun].model())
            self._begun += 1
        return self._parts[index].told(within)

    def check_told(self, number: int, arrays: Mapping[str, npt.NDArray[np.generic]], *, item: str) -> Weights:
        """See Learner."""
        index, within = self._place(number)
        return self._parts[index].check_told(within, arrays, item=item)

    def sums(self, number: int, told: Weights, rows: Rows) -> Integers:
        """See Learner."""
        index, within = self._place(number)
        return self._parts[index].sums(within, told, rows)

    def step(self, number: int, total: npt.NDArray[np.float64], sigma: float) -> None:
        """See Learner."""
        index, within = self._place(number)
        self._parts[index].step(within, total, sigma)

    def model(self) -> Weights:
        """Of the last part that has begun."""
        return self._parts[self._begun].model()

    def state(self) -> State:
        """See Learner."""
        of_parts = {
            f"{index}.{name}": array
            for index, part in enumerate(self._parts[: self._begun + 1])
            for name, array in part.state().items()
        }
        return of_parts | {"begun": np.array(self._begun)}

    def restore(self, state: State) -> None:
        """See Learner."""
        self._begun = int(state["begun"])
        for index, part in enumerate(self._parts[: self._begun + 1]):
            start = f"{index}."
            part.restore({name.removeprefix(start): array for name, array in state.items() if name.startswith(start)})

    def _place(self, number: int) -> tuple[int, int]:
        """The part that a round belongs to, and its number there."""
        for index, part in enumerate(self._parts):
            if number <= part.rounds:
                return index, number
            number -= part.rounds
        raise ValueError("a round beyond the last")
