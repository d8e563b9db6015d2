"""What every driver of the epochs' state and of stored answers promises."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from federation.core.database import open_database
from federation.core.errors import OverlapError, Reason
from federation.core.ids import PartyId
from federation.overlap.batch import batch_id_of
from federation.overlap.plan import BASE
from federation.v1 import common_pb2
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.epochs import AWAITED, MAX_WAITING, Step
from gateway.overlap.epochs_sql import SqlEpochs

AT = datetime(2026, 11, 1, tzinfo=UTC)
A, B = PartyId("a"), PartyId("b")
KEYS = [(1, BASE, "x=1"), (2, BASE, "")]
Reopen = Callable[[], Engine]


@pytest.fixture(params=["memory", "file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    """Opens the same database again; in memory it is the same engine."""
    if request.param == "memory":
        engine = open_database(None)
        return lambda: engine
    return lambda: open_database(tmp_path / "state.db")


@pytest.fixture
def epochs(reopen: Reopen) -> SqlEpochs:
    return SqlEpochs(reopen())


def plan(epoch: str = "e1") -> pb.EpochPlan:
    return pb.EpochPlan(alliance="x", epoch=epoch, key_type="email", rules="1", partners=[A, B])


def create(epochs: SqlEpochs, epoch: str = "e1") -> list[str]:
    return epochs.create(plan(epoch), {A: KEYS, B: KEYS}, AT)


def header(receipts: int = 0, decoys: int = 0) -> pb.BatchHeader:
    return pb.BatchHeader(
        manifest=common_pb2.Signed(kind="m"), receipts=[common_pb2.Signed()] * receipts, decoys=decoys
    )


def kinds(epochs: SqlEpochs, party: str) -> list[str]:
    return [task.kind for task in epochs.tasks(party)]


def test_a_new_epoch_asks_every_partner_for_its_batches(epochs: SqlEpochs) -> None:
    assert create(epochs) == []
    found = epochs.get("e1")
    assert found is not None
    assert (found.plan, found.state) == (plan(), "open")
    assert {batch.position for batch in epochs.batches("e1")} == {AWAITED}
    assert kinds(epochs, A) == kinds(epochs, B) == ["submit"]
    counts = epochs.counts("e1")
    assert (counts.submitted, counts.batches, counts.passed, counts.passes) == (0, 4, 0, 4)


def test_an_epoch_that_is_given_up_is_open_no_more(epochs: SqlEpochs) -> None:
    create(epochs)
    every = {batch.batch_id for batch in epochs.batches("e1")}
    assert set(epochs.abandon("e1")) == every
    assert epochs.abandoned() == ["e1"]
    assert kinds(epochs, A) == epochs.abandon("e1") == []
    assert epochs.opened() is None
    create(epochs, "e2")
    epochs.complete("e2", AT)
    assert epochs.abandon("e2") == []
    assert epochs.newest_complete() == "e2"


def test_a_batch_goes_from_its_origin_to_the_hop_and_is_done(epochs: SqlEpochs, reopen: Reopen) -> None:
    create(epochs)
    batch_id = batch_id_of("e1", A, 1, "x=1")
    epochs.advance([Step(batch_id, header(decoys=3), B, rejected=2)])
    epochs = SqlEpochs(reopen())
    assert kinds(epochs, A) == ["submit"]  # one batch is still missing
    assert kinds(epochs, B) == ["submit", "blind"]
    batch = epochs.batch(batch_id)
    assert batch is not None
    assert (batch.position, batch.header.decoys, batch.rejected) == (0, 3, 2)
    epochs.advance([Step(batch_id, header(receipts=1), None, rejected=0)])
    assert kinds(epochs, B) == ["submit"]
    batch = epochs.batch(batch_id)
    assert batch is not None
    assert (batch.position, batch.rejected) == (1, 2)


def test_a_submit_task_ends_with_the_last_batch(epochs: SqlEpochs) -> None:
    create(epochs)
    for index, _, label in KEYS:
        epochs.advance([Step(batch_id_of("e1", A, index, label), header(), B, rejected=0)])
    assert kinds(epochs, A) == []
    assert kinds(epochs, B) == ["submit", "blind", "blind"]


def test_a_step_is_made_once_and_in_order(epochs: SqlEpochs) -> None:
    create(epochs)
    batch_id = batch_id_of("e1", A, 1, "x=1")
    for receipts in (1, 2):
        with pytest.raises(OverlapError) as caught:
            epochs.advance([Step(batch_id, header(receipts), None, rejected=0)])
        assert caught.value.reason is Reason.UNKNOWN_BATCH
    epochs.advance([Step(batch_id, header(), B, rejected=0)])
    with pytest.raises(OverlapError):
        epochs.advance([Step(batch_id, header(), B, rejected=0)])
    assert epochs.counts("e1").submitted == 1


def test_a_failed_task_waits_until_it_is_opened_again(epochs: SqlEpochs, reopen: Reopen) -> None:
    create(epochs)
    [task] = epochs.tasks(A)
    epochs.fail(task.task_id, B, "BAD_POINT", "not B's task")
    assert kinds(epochs, A) == ["submit"]
    epochs.fail(task.task_id, A, "MISSING_COLUMN", "column email")
    epochs = SqlEpochs(reopen())
    assert kinds(epochs, A) == []
    [failed] = [task for task in epochs.counts("e1").waiting if task.state == "failed"]
    assert (failed.party, failed.reason, failed.text) == (A, "MISSING_COLUMN", "column email")
    epochs.reopen("e1")
    assert [(again.task_id, again.attempt) for again in epochs.tasks(A)] == [(task.task_id, 1)]


def test_a_task_that_is_done_does_not_fail(epochs: SqlEpochs) -> None:
    create(epochs)
    [task] = epochs.tasks(A)
    for index, _, label in KEYS:
        epochs.advance([Step(batch_id_of("e1", A, index, label), header(), B, rejected=0)])
    epochs.fail(task.task_id, A, "INTERNAL", "")
    assert {waiting.state for waiting in epochs.counts("e1").waiting} == {"open"}


def test_one_epoch_is_open_at_a_time(epochs: SqlEpochs) -> None:
    assert epochs.opened() is None
    create(epochs)
    assert epochs.opened() == "e1"
    abandoned = create(epochs, "e2")
    assert epochs.opened() == "e2"
    assert abandoned == sorted(batch.batch_id for batch in epochs.batches("e1"))
    assert epochs.batch(abandoned[0]) is None
    assert {task.epoch for task in epochs.tasks(A)} == {"e2"}
    assert epochs.open_batches() == {batch.batch_id for batch in epochs.batches("e2")}
    assert (epochs.abandoned(), epochs.replaced()) == (["e1"], [])


DELTA = [(1, 3, ""), (2, 3, ""), (1, 2, "x=1"), (2, 2, "")]


def complete(epochs: SqlEpochs, epoch: str = "e1") -> list[str]:
    create(epochs, epoch)
    return epochs.complete(epoch, AT)


def test_deltas_come_one_after_another_and_blinding_waits_for_its_turn(epochs: SqlEpochs, reopen: Reopen) -> None:
    complete(epochs)
    with pytest.raises(OverlapError) as caught:
        epochs.open_delta("e1", A, 2, DELTA)
    assert caught.value.reason is Reason.OUT_OF_SEQUENCE
    for number in (1, 1, 2):  # the same again does nothing
        epochs.open_delta("e1", A, number, DELTA[: 2 * number])
    first, second = epochs.deltas("e1")
    assert [(d.sequence, d.state) for d in (first, second)] == [(1, "open"), (2, "open")]
    assert [batch.operation for batch in epochs.delta_batches(second)] == [3, 3, 2, 2]
    for delta in (second, first):
        for batch in epochs.delta_batches(delta):
            epochs.advance([Step(batch.batch_id, header(), B, rejected=0)])
    again = SqlEpochs(reopen())
    assert {task.batch_id for task in again.tasks(B)} == {batch.batch_id for batch in again.delta_batches(first)}
    again.close_delta(first)
    assert {task.batch_id for task in again.tasks(B)} == {batch.batch_id for batch in again.delta_batches(second)}
    [one, _] = again.delta_batches(first)
    assert again.batch(one.batch_id) is None
    assert again.closed(one.batch_id) is not None
    again.close_delta(second, "BAD_FIELD", "rows")
    with pytest.raises(OverlapError) as caught:
        again.open_delta("e1", A, 3, DELTA)  # nothing fits after one that did not
    assert caught.value.reason is Reason.OUT_OF_SEQUENCE
    again.open_delta("e1", B, 1, DELTA)  # another's are its own
    assert again.batches("e1") == epochs.batches("e1")  # the base
    assert len(again.batches("e1")) == 4


def test_no_more_deltas_wait_than_may(epochs: SqlEpochs) -> None:
    complete(epochs)
    for number in range(1, MAX_WAITING + 1):
        epochs.open_delta("e1", A, number, DELTA[:2])
    with pytest.raises(OverlapError) as caught:
        epochs.open_delta("e1", A, MAX_WAITING + 1, DELTA[:2])
    assert caught.value.reason is Reason.OUT_OF_SEQUENCE
    epochs.close_delta(epochs.deltas("e1")[0])
    epochs.open_delta("e1", A, MAX_WAITING + 1, DELTA[:2])


def test_a_new_epoch_leaves_open_deltas_until_it_is_complete(epochs: SqlEpochs) -> None:
    complete(epochs)
    epochs.open_delta("e1", A, 1, DELTA[:2])
    mine = {batch.batch_id for batch in epochs.delta_batches(epochs.deltas("e1")[0])}
    assert not mine & set(create(epochs, "e2"))
    assert mine < epochs.open_batches()
    assert set(epochs.complete("e2", AT)) == mine
    assert epochs.deltas("e1")[0].state == "abandoned"
    assert epochs.replaced() == ["e1"]
    assert not epochs.open_batches()


def test_the_newest_complete_epoch(epochs: SqlEpochs, reopen: Reopen) -> None:
    assert epochs.newest_complete() is None
    for name in ("e2", "e1"):
        create(epochs, name)
        epochs.complete(name, AT)
    create(epochs, "e3")
    epochs.complete("e2", AT)
    again = SqlEpochs(reopen())
    assert again.newest_complete() == "e1"
    assert again.names("e") == {"e1", "e2", "e3"}
    assert again.names("_") == set()
    assert again.get("e4") is None


def test_what_another_process_wrote_is_seen_at_once(reopen: Reopen) -> None:
    """What was read is kept only as long as nobody wrote."""
    mine, others = SqlEpochs(reopen()), SqlEpochs(reopen())
    assert (mine.get("e1"), mine.tasks(A), mine.newest_complete()) == (None, [], None)
    create(others)
    assert kinds(mine, A) == ["submit"]
    assert mine.counts("e1").submitted == 0
    for party in (A, B):
        for index, _, label in KEYS:
            others.advance([Step(batch_id_of("e1", party, index, label), header(), None, rejected=0)])
    assert kinds(mine, A) == []
    assert mine.counts("e1").submitted == 4
    others.complete("e1", AT)
    assert mine.newest_complete() == "e1"
    found = mine.get("e1")
    assert found is not None
    assert found.state == "complete"
    others.open_delta("e1", A, 1, [(1, 2, "x=1")])
    assert [delta.state for delta in mine.deltas("e1")] == ["open"]
    others.close_delta(mine.deltas("e1")[0])
    assert [delta.state for delta in mine.deltas("e1")] == ["applied"]
