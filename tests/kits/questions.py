"""An epoch made of a list of people, and everything that a question passes on its way; nothing of the protocol."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.identity import Role
from federation.core.ids import EpochId, PartyId
from federation.overlap.questions import Cell, Columns, owner
from federation.policy.specs import AdHocSpec, CubeSpec
from federation.privacy import noise as opendp_noise
from federation.v1 import overlap_pb2 as pb
from gateway.budget.ledger import SqlLedger
from gateway.identity.caller import Caller
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.answers import SqlAnswerStore
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.links import LinkRelease
from gateway.overlap.tables import Tables
from gateway.release import ReleasePath
from tests.conftest import NOW
from tests.kits.overlap_world import Policy

Person = Mapping[str, Mapping[str, str]]
"""For each partner somebody is at, the labels there."""
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "bank": {"tier": ("basic", "high"), "holds_gold": ("yes", "no"), "value": ("low", "high")},
    "insurer": {"stage": ("family", "senior"), "holds_home": ("yes", "no")},
    "airline": {"activity": ("active", "silent")},
}


@dataclass
class People:
    """Stands for the statistics index: exact counts of a list of people, the same in every epoch."""

    people: Sequence[Person]
    columns: Columns = field(default_factory=lambda: COLUMNS)
    reads: int = 0

    def labels(self, _epoch: str) -> Columns:
        return self.columns

    def of(self, _epoch: str) -> Sequence[Person]:
        """Who is in an epoch."""
        return self.people

    def generation(self, _epoch: str) -> int:
        return 0

    def exact(self, epoch: str, partners: Sequence[str], by: Sequence[str]) -> dict[Cell, int]:
        self.reads += 1
        found: Counter[Cell] = Counter()
        for person in self.of(epoch):
            members = tuple(party for party in partners if party in person)
            if members:
                columns = [column for column in by if owner(column) in members]
                found[members, tuple((c, person[owner(c)][c.partition(".")[2]]) for c in columns)] += 1
        return dict(found)


class Epochs:
    """Stands for the epochs: so many are complete, e1 first."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        plan = pb.EpochPlan(key_type="email")
        self._found = {
            f"e{n}": SimpleNamespace(epoch=f"e{n}", state="complete", plan=plan) for n in range(1, count + 1)
        }

    def newest_complete(self) -> EpochId:
        return EpochId(f"e{self.count}")

    def get(self, epoch: str) -> Any:
        return self._found.get(epoch)


class Log:
    """An audit log that keeps entries."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Mapping[str, Any]]] = []

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        self.entries.append((kind, body))
        return len(self.entries) - 1


class Forgetful:
    """A store that keeps nothing: every question is a release of its own, which is the fault to be found."""

    def get(self, name: str, epoch: str, shape: str) -> None:
        return None

    def put(self, name: str, epoch: str, shape: str, make: Callable[[Sequence[Any]], Any]) -> tuple[Any, bool]:
        return make([]), True

    def released(self, epoch: str) -> list[Any]:
        return []


class Free:
    """A ledger without limits, for worlds by the thousand."""

    def reserve(self, **_cost: Any) -> str:
        return "entry"

    def commit(self, entry_id: str) -> None:
        pass

    def cancel(self, entry_id: str) -> None:
        pass

    def check(self, **_cost: Any) -> None:
        pass

    def mark_released(self, key: str) -> None:
        pass

    def preview(self, purpose: str, event: Any) -> tuple[()]:
        return ()


class Exact:
    """Noise that is none."""

    def __init__(self) -> None:
        self.draws = 0

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        self.draws += 1
        return list(values)

    calibrate_sigma = staticmethod(opendp_noise.calibrate_sigma)
    gaussian_event = staticmethod(opendp_noise.gaussian_event)


def person(**places: str) -> Person:
    """At these partners; the value is the first column's, every other column has its first value."""
    found = {}
    for party, label in places.items():
        names = list(COLUMNS[party])
        found[party] = {name: COLUMNS[party][name][0] for name in names} | {names[0]: label}
    return found


class Asking:
    """Cubes, questions and links over one epoch."""

    def __init__(
        self,
        people: Sequence[Person],
        *cubes: CubeSpec,
        noise: Any = opendp_noise,
        ad_hoc: AdHocSpec | None = None,
        open_engine: Callable[[str], Engine] = lambda _name: open_database(None),
        log: Any = None,
        index: People | None = None,
        epochs: int = 1,
        ledger: Any = None,
        entry_ids: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.index, self.clock, self.log = index or People(people), FixedClock(NOW), log or Log()
        rules = ad_hoc or AdHocSpec(allowed=True, max_epsilon=1.0, default_epsilon=0.5, min_count=0)
        self.policy = Policy({}, {cube.name: cube for cube in cubes}, ad_hoc=rules)
        self.ledger: Any = ledger or SqlLedger(open_engine("budget"), lambda: self.policy.budget, self.clock, entry_ids)
        self.store = SqlAnswerStore(open_engine("answers"))
        self.tables = Tables(
            epochs=Epochs(epochs),  # type: ignore[arg-type]
            index=self.index,
            store=self.store,
            path=ReleasePath(self.policy, self.ledger, self.log),
            clock=self.clock,
            confirm=lambda _epoch, _partners: None,
            noise=noise,
        )
        self.cubes = CubeRelease(self.tables, self.policy)
        self.questions = AdHocRelease(self.tables, self.policy, self.ledger)
        self.links = LinkRelease(self.tables, self.cubes)

    def cube(self, name: str, party: str = "mkt", epoch: str = "") -> pb.QueryCubeResponse:
        return self.cubes.query(self.caller(party), name, epoch)

    def ask(self, *partners: str, party: str = "mkt", **rest: Any) -> pb.QueryCubeResponse:
        return self.questions.query(self.caller(party), pb.TableQuestion(partners=partners, **rest))

    def preview(self, *partners: str, **rest: Any) -> pb.PreviewTableResponse:
        return self.questions.preview(self.caller("mkt"), pb.TableQuestion(partners=partners, **rest))

    @property
    def spent(self) -> float:
        found: float = self.ledger.overview().scopes[0].epsilon_spent
        return found

    @staticmethod
    def caller(party: str) -> Caller:
        return Caller(PartyId(party), Role.MARKETING, "1", NOW)


def counts(cells: Sequence[pb.Cell]) -> dict[Cell, int]:
    return {(tuple(cell.members), tuple(sorted(cell.labels.items()))): cell.count for cell in cells}
