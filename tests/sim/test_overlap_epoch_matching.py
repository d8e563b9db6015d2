"""An epoch by several key types: one person however many identifiers match, and how well real files are matched."""

import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from federation.core.canonical import digest_hex
from federation.core.clock import FixedClock
from federation.core.errors import DataError, EntenteError, OverlapError, Reason
from federation.core.ids import Handle, PartyId
from federation.overlap.normalise import normalise
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.index import StatisticsIndex, TokenBatch
from tests.kits.overlap_world import Data, World, make_policy

BOTH = ("airline", "bank")
AIRLINE, BANK = PartyId("airline"), PartyId("bank")


def data(prefix: str, rows: list[dict[str, str]]) -> Data:
    ids = [f"{prefix}{number:06d}" for number in range(len(rows))]
    table = pd.DataFrame(rows, index=ids).fillna("")
    return Data(table, {"overlap_statistics": ids, "offer_sharing": ids})


PHONE = "+1-212-555-010{}"
AIRLINE_ROWS = [
    {"email": "a@x.org", "phone": PHONE.format(1), "national_id": ""},  # one person by two keys
    {"email": "b@x.org", "phone": "", "national_id": "12-34 567"},  # by national id only
    {"email": "c@x.org", "phone": PHONE.format(3), "national_id": ""},  # two rows that the bank's row joins
    {"email": "d@x.org", "phone": PHONE.format(4), "national_id": ""},
    {"email": "nobody", "phone": "", "national_id": "0000000"},  # nothing usable: stays home
]
BANK_ROWS = [
    {"email": "A@x.org", "phone": PHONE.format(1), "national_id": "9999991"},
    {"email": "other@x.org", "phone": "", "national_id": "1234567"},
    {"email": "c@x.org", "phone": PHONE.format(4), "national_id": ""},
    {"email": "e@x.org", "phone": PHONE.format(9), "national_id": "5550123"},
]


def world_of(folder: Path, clock: FixedClock, pad_to: int = 1) -> World:
    rows = {"airline": data("A", AIRLINE_ROWS), "bank": data("B", BANK_ROWS)}
    return World(folder, clock, make_policy(BOTH, {}, pad_to), rows)


@pytest.mark.parametrize("pad_to", [1, 8])
def test_a_person_with_several_identifiers_counts_once(tmp_path: Path, clock: FixedClock, pad_to: int) -> None:
    world = world_of(tmp_path, clock, pad_to)
    epoch = world.build("any")
    assert world.plan(epoch).key_type == "email+phone+national_id"
    assert world.coordinator.index.exact(epoch, BOTH, ()) == {(BOTH, ()): 3, (("bank",), ()): 1}
    for kinds, both in (("email", 2), ("phone", 2), ("national_id", 1), ("email+national_id", 3)):
        assert world.coordinator.index.exact(world.build(kinds), BOTH, ())[BOTH, ()] == both


def test_a_row_keeps_its_tokens_together_and_shows_no_gap(tmp_path: Path, clock: FixedClock) -> None:
    world = world_of(tmp_path, clock)
    epoch = world.coordinator.begin("", "any")
    world.work()
    for batch in world.coordinator.epochs.batches(epoch):
        rows = b"".join(world.coordinator._spool.chunks(batch.batch_id, batch.position, 96))
        points = [rows[at : at + 32] for at in range(0, len(rows), 32)]
        assert len(points) == 3 * pb.Manifest.FromString(batch.header.manifest.payload).count
        assert len(set(points)) == len(points)  # a missing identifier is a point like any other
        assert bytes(32) not in points


def test_the_switchboard_finds_a_person_by_any_identifier(tmp_path: Path, clock: FixedClock) -> None:
    world = world_of(tmp_path, clock, pad_to=8)
    world.build("any")
    board = world.coordinator.switchboard
    of = lambda name: Handle(name.encode().ljust(16, b"."))  # noqa: E731
    for mine, theirs in (("B000000", "A000000"), ("B000001", "A000001"), ("B000002", "A000002")):
        assert (AIRLINE, of(theirs)) in board.handles(BANK, of(mine), 9)
    assert (BANK, of("B000002")) in board.handles(AIRLINE, of("A000003"), 9)
    assert board.handles(BANK, of("B000003"), 9) == [(BANK, of("B000003"))]


def test_a_partner_may_lack_a_key_type_but_not_all(tmp_path: Path, clock: FixedClock) -> None:
    world = world_of(tmp_path, clock)
    bank = world.data["bank"]
    partial = Data(bank.table.drop(columns=["national_id"]), bank.consented)
    world = World(tmp_path, clock, world.policy, {**world.data, "bank": partial})
    assert world.coordinator.index.exact(world.build("any"), BOTH, ())[BOTH, ()] == 2
    empty = Data(bank.table[[]], bank.consented)
    world = World(tmp_path, clock, world.policy, {**world.data, "bank": empty})
    with pytest.raises(DataError) as caught:
        world.build("any")
    assert caught.value.reason is Reason.MISSING_COLUMN


@pytest.mark.parametrize("bad", ["phone+email", "email+", "passport", "any+email"])
def test_a_key_type_has_one_spelling(tmp_path: Path, clock: FixedClock, bad: str) -> None:
    world = world_of(tmp_path, clock)
    with pytest.raises(OverlapError) as caught:
        world.coordinator.begin("", bad)
    assert caught.value.reason is Reason.BAD_FIELD


def test_groups_of_another_width_are_refused(tmp_path: Path, clock: FixedClock) -> None:
    """A gateway that says "email" of a batch by two key types would get points shuffled apart: the plan is signed."""
    world = world_of(tmp_path, clock)
    epoch = world.coordinator.begin("", "email+phone")
    world.work(2)
    [batch] = [
        batch
        for batch in world.coordinator.epochs.batches(epoch)
        if (batch.origin, batch.index, batch.operation) == ("bank", pb.INDEX_STATISTICS, pb.OPERATION_BASE)
    ]
    agent = world.agents["airline"]
    manifest = pb.Manifest.FromString(batch.header.manifest.payload)
    assert manifest.plan.key_type == "email+phone"
    agent._hop._header(pb.GetBatchResponse(header=batch.header), batch.batch_id)
    manifest.plan.key_type = "email"
    batch.header.manifest.payload = manifest.SerializeToString(deterministic=True)
    with pytest.raises(EntenteError) as caught:
        agent._hop._header(pb.GetBatchResponse(header=batch.header), batch.batch_id)
    assert caught.value.reason is Reason.BAD_SIGNATURE


# How well it matches. Tokens stand for normal forms here: the protocol is exact on them (see the property tests).


def shared(name: str) -> pd.DataFrame:
    folder = os.environ.get("ENTENTE_SHARED_DATA", "")
    path = Path(folder) / name
    if not folder or not path.is_file():
        pytest.skip(f"ENTENTE_SHARED_DATA names no folder with {name}")
    return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)


def match(folder: Path, sides: dict[str, list[tuple[str | None, ...]]]) -> int:
    """How many people the index finds at all sides."""
    kinds = len(next(iter(sides.values()))[0])
    fresh = iter(range(10**9))

    def point(slot: int, value: str | None) -> bytes:
        return bytes.fromhex(digest_hex([slot, value] if value is not None else ["none", next(fresh)]))

    batches = [
        TokenBatch(party, "", 0, [b"".join(point(slot, v) for row in rows for slot, v in enumerate(row))])
        for party, rows in sides.items()
    ]
    index = StatisticsIndex(folder)
    index.build("e", dict.fromkeys(sides, ("",)), batches, kinds)
    return index.exact("e", tuple(sides), ()).get((tuple(sides), ()), 0)


def pairs_of(rows: list[tuple[str | None, ...]], other: list[tuple[str | None, ...]]) -> set[tuple[int, int]]:
    """Pairs across two sides that are in one component, by union-find."""
    root = list(range(len(rows) + len(other)))

    def find(one: int) -> int:
        while root[one] != one:
            root[one] = root[root[one]]
            one = root[one]
        return one

    first: dict[tuple[int, str], int] = {}
    for number, row in enumerate([*rows, *other]):
        for slot, value in enumerate(row):
            if value is not None:
                root[find(number)] = find(first.setdefault((slot, value), number))
    members: dict[int, list[int]] = {}
    for number in range(len(root)):
        members.setdefault(find(number), []).append(number)
    n = len(rows)
    return {(a, b - n) for group in members.values() for a in group if a < n for b in group if b >= n}


def scores(found: set[tuple[int, int]], true: set[tuple[int, int]]) -> tuple[float, float]:
    return len(found & true) / len(true), len(found & true) / len(found) if found else 1.0


def test_how_well_febrl_is_matched(tmp_path: Path) -> None:
    """5,000 true pairs with errors in the fields; name with date of birth stands in for the e-mail they lack."""
    sides = {name: shared(f"febrl4{name}.csv") for name in ("a", "b")}
    national: Callable[[str], str | None] = lambda raw: normalise(raw, "national_id", region="AU")  # noqa: E731

    def derived(row: pd.Series) -> str | None:
        parts = [row["given_name"], row["surname"], row["date_of_birth"]]
        return "|".join(parts) if all(parts) else None

    keys = {
        name: [(national(row["soc_sec_id"]), derived(row)) for _, row in table.iterrows()]
        for name, table in sides.items()
    }
    number = {name: [record.split("-")[1] for record in table["rec_id"]] for name, table in sides.items()}
    where = {record: at for at, record in enumerate(number["b"])}
    true = {(at, where[record]) for at, record in enumerate(number["a"])}
    assert len(true) == 5000
    table = {}
    for title, slots in (("national_id", (0,)), ("name + birth", (1,)), ("both", (0, 1))):
        chosen = {name: [tuple(row[slot] for slot in slots) for row in rows] for name, rows in keys.items()}
        table[title] = scores(pairs_of(chosen["a"], chosen["b"]), true)
        print(f"{title:16} recall {table[title][0]:.4f} precision {table[title][1]:.4f}")
    canonical = {name: [(row[0] or row[1],) for row in rows] for name, rows in keys.items()}
    table["canonical"] = scores(pairs_of(canonical["a"], canonical["b"]), true)
    print(f"{'canonical':16} recall {table['canonical'][0]:.4f} precision {table['canonical'][1]:.4f}")
    assert table["both"][0] > max(table["national_id"][0], table["name + birth"][0], table["canonical"][0])
    assert min(precision for _, precision in table.values()) > 0.99
    found = match(tmp_path, keys)
    assert abs(found - len(pairs_of(keys["a"], keys["b"]))) < 10  # a pair is a person, but for a few joined ones


def test_how_well_fake_people_are_matched() -> None:
    """1,000 rows in 251 clusters, e-mail and, in place of a second key, name with date of birth."""
    table = shared("fake_1000.csv")
    keys = [
        (
            normalise(row["email"], "email", region="US"),
            "|".join((row["first_name"], row["surname"], row["dob"])) if row["first_name"] and row["dob"] else None,
        )
        for _, row in table.iterrows()
    ]
    clusters = table["cluster"].tolist()
    true = {(a, b) for a, b in combinations(range(len(clusters)), 2) if clusters[a] == clusters[b]}
    results = {}
    for title, slots in (("email", (0,)), ("name + birth", (1,)), ("both", (0, 1))):
        chosen = [tuple(row[slot] for slot in slots) for row in keys]
        found = {(a, b) for a, b in pairs_of(chosen, chosen) if a < b}
        results[title] = scores(found, true)
        print(f"{title:16} recall {results[title][0]:.4f} precision {results[title][1]:.4f}")
    assert results["both"][0] > max(results["email"][0], results["name + birth"][0])
    assert min(precision for _, precision in results.values()) > 0.9
