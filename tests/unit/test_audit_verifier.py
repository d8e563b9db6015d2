"""The verifier against the real servicer, without a socket, while somebody changes history behind it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, text

from federation.client.audit.files import CHECKPOINT_FILE, ENTRIES_FILE, tile_path
from federation.client.audit.verifier import AuditVerifier, verify_folder
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import AuditError, ConfigError, IdentityError, Reason
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.v1 import audit_pb2
from federation.v1.audit_pb2_grpc import AuditServiceStub
from gateway.audit.log import SqlAuditLog
from gateway.identity.caller import Caller, set_caller
from gateway.rpc.audit import AuditServicer
from tests.conftest import NOW

T = TypeVar("T")
KEY = Ed25519PrivateKey.from_private_bytes(b"\x06" * 32)
AUDITOR = Caller(PartyId("auditor"), Role.AUDITOR, serial="01", expires_at=NOW)


class LocalStub:
    """Calls the servicer as the server would, in the same process."""

    def __init__(self, servicer: AuditServicer) -> None:
        self.servicer = servicer

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def as_auditor() -> T:
            set_caller(AUDITOR)
            return await call()

        return asyncio.run(as_auditor())

    def GetCheckpoint(self, request: Any, timeout: float) -> audit_pb2.GetCheckpointResponse:
        return self._run(lambda: self.servicer.GetCheckpoint(request, None))

    def ListEntries(self, request: Any, timeout: float) -> list[audit_pb2.ListEntriesResponse]:
        async def collect() -> list[audit_pb2.ListEntriesResponse]:
            pages: AsyncIterator[audit_pb2.ListEntriesResponse] = self.servicer.ListEntries(request, None)
            return [page async for page in pages]

        return self._run(collect)

    def GetInclusionProof(self, request: Any, timeout: float) -> audit_pb2.GetInclusionProofResponse:
        return self._run(lambda: self.servicer.GetInclusionProof(request, None))

    def GetConsistencyProof(self, request: Any, timeout: float) -> audit_pb2.GetConsistencyProofResponse:
        return self._run(lambda: self.servicer.GetConsistencyProof(request, None))


class World:
    """A gateway's log and one party that checks it."""

    def __init__(self, folder: Path, clock: FixedClock) -> None:
        self.folder, self.clock = folder, clock
        self.restart(open_database(None))
        self.verifier = AuditVerifier(cast(AuditServiceStub, self.stub), self.log.verifier_key, folder / "seen")

    def restart(self, engine: Engine) -> None:
        """The gateway, with the same key, on another database."""
        self.engine = engine
        self.log = SqlAuditLog(engine, KEY, "test-audit", self.clock)
        if hasattr(self, "stub"):
            self.stub.servicer = AuditServicer(self.log)
        else:
            self.stub = LocalStub(AuditServicer(self.log))

    def release(self, name: str, result: str | None = "outcome") -> int:
        intent = self.log.append("intent", {"what": name})
        if result:
            self.log.append(result, {"intent": intent})
        return intent

    def change(self, index: int, edit: Callable[[dict[str, Any]], None]) -> None:
        """Rewrites an entry on the gateway's disk and leaves the tree as it was."""
        entry = json.loads(self.log.entries(index, index + 1)[0])
        edit(entry)
        leaf = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        with self.engine.begin() as connection:
            statement = text("UPDATE audit_entries SET leaf = :leaf WHERE position = :position")
            connection.execute(statement, {"leaf": leaf, "position": index})

    def broken(self, call: Callable[[], object] | None = None) -> str:
        with pytest.raises(AuditError) as caught:
            (call or self.verifier.verify)()
        assert caught.value.reason == Reason.AUDIT_BROKEN
        return caught.value.item


@pytest.fixture
def world(tmp_path: Path, clock: FixedClock) -> World:
    return World(tmp_path, clock)


def test_a_growing_log_is_intact_and_remembered(world: World) -> None:
    assert world.verifier.verify().summary == "0 entries, intact"
    for name in "abc":
        world.release(name)
    report = world.verifier.verify()
    assert (report.summary, report.kinds) == ("grew from 0 to 6, intact", {"intent": 3, "outcome": 3})
    again = AuditVerifier(cast(AuditServiceStub, world.stub), world.log.verifier_key, world.folder / "seen")
    world.release("d", "failed")
    assert again.verify().summary == "grew from 6 to 8, intact"
    assert again.verify().summary == "grew from 8 to 8, intact"


def test_more_than_a_page_is_intact(world: World) -> None:
    for number in range(300):
        world.log.append("refused", {"n": number, "text": "x" * 5000})
    pages = world.stub.ListEntries(audit_pb2.ListEntriesRequest(start=3), 1.0)
    assert [(page.start, len(page.entries) > 100) for page in pages][:2] == [(3, True), (pages[1].start, False)]
    assert max(page.ByteSize() for page in pages) < 2 << 20
    assert sum(len(page.entries) for page in pages) == 297
    assert world.verifier.verify().size == 300


def test_a_release_that_was_cut_off_is_evidence_and_not_an_error(world: World) -> None:
    world.release("a")
    cut = world.release("b", None)
    report = world.verifier.verify()
    assert report.open_intents == (cut,)
    assert report.summary == "3 entries, intact; intents without outcome: 1"


@pytest.mark.parametrize("size", [1, 2, 7, 8, 21])
def test_the_first_changed_entry_is_named(world: World, size: int) -> None:
    for number in range(size):
        world.log.append("refused", {"n": number})
    for index in reversed(range(size)):  # one more each time, each before the last
        world.change(index, lambda entry: entry["body"].update(n=-1))
        assert world.broken() == f"entry {index}"
    assert not (world.folder / "seen").exists()


def test_history_that_was_rewritten_as_a_whole_is_noticed(world: World, clock: FixedClock) -> None:
    for name in "abc":
        world.release(name)
    world.verifier.verify()
    seen = (world.folder / "seen").read_bytes()
    world.restart(open_database(None))
    for name in "abXd":
        world.release(name)
    assert world.broken() == "history before entry 6 was rewritten since the last check"
    assert (world.folder / "seen").read_bytes() == seen


def test_a_log_that_shrank_is_noticed(world: World) -> None:
    for name in "abc":
        world.release(name)
    world.verifier.verify()
    world.restart(open_database(None))
    world.release("a")
    assert world.broken() == "the log shrank from 6 to 2 entries"


@pytest.mark.parametrize(
    ("kind", "body", "item"),
    [
        ("outcome", {"intent": 1}, "entry 2: outcome without an open intent"),
        ("outcome", {"intent": 0}, "entry 2: outcome without an open intent"),
        ("failed", {"intent": 7}, "entry 2: failed without an open intent"),
        ("outcome", {"intent": True}, "entry 2: outcome without an open intent"),
        ("failed", {}, "entry 2: failed without an open intent"),
    ],
)
def test_a_story_that_does_not_hold_is_broken(world: World, kind: str, body: dict[str, Any], item: str) -> None:
    world.release("a")
    world.log.append(kind, body)
    assert world.broken() == item


@pytest.mark.parametrize(
    ("pages", "item"),
    [
        ([], "entry 0: got 0 entries of 2"),
        ([(0, 1)], "entry 1: got 1 entries of 2"),
        ([(1, 1), (0, 1)], "entry 0: the gateway sent others"),
        ([(0, 2), (2, 1)], "entry 2: the gateway sent others"),
        ([(0, 3)], "entry 0: the gateway sent others"),
    ],
)
def test_a_gateway_that_sends_other_pages_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch, pages: list[tuple[int, int]], item: str
) -> None:
    world.release("a")
    entries = [*world.log.entries(0, 2), b"{}"]

    def send(request: Any, timeout: float) -> list[audit_pb2.ListEntriesResponse]:
        return [audit_pb2.ListEntriesResponse(start=at, entries=entries[at : at + count]) for at, count in pages]

    monkeypatch.setattr(world.stub, "ListEntries", send)
    assert world.broken() == item


def test_a_checkpoint_of_another_key_is_refused(world: World) -> None:
    forger = SqlAuditLog(world.engine, Ed25519PrivateKey.generate(), "test-audit", world.clock)
    world.stub.servicer = AuditServicer(forger)
    assert world.broken() == "checkpoint has no signature of test-audit"


def test_a_damaged_memory_is_not_taken_for_a_first_look(world: World) -> None:
    world.verifier.verify()
    (world.folder / "seen").write_text("nothing")
    assert world.broken() == f"state file {world.folder / 'seen'}"


def test_a_caller_is_needed() -> None:
    servicer = AuditServicer(cast(SqlAuditLog, None))
    with pytest.raises(IdentityError):
        asyncio.run(servicer.GetCheckpoint(audit_pb2.GetCheckpointRequest(), None))


@pytest.fixture
def copy(world: World) -> Path:
    for number in range(150):
        world.release(str(number))
    world.verifier.export(world.folder / "copy")
    return world.folder / "copy"


def test_a_copy_verifies_with_nothing_but_the_files(world: World, copy: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "far" / "away"
    shutil.copytree(copy, elsewhere)
    report = verify_folder(elsewhere, world.log.verifier_key)
    assert (report.size, report.open_intents, report.old_size) == (300, (), None)
    names = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert names == ["checkpoint", "entries.jsonl", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"]
    assert (copy / "tile/0/000").stat().st_size == 256 * 32


def test_a_copy_of_another_history_than_was_seen_is_noticed(world: World, copy: Path) -> None:
    seen, other = world.folder / "seen", world.folder / "other"
    assert verify_folder(copy, world.log.verifier_key, seen).old_size == 300
    world.restart(open_database(None))  # the same key signs another log
    for number in range(150):
        world.release(f"other {number}")
    AuditVerifier(world.stub, world.log.verifier_key, world.folder / "fresh").export(other)  # type: ignore[arg-type]
    assert verify_folder(other, world.log.verifier_key).size == 300
    told = world.broken(lambda: verify_folder(other, world.log.verifier_key, seen))
    assert told == "history before entry 300 was rewritten since the last check"


def test_a_copy_that_is_older_than_what_was_seen_is_checked_in_itself(world: World, copy: Path) -> None:
    world.release("later")
    world.verifier.verify()
    assert verify_folder(copy, world.log.verifier_key, world.folder / "seen").old_size is None


@pytest.mark.parametrize("number", [0, 4, 255, 256, 299])
def test_a_changed_line_of_a_copy_is_named(world: World, copy: Path, number: int) -> None:
    lines = (copy / ENTRIES_FILE).read_bytes().splitlines(keepends=True)
    lines[number] = lines[number].replace(b'"kind"', b'"Kind"')
    (copy / ENTRIES_FILE).write_bytes(b"".join(lines))
    assert world.broken(lambda: verify_folder(copy, world.log.verifier_key)) == f"entry {number}"


def test_any_other_damage_of_a_copy_is_named(world: World, copy: Path) -> None:
    def item() -> str:
        return world.broken(lambda: verify_folder(copy, world.log.verifier_key))

    original = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    entries, note, tile = copy / ENTRIES_FILE, copy / CHECKPOINT_FILE, copy / "tile/1/000.p/1"
    for path, content, expected in (
        (entries, original[entries][:-1], "entry 299: no end of line"),
        (entries, b"".join(original[entries].splitlines(keepends=True)[:-1]), "entry 299: got 299 entries of 300"),
        (note, original[note].replace(b"300", b"299"), "signature of the checkpoint"),
        (note, b"\xff", "form of the checkpoint"),
        (tile, b"\0" * 32, "tile/1/000.p/1"),
    ):
        path.write_bytes(content)
        assert item() == expected
        path.write_bytes(original[path])
    assert verify_folder(copy, world.log.verifier_key).size == 300
    entries.unlink()
    with pytest.raises(ConfigError, match=r"entries\.jsonl"):
        verify_folder(copy, world.log.verifier_key)


def test_a_copy_of_a_broken_log_is_not_made(world: World) -> None:
    for number in range(5):
        world.release(str(number))
    world.change(3, lambda entry: entry["body"].update(more=1))
    assert world.broken(lambda: world.verifier.export(world.folder / "copy")) == "entry 3"
    assert list(world.folder.iterdir()) == []


def test_an_existing_folder_is_not_written_over(world: World, copy: Path) -> None:
    with pytest.raises(ConfigError, match="not empty"):
        world.verifier.export(copy)
    assert verify_folder(copy, world.log.verifier_key).size == 300


@pytest.mark.parametrize(
    ("number", "width", "path"),
    [(0, 256, "tile/0/000"), (5, 7, "tile/0/005.p/7"), (1234067, 256, "tile/0/x001/x234/067")],
)
def test_tiles_lie_where_the_format_says(number: int, width: int, path: str) -> None:
    assert tile_path(0, number, width) == path
