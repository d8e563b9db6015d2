"""A gateway and partners for tests of training: real gRPC on loopback, gates that say yes, small invented rows."""

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
from dp_accounting import DpEvent
from sqlalchemy import Engine

from federation.client.config import Limits, PartnerConfig
from federation.client.eligible import Eligible
from federation.client.training.agent import TrainingAgent
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import BudgetError, Reason
from federation.core.identity import Identity, Role, Subject, new_key
from federation.core.ids import PartyId, PolicyVersion
from federation.policy.facts import Decision, Facts, Given, Obligations
from federation.policy.specs import TrainingSpec
from federation.v1 import training_pb2 as pb
from federation.v1.models_pb2_grpc import add_ModelServiceServicer_to_server
from federation.v1.training_pb2_grpc import TrainingServiceStub, add_TrainingServiceServicer_to_server
from gateway.budget.overview import ScopePreview
from gateway.identity.authority import Authority
from gateway.identity.caller import Caller
from gateway.release import ReleasePath
from gateway.rpc.interceptor import Gatekeeper
from gateway.rpc.models import ModelServicer
from gateway.rpc.training import TrainingServicer
from gateway.training.evaluation import load_public_set
from gateway.training.hub import Hub
from gateway.training.losses import SqlLossStore
from gateway.training.press import Press
from gateway.training.proposals import TrainingRules
from gateway.training.runner import Patience
from gateway.training.runs_sql import SqlRunStore
from gateway.training.service import TrainingService
from gateway.training.versions import SqlStepStore, Versions

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ALLIANCE = "skyline"
PARTNERS = ("airline", "bank", "insurer")
DELTA = 1e-6
SPEC = TrainingSpec(
    max_epsilon=3,
    max_rounds=10,
    min_partners=2,
    trust="local",
    features=("age", "balance", "housing"),
    label="accepted_offer",
    rounds=3,
    steps_per_round=10,
    sampling_rate=0.2,
    clipping_norm=1,
    learning_rate=8,
    epsilon=2,
)


SUMMED = SPEC.model_copy(
    update={
        "trust": "secure_sum",
        "min_partners": 3,
        "rounds": 8,
        "steps_per_round": 1,
        "sampling_rate": 1.0,
        "clipping_norm": 0.35,
        "learning_rate": 32.0,
        "momentum": 0.5,
    }
)
"""A run with a secure sum; the other one is under local noise."""
_identities: dict[str, Identity] = {}
_AUTHORITY = Authority.create(ALLIANCE, NOW)


def identity_of(party: str, role: Role = Role.PARTNER, authority: Authority | None = None) -> Identity:
    """An identity that the tests' one CA (or another) issued; made once."""
    name = f"{role}/{party}"
    if authority is None and name in _identities:
        return _identities[name]
    subject, key = Subject(ALLIANCE, role, PartyId(party)), new_key()
    authority = authority or _AUTHORITY
    pem = authority.issue(key.public_key(), subject, NOW)
    identity = Identity(subject, key, pem, authority.certificate)
    if authority is _AUTHORITY:
        _identities[name] = identity
    return identity


def make_rows(rows: int, seed: int) -> pd.DataFrame:
    """Invented customers whose label depends on age and balance."""
    rng = np.random.default_rng(seed)
    age, balance = rng.integers(18, 90, rows), rng.normal(1500, 2500, rows).round()
    chance = 1 / (1 + np.exp(-(1.6 * (age > 55) + 1.6 * (balance > 2000) - 1.6)))
    frame = pd.DataFrame({"age": age, "balance": balance, "housing": rng.integers(0, 2, rows)})
    frame["accepted_offer"] = (rng.random(rows) < chance).astype(int)
    frame.index = pd.Index([f"C{seed}-{number:06d}" for number in range(rows)], name="customer_id")
    return frame


@dataclass
class FrameData:
    """A partner's rows without files; ``left_out`` are those whom the policy does not let in."""

    frame: pd.DataFrame
    left_out: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def customers(self) -> pd.DataFrame:
        return self.frame

    def eligible(
        self, purpose: str, data_category: str, recipient: str, *, fields: frozenset[str] = frozenset()
    ) -> Eligible:
        self.asked.append((purpose, data_category, recipient))
        customers = pa.array(self.frame.index.tolist(), pa.string())
        rows = np.flatnonzero(~self.frame.index.isin(self.left_out))
        refused = {"consent_withdrawn": len(self.left_out)} if self.left_out else {}
        return Eligible(customers, rows, refused, {})


@dataclass
class OwnRules:
    training: TrainingSpec = SPEC
    partners: tuple[str, ...] = PARTNERS
    region_of: Mapping[str, str] = field(default_factory=lambda: {"DE": "EEA", "PT": "EEA", "CN": "CN", "SG": "SG"})


@dataclass
class Gates:
    """Policy, ledger and audit log of a release path, in memory."""

    permit: bool = True
    budget_left: bool = True
    asked: list[Facts] = field(default_factory=list)
    events: list[DpEvent] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    log: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    @property
    def active(self) -> "Gates":
        return self

    def decide(self, facts: Facts) -> Decision:
        self.asked.append(facts)
        given = Given("test", "permitted" if self.permit else "forbidden", "because")
        return Decision(self.permit, (given,), Obligations(), PolicyVersion("v1"))

    def reserve(self, *, key: str, purpose: str, what: str, event: DpEvent) -> str:
        if not self.budget_left:
            raise BudgetError(Reason.BUDGET_EXHAUSTED, item=purpose)
        self.events.append(event)
        return key

    def preview(self, purpose: str, event: DpEvent) -> list[ScopePreview]:
        return [ScopePreview(purpose, 1.0, 0.0, 0.5 if self.budget_left else 2.0)]

    def commit(self, entry_id: str) -> None:
        pass

    def cancel(self, entry_id: str) -> None:
        self.events.pop()

    def mark_released(self, key: str) -> None:
        self.marked.append(key)

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        self.log.append((kind, body))
        return len(self.log) - 1


def make_press(engine: Engine, evaluation_csv: Path | None = None) -> Press:
    """What makes models with signed cards."""
    return Press(
        identity=identity_of("gateway", Role.GATEWAY),
        clock=FixedClock(NOW),
        losses=SqlLossStore(engine),
        public=load_public_set(evaluation_csv) if evaluation_csv else None,
    )


def make_versions(engine: Engine, gates: Gates) -> Versions:
    """Which version is in use."""
    return Versions(runs=SqlRunStore(engine), steps=SqlStepStore(engine), audit=gates, clock=FixedClock(NOW))


class MetadataGate(Gatekeeper):
    """The real interceptor, but the caller comes from metadata: these tests have no certificates."""

    def __init__(self) -> None:
        registry: Any = SimpleNamespace(check_live=lambda _caller: None)
        super().__init__(registry)

    def _authenticated(self, context: Any, method: str) -> Caller | None:
        names = dict(context.invocation_metadata())
        return make_caller(names["party"], Role(names["role"]))


def make_caller(party: str = "marketing", role: Role = Role.MARKETING) -> Caller:
    return Caller(party=PartyId(party), role=role, serial="1", expires_at=NOW + timedelta(days=1))


class PartyStub:
    """A stub whose every call says who calls."""

    def __init__(self, channel: grpc.Channel, party: str, role: Role, service: Any = TrainingServiceStub) -> None:
        self._stub, self._metadata = service(channel), (("party", party), ("role", str(role)))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._stub, name)
        return lambda request, **more: call(request, metadata=self._metadata, **more)


class Gateway:
    """A served gateway; ``stub`` gives anybody's stub."""

    def __init__(self, engine: Engine, spec: TrainingSpec, **options: Any) -> None:
        self.engine, self.gates, self.runs = engine, Gates(), SqlRunStore(engine)
        self.rules = TrainingRules(spec, DELTA, PARTNERS)
        self.hub = Hub(reconnect_timeout_s=options.pop("reconnect_timeout_s", 5.0))
        self.versions = make_versions(engine, self.gates)
        self.press = make_press(engine, options.pop("evaluation_csv", None))
        self.service = TrainingService(
            hub=self.hub,
            runs=self.runs,
            release=ReleasePath(self.gates, self.gates, self.gates),
            policy=self.gates,
            prices=self.gates,
            audit=self.gates,
            rules=lambda: self.rules,
            clock=FixedClock(NOW),
            press=self.press,
            versions=self.versions,
            check_standing=lambda _: None,
            patience=Patience(120, 5.0),
            **options,
        )
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._channels: list[grpc.Channel] = []
        self.port = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._started.wait(60)

    def channel(self) -> grpc.Channel:
        self._channels.append(grpc.insecure_channel(f"127.0.0.1:{self.port}"))
        return self._channels[-1]

    def stub(self, party: str = "marketing", role: Role = Role.MARKETING, service: Any = TrainingServiceStub) -> Any:
        return PartyStub(self.channel(), party, role, service)

    def close(self) -> None:
        self.service.stop(grace_s=0)
        for channel in self._channels:
            channel.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        server = grpc.aio.server(interceptors=[MetadataGate()])
        add_TrainingServiceServicer_to_server(TrainingServicer(self.service, self.hub), server)
        add_ModelServiceServicer_to_server(ModelServicer(self.versions, self.runs, self.press), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._started.set()
        await self._stop.wait()
        await server.stop(0.2)


class Partner:
    """An agent in a thread of its own; ``crash`` breaks its connection, ``begin`` brings it back."""

    def __init__(
        self,
        gateway: Gateway,
        party: str,
        data: Any,
        state: Path,
        *,
        spec: TrainingSpec = SPEC,
        limits: Limits | None = None,
    ) -> None:
        self.gateway, self.party, self.data, self.rules = gateway, party, data, OwnRules(spec)
        self.config = PartnerConfig(party=party, gateway="127.0.0.1:1", limits=limits or Limits())
        self.engine = open_database(state / "agent.db")
        self.begin()

    def begin(self) -> None:
        self.channel = self.gateway.channel()
        stub: Any = PartyStub(self.channel, self.party, Role.PARTNER)
        self.agent = TrainingAgent(
            stub,
            data=self.data,
            config=self.config,
            policy=self.rules,
            clock=FixedClock(NOW),
            identity=identity_of(self.party),
            engine=self.engine,
        )
        self.thread = threading.Thread(target=self._serve, args=(self.agent, self.channel), daemon=True)
        self.thread.start()

    def crash(self) -> None:
        self.channel.close()
        self.thread.join(10)

    def _serve(self, agent: TrainingAgent, channel: grpc.Channel) -> None:
        with contextlib.suppress(grpc.RpcError, ValueError):  # the channel is closed under it
            agent.serve(threading.Event())


@contextmanager
def alliance(
    spec: TrainingSpec = SPEC, rows: int = 3000, evaluation_csv: Path | None = None, **options: Any
) -> Iterator[tuple[Gateway, dict[str, Partner]]]:
    """A gateway with its three partners connected."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        gateway = Gateway(open_database(state / "gateway.db"), spec, evaluation_csv=evaluation_csv, **options)
        try:
            partners = {
                party: Partner(gateway, party, FrameData(make_rows(rows, seed)), state / party, spec=spec)
                for seed, party in enumerate(PARTNERS)
            }
            wait_for(lambda: gateway.hub.connected() == set(PARTNERS))
            yield gateway, partners
        finally:
            gateway.close()


def wait_for(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """Waits until something is so; generous, because a test asserts no time."""
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("did not happen in time")


def follow(gateway: Gateway, key: str = "", **fields: Any) -> list[pb.StartRunResponse]:
    """Starts a run as marketing and follows it to its end."""
    request = pb.StartRunRequest(proposal=pb.TrainingProposal(**fields), idempotency_key=key)
    return list(gateway.stub().StartRun(request, timeout=60))
