"""Processes of a simulation in one thread: each is alive until a step that it does not survive.

What a process has on disk is its database files; a kill is an exception that no code catches, raised at a statement or
a commit of a database, or where a message comes or goes.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from federation.core.database import open_database
from gateway.training.runner import LiveRun
from gateway.training.service import TrainingService


class Killed(BaseException):
    """The process is gone; carries its name."""


def killing(owner: Any, name: str, *, after: bool, at: int) -> Callable[..., Any]:
    """A function or method that kills whoever calls it for the ``at``-th time, before it did its work or after."""
    real, calls = getattr(owner, name), 0

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            raise Killed
        result = real(*args, **kwargs)
        if calls == at:
            raise Killed
        return result

    return step


@dataclass
class Life:
    """One process from its start to its end."""

    name: str
    kill_at: int | None = None
    steps: int = 0
    dead: bool = False
    watched: bool = False
    """The test looks into it; that is no step."""

    def step(self) -> None:
        """Something that a kill may come before."""
        if self.watched:
            return
        if not self.dead:
            self.steps += 1
            self.dead = self.steps == self.kill_at
        if self.dead:
            raise Killed(self.name)

    def open(self, path: Path) -> Engine:
        """A database of this process."""
        engine = open_database(path)

        @event.listens_for(engine, "connect")
        def fast(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA synchronous=OFF")  # a killed process leaves its files; the machine stays up

        @event.listens_for(engine, "before_cursor_execute")
        def before(*_: Any) -> None:
            self.step()

        @event.listens_for(engine, "commit")
        def commit(_connection: Any) -> None:
            self.step()

        return engine


class Service(TrainingService):
    """The service, whose runs are executed by the test's own thread."""

    def _dispatch(self) -> None:
        pass

    def work(self) -> None:
        """Executes what may begin or go on."""
        with self._lock:
            first: LiveRun | None = self._take()
        self._work(first)


class Waiting:
    """In place of a condition and an event: whoever waits has the world go on."""

    def __init__(self, go_on: Callable[[float], None]) -> None:
        self._go_on = go_on

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, timeout: float) -> None:
        self._go_on(timeout)

    def notify_all(self) -> None:
        pass

    set = clear = notify_all


@dataclass
class Released:
    """What has left the partners, as the wire saw it."""

    replies: dict[tuple[str, str], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """Digests of the answers to each question, by party and message id; keys are no answers."""
    vectors_of_key: dict[tuple[str, bytes], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    attempts: set[tuple[bytes, ...]] = field(default_factory=set)
    """Sets of keys under which at least one vector left."""
    rounds: set[str] = field(default_factory=set)
