"""Which epochs there are, how far each batch has come, and what waits for whom. Durable when a call returns.

The state of a batch is its position: -1 while its origin has not sent it, then the number of hops it has passed. A step
forward and the task that follows from it are one transaction, so a gateway that is killed anywhere goes on where it
was: open tasks are sent again, and a step that was already made is not made twice.

A delta belongs to one origin in one complete epoch. Its batches go the same way, but a partner is asked to blind them
only when every earlier delta of that origin is in the index, because hops take them in no other order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId, PartyId
from federation.overlap.plan import BASE, BatchKey
from federation.v1 import overlap_pb2 as pb

AWAITED = -1
MAX_WAITING = 16
"""Deltas of one origin that are open: more wait at the origin."""
Kind = Literal["submit", "blind"]


@dataclass(frozen=True)
class Epoch:
    """One epoch."""

    epoch: EpochId
    plan: pb.EpochPlan
    state: str


@dataclass(frozen=True)
class Batch:
    """One batch and how far it is."""

    batch_id: str
    epoch: EpochId
    origin: PartyId
    index: int
    label: str
    position: int
    header: pb.BatchHeader
    rejected: int  # rows of low order
    operation: int = BASE
    sequence: int = 0


@dataclass(frozen=True)
class Task:
    """One piece of work for a partner."""

    task_id: str
    epoch: EpochId
    party: PartyId
    kind: Kind
    batch_id: str
    state: str
    reason: str
    text: str
    attempt: int  # how often it was opened again


@dataclass(frozen=True)
class Step:
    """A batch arrived with a header; ``next_hop`` is to blind it, None after the last one."""

    batch_id: str
    header: pb.BatchHeader
    next_hop: str | None
    rejected: int  # rows of low order; looked at when the origin sent it


@dataclass(frozen=True)
class Delta:
    """One delta of one origin."""

    epoch: EpochId
    origin: PartyId
    sequence: int
    state: str  # "open", "applied", "failed" (nothing after it can be applied), "abandoned" with its epoch
    reason: str = ""
    text: str = ""


@dataclass(frozen=True)
class Counts:
    """How far an epoch is: batches that their origins sent, passes through hops, and tasks that are not done."""

    submitted: int
    batches: int
    passed: int
    passes: int
    waiting: tuple[Task, ...]  # open or failed


class Epochs(Protocol):
    """Where the state of epochs is kept."""

    def create(self, plan: pb.EpochPlan, batches: Mapping[PartyId, Sequence[BatchKey]], at: datetime) -> list[str]:
        """Opens an epoch with the batches that are expected of each partner, and asks each for them.

        Every other open epoch is abandoned: one is built at a time. Returns the abandoned epochs' batch ids.
        """
        ...

    def get(self, epoch: str) -> Epoch | None:
        """An epoch by name."""
        ...

    def opened(self) -> EpochId | None:
        """The epoch that is being built."""
        ...

    def newest_complete(self) -> EpochId | None:
        """The epoch that was completed last."""
        ...

    def names(self, prefix: str) -> set[str]:
        """Names of epochs that start with a prefix."""
        ...

    def batch(self, batch_id: str) -> Batch | None:
        """A batch of an open epoch, or of an open delta."""
        ...

    def closed(self, batch_id: str) -> Batch | None:
        """A batch of a delta that is not open any more."""
        ...

    def batches(self, epoch: str) -> list[Batch]:
        """All batches of the base of an epoch, in a fixed order."""
        ...

    def open_delta(self, epoch: str, origin: str, sequence: int, keys: Sequence[BatchKey]) -> None:
        """Opens a delta of a complete epoch with its batches; the same again does nothing.

        Raises:
            OverlapError: OUT_OF_SEQUENCE for any but the next one, and while ``MAX_WAITING`` wait.
        """
        ...

    def deltas(self, epoch: str) -> list[Delta]:
        """Every delta of an epoch, by origin and number."""
        ...

    def arrived(self, epoch: str, hops: int) -> set[tuple[PartyId, int]]:
        """Origin and sequence of every open delta of which all batches have passed so many hops."""
        ...

    def delta_batches(self, delta: Delta) -> list[Batch]:
        """The batches of a delta, in the order in which they were opened."""
        ...

    def close_delta(self, delta: Delta, reason: str = "", item: str = "") -> None:
        """Marks an open delta as applied, or as failed with a reason."""
        ...

    def open_batches(self) -> set[str]:
        """Ids of all batches of open epochs and open deltas."""
        ...

    def advance(self, steps: Sequence[Step]) -> None:
        """Records that batches came one step further: closes the tasks that asked for it and opens the next hops'.

        Raises:
            OverlapError: UNKNOWN_BATCH for one that is not one step before; then none is moved.
        """
        ...

    def tasks(self, party: str) -> list[Task]:
        """What waits for a partner: in open epochs, and of each origin the first delta that is open."""
        ...

    def fail(self, task_id: str, party: str, reason: str, text: str) -> bool:
        """Records that an open task of a partner failed, and whether it was one; one that is done stays done."""
        ...

    def reopen(self, epoch: str) -> None:
        """Lets failed tasks of an epoch be tried again."""
        ...

    def failed(self, epoch: str) -> list[Task]:
        """Tasks of an epoch that failed."""
        ...

    def counts(self, epoch: str) -> Counts:
        """How far an epoch is."""
        ...

    def complete(self, epoch: str, at: datetime) -> list[str]:
        """Marks an open epoch as complete, which abandons open deltas of others; returns the ids of their batches."""
        ...

    def abandon(self, epoch: str) -> list[str]:
        """Gives up an open epoch; returns the ids of its batches."""
        ...

    def replaced(self) -> list[EpochId]:
        """Complete epochs but for the newest."""
        ...

    def abandoned(self) -> list[EpochId]:
        """Epochs that were never complete and will not be."""
        ...


def known_epoch(epochs: Epochs, name: str) -> Epoch:
    """An epoch by name. Raises OverlapError (UNKNOWN_EPOCH)."""
    found = epochs.get(name)
    if found is None:
        raise OverlapError(Reason.UNKNOWN_EPOCH, item=name[:64])
    return found
