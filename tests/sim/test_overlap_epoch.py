"""A whole epoch in one process: what is counted, what survives a restart, what is refused on the way."""

import json
from pathlib import Path
from typing import Any

import pytest

from federation.client.config import DataConfig
from federation.core.clock import FixedClock
from federation.core.errors import OverlapError, Reason
from federation.core.ids import Handle, PartyId
from federation.overlap.decoys import LEAST, most_decoys
from federation.overlap.plan import CHECK, PROTOCOL, labels_of
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.arrived import Arrived
from tests.kits.overlap_world import VENN, World, make_policy, one_by_one, people, small_world, venn
from tests.kits.refused import refused

ALL = ("bank", "insurer", "airline")
BANK, INSURER, AIRLINE = (PartyId(name) for name in ALL)


@pytest.fixture
def world(tmp_path: Path, clock: FixedClock) -> World:
    return small_world(tmp_path, clock)


def test_every_region_is_exact_and_labels_are_counted_only_within_their_partner(world: World) -> None:
    epoch = world.build()
    assert venn(world, epoch) == VENN
    counts = world.coordinator.index.exact(epoch, ("bank", "airline"), ("bank.value_tier", "airline.activity"))
    tier, active = "bank.value_tier", "airline.activity"
    assert counts == {
        (("bank",), ((tier, "high"),)): 5,
        (("airline",), ((active, "unknown"),)): 5,
        (("bank", "airline"), ((tier, "basic"), (active, "unknown"))): 5,
    }


def test_padding_hides_sizes_from_hops_and_changes_no_count(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock, pad_to=8)
    epoch = world.coordinator.begin("", "email")
    world.work()
    batches = world.coordinator.epochs.batches(epoch)
    manifests = [pb.Manifest.FromString(batch.header.manifest.payload) for batch in batches]
    counts = [manifest.count for manifest in manifests if manifest.operation != CHECK]
    assert {count % 8 for count in counts} == {0}
    assert 0 not in counts  # a label that nobody has looks like one that somebody has
    for check in (manifest for manifest in manifests if manifest.operation == CHECK):
        others = [m.count for m in manifests if (m.origin, m.index) == (check.origin, check.index) and m is not check]
        assert check.count == sum(most_decoys(count, 8) for count in others)  # follows from what hops see anyway
    world.coordinator.finish(epoch)
    assert venn(world, epoch) == VENN


def test_the_switchboard_joins_handles_of_people_who_agreed_to_offers(tmp_path: Path, clock: FixedClock) -> None:
    bank = people("bank", {f"p{n}": "basic" for n in range(10)}, "value_tier", sharing=[1, 2, 6])
    world = small_world(tmp_path, clock, pad_to=4, extra={"bank": bank})
    world.build()
    board = world.coordinator.switchboard
    of = lambda name: Handle(name.encode().ljust(16, b"."))  # noqa: E731
    p6 = [(AIRLINE, of("A000003")), (BANK, of("B000006")), (INSURER, of("I000001"))]
    assert board.handles(BANK, of("B000006"), 9) == p6
    assert board.handles(BANK, of("B000005"), 9) == []  # did not agree
    p5 = [(INSURER, of("I000000"))]  # odd, and did not agree at the bank
    assert board.handles(INSURER, of("I000000"), 9) == p5


def test_the_two_indexes_share_no_token(world: World) -> None:
    epoch = world.coordinator.begin("", "email")
    world.work()
    batches, spool, plan = world.coordinator.epochs.batches(epoch), world.coordinator._spool, world.plan(epoch)
    arrived = Arrived(spool, plan, batches)
    decoys = sum(batch.header.decoys for batch in batches if batch.operation != CHECK)
    statistics, switchboard = (
        {chunk[at : at + 32] for chunk in made for at in range(0, len(chunk), 32)}
        for made in (
            [chunk for one in arrived.tokens() for chunk in one.chunks],
            [points for one in arrived.handles() for points, _ in one.rows],
        )
    )
    assert len(statistics) + len(switchboard) == 2 * sum(VENN.values()) + decoys
    assert not statistics & switchboard


def test_a_person_twice_in_one_file_counts_once(tmp_path: Path, clock: FixedClock) -> None:
    rows = {"p1": "basic", "P1": "high", " p1": "high", "p2": "high"}
    world = small_world(tmp_path, clock, extra={"bank": people("bank", rows, "value_tier")})
    epoch = world.build()
    counts = world.coordinator.index.exact(epoch, ("bank", "insurer"), ("bank.value_tier",))
    at_bank = {labels: count for (members, labels), count in counts.items() if members == ("bank",)}
    assert at_bank == {(("bank.value_tier", "basic"),): 1, (("bank.value_tier", "high"),): 1}
    report = json.loads((tmp_path / "bank" / "reports" / f"overlap-{epoch}.json").read_text())
    assert (report["statistics"]["used"], report["statistics"]["repeated_identifier"]) == (2, 2)


def test_the_report_says_who_stayed_home(tmp_path: Path, clock: FixedClock) -> None:
    bank = people("bank", {f"p{n}": "basic" for n in range(10)}, "value_tier")
    bank.table.loc["B000000", "email"] = ""
    bank.table.loc["B000001", "email"] = "not an address"
    bank.consented = {"overlap_statistics": bank.table.index[:7], "offer_sharing": bank.table.index[:2]}
    world = small_world(tmp_path, clock, extra={"bank": bank})
    epoch = world.build()
    report = json.loads((tmp_path / "bank" / "reports" / f"overlap-{epoch}.json").read_text())
    common = {"customers": 10, "without_identifier": 1, "invalid_identifier": 1, "repeated_identifier": 0}
    labels = len(labels_of(world.policy.parties["bank"]))
    assert report["statistics"] == {**common, "used": 5, "decoys": labels * LEAST, "refused": {"consent_missing": 3}}
    assert report["switchboard"] == {**common, "used": 0, "decoys": LEAST, "refused": {"consent_missing": 8}}


def test_keys_are_secret_and_fresh_for_every_epoch_and_index(world: World, tmp_path: Path) -> None:
    keys: list[bytes] = []
    for name in ("2026-11-01.1", "2026-11-01.2"):
        assert world.build() == name
        files = list((tmp_path / "bank" / "epochs" / name).glob("*.key"))
        keys += [path.read_bytes() for path in files]
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {len(key) for key in keys} == {32, 64}  # of own rows with what the gateway is given for them
    assert len(set(keys)) == len(keys) == 8


def test_a_new_epoch_re_keys_while_the_old_one_answers_and_then_the_old_keys_are_gone(
    world: World, tmp_path: Path
) -> None:
    first = world.build()
    plan = world.plan(first)
    second = world.coordinator.begin("", "email")
    world.work()
    assert world.coordinator.epochs.newest_complete() == first
    assert venn(world, first) == VENN  # all through the second one's build
    world.coordinator.finish(second)
    world.tell()
    assert world.coordinator.epochs.newest_complete() == second
    for party in ALL:
        assert [path.name for path in (tmp_path / party / "epochs").iterdir()] == [second]
        assert not list((tmp_path / party).glob("hops/*"))
        agent = world.open_agent(party)
        assert "replaced" in refused(Reason.UNKNOWN_EPOCH, agent.submit, plan)
        assert [path.name for path in (tmp_path / party / "epochs").iterdir()] == [second]


def test_batches_that_a_new_epoch_overtook_are_forgotten(world: World, tmp_path: Path) -> None:
    world.coordinator.begin("", "email")
    world.work(3)
    agent = world.agents["bank"]
    agent._hop._send = lambda _batch, _width: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        world.work()
    assert any((tmp_path / "bank" / "hops").iterdir())
    world.agents["bank"] = world.open_agent("bank")
    second = world.build(epoch="second")
    assert venn(world, second) == VENN
    assert not any((tmp_path / "bank" / "hops").iterdir())


def test_what_is_asked_of_a_complete_epoch_holds_no_token(world: World, tmp_path: Path) -> None:
    epoch = world.coordinator.begin("", "email")
    world.work()
    spool = tmp_path / "gateway" / "overlap" / "batches"
    seen = {data[at : at + 16] for data in (f.read_bytes() for f in spool.iterdir()) for at in range(0, len(data), 32)}
    assert seen
    world.coordinator.finish(epoch)
    assert list(spool.iterdir()) == []
    index = tmp_path / "gateway" / "overlap" / "index"
    asked = (index / f"{epoch}.duckdb").read_bytes()
    assert not any(token in asked for token in seen)
    assert {path.name for path in index.iterdir() if path.is_file()} == {f"{epoch}.duckdb", f"{epoch}@tokens"}
    assert [path for path in index.rglob("*") if path.parent != index] == []  # nothing is spilled any more


@pytest.mark.parametrize("after", [0, 2, 5, 9, 16, 22])
def test_killed_anywhere_it_goes_on_where_it_was(tmp_path: Path, clock: FixedClock, after: int) -> None:
    """Every process is replaced by a new one on the same files after some tasks, as after kill -9."""
    world = small_world(tmp_path, clock, pad_to=4)
    epoch = world.coordinator.begin("", "email")
    world.work(after)
    world.coordinator = world.open_coordinator()
    world.agents = {name: world.open_agent(name) for name in world.policy.parties}
    assert world.coordinator.begin(epoch, "") == epoch
    world.work()
    world.coordinator.finish(epoch)
    world.coordinator.finish(epoch)  # twice is once
    assert venn(world, epoch) == VENN


def test_an_agent_that_is_asked_again_sends_the_very_same_batches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)
    world.coordinator.begin("e1", "email")
    [(_, task)] = world.coordinator.tasks(BANK)
    sent: list[bytes] = []
    for _ in range(2):
        agent = world.open_agent("bank")
        agent._send = lambda batch, _width: sent.append(batch.points.read_bytes())  # type: ignore[method-assign]
        agent.submit(task.submit.plan)
    assert sent[: len(sent) // 2] == sent[len(sent) // 2 :]
    assert len(sent) == 2 * (3 + 1 + 2)


def test_without_a_name_a_build_goes_on_with_the_epoch_that_is_open(world: World) -> None:
    first = world.coordinator.begin("", "email")
    world.work(4)
    assert world.coordinator.begin("", "email") == world.coordinator.begin("", "") == first
    assert world.build() == first
    second = world.build()  # it is complete: the next one
    assert second != first
    by_phone = world.coordinator.begin("", "phone")
    by_mail = world.coordinator.begin("", "email")
    assert len({first, second, by_phone, by_mail}) == 4
    assert world.coordinator.epochs.abandoned() == [by_phone]
    bank = world.policy.parties["bank"]
    world.policy.parties["bank"] = bank.model_copy(update={"segments": {"value_tier": ("basic", "high", "new")}})
    assert world.coordinator.begin("", "email") != by_mail  # whose batches no agent would send under this policy


def test_a_new_epoch_abandons_an_unfinished_one(world: World, tmp_path: Path) -> None:
    first = world.coordinator.begin("", "email")
    world.work(4)
    second = world.build(epoch="second")
    assert second in refused(Reason.EPOCH_ABANDONED, world.coordinator.is_complete, first)
    assert refused(Reason.EPOCH_ABANDONED, world.coordinator.begin, first, "") == first
    assert venn(world, second) == VENN
    assert world.coordinator.epochs.newest_complete() == second
    assert list((tmp_path / "gateway" / "overlap" / "batches").iterdir()) == []


def test_an_epoch_keeps_its_key_type_and_its_name_is_a_name(world: World) -> None:
    epoch = world.coordinator.begin("", "phone")
    assert "phone" in refused(Reason.BAD_FIELD, world.coordinator.begin, epoch, "email")
    refused(Reason.BAD_FIELD, world.coordinator.begin, "", "passport")
    for name in ("../x", "a/b", ".", "a..b", "x" * 65, "a b"):
        refused(Reason.BAD_FIELD, world.coordinator.begin, name, "")


def test_an_unfinished_epoch_has_no_index(world: World) -> None:
    epoch = world.coordinator.begin("", "email")
    refused(Reason.EPOCH_INCOMPLETE, world.coordinator.finish, epoch)
    refused(Reason.UNKNOWN_EPOCH, world.coordinator.index.exact, epoch, ALL, ())


def test_one_partner_is_no_alliance(tmp_path: Path, clock: FixedClock) -> None:
    world = World(tmp_path, clock, make_policy(["bank"]), {"bank": people("bank", {"p1": "basic"}, "value_tier")})
    refused(Reason.TOO_FEW_PARTNERS, world.coordinator.begin, "", "email")


def test_a_file_without_its_columns_sends_nothing(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock, extra={"bank": people("bank", {"p1": "basic"})})
    epoch = world.coordinator.begin("", "email")
    assert "value_tier" in refused(Reason.MISSING_COLUMN, world.work)
    assert all(batch.position == -1 for batch in world.coordinator.epochs.batches(epoch) if batch.origin == BANK)
    assert not (tmp_path / "bank" / "epochs" / epoch / "own").exists()


def test_an_unusable_identifier_column_is_the_datas_word(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)

    world.data["bank"].table["email"] = ""
    config = world.partner_config("bank")
    world.agents["bank"] = world.open_agent("bank", config=config.model_copy(update={"data": DataConfig()}))
    world.coordinator.begin("", "email")
    assert "column email: 100% empty" in refused(Reason.HALF_EMPTY_COLUMN, world.work)


def test_consent_states_go_first_and_only_for_real_customers(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)
    world = small_world(tmp_path, clock, pad_to=8)
    order: list[Any] = []
    agent = world.open_agent("bank", before_switchboard=lambda people: order.append(sorted(people)))
    agent._send = lambda batch, _width: order.append(bool(batch.handles))  # type: ignore[method-assign]
    world.coordinator.begin("", "email")
    [(_, task)] = world.coordinator.tasks(BANK)
    agent.submit(task.submit.plan)
    people = [(name := f"B{n:06d}", name.encode().ljust(16, b".")) for n in range(10)]
    assert order == [False] * 3 + [people, True, False, True]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("alliance", {"alliance": "other"}),
        ("rules", {"rules": "0"}),
        ("protocol", {"protocol": 0}),  # of a gateway that takes no key off
        ("key_type", {"key_type": "passport"}),
        ("partners", {"partners": ["bank", "insurer"]}),
        ("partners", {"partners": ["insurer", "bank", "airline"]}),
        ("partners", {"partners": ["airline", "bank", "insurer", "mallory"]}),
    ],
)
def test_an_agent_refuses_a_plan_that_is_not_the_agreement(world: World, field: str, change: dict[str, Any]) -> None:
    plan = {"alliance": "skyline", "epoch": "e1", "key_type": "email", "rules": "1", "partners": sorted(ALL)}
    plan |= {"protocol": PROTOCOL}
    assert field in refused(Reason.BAD_MANIFEST, world.agents["bank"].submit, pb.EpochPlan(**{**plan, **change}))


def test_an_agent_refuses_a_second_plan_for_an_epoch(world: World) -> None:
    epoch = world.coordinator.begin("", "email")
    plan = world.plan(epoch)
    world.agents["bank"].submit(plan)
    plan.key_type = "phone"
    refused(Reason.BAD_MANIFEST, world.agents["bank"].submit, plan)


def test_limits_on_rows_hold_over_all_batches_of_an_epoch(world: World) -> None:
    config = world.partner_config("bank")
    limits = config.limits.model_copy(update={"max_rows_blinded_per_epoch": 15})
    world.agents["bank"] = world.open_agent("bank", config=config.model_copy(update={"limits": limits}))
    world.coordinator.begin("", "email")
    with pytest.raises(OverlapError) as caught:
        world.work()
    assert caught.value.reason is Reason.QUOTA_EXCEEDED


def test_a_partner_sends_its_rows_by_no_other_identifier_than_it_allows(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    config = world.partner_config("bank")
    limits = config.limits.model_copy(update={"key_types": ("email", "phone")})
    agent = world.open_agent("bank", config=config.model_copy(update={"limits": limits}))
    world.agents["bank"] = agent
    plan = world.plan(world.coordinator.begin("", "any"))
    item = refused(Reason.BAD_MANIFEST, agent.submit, plan)
    assert item == "plan field key_type: email+phone+national_id, allowed here: email, phone"
    assert venn(world, world.build("email")) == VENN
