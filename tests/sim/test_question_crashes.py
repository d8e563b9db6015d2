"""Thousands of interleavings of real releases: several gateway processes on one state, crashes, retries, a wild clock.

Each world is a seed. Three processes, each with its own ledger, store and tables over the same files, answer askers at
once. Every one of them stops before and after each durable step (reserve, commit, cancel, log, draw, store, mark), and
the seed says who goes on, who dies there, and where the clock jumps to, back or forward, also out of the budget's
period. A crash is an exception that no code catches; then everything in the process's memory is thrown away and opened
again, and the asker asks again. In every second world the answers are once put back from a backup, or lost, after all
processes died; the ledger and the log are kept. What is promised then:

- the budget of every scope is within its limit, whatever was drawn: each draw has its own committed entry behind it,
  and what was given to anybody composes to no more than the ledger says;
- a question has one answer, whoever asked, whichever process answered, however often it died. A table that was given to
  anybody and is lost is refused; a question that was read off it may be drawn, and paid for, as a table of its own;
- nobody was given an answer that is not marked, or whose intent and outcome are not in the log.

``ENTENTE_LONG=1`` plays ten times as many worlds.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from sqlalchemy import text

from federation.core.database import open_database
from federation.core.errors import BudgetError, Reason
from federation.overlap.questions import Question, answers
from federation.policy.specs import AdHocSpec, CubeSpec
from federation.privacy import noise as opendp_noise
from federation.privacy.composition import epsilon_of
from tests.conftest import NOW
from tests.kits.questions import Asking, counts, person

PARTS = 5
WORLDS = 4_000 if os.environ.get("ENTENTE_LONG") == "1" else 400  # of each part
PROCESSES, MOST_QUESTIONS = 3, 2
CRASH_RATE, JUMP_RATE, LOSS_RATE = 0.03, 0.02, 0.02
DELTA = 1e-6
PEOPLE = [person(bank="basic")] * 9 + [person(bank="high", airline="active")] * 7 + [person(insurer="senior")] * 3
CUBES = (
    CubeSpec(name="venn", partners=("bank", "airline"), epsilon=1.0, min_count=0),
    CubeSpec(name="tiers", partners=("bank", "airline"), by=("bank.tier",), epsilon=1.0, min_count=0),
    CubeSpec(name="wide", partners=("bank", "insurer", "airline"), epsilon=1.5, min_count=0),
)
QUESTIONS = (("bank", "airline"), ("bank", "insurer"), ("insurer", "airline"), ("bank",))
LIMITS = {"epsilon": 2.5, "purposes": {"overlap_statistics": 2.2}}
pytestmark = pytest.mark.sim


ENGINES = {name: open_database(None) for name in ("budget", "answers")}
"""The databases of every world, one after the other: they keep the statements that were compiled for them."""


class Crash(BaseException):
    """kill -9: nothing may catch it."""


class Process:
    """One gateway process with one asker; it runs when the world lets it, from one step to the next."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.party = world, f"user-{number}"
        self.asks = world.random.choices([*CUBES, *QUESTIONS], k=world.random.randint(1, MOST_QUESTIONS))
        self.doomed, self.done = False, False
        # Only one process goes on at a time, so they need no threads, whose handing over took longer than their work.
        self.fiber = greenlet(self.run)
        self.open()

    def open(self) -> None:
        """Starts the process from what is on disk."""
        rules = AdHocSpec(allowed=True, max_epsilon=1.0, default_epsilon=0.7, min_count=0)
        open_engine = self.world.engines.__getitem__
        self.desk = Asking(PEOPLE, *CUBES, noise=self, ad_hoc=rules, open_engine=open_engine, log=self)
        self.desk.policy.budget = self.desk.policy.budget.model_copy(update=LIMITS)
        self.desk.clock.at = self.world.at
        self.doomed = False
        spends = ("reserve", "commit", "cancel", "mark_released")
        for part, names in ((self.desk.ledger, spends), (self.desk.store, ("put",))):
            for name in names:
                setattr(part, name, self.stepped(name, getattr(part, name)))

    def stepped(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """A durable step can be the last thing before a crash, or the first thing that a crash prevents."""

        def step(*args: Any, **rest: Any) -> Any:
            self.stop(f"before {name}")
            result = plain(*args, **rest)
            self.stop(f"after {name}")
            return result

        return step

    def stop(self, where: str) -> None:
        """Hands the turn back and waits for the next one."""
        self.world.trace.append(f"{self.party} {where}")
        self.world.fiber.switch()
        if self.doomed:
            raise Crash
        self.desk.clock.at = self.world.at

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        self.stop(f"before {kind}")
        self.world.log.append((kind, body))
        index = len(self.world.log) - 1
        self.stop(f"after {kind}")
        return index

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        """Draws; by then the intent is in the log and its own entry is committed."""
        self.stop("before draw")
        intent = self.last_intent
        with self.world.engines["budget"].begin() as connection:
            state = connection.scalar(
                text("SELECT state FROM budget_entries WHERE entry_id = :id"), {"id": intent["budget_entry"]}
            )
        assert state in ("committed", "released")  # the second where another process was faster
        self.world.drawn += 1
        noisy = opendp_noise.discrete_gaussian(values, sigma)
        self.stop("after draw")
        return noisy

    calibrate_sigma = staticmethod(opendp_noise.calibrate_sigma)
    gaussian_event = staticmethod(opendp_noise.gaussian_event)

    @property
    def intent(self) -> tuple[str, str]:
        return "intent", self.party

    @property
    def last_intent(self) -> Mapping[str, Any]:
        return next(body for kind, body in reversed(self.world.log) if (kind, body.get("caller")) == self.intent)

    def run(self) -> None:
        while self.asks:
            try:
                self.ask(self.asks[0])
            except BudgetError as exc:
                self.world.refused += 1
                self.world.lost += exc.reason is Reason.ANSWER_LOST
            except Crash:
                self.world.crashes += 1
                self.open()
                continue  # the asker saw a lost connection, and asks again
            self.asks.pop(0)
        self.done = True

    def ask(self, what: Any) -> None:
        if isinstance(what, CubeSpec):
            source = what.name
            key, answer = (what.name,), self.desk.cube(what.name, self.party)
        else:
            partners = self.world.random.sample(what, len(what))
            key, answer = ("ad hoc", *sorted(what)), self.desk.ask(*partners, party=self.party)
            stored = self.desk.store.released("e1")
            source = next(one.name for one in stored if answers(one.answer.question, Question(tuple(partners))))
            if self.last_intent["budget_entry"]:  # drawn, though another table may have been stored meanwhile
                source = answer.cube
        table = {(frozenset(members), labels): count for (members, labels), count in counts(answer.cells).items()}
        known = (*key, source) if self.world.losses else key
        assert self.world.answers.setdefault(known, table) == table
        self.world.answers.setdefault((*key, source), table)
        self.world.told[source] = answer.sigma
        assert self.world.state_of(source) == "released"
        log = self.world.log
        mine = max(at for at, (kind, body) in enumerate(log) if (kind, body.get("caller")) == self.intent)
        assert any(kind == "outcome" and body["intent"] == mine for kind, body in log)


class World:
    """One seed: files that survive, processes that do not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.engines = ENGINES
        for engine in ENGINES.values():
            with engine.begin() as connection:
                for name in connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all():
                    connection.execute(text(f"DELETE FROM {name}"))
        self.log: list[tuple[str, Mapping[str, Any]]] = []  # on disk
        self.answers: dict[tuple[str, ...], dict[Any, int]] = {}
        self.told: dict[str, float] = {}  # tables that anybody was given something of, and their sigma
        self.losses, self.may_lose = 0, seed % 2 == 1
        self.trace: list[str] = []
        self.fiber = getcurrent()
        self.at = NOW
        self.drawn = self.wasted = self.crashes = self.refused = self.lost = 0
        self.processes = [Process(self, number) for number in range(PROCESSES)]

    def play(self) -> None:
        while waiting := [process for process in self.processes if not process.done]:
            chance = self.random.random()
            chosen = self.random.choice(waiting)
            if chance < CRASH_RATE and self.trace:
                chosen.doomed = bool(chosen.asks) and self.under_way(chosen)
            elif chance < CRASH_RATE + JUMP_RATE:
                self.at = NOW + timedelta(days=self.random.choice([-400, -40, -1, 0, 1, 40, 400]))
            elif chance < CRASH_RATE + JUMP_RATE + LOSS_RATE and self.may_lose:
                self.lose()
            chosen.fiber.switch()  # what it raises ends the test

    def lose(self) -> None:
        """Every process dies, and of the answers only those of a backup are left."""
        for process in self.processes:
            process.doomed = bool(process.asks) and self.under_way(process)
        with self.engines["answers"].begin() as connection:
            kept = self.random.randint(0, 2)
            lost = connection.execute(
                text(
                    "DELETE FROM released_table WHERE place NOT IN "
                    "(SELECT place FROM released_table ORDER BY place LIMIT :kept)"
                ),
                {"kept": kept},
            )
            self.losses += bool(lost.rowcount)
        self.may_lose = not self.losses

    def state_of(self, table: str) -> str | None:
        """How far the ledger's entry of a table is."""
        with self.engines["budget"].begin() as connection:
            found: str | None = connection.scalar(
                text("SELECT state FROM budget_entries WHERE key LIKE :key AND state != 'cancelled'"),
                {"key": f"{table}/%"},
            )
        return found

    def under_way(self, process: Process) -> bool:
        """Whether it has made a first step: before that there is nothing to kill."""
        return any(line.startswith(process.party) for line in self.trace)

    def check(self) -> None:
        desk = self.processes[0].desk
        overview = desk.ledger.overview()
        assert all(scope.epsilon_spent <= scope.epsilon_limit for scope in overview.scopes)
        stored = [one.answer for one in desk.store.released("e1")]
        self.wasted = self.drawn - len(stored)
        assert self.losses or not self.lost
        told = [opendp_noise.gaussian_event(sigma, 1.0) for sigma in self.told.values()]
        assert epsilon_of(told, DELTA) <= overview.scopes[0].epsilon_spent + 1e-9
        assert len(stored) <= len(overview.entries)


@pytest.mark.parametrize("part", range(PARTS))
def test_interleaved_crashes_never_overspend_and_never_give_two_answers(part: int) -> None:
    crashes = refused = wasted = losses = lost = 0
    schedules = set()
    for seed in range(part * WORLDS, (part + 1) * WORLDS):
        world = World(seed)
        world.play()
        world.check()
        crashes += world.crashes
        refused += world.refused
        wasted += world.wasted if not world.losses else 0
        losses += world.losses
        lost += world.lost
        schedules.add(tuple(world.trace))
    assert len(schedules) > WORLDS * 0.99  # thousands of different interleavings over all parts
    assert crashes > WORLDS / 2  # else the simulation would show little
    assert refused > WORLDS / 20
    assert wasted > WORLDS / 10  # draws that a crash or a race threw away, and nobody saw
    assert losses > WORLDS / 10
    assert lost > WORLDS / 50  # tables that were given away, lost and asked for again
