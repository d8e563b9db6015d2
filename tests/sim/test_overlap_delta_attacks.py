"""What a hop and the gateway do with deltas that are replayed, reordered, changed, or not what their origin sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.client.overlap.memory import Pool
from federation.core.clock import FixedClock
from federation.core.errors import EntenteError, Reason
from federation.core.ids import PartyId
from federation.overlap.batch import MANIFEST, Content, sign_manifest
from federation.overlap.decoys import LEAST
from federation.overlap.hash_to_curve import hash_to_curve
from federation.overlap.plan import BASE, MAX_DELTAS
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_victim import name_of
from tests.kits.overlap_world import Parts, World, small_world

ADD, REMOVE, CHECK = pb.OPERATION_ADD, pb.OPERATION_REMOVE, pb.OPERATION_CHECK
STATISTICS, SWITCHBOARD = pb.INDEX_STATISTICS, pb.INDEX_SWITCHBOARD
ROWS = LEAST + 1
POINTS = hash_to_curve([b"%d" % n for n in range(ROWS)], b"dst")
GUESSES = hash_to_curve([b"guess %d" % n for n in range(ROWS)], b"dst")
LABELS = ("value_tier=basic", "value_tier=high", "value_tier=unknown")
WHOLE, GOES = len(LABELS) + 5, 4


class Victim:
    """The insurer, which blinded the whole base of the bank, fed by a gateway that the test plays."""

    def __init__(self, world: World, limit: int = 10_000) -> None:
        self.world = world
        self.plan = world.plan(world.build())
        config = world.partner_config("insurer")
        limits = config.limits.model_copy(update={"max_rows_blinded_per_epoch": limit})
        self.agent = world.open_agent("insurer", stub=self, config=config.model_copy(update={"limits": limits}))
        self.sent = 0
        self.parts: list[Any] = []

    def GetBatch(self, _request: pb.GetBatchRequest) -> Parts:
        return Parts(self.parts)

    def PutBatch(self, messages: Any) -> Any:
        next(messages)
        yield pb.PutBatchResponse()
        list(messages)
        self.sent += 1
        yield pb.PutBatchResponse(complete=True)

    def header(self, points: bytes = POINTS, **changes: Any) -> pb.BatchHeader:
        about: dict[str, Any] = {"index": STATISTICS, "label": "", "operation": REMOVE, "sequence": 1, "batches": GOES}
        identity = self.world.identities["bank"]
        header = sign_manifest(identity, self.plan, content=Content.of(points), **{**about, **changes})
        header.decoys = LEAST
        return header

    def feed(self, header: pb.BatchHeader, points: bytes = POINTS) -> None:
        self.parts = [header, points] if points else [header]
        self.agent.blind(name_of(header))

    def whole(self, sequence: int) -> None:
        """A delta of removals."""
        for operation in (REMOVE, CHECK):
            for index in (STATISTICS, SWITCHBOARD):
                self.feed(self.header(index=index, operation=operation, sequence=sequence))

    def refuses(self, reason: Reason, header: pb.BatchHeader, points: bytes = POINTS) -> str:
        before = self.sent
        with pytest.raises(EntenteError) as caught:
            self.feed(header, points)
        assert caught.value.reason is reason, caught.value
        assert self.sent == before
        return caught.value.item


@pytest.fixture
def victim(tmp_path: Path, clock: FixedClock) -> Victim:
    return Victim(small_world(tmp_path, clock))


def test_deltas_come_in_order_and_none_before_the_one_before_is_whole(victim: Victim) -> None:
    assert "delta 2" in victim.refuses(Reason.OUT_OF_SEQUENCE, victim.header(sequence=2))
    victim.feed(victim.header(sequence=1))
    victim.feed(victim.header(sequence=1, index=SWITCHBOARD))
    victim.feed(victim.header(sequence=1, operation=CHECK))
    victim.refuses(Reason.OUT_OF_SEQUENCE, victim.header(sequence=2))  # the switchboard's batch of decoys is missing
    victim.feed(victim.header(sequence=1, operation=CHECK, index=SWITCHBOARD))
    victim.whole(2)
    victim.refuses(Reason.OUT_OF_SEQUENCE, victim.header(sequence=4))
    victim.whole(3)


def test_a_delta_before_its_base_is_refused(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    victim = Victim(world)
    victim.plan = world.plan(world.coordinator.begin("", "email"))
    victim.refuses(Reason.OUT_OF_SEQUENCE, victim.header())


def test_the_same_delta_again_is_a_retry_and_guesses_in_its_place_are_refused(victim: Victim) -> None:
    victim.whole(1)
    victim.whole(1)
    assert victim.sent == 8
    assert "second batch" in victim.refuses(Reason.QUOTA_EXCEEDED, victim.header(GUESSES), GUESSES)
    victim.refuses(Reason.DIGEST_MISMATCH, victim.header(sequence=2), GUESSES)
    victim.refuses(Reason.TOO_LARGE, victim.header(sequence=2), POINTS + GUESSES)


def test_no_further_batch_than_the_delta_declared(victim: Victim) -> None:
    victim.whole(1)
    more = victim.header(GUESSES, operation=ADD, label=LABELS[0], batches=WHOLE)
    assert "batches of bank" in victim.refuses(Reason.QUOTA_EXCEEDED, more, GUESSES)
    victim.refuses(Reason.BAD_MANIFEST, victim.header(GUESSES, operation=ADD, label=LABELS[0]), GUESSES)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("label", {"label": LABELS[0]}),  # a removal says nothing of labels
        ("label", {"operation": ADD, "label": "value_tier=gold", "batches": WHOLE}),  # not agreed
        ("label", {"operation": ADD, "label": "", "batches": WHOLE}),
        ("label", {"operation": BASE, "label": LABELS[0]}),
        ("label", {"operation": pb.OPERATION_UNSPECIFIED}),
        ("label", {"sequence": 0, "batches": len(LABELS) + 3}),  # a removal as a base
        ("batches", {"batches": 3}),
        ("sequence", {"sequence": MAX_DELTAS + 1}),
    ],
)
def test_a_manifest_that_no_delta_has(victim: Victim, field: str, changes: dict[str, Any]) -> None:
    assert f"manifest of bank, field {field}" in victim.refuses(Reason.BAD_MANIFEST, victim.header(**changes))


def test_operation_and_number_are_signed(victim: Victim) -> None:
    for field, value in (("operation", ADD), ("sequence", 7), ("batches", WHOLE)):
        header = victim.header()
        manifest = pb.Manifest.FromString(header.manifest.payload)
        setattr(manifest, field, value)
        header.manifest.payload = manifest.SerializeToString(deterministic=True)
        victim.refuses(Reason.BAD_SIGNATURE, header)
    other = pb.Manifest.FromString(victim.header().manifest.payload)
    signed = victim.world.identities["airline"].sign(MANIFEST, other.SerializeToString())
    victim.refuses(Reason.PARTY_MISMATCH, pb.BatchHeader(manifest=signed))


def test_rows_of_deltas_count_in_the_limit_of_the_epoch(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    victim = Victim(world, limit=0)
    base = world.coordinator.epochs.batches(victim.plan.epoch)
    rows = sum(pb.Manifest.FromString(one.header.manifest.payload).count for one in base if one.origin == "bank")
    victim.agent._hop._limits = world.partner_config("insurer").limits.model_copy(
        update={"max_rows_blinded_per_epoch": rows + GOES * ROWS + ROWS - 1}
    )
    victim.whole(1)
    item = victim.refuses(Reason.QUOTA_EXCEEDED, victim.header(sequence=2))
    most = rows + GOES * ROWS + ROWS - 1
    assert f"rows of bank in epoch {victim.plan.epoch}: {most + 1}, " in item
    assert f"limits.max_rows_blinded_per_epoch is {most}" in item


def gateway_refuses(world: World, reason: Reason, header: pb.BatchHeader, party: str = "bank") -> str:
    with pytest.raises(EntenteError) as caught:
        world.coordinator.carrier.expect(PartyId(party), header)
    assert caught.value.reason is reason, caught.value
    return caught.value.item


def test_the_gateway_takes_no_delta_out_of_turn_and_none_of_another_epoch(victim: Victim) -> None:
    world = victim.world
    assert "delta 2 of bank; 0 came" in gateway_refuses(world, Reason.OUT_OF_SEQUENCE, victim.header(sequence=2))
    gateway_refuses(world, Reason.PARTY_MISMATCH, victim.header(), "airline")
    assert not world.coordinator.carrier.expect(PartyId("bank"), victim.header()).here
    gateway_refuses(world, Reason.UNKNOWN_BATCH, victim.header(operation=ADD, label=LABELS[0], batches=WHOLE))
    old = victim.header(sequence=2)
    world.build()
    gateway_refuses(world, Reason.UNKNOWN_EPOCH, old)
    victim.plan = world.plan(world.coordinator.begin("", "email"))
    gateway_refuses(world, Reason.UNKNOWN_EPOCH, victim.header())  # not complete


def test_an_origin_that_takes_away_what_it_never_sent_is_found_out(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would guess at others' people; it learns nothing, and no fresh answer is given with it in this epoch."""
    world = small_world(tmp_path, clock)
    epoch = world.build()
    before = world.coordinator.index.exact(epoch, ("bank", "insurer", "airline"), ())

    def made_up(_pool: Pool, places: Any) -> Iterator[bytes]:
        yield hash_to_curve([b"x%d" % number for number in range(len(places))], b"dst")

    real = Pool.read
    monkeypatch.setattr(Pool, "read", made_up)
    world.data["bank"].consented = {**world.data["bank"].consented, "overlap_statistics": ["B000001"]}
    world.update("bank", withdrawals_only=True)
    [delta] = world.coordinator.epochs.deltas(epoch)
    assert (delta.state, delta.reason) == ("failed", "BAD_FIELD")
    assert "not there" in delta.text
    assert world.coordinator.index.exact(epoch, ("bank", "insurer", "airline"), ()) == before
    plan = world.plan(epoch)
    [ask] = world.coordinator.deltas.ask(plan, ["bank"], withdrawals_only=True)
    world.coordinator.report(PartyId("bank"), ask.task_id, "", "", 1)
    with pytest.raises(EntenteError) as caught:
        world.coordinator.deltas.is_done(ask)
    assert caught.value.reason is Reason.BUILD_FAILED
    monkeypatch.setattr(Pool, "read", real)
    world.data["bank"].consented = {**world.data["bank"].consented, "overlap_statistics": []}
    with pytest.raises(EntenteError) as caught:
        world.update("bank", withdrawals_only=True)
    assert caught.value.reason is Reason.OUT_OF_SEQUENCE
