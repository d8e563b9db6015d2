"""Two of three partners put together all that they have, without the gateway, and compare it with the third one's."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.overlap.state import EpochState
from federation.core.clock import FixedClock
from federation.core.ids import PartyId
from federation.overlap.blind import blind
from federation.overlap.own_key import OwnKey
from federation.overlap.plan import STATISTICS, SWITCHBOARD
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_world import Direct, World, small_world

ALL = ("airline", "bank", "insurer")


class Keeping(Direct):
    """A partner that keeps the points of all batches that pass through it, by origin and index."""

    def __init__(self, world: World, party: PartyId) -> None:
        super().__init__(world, party)
        self.kept: dict[tuple[str, int], set[bytes]] = {}

    def GetBatches(self, request: pb.GetBatchesRequest) -> pb.GetBatchesResponse:
        found = super().GetBatches(request)
        for batch in found.batches:
            manifest = pb.Manifest.FromString(batch.header.manifest.payload)
            rows = {batch.points[at : at + 32] for at in range(0, len(batch.points), 32)}
            self.kept.setdefault((manifest.origin, manifest.index), set()).update(rows)
            assert not batch.header.conversion  # which is for the gateway
            assert not batch.header.decoys
        return found


def multiplied(points: set[bytes], *keys: X25519PrivateKey) -> set[bytes]:
    rows = b"".join(sorted(points))
    for key in keys:
        rows = blind(rows, key).points
    return {rows[at : at + 32] for at in range(0, len(rows), 32)}


def common(world: World, stubs: dict[str, Keeping], index: int, colluding: Sequence[str]) -> int:
    """How many points of the third partner's customers two others make that they also make of their own.

    Each point that either of them saw is multiplied by every combination of all keys that they have.
    """
    plan = world.plan(str(world.coordinator.epochs.newest_complete()))
    states = [world.agents[party]._state for party in colluding]
    keys = [key for one in states for key in (one.key(plan.epoch, index), one.own_key(plan, index).key)]
    theirs, ours = set[bytes](), set[bytes]()
    for stub in (stubs[party] for party in colluding):
        for (origin, where), points in stub.kept.items():
            if where == index:
                made = theirs if origin not in colluding else ours
                for number in range(len(keys) + 1):
                    for some in combinations(keys, number):
                        made |= multiplied(points, *some)
    return len(theirs & ours)


def built(folder: Path, clock: FixedClock) -> tuple[World, dict[str, Keeping]]:
    world = small_world(folder, clock)
    world.together = True
    stubs = {party: Keeping(world, PartyId(party)) for party in ALL}
    world.agents = {party: world.open_agent(party, stub=stub) for party, stub in stubs.items()}
    world.build()
    return world, stubs


@pytest.mark.parametrize("index", [STATISTICS, SWITCHBOARD])
def test_they_find_nobody(tmp_path: Path, clock: FixedClock, index: int) -> None:
    world, stubs = built(tmp_path, clock)
    for colluding in combinations(ALL, 2):
        assert common(world, stubs, index, colluding) == 0


def test_with_one_key_for_own_and_others_rows_they_would_find_everybody(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same measure on what the protocol was: it finds what there is to find."""
    one_key = lambda state, plan, index: OwnKey(state.key(plan.epoch, index))  # noqa: E731
    monkeypatch.setattr(EpochState, "own_key", one_key)
    world, stubs = built(tmp_path, clock)
    exact = world.coordinator.index.exact(str(world.coordinator.epochs.newest_complete()), ALL, ())
    both = sum(people for (members, _), people in exact.items() if {"airline", "insurer"} <= set(members))
    assert both == 5
    assert common(world, stubs, STATISTICS, ("bank", "insurer")) >= both
