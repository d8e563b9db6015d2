"""How batches cross between a partner and ``gateway.overlap.carrying``: as streams, or small ones together.

A delivery whose rows are all there is taken to the end, also where the connection that brought it is lost meanwhile:
the next hop is told in any case. What a partner brings or fetches is done in threads of its own: many signatures to
verify, or many rows that an earlier connection left, hold up its own batches alone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from federation.core.errors import OverlapError, Reason
from federation.core.ids import POINT_BYTES, PartyId
from federation.overlap.batch import Chain
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.carrying import Carrier, Expected
from gateway.overlap.spool import Incoming
from gateway.rpc.motion import Motion
from gateway.rpc.threads import PartyThreads

AT_ONCE = 8
"""What an agent does at a time: four batches, each of which may come while another goes."""
T = TypeVar("T")


class Deliveries:
    """Gives and takes batches.

    Args:
        carrier: Knows whose turn each one is.
        settle: Applies deltas that are whole.
        motion: Told what came and went.
    """

    def __init__(self, carrier: Carrier, settle: Callable[[], object], motion: Motion) -> None:
        self._carrier, self._settle, self._motion = carrier, settle, motion
        self._run = PartyThreads(AT_ONCE, "batches").run
        self._going_on: set[asyncio.Task[Any]] = set()
        self._settler: asyncio.Task[None] | None = None
        self._due = False

    async def get(self, party: PartyId, request: pb.GetBatchRequest) -> AsyncIterator[pb.GetBatchResponse]:
        """The batch whose turn at a partner it is."""
        header, chunks = await self._run(party, self._carrier.carry, party, request.batch_id, request.from_row)
        yield pb.GetBatchResponse(header=header)
        while chunk := await self._run(party, next, chunks, b""):
            yield pb.GetBatchResponse(chunk=pb.PointsChunk(points=chunk))
            self._motion.points += len(chunk) // POINT_BYTES

    async def get_together(self, party: PartyId, names: Sequence[str]) -> list[pb.WholeBatch]:
        """Small batches whose turn at a partner it is."""
        batches = await self._run(party, self._carrier.carry_together, party, names)
        self._motion.points += sum(len(batch.points) for batch in batches) // POINT_BYTES
        return batches

    async def put(
        self, party: PartyId, requests: AsyncIterator[pb.PutBatchRequest]
    ) -> AsyncIterator[pb.PutBatchResponse]:
        """Takes one batch, whole or not at all; says after every sync how much of it is on disk."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise OverlapError(Reason.TRUNCATED_STREAM, item="batch header")
        expected = await self._run(party, self._carrier.expect, party, first.header)
        if expected.here:  # delivered before, and the answer was lost
            await self._stepped(expected.chain)  # the process may have died before it woke the next hop
            yield expected.delivered
            return
        incoming = await self._run(party, self._carrier.receive, expected)
        try:
            told = incoming.durable_rows
            yield pb.PutBatchResponse(batch_id=expected.batch.batch_id, durable_rows=told)
            async for part in requests:
                if part.WhichOneof("part") != "chunk":
                    raise OverlapError(Reason.BAD_FIELD, item="field chunk")
                await self._run(party, incoming.add, part.chunk.points, part.chunk.handles)
                self._motion.points += len(part.chunk.points) // POINT_BYTES
                if incoming.durable_rows != told:
                    told = incoming.durable_rows
                    yield pb.PutBatchResponse(batch_id=expected.batch.batch_id, durable_rows=told)
        except OverlapError:
            incoming.discard()  # what was sent is wrong, to the last row
            raise
        except BaseException:  # a connection that was lost: what came so far stays
            await self._run(party, incoming.close)
            raise
        [answer] = await self._to_the_end(self._accept(party, expected, incoming))
        yield answer

    async def put_together(self, party: PartyId, batches: Sequence[pb.WholeBatch]) -> list[pb.PutBatchResponse]:
        """Takes small batches, all or none."""
        return await self._to_the_end(self._take(party, batches))

    async def _accept(self, party: PartyId, expected: Expected, incoming: Incoming) -> list[pb.PutBatchResponse]:
        try:
            answers = await self._run(party, self._carrier.accept, (expected, incoming))
        except OverlapError:
            incoming.discard()  # what was sent is wrong, to the last row
            raise
        finally:
            await self._run(party, incoming.close)
        await self._stepped(expected.chain)
        return answers

    async def _take(self, party: PartyId, batches: Sequence[pb.WholeBatch]) -> list[pb.PutBatchResponse]:
        taken = await self._run(party, self._carrier.take, party, batches)
        self._motion.points += sum(len(batch.points) for batch in batches) // POINT_BYTES
        await self._stepped(*(chain for chain, _ in taken))
        return [answer for _, answer in taken]

    async def _stepped(self, *chains: Chain) -> None:
        """Tells of batches that came: the next hops, and, where a delta's was the last pass, who applies it."""
        for hop in {chain.next_hop or "" for chain in chains}:
            await self._motion.step(hop)
        if any(chain.manifest.sequence and chain.next_hop is None for chain in chains):
            self._settle_soon()  # who delivered it is not its origin, and does not wait

    def _settle_soon(self) -> None:
        """Settles in one thread, however many deliveries ask for it meanwhile; then once more."""

        async def settle() -> None:
            while self._due:
                self._due = False
                await asyncio.to_thread(self._settle)

        self._due = True
        if self._settler is None or self._settler.done():
            self._settler = self._begin(settle())

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
