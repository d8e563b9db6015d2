"""Changes of a world's data between two deltas, and what set arithmetic says of the data as it is."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from federation.core.ids import Handle, PartyId
from tests.kits.overlap_world import Data, World

ALL = ("bank", "insurer", "airline")
TIER = "bank.value_tier"
Cells = dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], int]


def row_of(data: Data, person: str) -> str:
    return str(data.table.index[data.table["email"] == f"{person}@example.com"][0])


def consent(data: Data, **ids: Sequence[str]) -> None:
    data.consented = {**data.consented, **ids}


def remove(data: Data, person: str) -> None:
    name = row_of(data, person)
    data.table = data.table.drop(index=name)
    data.consented = {use: [i for i in ids if i != name] for use, ids in data.consented.items()}


def withdraw(data: Data, person: str, use: str = "overlap_statistics") -> None:
    name = row_of(data, person)
    consent(data, **{use: [i for i in data.consented[use] if i != name]})


def add(data: Data, name: str, person: str, **columns: str) -> None:
    row = dict.fromkeys(data.table.columns, "") | {"email": f"{person}@example.com"} | columns
    data.table = pd.concat([data.table, pd.DataFrame([row], index=[name])])
    data.consented = {use: [*ids, name] for use, ids in data.consented.items()}


def relabel(data: Data, person: str, **columns: str) -> None:
    table = data.table.copy()
    for column, value in columns.items():
        table.loc[row_of(data, person), column] = value
    data.table = table


def expected(world: World) -> Cells:
    """What set arithmetic over the files says, by the bank's label."""
    found: Counter[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = Counter()
    where: dict[str, dict[str, str]] = {}
    for party in ALL:
        data = world.data[party]
        for name in data.table.index:
            if name in data.consented["overlap_statistics"]:
                values = data.table.loc[name]
                mail = str(values["email"]).strip().lower()
                tier = str(values.get("value_tier", ""))
                where.setdefault(mail, {}).setdefault(party, tier if tier in {"basic", "high"} else "unknown")
    for places in where.values():
        members = tuple(party for party in ALL if party in places)
        found[members, ((TIER, places["bank"]),) if "bank" in places else ()] += 1
    return dict(found)


def counted(world: World, epoch: str) -> Mapping[Any, int]:
    return world.coordinator.index.exact(epoch, ALL, (TIER,))


def handle(name: str) -> Handle:
    return Handle(name.encode().ljust(16, b"."))


@contextlib.contextmanager
def answering(world: World) -> Iterator[None]:
    """Agents do at once what the gateway asks of them."""
    deltas = world.coordinator.deltas

    def answer() -> None:
        for party in ALL:
            for _, message in deltas.tasks(PartyId(party)):
                if message.WhichOneof("task") == "delta":
                    report = world.agents[party].work(message)
                    world.coordinator.report(
                        PartyId(party), report.task_id, report.reason, report.text, report.sequence
                    )
        world.work()

    deltas.listen(answer)
    try:
        yield
    finally:
        deltas._wake.remove(answer)


def restarted(world: World) -> World:
    """The same with new processes on what is on disk."""
    world.coordinator = world.open_coordinator()
    world.agents = {name: world.open_agent(name) for name in world.policy.parties}
    return world
