"""What every driver of the audit log promises."""

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, text

from federation.core.canonical import canonical_json
from federation.core.checkpoint import open_checkpoint, parse_verifier_key
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import AuditError, ConfigError, DataError, EntenteError, Reason
from federation.core.merkle import EMPTY_ROOT, leaf_hash, root_of, verify_consistency, verify_inclusion
from gateway.audit.key import KEY_FILE, VERIFIER_FILE, load_log_key, make_log_key
from gateway.audit.log import MAX_LEAF_BYTES, SqlAuditLog, open_audit_log

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)


class Store:
    """A log that can be opened again."""

    def __init__(self, open_engine: Callable[[], Engine], clock: FixedClock) -> None:
        self._open_engine, self.clock = open_engine, clock
        self.reopen()

    def reopen(self) -> None:
        self.engine = self._open_engine()
        self.log = SqlAuditLog(self.engine, KEY, "test-audit", self.clock)

    def run(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock) -> Store:
    if request.param == "file":
        return Store(lambda: open_database(tmp_path / "gateway.db"), clock)
    engine = open_database(None)
    return Store(lambda: engine, clock)


def refusal(call: Callable[[], object]) -> EntenteError:
    with pytest.raises(EntenteError) as caught:
        call()
    return caught.value


def test_entries_are_canonical_and_numbered_from_zero(store: Store) -> None:
    assert store.log.append("intent", {"what": "cube", "n": 1}) == 0
    assert store.log.append("outcome", {"intent": 0}) == 1
    assert store.log.entries(0, 2) == [
        canonical_json(
            {"index": 0, "at": "2026-11-01T00:00:00+00:00", "kind": "intent", "body": {"n": 1, "what": "cube"}}
        ),
        canonical_json({"index": 1, "at": "2026-11-01T00:00:00+00:00", "kind": "outcome", "body": {"intent": 0}}),
    ]


def test_an_empty_log_has_a_checkpoint(store: Store) -> None:
    checkpoint = open_checkpoint(store.log.checkpoint(), parse_verifier_key(store.log.verifier_key))
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == ("test-audit", 0, EMPTY_ROOT)
    assert store.log.entries(0, 0) == []


def test_checkpoints_and_proofs_verify_at_every_size(store: Store) -> None:
    key, roots = parse_verifier_key(store.log.verifier_key), [EMPTY_ROOT]
    for number in range(20):
        store.log.append("intent", {"n": number})
        leaves = [leaf_hash(entry) for entry in store.log.entries(0, number + 1)]
        checkpoint = open_checkpoint(store.log.checkpoint(), key)
        assert (checkpoint.size, checkpoint.root) == (number + 1, root_of(leaves))
        roots.append(checkpoint.root)
        if number == 9:
            store.reopen()
    for size in (1, 7, 8, 20):
        for index in range(size):
            assert verify_inclusion(leaves[index], index, size, store.log.inclusion_proof(index, size), roots[size])
        for old in range(size + 1):
            proof = store.log.consistency_proof(old, size)
            assert verify_consistency(old, size, roots[old], roots[size], proof)


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.entries(0, 4),
        lambda log: log.entries(2, 1),
        lambda log: log.entries(-1, 1),
        lambda log: log.inclusion_proof(3, 3),
        lambda log: log.inclusion_proof(0, 4),
        lambda log: log.consistency_proof(2, 4),
        lambda log: log.consistency_proof(3, 2),
    ],
)
def test_what_is_not_in_the_log_cannot_be_asked(store: Store, call: Callable[[SqlAuditLog], object]) -> None:
    for number in range(3):
        store.log.append("intent", {"n": number})
    with pytest.raises(DataError) as caught:
        call(store.log)
    assert caught.value.reason == Reason.BAD_FIELD


@pytest.mark.parametrize("name", ["handle", "token", "customer_id", "email", "phone", "Email", "customer-id"])
@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"a": b}, lambda b: {"a": [1, {"b": [b]}]}])
def test_a_field_about_a_person_is_refused_anywhere(store: Store, name: str, wrap: Callable[[Any], Any]) -> None:
    error = refusal(lambda: store.log.append("intent", wrap({name: "ana@example.org"})))
    assert isinstance(error, AuditError)
    assert (error.reason, error.item) == (Reason.BAD_FIELD, f"field {name} may not go into the audit log")
    assert store.log.size() == 0


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("", {}, Reason.BAD_FIELD),
        ("Intent", {}, Reason.BAD_FIELD),
        ("intent", {"n": float("nan")}, Reason.NOT_CANONICAL),
        ("intent", {"n": b"bytes"}, Reason.NOT_CANONICAL),
        ("intent", {"n": "x" * MAX_LEAF_BYTES}, Reason.TOO_LARGE),
    ],
)
def test_what_cannot_be_written_is_an_audit_error(store: Store, kind: str, body: Any, reason: Reason) -> None:
    error = refusal(lambda: store.log.append(kind, body))
    assert isinstance(error, AuditError)
    assert error.reason == reason
    assert store.log.size() == 0


def test_a_lost_table_makes_the_log_unavailable(store: Store) -> None:
    store.run("DROP TABLE audit_entries")
    for call in (lambda: store.log.append("intent", {}), store.log.size, store.log.checkpoint):
        assert refusal(call).reason == Reason.AUDIT_UNAVAILABLE


def test_a_full_disk_keeps_nothing_half_done(store: Store) -> None:
    store.log.append("intent", {"n": 0})
    before = store.log.checkpoint()
    with store.engine.connect() as connection:  # the pool hands the same connection out again
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    error = refusal(lambda: store.log.append("intent", {"n": "x" * 60_000}))
    assert error.reason == Reason.AUDIT_UNAVAILABLE
    assert store.log.checkpoint() == before
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    assert store.log.append("intent", {"n": "x" * 60_000}) == 1


def test_missing_pieces_are_noticed(store: Store) -> None:
    for number in range(4):
        store.log.append("intent", {"n": number})
    store.run("DELETE FROM audit_entries WHERE position = 1")
    assert refusal(lambda: store.log.entries(0, 4)).reason == Reason.AUDIT_BROKEN
    store.run("DELETE FROM audit_nodes WHERE level = 2")
    assert refusal(store.log.checkpoint).reason == Reason.AUDIT_BROKEN
    assert refusal(lambda: store.log.append("intent", {})).reason == Reason.AUDIT_BROKEN


def test_a_cut_tail_cannot_be_written_over(store: Store) -> None:
    for number in range(4):
        store.log.append("intent", {"n": number})
    store.run("DELETE FROM audit_entries WHERE position = 3")
    assert refusal(lambda: store.log.append("intent", {})).reason == Reason.AUDIT_UNAVAILABLE


def test_threads_leave_no_gap(store: Store) -> None:
    taken: list[int] = []

    def write(thread: int) -> None:
        taken.extend(store.log.append("intent", {"thread": thread, "turn": turn}) for turn in range(10))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))
    entries = store.log.entries(0, 40)
    assert [json.loads(entry)["index"] for entry in entries] == list(range(40))
    checkpoint = open_checkpoint(store.log.checkpoint(), parse_verifier_key(store.log.verifier_key))
    assert checkpoint.root == root_of([leaf_hash(entry) for entry in entries])


def test_processes_leave_no_gap(tmp_path: Path, clock: FixedClock) -> None:
    store = Store(lambda: open_database(tmp_path / "gateway.db"), clock)
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.reopen()
                for turn in range(5):
                    store.log.append("intent", {"process": number, "turn": turn})
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    entries = store.log.entries(0, 15)
    checkpoint = open_checkpoint(store.log.checkpoint(), parse_verifier_key(store.log.verifier_key))
    assert (checkpoint.size, checkpoint.root) == (15, root_of([leaf_hash(entry) for entry in entries]))


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path, clock: FixedClock) -> None:
    vkey = make_log_key(tmp_path / "state", "test-audit")
    assert make_log_key(tmp_path / "state", "test-audit") == vkey
    assert stat.S_IMODE((tmp_path / "state" / KEY_FILE).stat().st_mode) == 0o600
    assert (tmp_path / "state" / VERIFIER_FILE).read_text() == f"{vkey}\n"
    log = open_audit_log(open_database(None), tmp_path / "state", clock)
    assert open_checkpoint(log.checkpoint(), parse_verifier_key(vkey)).origin == "test-audit"


def test_a_crash_between_the_two_key_files_is_repaired(tmp_path: Path) -> None:
    vkey = make_log_key(tmp_path, "test-audit")
    (tmp_path / VERIFIER_FILE).unlink()
    assert refusal(lambda: load_log_key(tmp_path)).reason == Reason.MISSING_FILE
    assert make_log_key(tmp_path, "test-audit") == vkey


@pytest.mark.parametrize("harm", ["open", "foreign", "garbage", "other name", "gone"])
def test_a_key_that_is_not_right_is_refused(tmp_path: Path, harm: str) -> None:
    make_log_key(tmp_path, "test-audit")
    key = tmp_path / KEY_FILE
    if harm == "open":
        key.chmod(0o640)
    elif harm == "foreign":
        make_log_key(tmp_path / "other", "test-audit")
        (tmp_path / "other" / KEY_FILE).replace(key)
    elif harm == "garbage":
        key.write_bytes(b"no key")
    elif harm == "gone":
        key.unlink()
    origin = "another-audit" if harm == "other name" else "test-audit"
    with pytest.raises(ConfigError):
        make_log_key(tmp_path, origin)
    if harm != "other name":
        with pytest.raises(ConfigError):
            load_log_key(tmp_path)


def test_a_bad_origin_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        make_log_key(tmp_path, "two words")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_waits_for_no_writer_and_sees_one_state(tmp_path: Path, clock: FixedClock) -> None:
    """And so no writer for a reader: else an auditor's long list would hold up every release."""
    log = SqlAuditLog(open_database(tmp_path / "audit.db"), KEY, "test-audit", clock)
    for number in range(3):
        log.append("intent", {"n": number})
    root = log.checkpoint()
    with open_database(tmp_path / "audit.db").begin() as writer:  # another process, in the middle of an entry
        writer.execute(text("delete from audit_entries where position = 2"))
        assert log.size() == 3
        assert len(log.entries(0, 3)) == 3
        assert log.checkpoint() == root
        assert log.inclusion_proof(0, 3)
        assert log.consistency_proof(1, 3)
        writer.rollback()
    assert log.append("outcome", {"intent": 0}) == 3
