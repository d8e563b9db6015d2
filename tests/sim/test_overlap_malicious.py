"""What a hop does when the gateway, or another partner, does not play by the rules: it refuses, and blinds nothing."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from federation.core.clock import FixedClock
from federation.core.errors import EntenteError, Reason
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.overlap.batch import (
    MANIFEST,
    MAX_HEADER_BYTES,
    RECEIPT,
    Content,
    sign_manifest,
    verify_chain,
)
from federation.overlap.blind import CHUNK_ROWS, blind
from federation.overlap.decoys import LEAST
from federation.overlap.hash_to_curve import hash_to_curve
from federation.v1 import common_pb2
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_victim import POINTS, ROWS, Victim, name_of
from tests.kits.overlap_world import small_world


@pytest.fixture
def victim(tmp_path: Path, clock: FixedClock) -> Victim:
    return Victim(small_world(tmp_path, clock))


def test_an_honest_batch_is_blinded_and_signed(victim: Victim) -> None:
    victim.feed(victim.header(), POINTS[:64], POINTS[64:])
    [(header, points)] = victim.sent
    chain = verify_chain(
        header,
        alliance="skyline",
        agreement=victim.world.policy,
        ca=victim.world.authority.certificate,
        at=victim.world.clock.now(),
    )
    assert (chain.position, chain.next_hop) == (1, "airline")
    assert chain.digest == hashlib.sha256(points).digest()
    assert len(points) == len(POINTS)
    assert not {points[at : at + 32] for at in range(0, 32 * ROWS, 32)} & {
        POINTS[at : at + 32] for at in range(0, 32 * ROWS, 32)
    }


def test_a_hop_shuffles_statistics_and_keeps_the_order_of_the_switchboard(victim: Victim) -> None:
    many = hash_to_curve([b"%d" % n for n in range(200)], b"dst")
    victim.feed(victim.header(many), many)
    victim.feed(victim.header(many, index=pb.INDEX_SWITCHBOARD, label=""), many)
    key = victim.agent._state.key
    statistics = blind(many, key(victim.plan.epoch, pb.INDEX_STATISTICS)).points
    switchboard = blind(many, key(victim.plan.epoch, pb.INDEX_SWITCHBOARD)).points
    rows = lambda data: [data[at : at + 32] for at in range(0, len(data), 32)]  # noqa: E731
    assert victim.sent[0][1] != statistics
    assert sorted(rows(victim.sent[0][1])) == sorted(rows(statistics))
    assert victim.sent[1][1] == switchboard


def test_points_cannot_be_added_left_out_or_changed(victim: Victim) -> None:
    guess = hash_to_curve([b"guess"], b"dst")
    victim.refuses(Reason.TOO_LARGE, victim.header(), POINTS + guess)
    victim.refuses(Reason.DIGEST_MISMATCH, victim.header(), POINTS[:-32] + guess)
    victim.refuses(Reason.TRUNCATED_STREAM, victim.header(), POINTS[:-32])
    victim.refuses(Reason.TRUNCATED_STREAM, victim.header())
    victim.refuses(Reason.DIGEST_MISMATCH, victim.header(), POINTS[32:] + POINTS[:32])
    victim.refuses(Reason.BAD_POINT, victim.header(), POINTS[:-1])
    victim.refuses(Reason.TRUNCATED_STREAM)
    victim.refuses(Reason.BAD_FIELD, victim.header(), POINTS[:32] * (CHUNK_ROWS + 1))


def test_the_same_batch_again_is_a_retry_and_another_one_is_refused(victim: Victim) -> None:
    header = victim.header()
    victim.feed(header, POINTS)
    victim.feed(header, POINTS)  # the gateway lost the answer
    assert len(victim.sent) == 2
    victim.sent.clear()
    other = hash_to_curve([b"another %d" % n for n in range(6)], b"dst")
    assert "second batch of bank" in victim.refuses(Reason.QUOTA_EXCEEDED, victim.header(other), other)


def test_the_record_survives_a_restart(victim: Victim) -> None:
    victim.feed(victim.header(), POINTS)
    victim.sent.clear()
    victim.agent = victim.world.open_agent("insurer", stub=victim)
    other = hash_to_curve([b"x"], b"dst")
    victim.refuses(Reason.QUOTA_EXCEEDED, victim.header(other), other)


def test_a_batch_of_another_epoch_cannot_be_replayed(victim: Victim) -> None:
    old = victim.header()
    victim.feed(old, POINTS)
    key_then = victim.agent._state.key(victim.plan.epoch, pb.INDEX_STATISTICS)
    victim.sent.clear()
    victim.plan.epoch = "2026-11-01.9"
    forged = victim.header()
    forged.manifest.payload = old.manifest.payload.replace(b"2026-11-01.1", b"2026-11-01.9")
    forged.manifest.signature = old.manifest.signature
    victim.refuses(Reason.BAD_SIGNATURE, forged, POINTS)
    assert victim.agent._state.key("2026-11-01.9", pb.INDEX_STATISTICS).private_bytes_raw() != (
        key_then.private_bytes_raw()
    )


Change = Callable[[Victim], pb.BatchHeader]


def _swap_label(victim: Victim) -> pb.BatchHeader:
    header = victim.header()
    header.manifest.payload = header.manifest.payload.replace(b"tier=basic", b"tier=hig__")
    return header


def _signed_by(role: Role, alliance: str = "skyline") -> Change:
    def change(victim: Victim) -> pb.BatchHeader:
        victim.world.identities["bank"] = victim.world.identity("bank", role, alliance)
        return victim.header()

    return change


def _other_ca(victim: Victim) -> pb.BatchHeader:
    other = small_world(victim.world.folder / "other", victim.world.clock)
    victim.world.identities["bank"] = other.identities["bank"]
    return victim.header()


def _wrong_kind(victim: Victim) -> pb.BatchHeader:
    header = victim.header()
    signed = victim.world.identities["bank"].sign("offer", header.manifest.payload)
    return pb.BatchHeader(manifest=signed)


def _garbage(victim: Victim) -> pb.BatchHeader:
    return pb.BatchHeader(manifest=victim.world.identities["bank"].sign(MANIFEST, b"\xff\xff"))


def _airline_as_bank(victim: Victim) -> pb.BatchHeader:
    manifest = pb.Manifest.FromString(victim.header().manifest.payload)
    return pb.BatchHeader(manifest=victim.world.identities["airline"].sign(MANIFEST, manifest.SerializeToString()))


def _own(victim: Victim) -> pb.BatchHeader:
    return sign_manifest(
        victim.world.identities["insurer"],
        victim.plan,
        index=pb.INDEX_STATISTICS,
        label="life_stage=family",
        content=Content.of(POINTS),
        batches=3,
    )


BAD_MANIFESTS: dict[str, tuple[Reason, Change]] = {
    "label swapped by the gateway": (Reason.BAD_SIGNATURE, _swap_label),
    "label not of the agreement": (Reason.BAD_MANIFEST, lambda v: v.header(label="value_tier=rich")),
    "no label": (Reason.BAD_MANIFEST, lambda v: v.header(label="")),
    "label on the switchboard": (Reason.BAD_MANIFEST, lambda v: v.header(index=pb.INDEX_SWITCHBOARD)),
    "index unknown": (Reason.BAD_MANIFEST, lambda v: v.header(index=pb.INDEX_UNSPECIFIED)),
    "origin is not the signer": (Reason.PARTY_MISMATCH, _airline_as_bank),
    "hops left out": (Reason.BAD_MANIFEST, lambda v: v.header(hops=["insurer"])),
    "hops turned around": (Reason.BAD_MANIFEST, lambda v: v.header(hops=["airline", "insurer"])),
    "hop twice": (Reason.BAD_MANIFEST, lambda v: v.header(hops=["insurer", "insurer"])),
    "more batches declared": (Reason.BAD_MANIFEST, lambda v: v.header(batches=400)),
    "digest of wrong length": (Reason.BAD_MANIFEST, lambda v: v.header(digest=b"x")),
    "too many rows declared": (Reason.TOO_LARGE, lambda v: v.header(count=10**9)),
    "signed by marketing": (Reason.ROLE_NOT_ALLOWED, _signed_by(Role.MARKETING)),
    "signed by the gateway": (Reason.ROLE_NOT_ALLOWED, _signed_by(Role.GATEWAY)),
    "signed for another alliance": (Reason.ROLE_NOT_ALLOWED, _signed_by(Role.PARTNER, "other")),
    "signed under another CA": (Reason.BAD_SIGNATURE, _other_ca),
    "another kind of signature": (Reason.BAD_SIGNATURE, _wrong_kind),
    "no manifest at all": (Reason.BAD_SIGNATURE, lambda _: pb.BatchHeader()),
    "payload that is no message": (Reason.BAD_MANIFEST, _garbage),
    "own batch": (Reason.BAD_MANIFEST, _own),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_a_manifest_that_is_not_right_is_refused(victim: Victim, case: str) -> None:
    reason, change = BAD_MANIFESTS[case]
    victim.refuses(reason, change(victim), POINTS)


def test_a_header_in_which_an_origin_hides_megabytes_is_refused_by_gateway_and_hop(victim: Victim) -> None:
    """It would be kept and passed on with each batch, and what travels together would not fit into a message."""
    header, bank = victim.header(), victim.world.identities["bank"]
    unknown = common_pb2.Signed(certificate_pem=" " * MAX_HEADER_BYTES).SerializeToString()
    payload = header.manifest.payload + b"\xfa\x7f" + unknown[1:]  # as field 2047
    assert pb.Manifest.FromString(payload).digest == pb.Manifest.FromString(header.manifest.payload).digest
    header.manifest.CopyFrom(bank.sign(MANIFEST, payload))
    header.decoys = LEAST
    victim.refuses(Reason.TOO_LARGE, header, POINTS)
    with pytest.raises(EntenteError) as caught:
        victim.world.coordinator.carrier.expect(PartyId("bank"), header)
    assert caught.value.reason is Reason.TOO_LARGE


def test_an_expired_certificate_signs_nothing(victim: Victim, clock: FixedClock) -> None:
    header = victim.header()
    clock.at += timedelta(days=365)
    victim.refuses(Reason.CERTIFICATE_EXPIRED, header, POINTS)


class TestReceipts:
    """The airline's batch reaches the insurer second, after the bank; the receipt of the bank must say how."""

    @pytest.fixture
    def passed(self, victim: Victim) -> tuple[pb.BatchHeader, bytes]:
        header = self.airline(victim)
        return victim.receipt(header, "bank", POINTS[32:] + POINTS[:32]), POINTS[32:] + POINTS[:32]

    def airline(self, victim: Victim, label: str = "activity=active") -> pb.BatchHeader:
        identity = victim.world.identities["airline"]
        return sign_manifest(
            identity, victim.plan, index=pb.INDEX_STATISTICS, label=label, content=Content.of(POINTS), batches=5
        )

    def test_an_honest_second_hop(self, victim: Victim, passed: tuple[pb.BatchHeader, bytes]) -> None:
        victim.feed(*passed)
        assert len(victim.sent[0][0].receipts) == 2

    def test_a_hop_that_is_not_next_is_not_served(self, victim: Victim) -> None:
        victim.refuses(Reason.BAD_MANIFEST, self.airline(victim), POINTS)

    def test_receipts_of_the_wrong_party(self, victim: Victim) -> None:
        forged = victim.receipt(self.airline(victim), "airline", POINTS)
        victim.refuses(Reason.PARTY_MISMATCH, forged, POINTS)

    def test_receipts_reordered_doubled_or_from_another_batch(
        self, victim: Victim, passed: tuple[pb.BatchHeader, bytes]
    ) -> None:
        header, points = passed
        full = victim.receipt(header, "insurer", points)
        backwards = pb.BatchHeader(manifest=full.manifest, receipts=list(reversed(full.receipts)))
        victim.refuses(Reason.PARTY_MISMATCH, backwards, points)
        doubled = pb.BatchHeader(manifest=full.manifest, receipts=[full.receipts[0]] * 3)
        victim.refuses(Reason.BAD_MANIFEST, doubled, points)
        other = victim.receipt(self.airline(victim, "activity=unknown"), "bank", points)
        mixed = pb.BatchHeader(manifest=header.manifest, receipts=other.receipts)
        victim.refuses(Reason.BAD_MANIFEST, mixed, points)

    def test_a_receipt_that_does_not_continue_what_came_before(self, victim: Victim) -> None:
        header = self.airline(victim)
        receipt = pb.HopReceipt(
            manifest_digest=hashlib.sha256(header.manifest.payload).digest(),
            position=0,
            digest_in=hashlib.sha256(b"something else").digest(),
            digest_out=hashlib.sha256(POINTS).digest(),
        )
        header.receipts.append(victim.world.identities["bank"].sign(RECEIPT, receipt.SerializeToString()))
        victim.refuses(Reason.DIGEST_MISMATCH, header, POINTS)
        header.receipts[0].CopyFrom(victim.world.identities["bank"].sign(RECEIPT, b"\xff"))
        victim.refuses(Reason.BAD_MANIFEST, header, POINTS)
        header.receipts[0].CopyFrom(common_pb2.Signed())
        victim.refuses(Reason.BAD_SIGNATURE, header, POINTS)

    def test_a_hop_that_colludes_gets_one_batch_blinded_and_no_second(
        self, victim: Victim, passed: tuple[pb.BatchHeader, bytes]
    ) -> None:
        victim.feed(*passed)
        victim.sent.clear()
        guesses = hash_to_curve([b"guess %d" % n for n in range(6)], b"dst")
        again = victim.receipt(self.airline(victim), "bank", guesses)
        again.manifest.CopyFrom(passed[0].manifest)
        receipt = pb.HopReceipt.FromString(again.receipts[0].payload)
        receipt.manifest_digest = hashlib.sha256(again.manifest.payload).digest()
        again.receipts[0].CopyFrom(victim.world.identities["bank"].sign(RECEIPT, receipt.SerializeToString()))
        victim.refuses(Reason.QUOTA_EXCEEDED, again, guesses)


def test_one_batch_takes_up_room_once_by_whatever_names_it_comes(victim: Victim) -> None:
    """It is reserved, so it may come again; broken off near its end under ever new names it would fill the disk."""
    header, hops = victim.header(), victim.world.folder / "insurer" / "hops"

    def broken_off() -> Iterator[pb.BatchHeader | bytes]:
        yield header
        yield POINTS[:-32]
        raise ConnectionError

    honest = name_of(header)
    for name in (honest, *map(str, range(5)), "../../x", honest.upper(), ""):
        victim.parts = broken_off()  # type: ignore[assignment]
        with pytest.raises(ConnectionError if name == honest else EntenteError):
            victim.agent.blind(name)
        assert len(list(hops.iterdir())) == 1, name
    victim.feed(header, POINTS[-32:])  # the rest
    assert len(victim.sent) == 1
    assert list(hops.iterdir()) == []
