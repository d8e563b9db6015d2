"""Releasing a cube: every cell gets noise, once; it is paid for once; thresholds are on what is shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dp_accounting import DpEvent

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import AuditError, Reason
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.policy.facts import Decision, Facts
from federation.policy.specs import CubeSpec
from federation.privacy import noise as opendp_noise
from federation.privacy.composition import epsilon_of
from federation.v1 import overlap_pb2 as pb
from gateway.budget.ledger import SqlLedger
from gateway.identity.caller import Caller
from gateway.overlap.answers import SqlAnswerStore
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.tables import Tables
from gateway.release import ReleasePath
from tests.conftest import NOW
from tests.kits.overlap_world import Policy, World, make_policy, people, small_world
from tests.kits.refused import refused

ALL = ("bank", "insurer", "airline")
VENN = CubeSpec(name="venn", partners=ALL, epsilon=1.0, min_count=0)
TIERS = CubeSpec(
    name="tiers", partners=("bank", "airline"), by=("bank.value_tier", "airline.activity"), epsilon=0.5, min_count=0
)


class Identity:
    """Noise that is none: the only place where there is none."""

    draws = 0

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        self.draws += 1
        return list(values)

    def calibrate_sigma(self, epsilon: float, delta: float, sensitivity: float) -> float:
        return opendp_noise.calibrate_sigma(epsilon, delta, sensitivity)

    def gaussian_event(self, sigma: float, sensitivity: float) -> DpEvent:
        return opendp_noise.gaussian_event(sigma, sensitivity)


class Log:
    """An audit log that keeps entries, and fails when a test says so."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Mapping[str, Any]]] = []
        self.fail_at = ""

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        if kind == self.fail_at:
            raise AuditError(Reason.AUDIT_UNAVAILABLE)
        self.entries.append((kind, body))
        return len(self.entries) - 1


class Desk:
    """A complete epoch and everything that a release passes."""

    def __init__(self, world: World) -> None:
        self.world, self.noise, self.log = world, Identity(), Log()
        self.epoch = world.coordinator.epochs.newest_complete()
        self.policy = Policy(world.policy.parties, {"venn": VENN, "tiers": TIERS})
        self.ledger = SqlLedger(open_database(None), lambda: self.policy.budget, world.clock)
        self.store = SqlAnswerStore(open_database(None))
        self.cubes = self.open()

    def open(self, noise: Any = None) -> CubeRelease:
        coordinator = self.world.coordinator
        self.tables = Tables(
            epochs=coordinator.epochs,
            index=coordinator.index,
            store=self.store,
            path=ReleasePath(self.policy, self.ledger, self.log),
            clock=self.world.clock,
            confirm=lambda _epoch, _partners: None,
            noise=noise or self.noise,
        )
        return CubeRelease(self.tables, self.policy)

    def ask(self, name: str = "venn", epoch: str = "", role: Role = Role.MARKETING) -> pb.QueryCubeResponse:
        return self.cubes.query(Caller(PartyId("mkt"), role, "1", self.world.clock.now()), name, epoch)

    def change(self, name: str, **values: Any) -> None:
        self.policy.cubes[name] = self.policy.cubes[name].model_copy(update=values)

    @property
    def spent(self) -> float:
        return self.ledger.overview().scopes[0].epsilon_spent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with one complete epoch; tests that ask only read it."""
    world = small_world(tmp_path_factory.mktemp("world"), FixedClock(NOW))
    world.build()
    return world


@pytest.fixture
def desk(built: World) -> Desk:
    return Desk(built)


def crash_before_it_is_stored(desk: Desk) -> None:
    put = desk.store.put

    def crash(*_args: Any) -> Any:
        raise KeyboardInterrupt

    desk.store.put = crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        desk.ask()
    desk.store.put = put  # type: ignore[method-assign]


def test_the_atoms_are_the_exclusive_regions_and_cover_the_whole_domain(desk: Desk) -> None:
    answer = desk.ask()
    assert {tuple(cell.members): cell.count for cell in answer.cells} == {
        ("bank",): 2, ("insurer",): 2, ("airline",): 2, ("bank", "insurer"): 3, ("bank", "airline"): 3,
        ("insurer", "airline"): 3, ALL: 2,
    }  # fmt: skip
    tiers = desk.ask("tiers")
    # bank alone: 3 tiers; airline alone: 2 kinds; both: 3 x 2; labels only of partners in the region
    assert len(tiers.cells) == 3 + 2 + 6
    assert all({column.partition(".")[0] for column in cell.labels} == set(cell.members) for cell in tiers.cells)
    assert sum(cell.count for cell in tiers.cells) == 10 + 10 - 5


def test_inclusive_totals_are_sums_of_atoms(desk: Desk) -> None:
    answer = desk.ask()
    totals = {tuple(total.members): total for total in answer.totals}
    assert {members: total.count for members, total in totals.items()} == {
        ("bank",): 10, ("insurer",): 10, ("airline",): 10, ("bank", "insurer"): 5, ("bank", "airline"): 5,
        ("insurer", "airline"): 5, ALL: 2,
    }  # fmt: skip
    assert totals[("bank",)].high == math.ceil(10 + 1.959963984540054 * 2 * answer.sigma)
    labels = {(*total.labels.items(),): total.count for total in desk.ask("tiers").totals if total.labels}
    assert labels == {
        (("bank.value_tier", "basic"),): 5, (("bank.value_tier", "high"),): 5, (("bank.value_tier", "unknown"),): 0,
        (("airline.activity", "active"),): 0, (("airline.activity", "unknown"),): 10,
    }  # fmt: skip


def test_what_is_said_about_the_release(desk: Desk) -> None:
    answer = desk.ask()
    assert answer.sigma == opendp_noise.calibrate_sigma(1.0, 1e-6, 1.0)
    assert (answer.epsilon, answer.delta, answer.mechanism) == (1.0, 1e-6, "discrete_gaussian")
    assert (answer.epoch, answer.key_type, answer.policy_version) == (desk.epoch, "email", "v1")
    cell = answer.cells[0]
    assert (cell.low, cell.high) == (0, math.ceil(2 + 1.959963984540054 * answer.sigma))


def test_it_is_drawn_once_and_paid_once(desk: Desk) -> None:
    first = desk.ask()
    spent = desk.spent
    assert first.spent_now
    assert spent == pytest.approx(1.0, rel=1e-6)
    desk.cubes = desk.open()  # after a restart
    again = desk.ask(epoch=desk.epoch)
    assert not again.spent_now
    assert again.cells == first.cells
    assert (desk.noise.draws, desk.spent) == (1, spent)
    assert [kind for kind, _ in desk.log.entries] == ["intent", "outcome"] * 2
    assert desk.log.entries[0][1]["budget_entry"]
    assert not desk.log.entries[2][1]["budget_entry"]


def test_real_noise_is_in_every_cell_and_stays(desk: Desk) -> None:
    desk.cubes = desk.open(opendp_noise)
    answer = desk.ask()
    assert any(cell.count != 2 for cell in answer.cells)
    assert desk.ask().cells == answer.cells


def test_what_is_drawn_is_decided_under_the_version_that_declares_it(desk: Desk) -> None:
    """Another version comes into force while partners confirm: the request finishes under its own."""
    later = replace(desk.policy, version="v2", cubes={"venn": VENN.model_copy(update={"epsilon": 0.1})}, asked=[])
    versions = SimpleNamespace(active=desk.policy)
    path = ReleasePath(versions, desk.ledger, desk.log)
    coordinator = desk.world.coordinator
    tables = Tables(
        epochs=coordinator.epochs,
        index=coordinator.index,
        store=desk.store,
        path=path,
        clock=desk.world.clock,
        confirm=lambda _epoch, _partners: setattr(versions, "active", later),
        noise=desk.noise,
    )
    desk.cubes = CubeRelease(tables, versions)
    first, again = desk.ask(), desk.ask()
    assert (first.policy_version, first.epsilon, again.policy_version, again.epsilon) == ("v1", 1.0, "v2", 0.1)
    assert [body["policy"] for kind, body in desk.log.entries if kind == "intent"] == [["v1"], ["v2"]]


def test_the_policy_is_asked_for_every_partner_every_time(desk: Desk) -> None:
    desk.ask("tiers")
    asked = [(f.purpose, f.data_category, f.origin, f.recipient) for f in desk.policy.asked]
    once = [("overlap_statistics", "aggregate_statistics", p, "mkt") for p in ("bank", "airline")]
    assert asked == once * 2  # before the partners are asked to confirm, and when it leaves
    desk.policy.permitted = False
    assert refused(Reason.POLICY_DENIED, lambda: desk.ask("tiers")) == "forbidden: as the test says"
    assert refused(Reason.POLICY_DENIED, desk.ask) == "forbidden: as the test says"
    assert desk.spent == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("key_type", ["email", "email+phone"])
def test_with_several_key_types_every_partner_of_the_epoch_is_asked(
    tmp_path: Path, clock: FixedClock, key_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The insurer's rows alone join the bank's to the airline's, by e-mail to one and by phone to the other."""
    data = {party: people(party, {f"p{n}": "" for n in range(30)}) for party in ALL}
    phones = [f"+49301000{n:03d}" for n in range(30)]
    data["airline"].table["email"] = ""
    data["airline"].table["phone"] = data["insurer"].table["phone"] = phones
    world = World(tmp_path, clock, make_policy(ALL, {}), data)
    world.build(key_type)
    desk = Desk(world)
    desk.change("tiers", by=())
    both = next(total for total in desk.ask("tiers").totals if len(total.members) == 2)
    several = key_type != "email"
    assert both.count == (30 if several else 0)
    assert [facts.origin for facts in desk.policy.asked] == ["bank", "airline", *(["insurer"] if several else [])] * 2
    assert desk.policy.asked[-1].fields == frozenset()
    decide = desk.policy.decide

    def forbid(facts: Facts) -> Decision:
        desk.policy.permitted = facts.origin != "insurer"
        return decide(facts)

    monkeypatch.setattr(desk.policy, "decide", forbid)
    if several:
        refused(Reason.POLICY_DENIED, desk.ask, "tiers")
    else:
        desk.ask("tiers")


def test_thresholds_are_on_the_noisy_number_and_hold_for_stored_answers(desk: Desk) -> None:
    class Shift(Identity):
        def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
            return [value + (5 if value == 2 else -5) for value in values]  # twos become 7, threes become -2

    desk.cubes = desk.open(Shift())
    desk.change("venn", min_count=5)
    answer = desk.ask()
    shown = [(cell.count, cell.suppressed) for cell in answer.cells]  # 22 people as drawn: the sevens give way
    assert sorted(shown) == [(0, True)] * 3 + [(5, False)] * 2 + [(6, False)] * 2
    assert all((cell.low, cell.high) == (0, 0) for cell in answer.cells if cell.suppressed)
    assert {cell.reason for cell in answer.cells if cell.suppressed} == {
        "the noisy number is under the policy's threshold of 5 people"
    }
    desk.policy.min_k = 8
    later = desk.ask()
    assert not later.spent_now
    assert (later.min_count, {cell.suppressed for cell in later.cells}) == (8, {True})


def test_another_shape_is_another_release_and_a_threshold_is_not(desk: Desk) -> None:
    desk.ask()
    desk.change("venn", min_count=3, description="stricter")
    assert not desk.ask().spent_now
    desk.change("venn", partners=("bank", "insurer"))
    assert desk.ask().spent_now
    assert desk.noise.draws == 2
    assert desk.spent > 1.3


def test_sensitivity_grows_with_the_tokens_of_a_person(desk: Desk) -> None:
    one = desk.ask().sigma
    desk.change("venn", max_tokens_per_person=3)
    three = desk.ask()
    assert three.sigma == pytest.approx(3 * one)
    entry = desk.ledger.overview().entries[-1]
    assert entry.epsilon == pytest.approx(1.0, rel=1e-6)


def test_the_ledger_composes_what_was_drawn(desk: Desk) -> None:
    answers = [desk.ask("venn"), desk.ask("tiers")]
    events = [opendp_noise.gaussian_event(answer.sigma, 1.0) for answer in answers]
    assert desk.spent == pytest.approx(epsilon_of(events, 1e-6))


def test_without_budget_or_audit_nothing_is_drawn(desk: Desk) -> None:
    desk.log.fail_at = "intent"
    refused(Reason.AUDIT_UNAVAILABLE, desk.ask)
    assert (desk.noise.draws, desk.spent) == (0, 0)
    desk.log.fail_at = ""
    desk.change("venn", epsilon=7.0)
    refused(Reason.BUDGET_EXHAUSTED, desk.ask)
    assert desk.noise.draws == 0


def test_without_the_outcome_in_the_log_nobody_gets_the_answer_and_it_is_not_drawn_again(desk: Desk) -> None:
    desk.log.fail_at = "outcome"
    refused(Reason.AUDIT_UNAVAILABLE, desk.ask)
    desk.log.fail_at = ""
    answer = desk.ask()
    assert not answer.spent_now
    assert desk.noise.draws == 1


def test_a_crash_between_spend_and_store_is_paid_once(desk: Desk) -> None:
    crash_before_it_is_stored(desk)
    spent = desk.spent
    assert desk.ask().spent_now
    assert desk.spent == spent == pytest.approx(1.0, rel=1e-6)
    assert len(desk.ledger.overview().entries) == 1


def test_after_a_crash_and_with_another_delta_it_is_another_spend(desk: Desk) -> None:
    crash_before_it_is_stored(desk)
    desk.policy.budget = desk.policy.budget.model_copy(update={"delta": 1e-7})
    answer = desk.ask()
    assert (answer.spent_now, answer.delta) == (True, 1e-7)
    assert sorted(entry.state for entry in desk.ledger.overview().entries) == ["committed", "released"]
    desk.policy.budget = desk.policy.budget.model_copy(update={"delta": 1e-6})
    assert (desk.ask().spent_now, desk.ask().delta) == (False, 1e-7)  # what is stored stays the answer
    assert desk.noise.draws == 2


def test_answers_that_are_lost_are_not_drawn_a_second_time_for_nothing(desk: Desk) -> None:
    desk.ask()
    desk.store = SqlAnswerStore(open_database(None))
    desk.cubes = desk.open()
    assert refused(Reason.ANSWER_LOST, desk.ask) == f"cube venn, epoch {desk.epoch}"
    assert desk.log.entries[-1][1]["reason"] == "ANSWER_LOST"
    assert desk.noise.draws == 1
    assert desk.ask("tiers").spent_now  # what nobody saw may be drawn


def test_a_crash_between_store_and_mark_leaves_the_mark_to_the_next_ask(desk: Desk) -> None:
    mark = desk.ledger.mark_released

    def crash(_key: str) -> None:
        raise KeyboardInterrupt

    desk.ledger.mark_released = crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        desk.ask()
    assert [entry.state for entry in desk.ledger.overview().entries] == ["committed"]
    desk.ledger.mark_released = mark  # type: ignore[method-assign]
    assert not desk.ask().spent_now
    assert [entry.state for entry in desk.ledger.overview().entries] == ["released"]
    assert desk.noise.draws == 1


def test_a_table_whose_sums_another_one_shows_is_not_drawn_a_second_time_either(desk: Desk) -> None:
    desk.policy.cubes["pair"] = CubeSpec(name="pair", partners=TIERS.partners, epsilon=0.5, min_count=0)
    mark = desk.ledger.mark_released

    def crash(_key: str) -> None:
        raise KeyboardInterrupt

    desk.ledger.mark_released = crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        desk.ask("pair")
    desk.ledger.mark_released = mark  # type: ignore[method-assign]
    assert desk.ask("tiers").agrees_with == ["pair"]
    assert {entry.state for entry in desk.ledger.overview().entries} == {"released"}
    desk.store = SqlAnswerStore(open_database(None))
    desk.cubes = desk.open()
    refused(Reason.ANSWER_LOST, desk.ask, "pair")


def test_another_process_that_was_faster_gives_the_answer_of_both(desk: Desk) -> None:
    """It stores and marks between our look at the store and our spend."""
    reserve, other = desk.ledger.reserve, desk.open()

    def late(**cost: Any) -> str:
        desk.ledger.reserve = reserve  # type: ignore[method-assign]
        desk.cubes, mine = other, desk.cubes
        desk.ask()
        desk.cubes = mine
        return reserve(**cost)

    desk.ledger.reserve = late  # type: ignore[method-assign,assignment]
    answer = desk.ask()
    assert (answer.spent_now, desk.noise.draws) == (False, 1)


def test_what_cannot_be_asked(desk: Desk) -> None:
    refused(Reason.UNKNOWN_CUBE, lambda: desk.ask("nothing"))
    refused(Reason.UNKNOWN_EPOCH, lambda: desk.ask(epoch="1999-01-01.1"))
    for change in (
        {"by": ("insurer.life_stage",), "partners": ("bank", "airline")},
        {"by": ("bank.age",)},
        {"by": ("bank.value_tier", "bank.value_tier")},
        {"partners": ("bank", "mallory")},
        {"partners": ("bank", "bank")},
    ):
        desk.policy.cubes["venn"] = VENN.model_copy(update=change)
        refused(Reason.QUESTION_MISFIT, desk.ask)


def test_before_the_first_epoch_there_is_nothing(tmp_path: Path, clock: FixedClock) -> None:
    desk = Desk(small_world(tmp_path, clock))
    assert "the operator runs: entente overlap build" in refused(Reason.UNKNOWN_EPOCH, desk.ask)
    running = desk.world.coordinator.begin("", "email")
    refused(Reason.UNKNOWN_EPOCH, desk.ask)
    refused(Reason.EPOCH_INCOMPLETE, lambda: desk.ask(epoch=running))
    desk.world.coordinator.begin("another", "email")
    assert refused(Reason.EPOCH_ABANDONED, lambda: desk.ask(epoch=running)) == running
    assert [cube.released for cube in desk.cubes.list_cubes().cubes] == [False, False]


def test_declared_cubes_are_listed(desk: Desk) -> None:
    desk.ask("tiers")
    listed = {cube.cube: cube for cube in desk.cubes.list_cubes().cubes}
    assert {name: cube.released for name, cube in listed.items()} == {"venn": False, "tiers": True}
    assert listed["tiers"].by == ["bank.value_tier", "airline.activity"]
    assert listed["venn"].epsilon == 1.0
