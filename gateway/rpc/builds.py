"""Builds and updates of the index as streams of progress, for the operator who asked.

A stream only watches: an operator who goes away stops nothing, and calling again goes on with the same epoch.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence

from federation.core.errors import OverlapError, Reason
from federation.core.ids import PartyId
from federation.v1 import common_pb2
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.coordinator import Coordinator
from gateway.overlap.epochs import Counts
from gateway.rpc.motion import Motion, Stillness


class Builds:
    """Drives builds and updates.

    Args:
        coordinator: Knows how far each epoch is.
        motion: What moves.
        connect_timeout_s: How long a build waits for an agent that has work and is not connected.
        stall_timeout_s: How long a build waits while nothing at all moves.
    """

    def __init__(
        self, coordinator: Coordinator, motion: Motion, *, connect_timeout_s: float, stall_timeout_s: float
    ) -> None:
        self._coordinator, self._motion, self._deltas = coordinator, motion, coordinator.deltas
        self._connect_timeout_s, self._stall_timeout_s = connect_timeout_s, stall_timeout_s
        self._look_every_s = min(1.0, connect_timeout_s)

    async def build(self, request: pb.BuildIndexRequest) -> AsyncIterator[pb.BuildIndexResponse]:
        """Builds an epoch and tells how far it is."""
        coordinator, motion, stillness = self._coordinator, self._motion, Stillness()
        epoch = await asyncio.to_thread(coordinator.begin, request.epoch, request.key_type)
        await motion.change()
        started, told = motion.points, list[PartyId]()

        def state() -> object:
            return motion.changes, motion.steps.total()

        while not await asyncio.to_thread(coordinator.is_complete, epoch):
            seen = state()
            counts = await asyncio.to_thread(coordinator.counts, epoch)
            away = self._away({task.party for task in counts.waiting})
            if stillness.moved((counts, motion.points)) or away != told:
                told = away
                for progress in _progress(counts, motion.points - started, away):
                    yield pb.BuildIndexResponse(epoch=epoch, progress=progress)
            if counts.passed == counts.passes:
                progress = common_pb2.Progress(stage="index", done=0, total=1, text="Building the index")
                yield pb.BuildIndexResponse(epoch=epoch, progress=progress)
                await asyncio.to_thread(coordinator.finish, epoch)
                continue
            self._check_alive(counts, stillness.still_s)
            await motion.wait(state, seen, self._look_every_s)
        progress = common_pb2.Progress(stage="index", done=1, total=1, text="Index complete")
        yield pb.BuildIndexResponse(epoch=epoch, progress=progress, complete=True)

    async def update(self) -> AsyncIterator[pb.UpdateIndexResponse]:
        """Asks every partner for its changes and tells how far they are."""
        motion, deltas, stillness = self._motion, self._deltas, Stillness()
        newest = await asyncio.to_thread(deltas.newest)
        if newest is None:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item="no complete epoch yet")
        asks = await asyncio.to_thread(deltas.ask, newest.plan, newest.plan.partners, withdrawals_only=False)
        told = list[PartyId]()
        try:
            while True:
                seen = motion.changes
                done = [ask for ask in asks if await asyncio.to_thread(deltas.is_done, ask)]
                late = await asyncio.to_thread(deltas.late, [ask for ask in asks if ask not in done])
                away = self._away(late)
                if stillness.moved((len(done), motion.points)) or away != told:
                    told = away
                    text = _waiting(away) or "Partners send what changed, and it goes through the others"
                    progress = common_pb2.Progress(stage="update", done=len(done), total=len(asks), text=text)
                    yield pb.UpdateIndexResponse(epoch=newest.epoch, progress=progress)
                if len(done) == len(asks):
                    break
                self._check_still(late, stillness.still_s)
                await motion.wait(lambda: motion.changes, seen, self._look_every_s)
        finally:
            deltas.drop(asks)
        after = Counter(
            delta.origin for delta in await asyncio.to_thread(self._coordinator.epochs.deltas, newest.epoch)
        )
        changed = [ask.party for ask in asks if after[ask.party] > ask.known]
        yield pb.UpdateIndexResponse(epoch=newest.epoch, complete=True, changed=changed)

    def _check_alive(self, counts: Counts, still_s: float) -> None:
        """Raises OverlapError (BUILD_FAILED, NO_ROOM, PARTNER_UNAVAILABLE) where waiting longer is of no use."""
        failed = [task for task in counts.waiting if task.state == "failed"]
        if failed:
            first = failed[0]
            if first.reason == Reason.NO_ROOM:  # told by the partner that was to send, but it is not its fault
                raise OverlapError(Reason.NO_ROOM, item=first.text)
            text = f": {first.text}" if first.text else ""
            raise OverlapError(Reason.BUILD_FAILED, item=f"partner {first.party}: {first.reason}{text}")
        self._check_still(sorted({task.party for task in counts.waiting}), still_s)

    def _away(self, parties: Iterable[PartyId]) -> list[PartyId]:
        """Those of some partners whose agent is not connected."""
        return sorted(set(parties).difference(self._deltas.connected()))

    def _check_still(self, late: list[PartyId], still_s: float) -> None:
        away = self._away(late)
        if away and still_s >= self._connect_timeout_s:
            raise OverlapError(Reason.PARTNER_UNAVAILABLE, item=f"partner {', '.join(away)}")
        if still_s >= self._stall_timeout_s:
            raise OverlapError(Reason.BUILD_FAILED, item=f"partner {', '.join(late) or 'none'}: no progress")


def _waiting(away: Sequence[PartyId]) -> str:
    return f"Waiting for {', '.join(away)}: no agent is connected" if away else ""


def _progress(counts: Counts, points: int, away: Sequence[PartyId]) -> list[common_pb2.Progress]:
    begins, text = counts.submitted < counts.batches, "Partners blind their own identifiers"
    submit = common_pb2.Progress(
        stage="submit",
        done=counts.submitted,
        total=counts.batches,
        text=(begins and _waiting(away)) or text,
    )
    text = f"Batches go through the other partners; {points:,} points so far"
    blind = common_pb2.Progress(
        stage="blind",
        done=counts.passed,
        total=counts.passes,
        text=(not begins and _waiting(away)) or text,
    )
    return [submit, blind]
