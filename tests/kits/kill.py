"""A gateway and its partners in one thread, each of which can be killed at any step and comes back from its disk.

What a process has on disk is its database files; a kill is an exception that no code catches, raised at a statement or
a commit of a database, or where a message comes or goes. Time passes only where everybody waits. Equal seeds give equal
runs. Noise is off, so that models can be compared bit for bit.
"""

import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from federation.client.config import Limits, PartnerConfig
from federation.client.training.agent import TrainingAgent
from federation.client.training.approvals import Approvals
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.policy.specs import BudgetSpec, TrainingSpec
from federation.training.accountant import CustomerAccountant
from federation.training.flower import ArrayRecord, ConfigRecord, Message, unpack
from federation.v1 import training_pb2 as pb
from gateway.budget.ledger import SqlLedger
from gateway.release import ReleasePath
from gateway.rpc.training import TrainingServicer
from gateway.training.hub import Hub
from gateway.training.proposals import TrainingRules
from gateway.training.runner import LiveRun
from gateway.training.runs import OVER, RunRecord
from gateway.training.runs_sql import SqlRunStore
from tests.kits.lives import Killed, Life, Released, Service, Waiting
from tests.kits.training import (
    DELTA,
    NOW,
    PARTNERS,
    FrameData,
    Gates,
    OwnRules,
    identity_of,
    make_caller,
    make_press,
    make_rows,
    make_versions,
)

GATEWAY = "gateway"
BUDGET = BudgetSpec(
    period_start=date(2026, 1, 1),
    period_end=date(2027, 1, 1),
    delta=DELTA,
    epsilon=20,
    purposes={"model_training": 20},
)
MAX_STEPS = 4_000


class LoggingGates(Gates):
    """Policy and audit log of the gateway, which may die before and after it has logged something."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        """See Gates."""
        life = self._world.lives[GATEWAY]
        life.step()
        index = super().append(kind, body)
        life.step()
        return index


class World:
    """One alliance on one disk.

    Args:
        folder: The disk.
        spec: Of training.
        kills: Process to the numbers of its steps at which it is killed, once in each of its lives.
        limits: Of partners, where they are not the usual ones.
    """

    def __init__(
        self, folder: Path, spec: TrainingSpec, kills: dict[str, list[int]], limits: dict[str, Limits] | None = None
    ) -> None:
        self._folder, self._spec, self._kills = folder, spec, {name: list(at) for name, at in kills.items()}
        self._limits = limits or {}
        self.hook: Callable[[], None] = lambda: None
        """What people do while others wait; called again and again."""
        self.tamper: Callable[[str, pb.ExchangeMessagesRequest], list[pb.ExchangeMessagesRequest]] = lambda _, r: [r]
        """What becomes of a partner's reply on its way."""
        self.absent: set[str] = set()
        """Partners that are gone and do not come back by themselves."""
        self.gates, self.released = LoggingGates(self), Released()
        self.lives: dict[str, Life] = {}
        self.steps: dict[str, int] = defaultdict(int)
        self.now_s = 0.0
        self._queue: deque[tuple[str, pb.ExchangeMessagesResponse]] = deque()
        self._agents: dict[str, TrainingAgent] = {}
        self._sends: dict[str, Any] = {}
        self._data = {party: FrameData(make_rows(1500, seed)) for seed, party in enumerate(PARTNERS)}

    def play(self) -> RunRecord:
        """One run, asked for until it is over."""
        if not self._agents:
            self.begin()
        for _ in range(MAX_STEPS):
            try:
                record = self.turn()
                if record.state in OVER:
                    return record
            except Killed as killed:
                self._expect(killed, GATEWAY)
                self._start_gateway()
        raise AssertionError("the run does not end")

    def begin(self) -> None:
        """Everybody starts."""
        for party in PARTNERS:
            self._start_agent(party)
        self._start_gateway()

    def turn(self) -> RunRecord:
        """One message, or a moment in which nothing comes; then whatever run may begin or go on, to its end."""
        live = self.live()
        self._go_on(0.5)
        self.service.work()
        record = self.runs.find(live.run_id)
        assert record is not None
        return record

    @contextmanager
    def look_into(self, party: str) -> Iterator[CustomerAccountant]:
        """A partner's account, for the test."""
        self.lives[party].watched = True
        yield self._agents[party].accountant
        self.lives[party].watched = False

    def now(self) -> datetime:
        """The world is its own clock."""
        return NOW + timedelta(seconds=self.now_s)

    def approvals(self, party: str) -> Approvals:
        """A partner's own word, as its people give it."""
        return Approvals(open_database(self._folder / f"{party}.db"), self)

    def live(self) -> LiveRun:
        """The run, as a follower sees it."""
        return self.service.start(make_caller(), pb.TrainingProposal(), "k1")

    def wait(self) -> None:
        """One message, or a moment."""
        self._go_on(0.5)

    def restart_gateway(self) -> None:
        """In good order, between two steps."""
        self.service.stop(grace_s=0)
        self._start_gateway()

    def leave(self, party: str) -> None:
        """A partner's connection breaks, and its agent does not come back."""
        self.absent.add(party)
        self.hub.detach(party, self._sends.pop(party))

    def paid(self, *states: str) -> list[str]:
        """What is in the ledger; only what is in one of these states where some are named."""
        ledger = SqlLedger(open_database(self._folder / "budget.db"), lambda: BUDGET, FixedClock(NOW))
        return [entry.what for entry in ledger.overview().entries if not states or entry.state in states]

    def restore_registry(self, kept: Path) -> None:
        """The gateway starts again with the registry of runs of a backup; everything else is as it was."""
        self.service.stop(grace_s=0)
        for path in self._folder.glob("training.db*"):  # and what it has not written into it yet
            path.unlink()
        shutil.copyfile(kept, self._folder / "training.db")
        self._start_gateway()

    @staticmethod
    def _expect(killed: Killed, name: str) -> None:
        """Nobody's death is felt by another process but as a lost connection."""
        if killed.args != (name,):
            raise AssertionError(f"{killed.args} died inside {name}") from killed

    def _live(self, name: str) -> Life:
        if name in self.lives:
            self.steps[name] += self.lives[name].steps
        at = self._kills.get(name, [])
        self.lives[name] = Life(name, at.pop(0) if at else None)
        return self.lives[name]

    def _start_gateway(self) -> None:
        while True:
            try:
                return self._try_gateway()
            except Killed as killed:
                self._expect(killed, GATEWAY)

    def _try_gateway(self) -> None:
        life = self._live(GATEWAY)
        trained = life.open(self._folder / "training.db")
        ledger = SqlLedger(life.open(self._folder / "budget.db"), lambda: BUDGET, FixedClock(NOW))
        self.hub = Hub(reconnect_timeout_s=30.0, monotonic=lambda: self.now_s)
        self.hub._changed = Waiting(self._go_on)  # type: ignore[assignment]
        self.runs = SqlRunStore(trained)
        self.service = Service(
            hub=self.hub,
            runs=self.runs,
            release=ReleasePath(self.gates, ledger, self.gates),
            policy=self.gates,
            prices=ledger,
            audit=self.gates,
            rules=lambda: TrainingRules(self._spec, DELTA, PARTNERS),
            clock=self,
            press=make_press(trained),
            versions=make_versions(trained, self.gates),
            check_standing=lambda _: None,
            monotonic=lambda: self.now_s,
        )
        self.servicer = TrainingServicer(self.service, self.hub)
        self.service._runner._wake = Waiting(self._go_on)  # type: ignore[assignment]
        self._queue.clear()  # what was on the way is lost with the connections
        for party in PARTNERS:
            if party not in self.absent:
                self._attach(party)

    def _start_agent(self, party: str) -> None:
        while True:
            life = self._live(party)
            config = PartnerConfig(party=party, gateway="127.0.0.1:1", limits=self._limits.get(party, Limits()))
            stub: Any = None
            try:
                self._agents[party] = TrainingAgent(
                    stub,
                    data=self._data[party],
                    config=config,
                    policy=OwnRules(self._spec),
                    clock=self,
                    identity=identity_of(party),
                    engine=life.open(self._folder / f"{party}.db"),
                )
                return
            except Killed as killed:
                self._expect(killed, party)

    def _attach(self, party: str) -> None:
        def send(message: pb.ExchangeMessagesResponse | None) -> None:
            if message is not None and self._sends.get(party) is send:
                self._queue.append((party, message))

        self._sends[party] = send
        self.hub.attach(party, send)

    def _go_on(self, timeout_s: float) -> None:
        """Delivers one message, or lets time pass where there is none."""
        self.hook()
        self.lives[GATEWAY].step()
        if not self._queue:
            self.now_s += max(timeout_s, 0.01)
            return
        party, message = self._queue.popleft()
        if party in self.absent:
            return
        try:
            self.lives[party].step()
            answer = self._agents[party].answer(message)
            self.lives[party].step()
        except Killed as killed:
            self._expect(killed, party)
            self._start_agent(party)
            self._queue = deque(each for each in self._queue if each[0] != party)
            self.hub.detach(party, self._sends[party])
            self._attach(party)
            return
        if answer is None:
            return
        self._witness(party, message, answer)
        self.lives[GATEWAY].step()
        for request in self.tamper(party, answer) if answer.WhichOneof("part") == "reply" else [answer]:
            self.servicer._take(party, request)

    def _witness(self, party: str, asked: pb.ExchangeMessagesResponse, answer: pb.ExchangeMessagesRequest) -> None:
        """Notes what leaves, and that it was paid before."""
        if answer.WhichOneof("part") != "reply":
            return
        question, reply = (unpack(each, item="test") for each in (asked.message.message, answer.reply.message))
        if reply.has_error() or "key" in reply.content:
            return
        name = question.metadata.message_id
        with self.look_into(party) as accountant:
            assert name in accountant.charged(answer.reply.run_id)
        seen = sha256(_bytes(reply)).digest()
        self.released.replies[party, name].add(seen)
        self.released.rounds.add(question.metadata.group_id)
        config = question.content["config"]
        assert isinstance(config, ConfigRecord)
        offers = config.get("offers")
        if isinstance(offers, list):
            keys = tuple(bytes(offer) for offer in offers if isinstance(offer, bytes))
            self.released.attempts.add(keys)
            self.released.vectors_of_key[party, keys[PARTNERS.index(party)]].add(seen)


def _bytes(reply: Message) -> bytes:
    records = [reply.content[name] for name in sorted(reply.content)]
    arrays = [record[name] for record in records if isinstance(record, ArrayRecord) for name in sorted(record)]
    return b"".join(array.data for array in arrays)
