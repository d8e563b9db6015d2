"""Deltas and withdrawals with real TLS and three agents: an update, a withdrawal before an answer, who is away."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from federation.client.connection import translated
from federation.core.clock import SystemClock
from federation.core.errors import Reason
from federation.core.identity import Role
from federation.overlap.plan import delta_keys
from federation.policy.specs import CubeSpec
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_gateway import Gateway
from tests.kits.overlap_world import small_world
from tests.kits.refused import refused

pytestmark = pytest.mark.e2e
ALL = ("bank", "insurer", "airline")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    world = small_world(tmp_path, SystemClock(), pad_to=4)
    world.policy.cubes = {
        name: CubeSpec(name=name, partners=partners, epsilon=1.0, min_count=0)
        for name, partners in (("venn", ALL), ("two", ("insurer", "airline")), ("three", ("bank", "airline")))
    }
    with Gateway(world, connect_timeout_s=0.5, stall_timeout_s=20.0) as opened:
        for party in ALL:
            opened.attach(party)
        with opened.connect("ops", Role.OPERATOR) as connection, translated():
            list(connection.overlap.BuildIndex(pb.BuildIndexRequest(), timeout=60))
        yield opened


def ask(gateway: Gateway, cube: str) -> pb.QueryCubeResponse:
    with gateway.connect("mkt", Role.MARKETING) as connection, translated():
        return connection.overlap.QueryCube(pb.QueryCubeRequest(cube=cube), timeout=60)


def update(gateway: Gateway) -> list[pb.UpdateIndexResponse]:
    with gateway.connect("ops", Role.OPERATOR) as connection, translated():
        return list(connection.overlap.UpdateIndex(pb.UpdateIndexRequest(), timeout=60))


def people(gateway: Gateway) -> int:
    coordinator = gateway.world.coordinator
    newest = coordinator.epochs.newest_complete()
    assert newest is not None
    return sum(coordinator.index.exact(newest, ("bank",), ()).values())


def drop(gateway: Gateway, *rows: str) -> None:
    data = gateway.world.data["bank"]
    data.consented = {use: [i for i in ids if i not in rows] for use, ids in data.consented.items()}


def test_an_update_and_a_withdrawal_before_the_next_answer(gateway: Gateway) -> None:
    assert people(gateway) == 10
    first = ask(gateway, "venn")
    drop(gateway, "B000001", "B000002")
    messages = update(gateway)
    assert (messages[-1].complete, list(messages[-1].changed)) == (True, ["bank"])
    assert messages[-2].progress.done == messages[-2].progress.total == 3
    assert people(gateway) == 8
    assert list(update(gateway)[-1].changed) == []
    drop(gateway, "B000003")
    assert ask(gateway, "venn").cells == first.cells  # stored: nothing is drawn, nobody is asked
    assert people(gateway) == 8
    assert ask(gateway, "three").spent_now
    assert people(gateway) == 7
    gateway.world.data["airline"].consented = {"overlap_statistics": [], "offer_sharing": []}
    assert ask(gateway, "two").spent_now  # everybody at the airline is gone, and the answer is drawn of that
    newest = gateway.world.coordinator.epochs.newest_complete()
    assert gateway.world.coordinator.index.exact(str(newest), ("airline",), ()) == {}


def test_who_is_away_stops_fresh_answers_and_no_stored_one(gateway: Gateway) -> None:
    stored = ask(gateway, "venn")
    gateway.detach()
    assert ask(gateway, "venn").cells == stored.cells
    assert refused(Reason.WITHDRAWALS_UNCONFIRMED, ask, gateway, "two").startswith("epoch ")
    assert "partner" in refused(Reason.PARTNER_UNAVAILABLE, update, gateway)
    gateway.attach("insurer")
    gateway.attach("airline")
    assert ask(gateway, "two").spent_now  # the bank is not in it
    assert "bank" not in refused(Reason.WITHDRAWALS_UNCONFIRMED, ask, gateway, "three")
    drop(gateway, "B000001")
    gateway.attach("bank")
    assert ask(gateway, "three").spent_now
    assert people(gateway) == 9


def test_whom_an_update_waits_for_is_told_at_once(gateway: Gateway) -> None:
    gateway.detach()
    gateway.attach("insurer")
    with gateway.connect("ops", Role.OPERATOR) as connection:
        first = next(connection.overlap.UpdateIndex(pb.UpdateIndexRequest(), timeout=60))
    assert first.progress.text == "Waiting for airline, bank: no agent is connected"


def test_many_fresh_questions_at_once_leave_threads_to_hear_the_partners_by(gateway: Gateway) -> None:
    gateway.loop.call_soon_threadsafe(gateway.loop.set_default_executor, ThreadPoolExecutor(2))
    drop(gateway, "B000001")
    cubes = ["venn", "two", "three"] * 2
    with ThreadPoolExecutor(len(cubes)) as marketing:
        answers = list(marketing.map(lambda cube: ask(gateway, cube), cubes))
    assert sorted(answer.spent_now for answer in answers) == [False] * 3 + [True] * 3
    assert people(gateway) == 9


def test_an_update_that_stands_still_names_the_hop_and_not_the_origin(gateway: Gateway) -> None:
    gateway.detach()
    going_on = threading.Event()
    for party in ALL:
        agent: Any = gateway.attach(party)
        if party == "insurer":  # the first to blind what the bank sends
            agent._blind_waiting = lambda _waiting: going_on.wait(60)
    gateway.servicer._builds._stall_timeout_s = 1.0
    drop(gateway, "B000001")
    try:
        assert refused(Reason.BUILD_FAILED, update, gateway) == "partner insurer: no progress"
    finally:
        going_on.set()


def test_a_delta_of_which_nobody_has_the_rest_fails_with_a_reason(gateway: Gateway) -> None:
    """As after two agents on one folder: the second says that all was sent, the first died in the middle of it."""
    world = gateway.world
    drop(gateway, "B000001")
    plan = world.plan(str(world.coordinator.epochs.newest_complete()))
    keys = delta_keys(world.policy.parties["bank"], adds=False)
    world.coordinator.epochs.open_delta(plan.epoch, "bank", 1, keys)
    bank = world.agents["bank"]
    bank._own.change(plan, withdrawals_only=False)
    bank._state.sent(plan.epoch, 1)
    told = refused(Reason.BUILD_FAILED, update, gateway)
    assert "partner bank: delta 1: TRUNCATED_STREAM" in told
    assert "never came" in told
    assert refused(Reason.WITHDRAWALS_UNCONFIRMED, ask, gateway, "three") == f"epoch {plan.epoch}"


def test_what_the_gateway_cannot_apply_is_not_called_a_partners_fault(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    drop(gateway, "B000001")
    with monkeypatch.context() as patch:
        patch.setattr(gateway.world.coordinator.index, "apply", full)
        assert refused(Reason.BUILD_FAILED, update, gateway).startswith("gateway: ")
    assert update(gateway)[-1].complete
    assert people(gateway) == 9
