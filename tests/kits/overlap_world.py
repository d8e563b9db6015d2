"""An alliance in one process for tests of the overlap: real agents and a real coordinator, the network left out."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from federation.client.config import DataConfig, PartnerConfig
from federation.client.files.derived import Derive, Look
from federation.client.overlap import agent as agent_module
from federation.client.overlap.agent import OverlapAgent
from federation.core.clock import Clock
from federation.core.errors import DataError, OverlapError, Reason
from federation.core.identity import Identity, Role, Subject, new_key
from federation.core.ids import CustomerId, Handle, PartyId
from federation.policy.facts import Decision, Facts, Given, Obligations
from federation.policy.specs import AdHocSpec, BudgetSpec, CubeSpec, PartySpec
from federation.v1 import overlap_pb2 as pb
from gateway.identity.authority import Authority
from gateway.overlap.coordinator import Coordinator
from gateway.overlap.epochs import known_epoch

ALLIANCE = "skyline"
SEGMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "bank": {"value_tier": ("basic", "potential", "high", "strategic")},
    "insurer": {"life_stage": ("starter", "family", "established", "senior")},
    "airline": {"activity": ("silent", "occasional", "active")},
}
SMALL_SEGMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "bank": {"value_tier": ("basic", "high")},
    "insurer": {"life_stage": ("family",)},
    "airline": {"activity": ("active",)},
}


@dataclass
class Policy:
    """Stands for a policy set, and for the holder of the active one."""

    parties: dict[str, PartySpec]
    cubes: dict[str, CubeSpec] = field(default_factory=dict)
    budget: BudgetSpec = field(
        default_factory=lambda: BudgetSpec(
            period_start=date(2026, 1, 1),
            period_end=date(2027, 1, 1),
            delta=1e-6,
            epsilon=8,
            purposes={"overlap_statistics": 6},
        )
    )
    ad_hoc: AdHocSpec = field(default_factory=AdHocSpec)
    permitted: bool = True
    min_k: int | None = None
    version: str = "v1"
    asked: list[Facts] = field(default_factory=list)

    @property
    def active(self) -> "Policy":
        return self

    def decide(self, facts: Facts) -> Decision:
        self.asked.append(facts)
        reasons = (Given("rule-1", "ok" if self.permitted else "forbidden", "as the test says"),)
        return Decision(self.permitted, reasons, Obligations(min_k=self.min_k), self.version)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Eligible:
    permitted: pa.Array
    refused: dict[str, int]

    def rows_among(self, customers: pa.Array) -> Any:
        return np.flatnonzero(np.asarray(pc.is_in(customers, value_set=self.permitted)))


@dataclass
class _Derived:
    """Reads everything each time."""

    data: "Data"
    names: tuple[Sequence[str], Sequence[str]]
    derive: Derive

    def read(self) -> Look:
        table = self.data.columns(*self.names)
        [batch] = table.to_batches() or [
            pa.record_batch([pa.array([], kind) for kind in table.schema.types], schema=table.schema)
        ]
        columns, extras = self.derive(batch)
        return Look(tuple(columns), tuple(extras), None, lambda _rows: iter(()))


@dataclass
class Data:
    """A partner's rows; ``consented`` names who may be in each use."""

    table: pd.DataFrame
    consented: Mapping[str, Sequence[str]]
    said: Sequence[str] = ()
    """Of whom something was recorded apart from that."""

    def recorded(self, _purpose: str) -> Sequence[CustomerId]:
        return [CustomerId(name) for name in self.said]

    def columns(self, names: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
        if missing := [name for name in names if name not in self.table.columns]:
            raise DataError(Reason.MISSING_COLUMN, item=f"column {missing[0]}")
        found: dict[str, Any] = {"customer_id": self.table.index}
        found |= {name: self.table[name] for name in (*names, *optional) if name in self.table.columns}
        texts = {name: ["" if pd.isna(value) else str(value) for value in found[name]] for name in found}
        return pa.table({name: pa.array(values, pa.string()) for name, values in texts.items()})

    def derived(self, names: Sequence[str], optional: Sequence[str], derive: Derive) -> Any:
        return _Derived(self, (names, optional), derive)

    def holdings(self) -> pd.DataFrame:
        raise AssertionError("nothing is derived from holdings")

    def eligible(
        self, purpose: str, data_category: str, recipient: str, *, fields: frozenset[str] = frozenset()
    ) -> Eligible:
        assert (data_category, recipient) == ("blinded_identifier", "gateway")
        names = pa.array(list(self.consented[purpose]), pa.string())
        return Eligible(names, {"consent_missing": len(self.table) - len(names)})


class Handles:
    """Handles that a test can read: the party's first letter and the customer's id, padded."""

    def handles_for(self, ids: Sequence[CustomerId]) -> list[Handle]:
        return [Handle(name.encode().ljust(16, b".")) for name in ids]

    def named(self, some: Sequence[Handle]) -> list[tuple[CustomerId, Handle]]:
        texts = ((handle.rstrip(b"."), handle) for handle in some)
        return [(CustomerId(text.decode()), handle) for text, handle in texts if text.isascii() and text != handle]


def make_policy(partners: Sequence[str], segments: Mapping[str, Any] | None = None, pad_to: int = 1) -> Policy:
    columns = SEGMENTS if segments is None else segments
    return Policy(
        {
            name: PartySpec(
                id=name, role="partner", display_name=name, country="DE", segments=columns.get(name, {}), pad_to=pad_to
            )
            for name in partners
        }
    )


class World:
    """Partners with their agents, and the gateway's coordinator. Calls go straight through, as their own party."""

    def __init__(
        self, folder: Path, clock: Clock, policy: Policy, data: Mapping[str, Any], config: DataConfig | None = None
    ) -> None:
        self.folder, self.clock, self.policy, self.data = folder, clock, policy, data
        self.config = config or DataConfig(phone_numbers="possible", max_empty_share=1)
        self.authority = Authority.create(ALLIANCE, clock.now())
        self.identities = {name: self.identity(name) for name in policy.parties}
        self.coordinator = self.open_coordinator()
        self.agents = {name: self.open_agent(name) for name in policy.parties}
        self.together = False  # whether agents blind small batches together, as they do when they serve

    def identity(self, party: str, role: Role = Role.PARTNER, alliance: str = ALLIANCE) -> Identity:
        key, subject = new_key(), Subject(alliance, role, PartyId(party))
        pem = self.authority.issue(key.public_key(), subject, self.clock.now())
        return Identity(subject, key, pem, self.authority.certificate)

    def open_coordinator(self) -> Coordinator:
        ca = self.authority.certificate
        return Coordinator(self.folder / "gateway", alliance=ALLIANCE, ca=ca, policies=self.policy, clock=self.clock)

    def partner_config(self, party: str) -> PartnerConfig:
        return PartnerConfig(party=party, gateway="127.0.0.1:1", state=self.folder / party, data=self.config)

    def open_agent(self, party: str, **changes: Any) -> OverlapAgent:
        parts: dict[str, Any] = {
            "stub": Direct(self, PartyId(party)),
            "identity": self.identities[party],
            "data": self.data[party],
            "handles": Handles(),
            "config": self.partner_config(party),
            "policy": self.policy,
            "clock": self.clock,
        }
        return OverlapAgent(**{**parts, **changes})

    def plan(self, epoch: str) -> pb.EpochPlan:
        """The plan of an epoch."""
        return known_epoch(self.coordinator.epochs, epoch).plan

    def work(self, most: int = 1000) -> int:
        """Lets every agent do what waits for it, round after round, at most so many tasks; returns how many."""
        done = 0
        while True:
            tasks = [(party, message) for party in self.agents for _, message in self.coordinator.tasks(PartyId(party))]
            for party, message in tasks:
                if done == most:
                    return done
                if message.WhichOneof("task") == "submit":
                    self.agents[party].submit(message.submit.plan)
                elif not self.together:
                    self.agents[party].blind(message.blind.batch_id)
                done += 1
            if self.together:
                for party, agent in self.agents.items():
                    agent._blind_waiting(deque(m for who, m in tasks if who == party and m.HasField("blind")))
            if not tasks and not self.coordinator.deltas.settle():
                return done

    def build(self, key_type: str = "email", epoch: str = "") -> str:
        name = self.coordinator.begin(epoch, key_type)
        self.work()
        self.coordinator.finish(name)
        self.tell()
        return name

    def tell(self) -> None:
        """Lets every agent hear which epoch is complete."""
        newest = self.coordinator.deltas.newest()
        for agent in self.agents.values() if newest is not None else ():
            agent.complete(newest.plan)

    def update(self, *parties: str, withdrawals_only: bool = False) -> None:
        """Lets partners, or all of them, send what changed, and waits until it is in both indexes."""
        newest = self.coordinator.deltas.newest()
        assert newest is not None
        for party in parties or tuple(self.agents):
            self.agents[party].update(newest.plan, withdrawals_only=withdrawals_only)
        self.work()


def one_by_one(patch: pytest.MonkeyPatch) -> None:
    """Has partners send each of their own batches as a stream, as they do with large ones."""
    patch.setattr(agent_module, "MAX_TOGETHER_POINTS", -1)


class Direct:
    """A stub that calls the coordinator in this process, as one party."""

    def __init__(self, world: World, party: PartyId) -> None:
        self._world, self._party = world, party

    def GetBatch(self, request: pb.GetBatchRequest) -> "Parts":
        header, chunks = self._world.coordinator.carrier.carry(self._party, request.batch_id, request.from_row)
        return Parts([header, *chunks])

    def PutBatch(self, messages: Iterator[pb.PutBatchRequest]) -> Iterator[pb.PutBatchResponse]:
        carrier = self._world.coordinator.carrier
        expected = carrier.expect(self._party, next(messages).header)
        if expected.here:
            yield expected.delivered
            return
        incoming = carrier.receive(expected)
        try:
            yield pb.PutBatchResponse(durable_rows=incoming.durable_rows)
            for message in messages:
                incoming.add(message.chunk.points, message.chunk.handles)
            yield from carrier.accept((expected, incoming))
        except OverlapError:
            incoming.discard()
            raise
        finally:
            incoming.close()

    def GetBatches(self, request: pb.GetBatchesRequest) -> pb.GetBatchesResponse:
        carrier = self._world.coordinator.carrier
        return pb.GetBatchesResponse(batches=carrier.carry_together(self._party, request.batch_ids))

    def PutBatches(self, request: pb.PutBatchesRequest) -> pb.PutBatchesResponse:
        taken = self._world.coordinator.carrier.take(self._party, request.batches)
        return pb.PutBatchesResponse(batches=[answer for _, answer in taken])

    def ReportOverlapTask(self, report: pb.ReportOverlapTaskRequest) -> None:
        self._world.coordinator.report(self._party, report.task_id, report.reason, report.text, report.sequence)


class Parts:
    """A stream of responses that a test wrote."""

    def __init__(self, parts: Sequence[pb.BatchHeader | bytes]) -> None:
        self._parts = iter(parts)

    def __iter__(self) -> "Parts":
        return self

    def __next__(self) -> pb.GetBatchResponse:
        part = next(self._parts)
        if isinstance(part, bytes):
            return pb.GetBatchResponse(chunk=pb.PointsChunk(points=part))
        return pb.GetBatchResponse(header=part)

    def cancel(self) -> None:
        self._parts = iter(())


def people(party: str, rows: Mapping[str, str], column: str = "", sharing: Sequence[int] | None = None) -> Data:
    """A partner's data: person to label; everybody agreed to statistics, ``sharing`` (by row) also to offers."""
    ids = [f"{party[:1].upper()}{number:06d}" for number in range(len(rows))]
    table = pd.DataFrame({"email": [f"{name}@example.com" for name in rows], "phone": ""}, index=ids)
    if column:
        table[column] = list(rows.values())
    chosen = ids if sharing is None else [ids[number] for number in sharing]
    return Data(table, {"overlap_statistics": ids, "offer_sharing": chosen})


def small_world(folder: Path, clock: Clock, pad_to: int = 1, extra: Mapping[str, Any] | None = None) -> World:
    """Three partners, few people: p0 to p9 at the bank, p5 to p14 at the insurer, even ones at the airline."""
    data: dict[str, Any] = {
        "bank": people("bank", {f"p{n}": ("basic", "high")[n % 2] for n in range(10)}, "value_tier"),
        "insurer": people("insurer", {f"p{n}": "family" for n in range(5, 15)}, "life_stage"),
        "airline": people("airline", {f"p{n}": "odd-label" for n in range(0, 20, 2)}, "activity"),
        **(extra or {}),
    }
    return World(folder, clock, make_policy(sorted(data), SMALL_SEGMENTS, pad_to), data)


VENN = {
    ("bank",): 2, ("insurer",): 2, ("airline",): 2, ("bank", "insurer"): 3, ("bank", "airline"): 3,
    ("insurer", "airline"): 3, ("bank", "insurer", "airline"): 2,
}  # fmt: skip
"""The regions of ``small_world``."""


def venn(world: World, epoch: str) -> dict[tuple[str, ...], int]:
    """What the index counts in each region."""
    exact = world.coordinator.index.exact(epoch, ("bank", "insurer", "airline"), ())
    return {members: count for (members, _), count in exact.items()}
