"""The overlap service: thin, over ``gateway.overlap``.

A partner's agent keeps a stream of tasks open. The stream ends when the agent goes away; what it had not done is sent
again on the next one. The build's stream only watches: an operator who goes away stops nothing, and calling again goes
on with the same epoch.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import grpc

from federation.core.errors import DataError, OverlapError, Reason
from federation.core.ids import POINT_BYTES, EpochId, PartyId
from federation.overlap.batch import Chain
from federation.v1 import common_pb2
from federation.v1 import overlap_pb2 as pb
from gateway.identity.caller import current_caller
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.carrying import Expected
from gateway.overlap.coordinator import Coordinator
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.epochs import Counts, Task
from gateway.overlap.links import LinkRelease
from gateway.overlap.spool import Incoming
from gateway.rpc.questions import QuestionServicer

MAX_TEXT_CHARS = 200
GATHER_S = 0.02
"""Between two looks at the state by one stream: a look costs as much for many batches that moved as for one."""
T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class OverlapServicer(QuestionServicer):
    """Serves ``federation.v1.OverlapService``.

    Args:
        coordinator: Drives epochs.
        cubes: Releases declared tables.
        questions: Answers ad hoc questions.
        links: Finds products that go together.
        connect_timeout_s: How long a build waits for an agent that has work and is not connected.
        stall_timeout_s: How long a build waits while nothing at all moves.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        cubes: CubeRelease,
        questions: AdHocRelease,
        links: LinkRelease,
        *,
        connect_timeout_s: float = 30.0,
        stall_timeout_s: float = 900.0,
    ) -> None:
        super().__init__(cubes, questions, links)
        self._coordinator = coordinator
        self._connect_timeout_s, self._stall_timeout_s = connect_timeout_s, stall_timeout_s
        self._deltas = coordinator.deltas
        self._deltas.listen(self._wake)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._going_on: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Condition()
        self._changes = 0  # of what any stream may wait for
        self._steps: Counter[str] = Counter()  # batches that came, by who blinds them next; "" for nobody
        self._moved = 0  # points that came or went, ever: large batches are slow, not stuck

    def connected(self) -> list[PartyId]:
        """Partners whose agent has a task stream open."""
        return list(self._deltas.connected())

    async def WatchOverlapTasks(
        self, _request: pb.WatchOverlapTasksRequest, _context: Context
    ) -> AsyncIterator[pb.WatchOverlapTasksResponse]:
        """Every open task of the caller, once a stream, as it arises."""
        party = current_caller().party
        self._loop = asyncio.get_running_loop()
        self._deltas.attach(party)
        await self._notify()
        sent: set[tuple[str, int]] = set()

        def state() -> object:
            return self._changes, self._steps[party]

        try:
            while True:
                seen = state()
                for task, message in await asyncio.to_thread(self._tasks, party):
                    if (task.task_id, task.attempt) not in sent:
                        sent.add((task.task_id, task.attempt))
                        yield message
                await self._wait(state, seen)
        finally:
            self._deltas.detach(party)

    async def GetBatch(self, request: pb.GetBatchRequest, _context: Context) -> AsyncIterator[pb.GetBatchResponse]:
        """The batch whose turn at the caller it is."""
        party = current_caller().party
        header, chunks = await asyncio.to_thread(
            self._coordinator.carrier.carry, party, request.batch_id, request.from_row
        )
        yield pb.GetBatchResponse(header=header)
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield pb.GetBatchResponse(chunk=pb.PointsChunk(points=chunk))
            self._moved += len(chunk) // POINT_BYTES

    async def PutBatch(
        self, request_iterator: AsyncIterator[pb.PutBatchRequest], _context: Context
    ) -> AsyncIterator[pb.PutBatchResponse]:
        """Takes one batch, whole or not at all; says after every sync how much of it is on disk."""
        party = current_caller().party
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise OverlapError(Reason.TRUNCATED_STREAM, item="batch header")
        expected = await asyncio.to_thread(self._coordinator.carrier.expect, party, first.header)
        if expected.here:  # delivered before, and the answer was lost
            await self._stepped(expected.chain)  # the process may have died before it woke the next hop
            yield expected.delivered
            return
        incoming = await asyncio.to_thread(self._coordinator.carrier.receive, expected)
        try:
            told = incoming.durable_rows
            yield pb.PutBatchResponse(batch_id=expected.batch.batch_id, durable_rows=told)
            async for part in requests:
                if part.WhichOneof("part") != "chunk":
                    raise OverlapError(Reason.BAD_FIELD, item="field chunk")
                await asyncio.to_thread(incoming.add, part.chunk.points, part.chunk.handles)
                self._moved += len(part.chunk.points) // POINT_BYTES
                if incoming.durable_rows != told:
                    told = incoming.durable_rows
                    yield pb.PutBatchResponse(batch_id=expected.batch.batch_id, durable_rows=told)
        except OverlapError:
            incoming.discard()  # what was sent is wrong, to the last row
            raise
        except BaseException:  # a connection that was lost: what came so far stays
            await asyncio.to_thread(incoming.close)
            raise
        [answer] = await self._to_the_end(self._accept(expected, incoming))
        yield answer

    async def GetBatches(self, request: pb.GetBatchesRequest, _context: Context) -> pb.GetBatchesResponse:
        """Small batches whose turn at the caller it is."""
        party, names = current_caller().party, request.batch_ids
        batches = await asyncio.to_thread(self._coordinator.carrier.carry_together, party, names)
        self._moved += sum(len(batch.points) for batch in batches) // POINT_BYTES
        return pb.GetBatchesResponse(batches=batches)

    async def PutBatches(self, request: pb.PutBatchesRequest, _context: Context) -> pb.PutBatchesResponse:
        """Takes small batches, all or none."""
        answers = await self._to_the_end(self._take(current_caller().party, request.batches))
        return pb.PutBatchesResponse(batches=answers)

    async def ReportOverlapTask(
        self, request: pb.ReportOverlapTaskRequest, _context: Context
    ) -> pb.ReportOverlapTaskResponse:
        """The caller's word on a task."""
        if request.reason and request.reason not in set(Reason):
            raise DataError(Reason.BAD_FIELD, item="field reason")
        party, text = current_caller().party, request.text[:MAX_TEXT_CHARS]
        sequence = request.sequence
        await asyncio.to_thread(self._coordinator.report, party, request.task_id, request.reason, text, sequence)
        await self._notify()
        return pb.ReportOverlapTaskResponse()

    async def BuildIndex(
        self, request: pb.BuildIndexRequest, _context: Context
    ) -> AsyncIterator[pb.BuildIndexResponse]:
        """Builds an epoch and tells how far it is."""
        epoch = await asyncio.to_thread(self._coordinator.begin, request.epoch, request.key_type)
        await self._notify()
        moved_at = time.monotonic()
        before: Counts | None = None
        started = moved = self._moved

        def state() -> object:
            return self._changes, self._steps.total()

        while not await asyncio.to_thread(self._coordinator.is_complete, epoch):
            seen = state()
            counts = await asyncio.to_thread(self._coordinator.counts, epoch)
            if counts != before or moved != self._moved:
                before, moved, moved_at = counts, self._moved, time.monotonic()
                for progress in _progress(counts, moved - started):
                    yield pb.BuildIndexResponse(epoch=epoch, progress=progress)
            if counts.passed == counts.passes:
                yield _response(epoch, "index", 0, 1, "Building the index")
                await asyncio.to_thread(self._coordinator.finish, epoch)
                continue
            self._check_alive(counts, time.monotonic() - moved_at)
            await self._wait(state, seen, min(1.0, self._connect_timeout_s))
        yield pb.BuildIndexResponse(
            epoch=epoch,
            progress=common_pb2.Progress(stage="index", done=1, total=1, text="Index complete"),
            complete=True,
        )

    async def UpdateIndex(
        self, _request: pb.UpdateIndexRequest, _context: Context
    ) -> AsyncIterator[pb.UpdateIndexResponse]:
        """Asks every partner for its changes and tells how far they are."""
        newest = await asyncio.to_thread(self._deltas.newest)
        if newest is None:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item="no complete epoch yet")
        plan, deltas = newest.plan, self._deltas
        asks = await asyncio.to_thread(deltas.ask, plan, plan.partners, withdrawals_only=False)
        try:
            told, moved, moved_at = -1, self._moved, time.monotonic()
            while True:
                seen = self._changes
                done = [ask for ask in asks if await asyncio.to_thread(deltas.is_done, ask)]
                if len(done) != told or moved != self._moved:
                    told, moved, moved_at = len(done), self._moved, time.monotonic()
                    text = "Partners send what changed, and it goes through the others"
                    progress = common_pb2.Progress(stage="update", done=told, total=len(asks), text=text)
                    yield pb.UpdateIndexResponse(epoch=newest.epoch, progress=progress)
                if len(done) == len(asks):
                    break
                late = sorted({ask.party for ask in asks} - {ask.party for ask in done})
                self._check_still(late, time.monotonic() - moved_at)
                await self._wait(lambda: self._changes, seen, min(1.0, self._connect_timeout_s))
        finally:
            deltas.drop(asks)
        after = Counter(
            delta.origin for delta in await asyncio.to_thread(self._coordinator.epochs.deltas, newest.epoch)
        )
        changed = [ask.party for ask in asks if after[ask.party] > ask.known]
        yield pb.UpdateIndexResponse(epoch=newest.epoch, complete=True, changed=changed)

    def _check_alive(self, counts: Counts, still_s: float) -> None:
        """Raises OverlapError (BUILD_FAILED, PARTNER_UNAVAILABLE) where waiting longer is of no use."""
        failed = [task for task in counts.waiting if task.state == "failed"]
        if failed:
            first = failed[0]
            text = f": {first.text}" if first.text else ""
            raise OverlapError(Reason.BUILD_FAILED, item=f"partner {first.party}: {first.reason}{text}")
        self._check_still(sorted({task.party for task in counts.waiting}), still_s)

    def _check_still(self, late: list[PartyId], still_s: float) -> None:
        away = [party for party in late if party not in self._deltas.connected()]
        if away and still_s >= self._connect_timeout_s:
            raise OverlapError(Reason.PARTNER_UNAVAILABLE, item=f"partner {', '.join(away)}")
        if still_s >= self._stall_timeout_s:
            raise OverlapError(Reason.BUILD_FAILED, item=f"partner {', '.join(late)}: no progress")

    def _tasks(self, party: PartyId) -> list[tuple[Task, pb.WatchOverlapTasksResponse]]:
        return [*self._coordinator.tasks(party), *self._deltas.tasks(party)]

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Does something whole, also where the connection that asked for it is lost meanwhile."""
        task = self._begin(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear of it
        return await asyncio.shield(task)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts what goes on whatever becomes of the call; the loop alone would hold it weakly."""
        task = asyncio.create_task(work)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        return task

    async def _accept(self, expected: Expected, incoming: Incoming) -> list[pb.PutBatchResponse]:
        try:
            answers = await asyncio.to_thread(self._coordinator.carrier.accept, (expected, incoming))
        except OverlapError:
            incoming.discard()  # what was sent is wrong, to the last row
            raise
        finally:
            await asyncio.to_thread(incoming.close)
        await self._stepped(expected.chain)
        return answers

    async def _take(self, party: PartyId, batches: Sequence[pb.WholeBatch]) -> list[pb.PutBatchResponse]:
        taken = await asyncio.to_thread(self._coordinator.carrier.take, party, batches)
        self._moved += sum(len(batch.points) for batch in batches) // POINT_BYTES
        await self._stepped(*(chain for chain, _ in taken))
        return [answer for _, answer in taken]

    async def _stepped(self, *chains: Chain) -> None:
        """Tells of batches that came: the next hops, and, where a delta's was the last pass, who applies it."""
        for hop in {chain.next_hop or "" for chain in chains}:
            await self._notify(step=hop)
        if any(chain.manifest.sequence and chain.next_hop is None for chain in chains):
            self._begin(asyncio.to_thread(self._deltas.settle))  # who delivered it is not its origin, and does not wait

    def _wake(self) -> None:
        """From any thread: there may be new tasks."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                asyncio.run_coroutine_threadsafe(self._notify(), self._loop)

    async def _notify(self, *, step: str | None = None) -> None:
        """Wakes every stream, or, after a step of a batch, a build and the partner whose turn it is."""
        async with self._changed:
            if step is None:
                self._changes += 1
            else:
                self._steps[step] += 1
            self._changed.notify_all()

    async def _wait(self, state: Callable[[], object], seen: object, at_most_s: float | None = None) -> None:
        """Until a state is not what was seen of it; what comes close together is looked at once."""
        await asyncio.sleep(GATHER_S)
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: state() != seen), at_most_s)


def _progress(counts: Counts, points: int) -> list[common_pb2.Progress]:
    submit = common_pb2.Progress(
        stage="submit", done=counts.submitted, total=counts.batches, text="Partners blind their own identifiers"
    )
    blind = common_pb2.Progress(
        stage="blind",
        done=counts.passed,
        total=counts.passes,
        text=f"Batches go through the other partners; {points:,} points so far",
    )
    return [submit, blind]


def _response(epoch: EpochId, stage: str, done: int, total: int, text: str) -> pb.BuildIndexResponse:
    return pb.BuildIndexResponse(
        epoch=epoch, progress=common_pb2.Progress(stage=stage, done=done, total=total, text=text)
    )
