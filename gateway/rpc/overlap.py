"""The overlap service: thin, over ``gateway.overlap``.

A partner's agent keeps a stream of tasks open. The stream ends when the agent goes away; what it had not done is sent
again on the next one.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from federation.core.errors import DataError, Reason
from federation.core.ids import PartyId
from federation.v1 import overlap_pb2 as pb
from gateway.identity.caller import current_caller
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.coordinator import Coordinator
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.links import LinkRelease
from gateway.rpc.builds import Builds
from gateway.rpc.deliveries import Deliveries
from gateway.rpc.motion import Motion
from gateway.rpc.questions import QuestionServicer

MAX_TEXT_CHARS = 200
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
        self._coordinator, self._deltas, self._motion = coordinator, coordinator.deltas, Motion()
        self._deltas.listen(self._motion.wake)
        self._deliveries = Deliveries(coordinator.carrier, coordinator.deltas.settle, self._motion)
        timeouts = {"connect_timeout_s": connect_timeout_s, "stall_timeout_s": stall_timeout_s}
        self._builds = Builds(coordinator, self._motion, **timeouts)

    def connected(self) -> list[PartyId]:
        """Partners whose agent has a task stream open."""
        return list(self._deltas.connected())

    async def WatchOverlapTasks(
        self, _request: pb.WatchOverlapTasksRequest, _context: Context
    ) -> AsyncIterator[pb.WatchOverlapTasksResponse]:
        """Every open task of the caller, once a stream, as it arises."""
        party, motion = current_caller().party, self._motion
        self._deltas.attach(party)
        await motion.change()
        sent: set[tuple[str, int]] = set()

        def state() -> object:
            return motion.changes, motion.steps[party]

        try:
            while True:
                seen = state()
                for attempt, message in await asyncio.to_thread(self._tasks, party):
                    if (message.task_id, attempt) not in sent:
                        sent.add((message.task_id, attempt))
                        yield message
                await motion.wait(state, seen)
        finally:
            self._deltas.detach(party)

    async def ReportOverlapTask(
        self, request: pb.ReportOverlapTaskRequest, _context: Context
    ) -> pb.ReportOverlapTaskResponse:
        """The caller's word on a task."""
        if request.reason and request.reason not in set(Reason):
            raise DataError(Reason.BAD_FIELD, item="field reason")
        party, text = current_caller().party, request.text[:MAX_TEXT_CHARS]
        sequence = request.sequence
        await asyncio.to_thread(self._coordinator.report, party, request.task_id, request.reason, text, sequence)
        await self._motion.change()
        return pb.ReportOverlapTaskResponse()

    def GetBatch(self, request: pb.GetBatchRequest, _context: Context) -> AsyncIterator[pb.GetBatchResponse]:
        """The batch whose turn at the caller it is."""
        return self._deliveries.get(current_caller().party, request)

    def PutBatch(
        self, request_iterator: AsyncIterator[pb.PutBatchRequest], _context: Context
    ) -> AsyncIterator[pb.PutBatchResponse]:
        """Takes one batch."""
        return self._deliveries.put(current_caller().party, aiter(request_iterator))

    async def GetBatches(self, request: pb.GetBatchesRequest, _context: Context) -> pb.GetBatchesResponse:
        """Small batches whose turn at the caller it is."""
        party = current_caller().party
        return pb.GetBatchesResponse(batches=await self._deliveries.get_together(party, request.batch_ids))

    async def PutBatches(self, request: pb.PutBatchesRequest, _context: Context) -> pb.PutBatchesResponse:
        """Takes small batches, all or none."""
        party = current_caller().party
        return pb.PutBatchesResponse(batches=await self._deliveries.put_together(party, request.batches))

    def BuildIndex(self, request: pb.BuildIndexRequest, _context: Context) -> AsyncIterator[pb.BuildIndexResponse]:
        """Builds an epoch and tells how far it is."""
        return self._builds.build(request)

    def UpdateIndex(self, _request: pb.UpdateIndexRequest, _context: Context) -> AsyncIterator[pb.UpdateIndexResponse]:
        """Asks every partner for its changes and tells how far they are."""
        return self._builds.update()

    def _tasks(self, party: PartyId) -> list[tuple[int, pb.WatchOverlapTasksResponse]]:
        return [*self._coordinator.tasks(party), *self._deltas.tasks(party)]
