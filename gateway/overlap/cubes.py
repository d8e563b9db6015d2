"""Releases declared tables of people by membership region and label, with noise, once per epoch.

The cells are the exclusive regions: every non-empty set of the cube's partners, times the labels of those of them that
are in ``by``. The list of cells follows from the policy and the epoch alone, and every cell gets noise, the empty ones
too; so which cells exist says nothing about anybody.

Sensitivity. Neighbours differ by one person with everything that all partners hold about it. That person has at most
``max_tokens_per_person`` = t tokens, and each token is in one cell, so adding or removing the person changes the vector
of counts by t ones. In distinct cells that is sqrt(t) in L2; all in one cell it is t. We calibrate to t, the worst.
(Against one partner's row alone a token moves from one cell to another: sqrt(2) per token, the weaker promise.) An
identifier that several people share, a family's address, makes them one person here, and they are protected together.

Noise is the discrete Gaussian; it satisfies the RDP bound of the continuous one with the same sigma, by which the
ledger counts. Source: Canonne, Kamath, Steinke 2020, Theorem 4; calibration by ``federation.privacy.noise``.

Once. The noise is drawn after budget and audit intent are durable, and the answer is stored before anybody gets it.
Whoever asks again gets the stored answer: no second draw exists that could be averaged with the first. If the process
dies between the spend and the store, the next request draws again under the same ledger key, so it is paid once; that
is no second look, because the first draw was never seen by anyone. Two processes that draw at once both try to store;
the first one stored is the answer of both.

Thresholds are applied to the noisy number, when it is read: a threshold on the exact one would be a leak without noise.
"""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from dp_accounting import DpEvent

from federation.core.canonical import digest_hex
from federation.core.clock import Clock, to_text
from federation.core.errors import OverlapError, PolicyError, Reason
from federation.core.ids import EpochId
from federation.overlap.answers import interval
from federation.policy.facts import Facts
from federation.policy.specs import BudgetSpec, CubeSpec
from federation.privacy import noise as opendp_noise
from federation.v1 import overlap_pb2 as pb
from gateway.identity.caller import Caller
from gateway.overlap.answers import Answer, AnswerStore
from gateway.overlap.epochs import Epochs
from gateway.overlap.index import Region, StatisticsIndex
from gateway.release import Cost, Exit, Released, ReleasePath

PURPOSE = "overlap_statistics"
MECHANISM = "discrete_gaussian"
MAX_CELLS = 100_000


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


class CubePolicy(Protocol):
    """The part of a policy set that cubes need."""

    @property
    def cubes(self) -> Mapping[str, CubeSpec]:
        """Declared cubes by name."""
        ...

    @property
    def budget(self) -> BudgetSpec:
        """The budget, for its delta."""
        ...


class ActiveCubes(Protocol):
    """Gives the policy set that is active now."""

    @property
    def active(self) -> CubePolicy:
        """The one active version."""
        ...


def domain(cube: CubeSpec, labels: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[Region]:
    """Every cell of a cube, whether anybody is in it or not.

    Args:
        cube: The declared table.
        labels: For each partner of the epoch its columns, and for each column all its values.
    """
    for size in range(1, len(cube.partners) + 1):
        for members in itertools.combinations(cube.partners, size):
            columns = [column for column in cube.by if column.partition(".")[0] in members]
            values = [
                [(column, value) for value in labels[party][segment]]
                for column in columns
                for party, _, segment in [column.partition(".")]
            ]
            for combination in itertools.product(*values):
                yield members, tuple(combination)


class CubeRelease:
    """Answers questions for cubes, through the release path.

    Args:
        epochs: Which epochs are complete.
        index: Their exact counts.
        store: Keeps answers.
        policies: The active policy.
        path: The release path.
        clock: Tells the time.
        noise: Only a unit test passes another one.
    """

    def __init__(
        self,
        *,
        epochs: Epochs,
        index: StatisticsIndex,
        store: AnswerStore,
        policies: ActiveCubes,
        path: ReleasePath,
        clock: Clock,
        noise: Noise = opendp_noise,
    ) -> None:
        self._epochs, self._index, self._store = epochs, index, store
        self._policies, self._path, self._clock, self._noise = policies, path, clock, noise
        self._lock = threading.Lock()

    def query(self, caller: Caller, name: str, epoch: str) -> pb.QueryCubeResponse:
        """The table of an epoch; the first time it costs budget, after that it is the same answer for nothing.

        Args:
            caller: Who asks.
            name: A declared cube.
            epoch: "" for the newest complete one.

        Raises:
            OverlapError: UNKNOWN_CUBE, UNKNOWN_EPOCH, EPOCH_INCOMPLETE.
            PolicyError: the policy denies it, or the cube does not fit the epoch (POLICY_INVALID).
            BudgetError: there is not enough left.
            AuditError: nothing was released.
        """
        policy = self._policies.active
        cube = policy.cubes.get(name)
        if cube is None:
            raise OverlapError(Reason.UNKNOWN_CUBE, item=name[:48])
        current, key_type = self._complete(epoch)
        labels = self._index.labels(current)
        _check_fit(cube, labels)
        shape = shape_of(cube)
        drawn = False

        def do(released: Released) -> pb.QueryCubeResponse:
            nonlocal drawn
            answer = self._store.get(name, current, shape)
            if answer is None:
                exact = self._index.exact(current, cube.partners, cube.by)
                cells = list(domain(cube, labels))
                noisy = self._noise.discrete_gaussian([exact.get(cell, 0) for cell in cells], sigma)
                mine = Answer(
                    cells=tuple((*cell, count) for cell, count in zip(cells, noisy, strict=True)),
                    key_type=key_type,
                    epsilon=cube.epsilon,
                    delta=policy.budget.delta,
                    sigma=sigma,
                    policy_version=released.decisions[0].version,
                    released_at=to_text(self._clock.now()),
                )
                answer = self._store.put(name, current, shape, mine)
                drawn = answer == mine
            floors = [decision.obligations.min_k or 0 for decision in released.decisions]
            return _response(name, current, answer, max(cube.min_count, *floors), spent_now=drawn)

        with self._lock:
            cost = None
            if self._store.get(name, current, shape) is None:
                sensitivity = float(cube.max_tokens_per_person)
                sigma = self._noise.calibrate_sigma(cube.epsilon, policy.budget.delta, sensitivity)
                cost = Cost(
                    event=self._noise.gaussian_event(sigma, sensitivity),
                    purpose=PURPOSE,
                    what=f"cube {name}, epoch {current}",
                    key=f"cube/{name}/{current}/{shape[:12]}",
                )
            at = self._clock.now()
            facts = [Facts(PURPOSE, "aggregate_statistics", party, caller.party, at) for party in cube.partners]
            leaving = Exit("cube", {"cube": name, "epoch": current, "shape": shape}, facts, cost)
            return self._path.release(caller, leaving, do, _digest)

    def list_cubes(self) -> pb.ListCubesResponse:
        """Declared cubes, and whether each was released in the newest complete epoch."""
        newest = self._epochs.newest_complete()
        cubes = []
        for name, cube in sorted(self._policies.active.cubes.items()):
            released = newest is not None and self._store.get(name, newest, shape_of(cube)) is not None
            cubes.append(
                pb.CubeInfo(cube=name, partners=cube.partners, by=cube.by, epsilon=cube.epsilon, released=released)
            )
        return pb.ListCubesResponse(cubes=cubes)

    def _complete(self, epoch: str) -> tuple[EpochId, str]:
        """Name and key type of a complete epoch."""
        name = epoch or self._epochs.newest_complete()
        found = self._epochs.get(name) if name else None
        if found is None:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=epoch[:64] or "no complete epoch yet")
        if found.state != "complete":
            raise OverlapError(Reason.EPOCH_INCOMPLETE, item=found.epoch)
        return found.epoch, found.plan.key_type


def shape_of(cube: CubeSpec) -> str:
    """What makes two cubes of one name different releases; a new threshold or description does not."""
    cost = {"epsilon": cube.epsilon, "max_tokens_per_person": cube.max_tokens_per_person}
    return digest_hex({"partners": list(cube.partners), "by": list(cube.by), **cost})


def _check_fit(cube: CubeSpec, labels: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Raises PolicyError (POLICY_INVALID) where a cube names a partner or column that the epoch does not have."""
    missing = [party for party in cube.partners if party not in labels]
    for column in cube.by:
        party, _, segment = column.partition(".")
        if party not in cube.partners or segment not in labels.get(party, {}):
            missing.append(column)
    if missing or len(set(cube.by)) != len(cube.by) or len(set(cube.partners)) != len(cube.partners):
        raise PolicyError(Reason.POLICY_INVALID, item=f"cube {cube.name}: {', '.join(missing) or 'repeated name'}")
    if sum(1 for _ in itertools.islice(domain(cube, labels), MAX_CELLS + 1)) > MAX_CELLS:
        raise PolicyError(Reason.POLICY_INVALID, item=f"cube {cube.name}: more than {MAX_CELLS} cells")


def _response(name: str, epoch: EpochId, answer: Answer, min_count: int, *, spent_now: bool) -> pb.QueryCubeResponse:
    cells = []
    for members, labels, noisy in answer.cells:
        cell = pb.Cell(members=members, labels=dict(labels), suppressed=noisy < min_count)
        if not cell.suppressed:
            cell.count = noisy
            cell.low, cell.high = interval(noisy, answer.sigma)
        cells.append(cell)
    return pb.QueryCubeResponse(
        cube=name,
        epoch=epoch,
        key_type=answer.key_type,
        cells=cells,
        epsilon=answer.epsilon,
        delta=answer.delta,
        sigma=answer.sigma,
        mechanism=MECHANISM,
        policy_version=answer.policy_version,
        released_at=answer.released_at,
        spent_now=spent_now,
        min_count=min_count,
    )


def _digest(response: pb.QueryCubeResponse) -> dict[str, object]:
    """What the log keeps of an answer."""
    cells = [[list(cell.members), dict(cell.labels), cell.count, cell.suppressed] for cell in response.cells]
    return {"cells": len(cells), "sha256": digest_hex(cells), "spent_now": response.spent_now}
