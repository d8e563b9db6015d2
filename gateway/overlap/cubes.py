"""Declared tables: released once per epoch, and free for everybody after that. See ``tables`` for the argument.

A declared cube always gets noise of its own, at its own declared price, even where a coarser answer could be read off
another table: compliance chose its precision. What it shares with earlier tables, it agrees with.
"""

from collections.abc import Mapping
from typing import Protocol

from federation.core.canonical import digest_hex
from federation.core.errors import OverlapError, Reason
from federation.core.nearest import unknown
from federation.overlap.questions import Question, Sum
from federation.policy.specs import AdHocSpec, BudgetSpec, CubeSpec
from federation.v1 import overlap_pb2 as pb
from gateway.identity.caller import Caller
from gateway.overlap.answers import Stored
from gateway.overlap.figures import respond
from gateway.overlap.tables import Tables
from gateway.overlap.wanted import Made, Wanted
from gateway.release import MAX_ITEM, Terms

PURPOSE = "overlap_statistics"


class CubePolicy(Terms, Protocol):
    """The part of a policy set that questions need."""

    @property
    def cubes(self) -> Mapping[str, CubeSpec]:
        """Declared cubes by name."""
        ...

    @property
    def ad_hoc(self) -> AdHocSpec:
        """Whether and at what price other questions may be asked."""
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


class CubeRelease:
    """Answers for declared cubes.

    Args:
        tables: Draws and keeps.
        policies: The active policy.
    """

    def __init__(self, tables: Tables, policies: ActiveCubes) -> None:
        self._tables, self._policies = tables, policies

    @property
    def policy(self) -> CubePolicy:
        """What is declared now."""
        return self._policies.active

    def newest_key_type(self) -> str:
        """By what people were told apart in the newest complete epoch; before the first one, by e-mail."""
        newest = self._tables.epochs.newest_complete()
        return self._tables.complete(newest)[1] if newest else "email"

    def query(self, caller: Caller, name: str, epoch: str) -> pb.QueryCubeResponse:
        """The table of an epoch; the first time it costs budget, after that it is the same answer for nothing.

        Args:
            caller: Who asks.
            name: A declared cube.
            epoch: "" for the newest complete one.

        Raises:
            OverlapError: UNKNOWN_CUBE, UNKNOWN_EPOCH, EPOCH_INCOMPLETE; QUESTION_MISFIT where the epoch was built
                without the cube's partners or columns.
            PolicyError: the policy denies it.
            BudgetError: there is not enough left.
            AuditError: nothing was released.
        """
        cube, wanted = self.wanted(name, epoch)

        def answer(made: Made) -> pb.QueryCubeResponse:
            return respond(made, wanted.question, name=name, epoch=wanted.epoch, min_count=cube.min_count)

        return self._tables.release(caller, wanted, answer, digest, find=lambda: self.find(wanted))

    def wanted(self, name: str, epoch: str) -> tuple[CubeSpec, Wanted]:
        """A declared cube, and its table in an epoch. Raises OverlapError."""
        policy = self.policy
        cube = policy.cubes.get(name)
        if cube is None:
            item = unknown("cube", name[:48], sorted(policy.cubes))
            raise OverlapError(Reason.UNKNOWN_CUBE, item=item[:MAX_ITEM])
        current, key_type = self._tables.complete(epoch)
        question = question_of(cube)
        return cube, Wanted(
            name=name,
            question=question,
            shape=shape_of(cube),
            epoch=current,
            key_type=key_type,
            epsilon=cube.epsilon,
            delta=policy.budget.delta,
            tokens=cube.max_tokens_per_person,
            purpose=PURPOSE,
            what=f"cube {name}",
            terms=policy,
            min_count=cube.min_count,
        )

    def find(self, wanted: Wanted) -> Stored | None:
        """The stored table, if it was released."""
        answer = self._tables.store.get(wanted.name, wanted.epoch, wanted.shape)
        return Stored(wanted.name, wanted.shape, answer) if answer is not None else None

    def list_cubes(self) -> pb.ListCubesResponse:
        """Declared cubes, and whether each was released in the newest complete epoch."""
        newest = self._tables.epochs.newest_complete()
        done = {(one.name, one.shape) for one in self._tables.store.released(newest)} if newest else set()
        return pb.ListCubesResponse(
            cubes=[
                pb.CubeInfo(
                    cube=name,
                    partners=cube.partners,
                    by=cube.by,
                    epsilon=cube.epsilon,
                    released=(name, shape_of(cube)) in done,
                    measure=f"{cube.sum.column} in {cube.sum.unit}" if cube.sum else "people",
                    description=cube.description,
                )
                for name, cube in sorted(self.policy.cubes.items())
            ]
        )


def question_of(cube: CubeSpec) -> Question:
    """What a cube asks."""
    measure = None
    if cube.sum is not None:
        values = tuple(sorted(cube.sum.values.items()))
        measure = Sum(cube.sum.column, values, cube.sum.cap, cube.sum.unit)
    return Question(cube.partners, cube.by, (), measure)


def shape_of(cube: CubeSpec) -> str:
    """What makes two cubes of one name different releases; a new threshold or description does not."""
    cost = {"epsilon": cube.epsilon, "max_tokens_per_person": cube.max_tokens_per_person}
    return digest_hex({**question_of(cube).canonical(), **cost})


def digest(response: pb.QueryCubeResponse) -> dict[str, object]:
    """What the log keeps of an answer."""
    cells = [[list(cell.members), dict(cell.labels), cell.count, cell.suppressed] for cell in response.cells]
    return {"cells": len(cells), "sha256": digest_hex(cells), "spent_now": response.spent_now}
