"""A hop that does not give back what it got: it cannot make a person count more often, nor move a handle, unseen."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.overlap import writing
from federation.core.clock import FixedClock
from federation.core.errors import OverlapError, Reason
from federation.core.ids import PartyId
from federation.overlap.batch import Chain, batch_id_of
from federation.overlap.blind import blind
from federation.overlap.decoys import LEAST, ROWS_PER_DECOY
from federation.overlap.plan import ADD, BASE, CHECK, REMOVE, STATISTICS, SWITCHBOARD
from gateway.overlap import arrived
from gateway.overlap.arrived import Arrived
from tests.kits.overlap_changes import add, counted, expected, handle, withdraw
from tests.kits.overlap_world import SMALL_SEGMENTS, World, make_policy, people, small_world
from tests.kits.refused import refused

KEY_TYPES = ["email", "email+phone"]
Change = Callable[[list[bytes]], list[bytes]]


def played(world: World, change: Change, *, index: int, operation: int, origin: str = "bank") -> list[int]:
    """The airline hands back other rows than it should of some batches of the origin; how many it changed is noted."""
    hop, changed = world.agents["airline"]._hop, list[int]()
    honest = hop._blinded_rows

    def rows(chain: Chain, chunks: Iterable[bytes], scratch: Path) -> Iterator[bytes]:
        manifest, width = chain.manifest, 32 * len(chain.manifest.plan.key_type.split("+"))
        out = b"".join(honest(chain, chunks, scratch))
        if (manifest.origin, manifest.index, manifest.operation) == (origin, index, operation):
            given = [out[at : at + width] for at in range(0, len(out), width)]
            back = change(list(given))
            changed.append(sum(one != two for one, two in zip(given, back, strict=True)))
            out = b"".join(back)
        return iter([out])

    hop._blinded_rows = rows  # type: ignore[method-assign]
    return changed


def all_copies_of_the_first(rows: list[bytes]) -> list[bytes]:
    """r_1 P, r_2 P, ... of one row in the places of all."""
    keys = (X25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")) for number in itertools.count(1))
    return [blind(rows[0], key).points for key in itertools.islice(keys, len(rows))]


def the_first_everywhere(rows: list[bytes]) -> list[bytes]:
    return rows[:1] * len(rows)


def other_order(rows: list[bytes]) -> list[bytes]:
    return rows[1:] + rows[:1]


def another_key(rows: list[bytes]) -> list[bytes]:
    key = X25519PrivateKey.from_private_bytes(bytes(31) + b"\5")
    return [blind(row, key).points for row in rows]


def nothing(rows: list[bytes]) -> list[bytes]:
    return [bytes(len(row)) for row in rows]


def is_caught(world: World, epoch: str) -> None:
    with pytest.raises(OverlapError) as caught:
        world.coordinator.finish(epoch)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.item) == (Reason.DECOYS_MISSING, "rows of bank")
    assert "passed insurer or airline" in caught.value.fix or "passed airline or insurer" in caught.value.fix
    assert world.coordinator.epochs.newest_complete() is None
    overlap = world.folder / "gateway" / "overlap"
    assert not [path for path in overlap.rglob("*") if path.is_file() and path.parent != overlap]  # nothing is left
    assert world.coordinator.begin("", "") != epoch  # to build it again would bring the same rows


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.parametrize("change", [all_copies_of_the_first, the_first_everywhere, another_key, nothing])
@pytest.mark.parametrize(
    "which", [(index, operation) for index in (STATISTICS, SWITCHBOARD) for operation in (BASE, CHECK)]
)
def test_rows_that_do_not_come_back_stop_the_epoch(
    tmp_path: Path, clock: FixedClock, key_type: str, change: Change, which: tuple[int, int]
) -> None:
    world = small_world(tmp_path, clock)
    changed = played(world, change, index=which[0], operation=which[1])
    epoch = world.coordinator.begin("", key_type)
    world.work()
    is_caught(world, epoch)
    assert sum(changed) >= LEAST - 1


def others_with_the_same_start(rows: list[bytes]) -> list[bytes]:
    """Rows of nobody, each with the 64 bits at its start that the right one has."""
    return [row[:8] + bytes(8) + row[16:] for row in rows]


def copies_and_what_makes_up_for_them(rows: list[bytes]) -> list[bytes]:
    """r_1 P, r_2 P, ... in the first points of all rows; in the second what keeps one public sum of both as it was."""
    odd, back = 0x9E3779B97F4A7C15, list[bytes]()
    for row, copy in zip(rows, all_copies_of_the_first([row[:32] for row in rows]), strict=True):
        first, new, second = (int.from_bytes(part[:8], "little") for part in (row, copy, row[32:]))
        back.append(copy + ((second + odd * (first - new)) % 2**64).to_bytes(8, "little") + row[40:])
    return back


@pytest.mark.parametrize("index", [STATISTICS, SWITCHBOARD])
@pytest.mark.parametrize(
    ("key_type", "change"), [("email", others_with_the_same_start), ("email+phone", copies_and_what_makes_up_for_them)]
)
def test_between_two_a_hop_that_writes_the_bytes_that_are_compared_is_caught(
    tmp_path: Path, clock: FixedClock, key_type: str, change: Change, index: int
) -> None:
    """The gateway converts no rows of a base between two partners: what the hop gives back is what it looks at."""
    data: dict[str, Any] = {
        "bank": people("bank", {f"p{n}": ("basic", "high")[n % 2] for n in range(10)}, "value_tier"),
        "airline": people("airline", {f"p{n}": "active" for n in range(5)}, "activity"),
    }
    world = World(tmp_path, clock, make_policy(sorted(data), SMALL_SEGMENTS), data)
    changed = played(world, change, index=index, operation=BASE)
    epoch = world.coordinator.begin("", key_type)
    world.work()
    assert refused(Reason.DECOYS_MISSING, world.coordinator.finish, epoch) == "rows of bank"
    assert sum(changed) >= LEAST


def test_handles_that_lead_to_others_stop_the_epoch(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    played(world, other_order, index=SWITCHBOARD, operation=BASE)
    epoch = world.coordinator.begin("", "email")
    world.work()
    is_caught(world, epoch)


@pytest.fixture(params=[0, arrived.MAX_KEPT_ROWS], ids=["read twice", "kept"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a delta are read twice where there are many, and kept in memory where there are few."""
    monkeypatch.setattr(arrived, "MAX_KEPT_ROWS", request.param)


@pytest.mark.usefixtures("kept")
def test_a_delta_whose_rows_came_back_is_applied(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    epoch = world.build("email+phone")
    bank = world.data["bank"]
    withdraw(bank, "p6")
    withdraw(bank, "p7", "offer_sharing")
    add(bank, "B100", "p14", value_tier="high")
    world.update("bank")
    assert [delta.state for delta in world.coordinator.epochs.deltas(epoch)] == ["applied"]
    assert counted(world, epoch) == expected(world)
    assert world.coordinator.switchboard.handles(PartyId("bank"), handle("B000007"), 9) == []


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("operation", [ADD, REMOVE, CHECK])
@pytest.mark.parametrize("index", [STATISTICS, SWITCHBOARD])
def test_rows_of_a_delta_that_do_not_come_back_stop_it_whole(
    tmp_path: Path, clock: FixedClock, index: int, operation: int
) -> None:
    world = small_world(tmp_path, clock)
    epoch = world.build()
    before = counted(world, epoch)
    played(world, all_copies_of_the_first, index=index, operation=operation)
    bank = world.data["bank"]
    withdraw(bank, "p6")
    withdraw(bank, "p6", "offer_sharing")
    add(bank, "B100", "p14", value_tier="high")
    world.update("bank")
    [delta] = world.coordinator.epochs.deltas(epoch)
    assert (delta.state, delta.reason) == ("failed", Reason.DECOYS_MISSING)
    assert counted(world, epoch) == before


def test_an_honest_epoch_passes_whoever_has_whom(tmp_path: Path, clock: FixedClock) -> None:
    """Of an origin that calls its own people decoys, too: what is found does not depend on who else has them."""
    world = small_world(tmp_path, clock, pad_to=4)
    epoch = world.build("email+phone")
    assert counted(world, epoch) == expected(world)


def test_fewer_decoys_than_are_due_are_refused(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    epoch = world.coordinator.begin("", "email")
    agent = world.agents["bank"]
    agent._send_own = lambda *_: None  # type: ignore[method-assign]
    agent.submit(world.plan(epoch))
    own = next(iter(agent._state.own(epoch)))
    own.header.decoys = LEAST - 1
    expect = world.coordinator.carrier.expect
    assert "decoys" in refused(Reason.BAD_FIELD, expect, "bank", own.header)


@pytest.mark.parametrize("times", [3, 12])
def test_how_often_counting_one_person_more_often_is_seen(tmp_path: Path, clock: FixedClock, times: int) -> None:
    """The best a hop can do: the rows of the smallest batch, so many times each, in the places of the largest one's."""
    data: dict[str, Any] = {
        "bank": people("bank", {"x": "high"} | {f"b{n}": "basic" for n in range(1200)}, "value_tier"),
        "insurer": people("insurer", {"q": "family"}, "life_stage"),
        "airline": people("airline", {"r": "active"}, "activity"),
    }
    world = World(tmp_path, clock, make_policy(sorted(data), SMALL_SEGMENTS), data)
    epoch = world.coordinator.begin("", "email")
    world.work()
    batches, spool, plan = world.coordinator.epochs.batches(epoch), world.coordinator._spool, world.plan(epoch)
    read = Arrived(spool, plan, batches)
    read.read_all()
    read.check()
    largest = batch_id_of(epoch, "bank", STATISTICS, "value_tier=basic")
    taken, unseen, plays = times * (LEAST + 1), 0, 400
    [rows] = [list(read._watched(batch)) for batch in batches if batch.batch_id == largest]
    points = b"".join(chunk for chunk, _ in rows)
    decoys = read._decoys["bank", STATISTICS]
    [wanted] = [batch.header.decoys for batch in batches if batch.batch_id == largest]
    for play in range(plays):  # rows come in a random order: which are taken makes no difference
        start = (play * 37 % (len(points) // 32 - taken)) * 32
        left = points[:start] + bytes(32 * taken) + points[start + 32 * taken :]
        decoys.found[largest] = 0
        decoys.count(largest, left, b"")
        unseen += decoys.found[largest] == wanted
    assert unseen / plays <= 2.718281828 ** (-taken / (ROWS_PER_DECOY + 1)) * 1.5 + 0.02


def test_a_batch_of_decoys_that_is_larger_than_it_need_be_is_not_read(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = small_world(tmp_path, clock)
    monkeypatch.setattr(writing, "most_decoys", lambda count, _pad_to: LEAST + 2 * count + 1)
    epoch = world.coordinator.begin("", "email")
    world.work()
    assert refused(Reason.TOO_LARGE, world.coordinator.finish, epoch).startswith("decoys of ")
    assert world.coordinator.begin("", "") != epoch  # else one partner could keep all from a new epoch
