"""Which epochs there are, how far each batch has come, and what waits for whom. Durable when a call returns.

The state of a batch is its position: -1 while its origin has not sent it, then the number of hops it has passed. A step
forward and the task that follows from it are one transaction, so a gateway that is killed anywhere goes on where it
was: open tasks are sent again, and a step that was already made is not made twice.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from federation.core.ids import EpochId, PartyId
from federation.v1 import overlap_pb2 as pb

AWAITED = -1
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
class Counts:
    """How far an epoch is: batches that their origins sent, passes through hops, and tasks that are not done."""

    submitted: int
    batches: int
    passed: int
    passes: int
    waiting: tuple[Task, ...]  # open or failed


class Epochs(Protocol):
    """Where the state of epochs is kept."""

    def create(
        self, plan: pb.EpochPlan, batches: Mapping[PartyId, Sequence[tuple[int, str]]], at: datetime
    ) -> list[str]:
        """Opens an epoch with the batches that are expected of each partner, and asks each for them.

        Every other open epoch is abandoned: one is built at a time. Returns the abandoned epochs' batch ids.
        """
        ...

    def get(self, epoch: str) -> Epoch | None:
        """An epoch by name."""
        ...

    def newest_complete(self) -> EpochId | None:
        """The epoch that was completed last."""
        ...

    def names(self, prefix: str) -> set[str]:
        """Names of epochs that start with a prefix."""
        ...

    def batch(self, batch_id: str) -> Batch | None:
        """A batch of an open epoch."""
        ...

    def batches(self, epoch: str) -> list[Batch]:
        """All batches of an epoch, in a fixed order."""
        ...

    def open_batches(self) -> set[str]:
        """Ids of all batches of open epochs."""
        ...

    def advance(self, batch_id: str, header: pb.BatchHeader, next_hop: str | None, rejected: int) -> None:
        """Records that a batch came one step further: closes the task that asked for it and opens the next hop's."""
        ...

    def tasks(self, party: str) -> list[Task]:
        """What waits for a partner in open epochs, oldest first."""
        ...

    def fail(self, task_id: str, party: str, reason: str, text: str) -> None:
        """Records that an open task of a partner failed; one that is done stays done."""
        ...

    def reopen(self, epoch: str) -> None:
        """Lets failed tasks of an epoch be tried again."""
        ...

    def counts(self, epoch: str) -> Counts:
        """How far an epoch is."""
        ...

    def complete(self, epoch: str, at: datetime) -> None:
        """Marks an open epoch as complete."""
        ...


def batch_id_of(epoch: str, origin: str, index: int, label: str) -> str:
    """The id of a batch follows from what it is; it is no secret."""
    return hashlib.sha256(f"{epoch}/{origin}/{index}/{label}".encode()).hexdigest()[:32]
