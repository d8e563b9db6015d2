"""Thousands of interleavings of a real release: crashes between any two steps, several askers, a restart from disk.

Each world is a seed. Askers ask cubes and questions through the whole path: ledger, audit intent, draw, store, outcome.
A crash is an exception that no code catches, raised before or after any durable step; then everything in memory is
thrown away and opened again from the files' content. At the end and after every step:

- the budget of every scope is within its limit, composed from what was drawn, not from what was stored;
- a question has one answer, whoever asked it and however often the process died;
- no answer was handed out whose intent is not in the log, and nothing was drawn before it was paid for.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from federation.core.database import open_database
from federation.core.errors import BudgetError
from federation.policy.specs import AdHocSpec, CubeSpec
from federation.privacy import noise as opendp_noise
from federation.privacy.composition import epsilon_of
from tests.question_kit import Asking, counts, person

WORLDS, STEPS = 40, 30
PEOPLE = [person(bank="basic")] * 9 + [person(bank="high", airline="active")] * 7 + [person(insurer="senior")] * 3
CUBES = (
    CubeSpec(name="venn", partners=("bank", "airline"), epsilon=1.0, min_count=0),
    CubeSpec(name="tiers", partners=("bank", "airline"), by=("bank.tier",), epsilon=1.0, min_count=0),
    CubeSpec(name="wide", partners=("bank", "insurer", "airline"), epsilon=1.5, min_count=0),
)
QUESTIONS = (("bank", "airline"), ("bank", "insurer"), ("insurer", "airline"), ("bank",))
pytestmark = pytest.mark.sim


class Crash(BaseException):
    """kill -9: nothing may catch it."""


class World:
    """One seed: files that survive, a process that does not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.engines = {name: open_database(None) for name in ("budget", "answers")}
        self.log: list[tuple[str, Mapping[str, Any]]] = []  # on disk
        self.answers: dict[tuple[str, ...], dict[Any, int]] = {}
        self.drawn: list[Any] = []  # events whose noise was drawn
        self.fuse = 0
        self.crashes = 0
        self.open()

    def open(self) -> None:
        rules = AdHocSpec(allowed=True, max_epsilon=1.0, default_epsilon=0.7, min_count=0)
        self.desk = Asking(PEOPLE, *CUBES, noise=self, ad_hoc=rules, open_engine=self.engines.__getitem__, log=self)
        budget = self.desk.policy.budget
        self.desk.policy.budget = budget.model_copy(update={"epsilon": 2.5, "purposes": {"overlap_statistics": 2.2}})
        self.wrap(self.desk.ledger, "reserve", "commit", "cancel")
        self.wrap(self.desk.store, "put")

    def wrap(self, part: Any, *names: str) -> None:
        """A durable step can be the last thing before a crash, or the first thing that a crash prevents."""
        for name in names:
            plain: Callable[..., Any] = getattr(part, name)

            def step(*args: Any, plain: Callable[..., Any] = plain, **rest: Any) -> Any:
                self.tick()
                result = plain(*args, **rest)
                self.tick()
                return result

            setattr(part, name, step)

    def tick(self) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise Crash

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        self.tick()
        self.log.append((kind, body))
        self.tick()
        return len(self.log) - 1

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        self.tick()
        paid = self.desk.ledger.overview().entries
        assert [entry for entry in paid if entry.state == "committed"]
        assert self.log[-1][0] == "intent"
        self.drawn.append(opendp_noise.gaussian_event(sigma, 1.0))
        noisy = opendp_noise.discrete_gaussian(values, sigma)
        self.tick()
        return noisy

    calibrate_sigma = staticmethod(opendp_noise.calibrate_sigma)
    gaussian_event = staticmethod(opendp_noise.gaussian_event)

    def ask(self) -> None:
        choice = self.random.choice([*(cube.name for cube in CUBES), *QUESTIONS])
        party = f"user-{self.random.randrange(3)}"
        if isinstance(choice, str):
            key, answer = (choice,), self.desk.cube(choice, party)
        else:
            partners = self.random.sample(choice, len(choice))
            key, answer = ("ad hoc", *sorted(choice)), self.desk.ask(*partners, party=party)
        table = {(frozenset(members), labels): count for (members, labels), count in counts(answer.cells).items()}
        assert self.answers.setdefault(key, table) == table
        assert self.log[-1][0] == "outcome"
        intent = self.log[self.log[-1][1]["intent"]]
        assert (intent[0], intent[1]["caller"]) == ("intent", party)

    def step(self) -> None:
        self.fuse = self.random.choice([0, 0, self.random.randint(1, 14)])
        try:
            self.ask()
        except BudgetError:
            pass
        except Crash:
            self.crashes += 1
            self.open()
        self.fuse = 0

    def check(self) -> None:
        overview = self.desk.ledger.overview()
        assert all(scope.epsilon_spent <= scope.epsilon_limit for scope in overview.scopes)
        stored = [one.answer for one in self.desk.store.released("e1")]
        published = [opendp_noise.gaussian_event(answer.sigma, 1.0) for answer in stored]
        assert epsilon_of(published, 1e-6) <= overview.scopes[0].epsilon_spent + 1e-9


@pytest.mark.parametrize("part", range(5))
def test_crashes_between_any_two_steps_never_overspend_and_never_give_two_answers(part: int) -> None:
    crashes = answered = 0
    for seed in range(part * WORLDS, (part + 1) * WORLDS):
        world = World(seed)
        for _ in range(STEPS):
            world.step()
        world.check()
        crashes += world.crashes
        answered += len(world.answers)
    assert crashes > WORLDS * STEPS / 20  # else the simulation would show little
    assert answered > WORLDS
