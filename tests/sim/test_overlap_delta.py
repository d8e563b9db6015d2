"""Deltas through the whole chain, against plain set arithmetic: who comes, goes, changes a label, withdraws."""

import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from federation.client.overlap.withdrawals import WithdrawalWatch
from federation.core.clock import FixedClock
from federation.core.errors import Reason
from federation.core.ids import EpochId, PartyId
from federation.overlap.plan import CHECK, REMOVE
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.withdrawals import Withdrawals
from tests.kits.overlap_changes import (
    ALL,
    TIER,
    add,
    answering,
    consent,
    counted,
    expected,
    handle,
    relabel,
    remove,
    withdraw,
)
from tests.kits.overlap_world import Data, World, make_policy, one_by_one, people, small_world
from tests.kits.refused import refused

BANK, INSURER = PartyId("bank"), PartyId("insurer")


@pytest.fixture(params=[1, 8], ids=["unpadded", "padded"])
def world(tmp_path: Path, clock: FixedClock, request: pytest.FixtureRequest) -> World:
    return small_world(tmp_path, clock, pad_to=request.param)


def test_who_comes_goes_and_changes_a_label(world: World) -> None:
    epoch = world.build()
    bank, insurer = world.data["bank"], world.data["insurer"]
    remove(bank, "p0")
    relabel(bank, "p1", value_tier="basic")
    relabel(bank, "p2", email="p18@example.com")
    add(bank, "B100", "p14", value_tier="high")
    add(insurer, "I100", "p0", life_stage="family")
    assert counted(world, epoch) != expected(world)
    world.update()
    assert counted(world, epoch) == expected(world)
    world.update()  # nothing changed: nothing is sent
    assert [(d.origin, d.sequence) for d in world.coordinator.epochs.deltas(epoch)] == [("bank", 1), ("insurer", 1)]
    remove(bank, "p14")
    relabel(bank, "p1", value_tier="high")
    world.update()
    assert counted(world, epoch) == expected(world)
    spool = world.folder / "gateway" / "overlap" / "batches"
    assert list(spool.iterdir()) == []


def test_the_switchboard_follows(world: World) -> None:
    world.build()
    board = world.coordinator.switchboard
    bank, insurer = world.data["bank"], world.data["insurer"]
    assert (INSURER, handle("I000001")) in board.handles(BANK, handle("B000006"), 9)
    withdraw(bank, "p6", "offer_sharing")
    add(insurer, "I100", "p0", life_stage="family")
    relabel(bank, "p7", email="p8@example.com")  # from now on the same person as B000008
    world.update()
    assert board.handles(BANK, handle("B000006"), 9) == []
    assert BANK not in dict(board.handles(INSURER, handle("I000001"), 9))
    assert (BANK, handle("B000000")) in board.handles(INSURER, handle("I100"), 9)
    everywhere = board.handles(BANK, handle("B000008"), 9)
    assert everywhere == board.handles(BANK, handle("B000007"), 9) == sorted(everywhere)
    assert [name for party, name in everywhere if party == BANK] == [handle("B000007"), handle("B000008")]
    assert board.handles(BANK, handle("B000008"), 1) == everywhere[:1]
    assert board.handles(BANK, handle("B000006"), 9) == []


def test_a_withdrawal_removes_the_person_and_needs_no_identifier(world: World) -> None:
    epoch = world.build()
    bank = world.data["bank"]
    withdraw(bank, "p6")
    vars(bank)["columns"] = lambda *_: 1 / 0
    world.update(withdrawals_only=True)
    del vars(bank)["columns"]
    assert counted(world, epoch) == expected(world)
    [delta] = world.coordinator.epochs.deltas(epoch)
    assert {batch.operation for batch in world.coordinator.epochs.delta_batches(delta)} == {REMOVE, CHECK}


def test_withdrawals_only_takes_nobody_in(world: World) -> None:
    epoch = world.build()
    before = counted(world, epoch)
    add(world.data["bank"], "B100", "p14", value_tier="high")
    relabel(world.data["bank"], "p1", value_tier="basic")
    world.update(withdrawals_only=True)
    assert counted(world, epoch) == before
    assert world.coordinator.epochs.deltas(epoch) == []


def test_a_person_under_two_customer_ids_goes_with_the_last_of_them(tmp_path: Path, clock: FixedClock) -> None:
    bank = people("bank", {"p1": "basic", "P1": "high", "p2": "high"}, "value_tier")
    world = small_world(tmp_path, clock, extra={"bank": bank})
    epoch = world.build()
    consent(bank, overlap_statistics=bank.table.index[1:])
    world.update(withdrawals_only=True)
    assert counted(world, epoch) == expected(world)  # there as "high" now
    consent(bank, overlap_statistics=bank.table.index[2:])
    world.update(withdrawals_only=True)
    assert counted(world, epoch) == expected(world)


def test_withdrawals_of_everybody(world: World) -> None:
    epoch = world.build()
    for party in ALL:
        consent(world.data[party], overlap_statistics=[], offer_sharing=[])
    world.update(withdrawals_only=True)
    assert counted(world, epoch) == {}
    assert world.coordinator.switchboard.handles(BANK, handle("B000001"), 9) == []


def test_several_key_types_join_and_fall_apart(tmp_path: Path, clock: FixedClock) -> None:
    def rows(party: str, *some: tuple[str, str]) -> Data:
        ids = [f"{party[:1].upper()}{n}" for n in range(len(some))]
        table = pd.DataFrame({"email": [e for e, _ in some], "phone": [p for _, p in some]}, index=ids)
        return Data(table, {"overlap_statistics": ids, "offer_sharing": ids})

    phone = "+1 202 555 01"
    data = {
        "airline": rows("airline", ("a@example.com", "")),
        "bank": rows("bank", ("a@example.com", f"{phone}11"), ("b@example.com", f"{phone}33")),
        "insurer": rows("insurer", ("c@example.com", f"{phone}11")),
    }
    world = World(tmp_path, clock, make_policy(sorted(data), {}, 4), data)
    epoch = world.build("email+phone")
    exact = world.coordinator.index.exact
    board = world.coordinator.switchboard
    three = tuple(sorted(data))
    assert exact(epoch, three, ()) == {(three, ()): 1, (("bank",), ()): 1}
    assert (INSURER, handle("I0")) in board.handles(PartyId("airline"), handle("A0"), 9)
    consent(data["bank"], overlap_statistics=["B1"], offer_sharing=["B1"])  # the bridge goes
    world.update(withdrawals_only=True)
    assert exact(epoch, three, ()) == {((party,), ()): 1 for party in three}
    assert board.handles(PartyId("airline"), handle("A0"), 9) == [(PartyId("airline"), handle("A0"))]
    data["insurer"].table.loc["I0", "phone"] = f"{phone}33"
    world.update()
    assert exact(epoch, three, ()) == {(("airline",), ()): 1, (("bank", "insurer"), ()): 1}
    assert (INSURER, handle("I0")) in board.handles(BANK, handle("B1"), 9)


def test_a_new_epoch_while_deltas_arrive(world: World, tmp_path: Path) -> None:
    """The old epoch answers, with its keys, until the new one is complete; then it is gone, but for its labels."""
    first = world.build()
    second = world.coordinator.begin("", "email")
    world.work(5)
    withdraw(world.data["bank"], "p6")
    add(world.data["insurer"], "I100", "p0", life_stage="family")
    newest = world.coordinator.deltas.newest()
    assert newest is not None
    assert newest.epoch == first
    world.update()
    assert counted(world, first) == expected(world)
    world.coordinator.finish(second)
    assert refused(Reason.EPOCH_REPLACED, counted, world, first) == first
    assert world.coordinator.index.labels(first) == world.coordinator.index.labels(second)
    world.tell()
    assert [path.name for path in (tmp_path / "bank" / "epochs").iterdir()] == [second]
    refused(Reason.UNKNOWN_EPOCH, world.agents["bank"].update, newest.plan, withdrawals_only=True)
    world.update()
    assert counted(world, second) == expected(world)  # also whoever withdrew while it was built
    tokens = [path.name for path in (tmp_path / "gateway" / "overlap" / "index").iterdir() if "@tokens" in path.name]
    assert tokens == [f"{second}@tokens"]


def test_old_answers_need_no_partner_and_fresh_ones_need_all(world: World) -> None:
    epoch = EpochId(world.build())
    confirm = Withdrawals(world.coordinator.deltas, connect_s=0, answer_s=0)
    assert "not connected" in refused(Reason.WITHDRAWALS_UNCONFIRMED, confirm, epoch, ALL)
    world.coordinator.deltas.attach(BANK)
    assert "bank: no answer" in refused(Reason.WITHDRAWALS_UNCONFIRMED, confirm, epoch, ["bank"])
    assert refused(Reason.EPOCH_REPLACED, confirm, EpochId("2026-10-01.1"), ALL) == "2026-10-01.1"
    assert world.coordinator.deltas.tasks(BANK)[1:] == []  # what was asked is asked no more


def test_a_partner_that_cannot_read_its_consents_stops_fresh_answers(world: World) -> None:
    epoch = EpochId(world.build())
    confirm = Withdrawals(world.coordinator.deltas, connect_s=0, answer_s=0)
    with answering(world):
        confirm(epoch, ALL)
        withdraw(world.data["bank"], "p6")
        confirm(epoch, ALL)
        assert counted(world, epoch) == expected(world)
        world.data["bank"].eligible = lambda *_, **__: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        assert "bank" in refused(Reason.WITHDRAWALS_UNCONFIRMED, confirm, epoch, ALL)
        confirm(epoch, ["insurer", "airline"])


def test_a_label_that_the_policy_declared_later_waits_for_a_new_epoch(world: World) -> None:
    epoch = world.build()
    party = world.policy.parties["bank"]
    segments = {"value_tier": ("basic", "high", "gold")}
    world.policy.parties["bank"] = party.model_copy(update={"segments": segments})
    relabel(world.data["bank"], "p1", value_tier="gold")
    withdraw(world.data["bank"], "p6")
    assert "label" in refused(Reason.BAD_FIELD, world.update)
    world.update(withdrawals_only=True)  # nobody has to wait for a label to withdraw
    assert counted(world, epoch)[("bank", "insurer", "airline"), ((TIER, "basic"),)] == 1
    world.build()
    assert "gold" in str(counted(world, str(world.coordinator.epochs.newest_complete())))


def test_nobody_joins_under_labels_that_the_epoch_lacks_and_withdrawals_go_on(world: World) -> None:
    """A delta that could never be sent would stand before every later withdrawal."""
    epoch = world.build()
    party, bank = world.policy.parties["bank"], world.data["bank"]
    segments = {"value_tier": ("basic", "high", "gold")}
    world.policy.parties["bank"] = party.model_copy(update={"segments": segments})
    add(bank, "B100", "p14", value_tier="basic")
    assert "label" in refused(Reason.BAD_FIELD, world.update)
    withdraw(bank, "p6")
    withdraw(bank, "p14")
    world.update(withdrawals_only=True)
    assert counted(world, epoch) == expected(world)


def test_who_withdraws_while_an_epoch_is_built_leaves_it_when_it_answers(world: World) -> None:
    world.build()
    name, bank = world.coordinator.begin("", "email"), world.data["bank"]
    world.work()
    withdraw(bank, "p6")
    watch = WithdrawalWatch(world.agents["bank"], lambda: (world.agents["bank"].epoch(), bank.consented), 0)
    ticks = iter([lambda: None, lambda: (world.work(), world.coordinator.finish(name), world.tell())])
    stop = threading.Event()

    def tick(_: float) -> bool:
        next(ticks, stop.set)()
        return False

    stop.wait = tick  # type: ignore[method-assign,assignment]
    watch.serve(stop)
    world.work()
    assert counted(world, name) == expected(world)


def test_what_a_partner_remembers_names_nobody(world: World, tmp_path: Path) -> None:
    epoch = world.build()
    add(world.data["bank"], "B100", "p14", value_tier="high")
    world.update()
    for path in (tmp_path / "bank" / "epochs" / epoch).rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0
            assert b"@example.com" not in (data := path.read_bytes())
            assert b"B00000" not in data or path.suffix in {".handles", ".handle"}


def test_no_point_of_a_delta_was_sent_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hop cannot tell which of the rows that it blinded go, or come back under another label."""
    one_by_one(monkeypatch)
    agent, sent = world.agents["bank"], dict[tuple[int, int, str], bytes]()
    send = agent._send

    def keep(batch: Any, width: int) -> None:
        manifest = pb.Manifest.FromString(batch.header.manifest.payload)
        sent[manifest.sequence, manifest.operation, f"{manifest.index} {manifest.label}"] = batch.points.read_bytes()
        send(batch, width)

    agent._send = keep  # type: ignore[method-assign]
    epoch, bank = world.build(), world.data["bank"]
    for sequence in (1, 2):
        withdraw(bank, f"p{2 * sequence}")
        withdraw(bank, f"p{2 * sequence}", "offer_sharing")
        relabel(bank, "p1", value_tier=("high", "basic")[sequence - 1])
        world.update()
    rows = [points[at : at + 32] for points in sent.values() for at in range(0, len(points), 32)]
    assert {sequence for sequence, _, _ in sent} == {0, 1, 2}
    assert len(set(rows)) == len(rows)
    assert counted(world, epoch) == expected(world)
