"""The count of transfers: exact over people, parties, years and processes, and never too low after a kill."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from federation.core.database import open_database
from federation.core.ids import HANDLE_BYTES, Handle, PartyId
from federation.policy.facts import TransferCounts
from federation.policy.transfers import Export
from gateway.policy.transfers import SqlTransfers, TransferStore

BANK, INSURER = PartyId("bank"), PartyId("insurer")
PLAIN, SENSITIVE = Export("CN", 2026, sensitive=False), Export("CN", 2026, sensitive=True)


def handle(number: int) -> Handle:
    return Handle(number.to_bytes(HANDLE_BYTES, "big"))


def sent(store: TransferStore, party: PartyId, number: int, export: Export) -> TransferCounts:
    counts = store.counts(party, handle(number), export)
    assert store.count(party, handle(number), export, counts)
    return counts


def total(store: TransferStore, party: PartyId = BANK, export: Export = PLAIN) -> tuple[int, int]:
    """People and sensitive, without a new person."""
    counts = store.counts(party, handle(2**60), export)
    assert counts.people is not None
    assert counts.sensitive is not None
    return counts.people - 1, counts.sensitive


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlTransfers]:
    engine = open_database(tmp_path / "offers.db" if request.param == "file" else None)
    yield SqlTransfers(engine)
    engine.dispose()


def test_a_person_counts_once_a_year(store: SqlTransfers) -> None:
    assert [sent(store, BANK, number, PLAIN).people for number in (1, 2, 1, 2, 3)] == [1, 2, 2, 2, 3]
    assert sent(store, BANK, 1, Export("CN", 2027, sensitive=False)).people == 1
    assert sent(store, INSURER, 1, PLAIN).people == 1
    assert sent(store, BANK, 1, Export("XX", 2026, sensitive=False)).people == 1
    assert total(store) == (3, 0)


def test_sensitive_data_of_a_person_counts_once_whenever_it_comes(store: SqlTransfers) -> None:
    assert sent(store, BANK, 1, PLAIN) == TransferCounts(2026, 1, 0)
    assert sent(store, BANK, 1, SENSITIVE) == TransferCounts(2026, 1, 1)
    assert sent(store, BANK, 1, PLAIN) == TransferCounts(2026, 1, 1)
    assert sent(store, BANK, 2, SENSITIVE) == TransferCounts(2026, 2, 2)
    assert total(store) == (2, 2)


def test_who_is_counted_is_known(store: SqlTransfers) -> None:
    assert not store.counted(BANK, handle(1), PLAIN)
    sent(store, BANK, 1, PLAIN)
    assert store.counted(BANK, handle(1), PLAIN)
    assert not store.counted(BANK, handle(1), SENSITIVE)
    assert not store.counted(BANK, handle(1), Export("CN", 2027, sensitive=False))
    assert not store.counted(INSURER, handle(1), PLAIN)
    sent(store, BANK, 2, SENSITIVE)
    sent(store, BANK, 2, PLAIN)
    assert store.counted(BANK, handle(2), SENSITIVE)


def test_asking_counts_nobody(store: SqlTransfers) -> None:
    assert store.counts(BANK, handle(1), PLAIN) == store.counts(BANK, handle(2), PLAIN) == TransferCounts(2026, 1, 0)


def test_nobody_is_counted_on_a_stale_number(store: SqlTransfers) -> None:
    decided_on = store.counts(BANK, handle(1), PLAIN)
    sent(store, BANK, 2, PLAIN)
    assert not store.count(BANK, handle(1), PLAIN, decided_on)
    assert total(store) == (1, 0)
    assert store.count(BANK, handle(1), PLAIN, store.counts(BANK, handle(1), PLAIN))


def test_it_is_there_after_opening_again(tmp_path: Path) -> None:
    for number in (1, 2):
        engine = open_database(tmp_path / "offers.db")
        sent(SqlTransfers(engine), BANK, number, PLAIN)
        engine.dispose()
    engine = open_database(tmp_path / "offers.db")
    assert total(SqlTransfers(engine)) == (2, 0)
    engine.dispose()


def test_a_failure_between_the_two_tables_leaves_neither(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "offers.db")
    store = SqlTransfers(engine)
    sent(store, BANK, 1, PLAIN)

    def fail(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO transfer_totals"):
            raise OSError("disk full")

    event.listen(engine, "before_cursor_execute", fail)
    counts = store.counts(BANK, handle(2), PLAIN)
    with pytest.raises(OSError, match="disk full"):
        store.count(BANK, handle(2), PLAIN, counts)
    event.remove(engine, "before_cursor_execute", fail)
    assert total(store) == (1, 0)
    assert store.counts(BANK, handle(2), PLAIN) == counts
    engine.dispose()


def keep_sending(path: Path, numbers: range, limit: int) -> None:
    """As a gateway process does: decide on the number, count, and decide anew where it changed."""
    engine = open_database(path)
    store = SqlTransfers(engine)
    for number in numbers:
        while True:
            counts = store.counts(BANK, handle(number), PLAIN)
            assert counts.people is not None
            if counts.people > limit or store.count(BANK, handle(number), PLAIN, counts):
                break
    engine.dispose()


def test_threads_do_not_lose_or_double_a_person(tmp_path: Path) -> None:
    path = tmp_path / "offers.db"
    engine = open_database(path)
    store = SqlTransfers(engine)
    threads = [threading.Thread(target=keep_sending, args=(path, range(30), 1_000)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total(store) == (30, 0)
    engine.dispose()


def test_two_processes_together_stop_exactly_at_the_threshold(tmp_path: Path) -> None:
    path = tmp_path / "offers.db"
    engine = open_database(path)
    store = SqlTransfers(engine)
    spawn = multiprocessing.get_context("spawn")
    people = [range(40), range(20, 60)]  # twenty people are sent by both
    processes = [spawn.Process(target=keep_sending, args=(path, numbers, 33)) for numbers in people]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert total(store) == (33, 0)
    engine.dispose()


def count_and_die(path: Path) -> None:
    """Killed after the count is on disk and before anything was sent."""
    engine = open_database(path)
    sent(SqlTransfers(engine), BANK, 7, PLAIN)
    os._exit(9)


def test_a_kill_between_count_and_transfer_counts_one_too_many_and_once(tmp_path: Path) -> None:
    path = tmp_path / "offers.db"
    process = multiprocessing.get_context("spawn").Process(target=count_and_die, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    engine = open_database(path)
    store = SqlTransfers(engine)
    assert total(store) == (1, 0)
    assert sent(store, BANK, 7, PLAIN) == TransferCounts(2026, 1, 0)  # sent after all: not a second person
    engine.dispose()


@given(st.lists(st.tuples(st.sampled_from([BANK, INSURER]), st.integers(0, 5), st.booleans()), max_size=25))
@settings(max_examples=40, deadline=None)
def test_it_equals_the_sets_of_people(transfers: list[tuple[PartyId, int, bool]]) -> None:
    engine = open_database(None)
    store = SqlTransfers(engine)
    for party, number, sensitive in transfers:
        sent(store, party, number, Export("CN", 2026, sensitive))
    for party in (BANK, INSURER):
        people = {number for who, number, _ in transfers if who == party}
        with_sensitive = {number for who, number, sensitive in transfers if who == party and sensitive}
        assert total(store, party) == (len(people), len(with_sensitive))
    engine.dispose()
