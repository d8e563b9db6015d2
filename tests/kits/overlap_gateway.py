"""The overlap service on a real port with mutual TLS, in a thread of this process; for tests and the benchmark."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from federation.client.agent import Part
from federation.client.connection import Connection
from federation.core.database import open_database
from federation.core.identity import Identity, Role, Subject, new_key
from federation.core.ids import PartyId
from federation.v1 import overlap_pb2_grpc
from gateway.identity.registry import Registry
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.answers import SqlAnswerStore
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.links import LinkRelease
from gateway.overlap.tables import Tables
from gateway.overlap.withdrawals import Withdrawals
from gateway.release import ReleasePath
from gateway.rpc.interceptor import Gatekeeper
from gateway.rpc.overlap import OverlapServicer
from gateway.rpc.port import Service, open_port
from tests.kits.overlap_world import ALLIANCE, World


class Log:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Mapping[str, Any]]] = []

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        self.entries.append((kind, body))
        return len(self.entries) - 1


class Ledger:
    """A ledger without limits."""

    def reserve(self, *, key: str, purpose: str, what: str, event: Any) -> str:
        return key

    def preview(self, purpose: str, event: Any) -> tuple[()]:
        return ()

    def commit(self, entry_id: str) -> None:
        pass

    def cancel(self, entry_id: str) -> None:
        pass

    def check(self, **_cost: Any) -> None:
        pass

    def mark_released(self, key: str) -> None:
        pass


class Gateway:
    """Serves a world's coordinator; agents run in threads while they are attached."""

    connect_s, answer_s = 0.5, 10.0

    def __init__(self, world: World, **timeouts: float) -> None:
        self.world, self.log = world, Log()
        self.loop = asyncio.new_event_loop()
        coordinator = world.coordinator
        tables = Tables(
            epochs=coordinator.epochs,
            index=coordinator.index,
            store=SqlAnswerStore(open_database(world.folder / "answers.db")),  # one in memory is for one thread
            path=ReleasePath(world.policy, Ledger(), self.log),
            clock=world.clock,
            confirm=Withdrawals(coordinator.deltas, connect_s=self.connect_s, answer_s=self.answer_s),
        )
        cubes, questions = CubeRelease(tables, world.policy), AdHocRelease(tables, world.policy, Ledger())
        self.servicer = OverlapServicer(coordinator, cubes, questions, LinkRelease(tables, cubes), **timeouts)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._agents: list[tuple[Connection, threading.Thread]] = []
        self.stop_agents = threading.Event()

    def __enter__(self) -> "Gateway":
        self._thread.start()
        self._server, port = self._run(self._open())
        self.address = f"127.0.0.1:{port}"
        return self

    def __exit__(self, *_args: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.detach()
        self._run(self._server.stop(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def connect(self, party: str, role: Role = Role.PARTNER) -> Connection:
        identity = self.world.identities.get(party) or self.world.identity(party, role)
        return Connection(self.address, identity)

    def attach(self, party: str, **changes: Any) -> Part:
        """Runs a partner's agent."""
        connection = self.connect(party)
        agent = self.world.open_agent(party, stub=connection.overlap, **changes)

        def serve() -> None:
            try:
                agent.serve(self.stop_agents)
            except Exception:  # the channel was closed under it: the test is over
                if not self.stop_agents.is_set():
                    raise

        thread = threading.Thread(target=serve, name=party)
        thread.start()
        self._agents.append((connection, thread))
        self._until(lambda: party in self.servicer.connected() or not thread.is_alive())
        return agent

    def detach(self) -> None:
        """Ends all agents."""
        self.stop_agents.set()
        for connection, _ in self._agents:
            connection.close()
        for _, thread in self._agents:
            thread.join(60)
        self._agents.clear()
        self.stop_agents.clear()

    @staticmethod
    def _until(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _open(self) -> Any:
        world = self.world
        subject, key = Subject(ALLIANCE, Role.GATEWAY, PartyId("gateway")), new_key()
        pem = world.authority.issue(key.public_key(), subject, world.clock.now(), ("127.0.0.1",))
        registry = Registry(open_database(None), ALLIANCE, world.authority.certificate, world.clock)
        service = Service("Overlap", overlap_pb2_grpc, self.servicer)
        identity = Identity(subject, key, pem, world.authority.certificate)
        return await open_port("127.0.0.1:0", identity, Gatekeeper(registry), [service], client_certificates=True)
