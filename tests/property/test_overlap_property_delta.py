"""The whole protocol, builds and any deltas after them, against plain set arithmetic; noise is off.

Two to five partners with one to three key types, people with several identifiers who share some, twice in one file,
with and without decoys. After every step the counts are those of files and consents as they are, and the switchboard
joins exactly the handles that the identifiers join.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.client.config import DataConfig
from federation.client.data import PartnerData
from federation.client.files import lines
from federation.client.files.columns import ColumnStore
from federation.client.files.derived import Derive, Derived, Look
from federation.core.clock import FixedClock
from federation.core.ids import Handle, PartyId
from federation.overlap.plan import key_types_of
from tests.conftest import NOW
from tests.kits.columns import as_if_long
from tests.kits.overlap_world import Data, World, make_policy

KINDS = ("email", "phone", "national_id")
NAMES = ("a", "b", "c", "d", "e")
LABELS = ("x", "y", "unknown")
Row = tuple[str, str, tuple[int, int, int]]
"""Customer, label and one identifier of each key type; 0 is none."""
Step = tuple[str, list[Row] | None, set[str]]
"""Partner, its new file (None: as it was) and the customers who withdrew since."""


def rows(most: int = 6) -> st.SearchStrategy[list[Row]]:
    row = st.tuples(
        st.sampled_from([f"C{n}" for n in range(8)]), st.sampled_from(LABELS[:2]), st.tuples(*[st.integers(0, 4)] * 3)
    )
    return st.lists(row, max_size=most, unique_by=lambda one: one[0])


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, int, dict[str, list[Row]], list[Step]]:
    names = NAMES[: draw(st.integers(2, 5))]
    key_type = draw(st.sampled_from(["email", "email+phone", "any"]))
    files = {name: draw(rows()) for name in names}
    customers = st.sets(st.sampled_from([f"C{n}" for n in range(8)]), max_size=4)
    step = st.tuples(st.sampled_from(names), st.none() | rows(), customers)
    return key_type, draw(st.sampled_from([1, 3])), files, draw(st.lists(step, min_size=1, max_size=4))


class Filed(Data):
    """The same from a file, of which only what is new is parsed again."""

    file: Path

    def derived(self, names: Sequence[str], optional: Sequence[str], derive: Derive) -> Any:
        nobody: Any = None  # who may be there is said by ``consented``
        config, store = DataConfig(customers=self.file), ColumnStore(self.file.parent)
        inner = PartnerData(config, "", nobody, nobody, FixedClock(NOW), store)
        return Written(self, inner.derived(names, optional, derive))


@dataclass
class Written:
    """Writes the file before it is looked at."""

    data: Filed
    derived: Derived

    def read(self) -> Look:
        self.data.table.to_csv(self.data.file, index_label="customer_id")
        return self.derived.read()


def data_of(party: str, file: Sequence[Row], withdrawn: set[str]) -> Data:
    ids = [f"{party}{customer}" for customer, _, _ in file]
    table = pd.DataFrame({"c": [label for _, label, _ in file]}, index=pd.Index(ids, dtype=object))
    spelled: Any = {
        "email": lambda n: f"p{n}@example.com" if n else "",
        "phone": lambda n: f"+1 202 555 010{n}" if n else "",
        "national_id": lambda n: f"ID-7431{n}" if n else "",
    }
    for slot, kind in enumerate(KINDS):
        table[kind] = [spelled[kind](numbers[slot]) for _, _, numbers in file]
    there = [name for name, (customer, _, _) in zip(ids, file, strict=True) if customer not in withdrawn]
    return Data(table, {"overlap_statistics": there, "offer_sharing": there})


class Truth:
    """What the files say, the slow way."""

    def __init__(self, files: dict[str, list[Row]], withdrawn: dict[str, set[str]], kinds: int) -> None:
        there = [
            (party, f"{party}{customer}", label, numbers[:kinds])
            for party, file in files.items()
            for customer, label, numbers in file
            if customer not in withdrawn[party] and any(numbers[:kinds])
        ]
        groups: list[tuple[set[tuple[int, int]], list[Any]]] = []
        for row in there:
            keys, members = {(slot, one) for slot, one in enumerate(row[3]) if one}, [row]
            apart = []
            for other in groups:
                if other[0] & keys:
                    keys |= other[0]
                    members += other[1]
                else:
                    apart.append(other)
            groups = [*apart, (keys, members)]
        self.handles = {frozenset((party, name) for party, name, _, _ in members) for _, members in groups}
        first = {(party, numbers): label for party, _, label, numbers in reversed(there)}
        self.cells = Counter(
            self._cell(tuple(files), {(party, numbers) for party, _, _, numbers in members}, first)
            for _, members in groups
        )

    @staticmethod
    def _cell(names: Sequence[str], people: set[Any], first: dict[Any, str]) -> Any:
        labels: dict[str, int] = {}
        for party, numbers in people:
            number = LABELS.index(first[party, numbers])
            labels[party] = min(number, labels.get(party, number))
        members = tuple(name for name in names if name in labels)
        return members, tuple((f"{name}.c", LABELS[labels[name]]) for name in members)


def joined(world: World) -> set[frozenset[tuple[str, str]]]:
    find = world.coordinator.switchboard.handles
    names = [(PartyId(party), name) for party, data in world.data.items() for name in data.table.index]
    people = (find(party, Handle(name.encode().ljust(16, b".")), 99) for party, name in names)
    return {frozenset((party, handle.rstrip(b".").decode()) for party, handle in who) for who in people if who}


@pytest.mark.timeout(900)
@settings(
    max_examples=60 if os.environ.get("ENTENTE_LONG") else 6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(histories(), st.booleans(), st.booleans())
def test_builds_and_deltas_are_set_arithmetic(
    history: tuple[str, int, dict[str, list[Row]], list[Step]], long: bool, filed: bool
) -> None:
    key_type, pad_to, files, steps = history
    kinds = len(key_types_of(key_type))
    withdrawn: dict[str, set[str]] = {name: set() for name in files}
    policy = make_policy(list(files), {name: {"c": LABELS[:2]} for name in files}, pad_to)
    with as_if_long(long), tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_FEW", 1.0)
        data = {name: data_of(name, file, set()) for name, file in files.items()}
        for name in files if filed else ():
            data[name] = Filed(data[name].table, data[name].consented)
            data[name].file = Path(folder) / f"{name}.csv"
        config = DataConfig(phone_numbers="possible", max_empty_share=1.0)
        world = World(Path(folder), FixedClock(NOW), policy, data, config)
        epoch = world.build(key_type)
        columns = [f"{name}.c" for name in files]

        def check() -> None:
            truth = Truth(files, withdrawn, kinds)
            assert world.coordinator.index.exact(epoch, tuple(files), columns) == dict(truth.cells)
            assert joined(world) == truth.handles

        check()
        for party, file, gone in steps:
            if file is not None:
                files[party], withdrawn[party] = file, set()
            withdrawn[party] |= gone
            new = data_of(party, files[party], withdrawn[party])
            world.data[party].table, world.data[party].consented = new.table, new.consented
            world.update(party, withdrawals_only=file is None)
            check()
