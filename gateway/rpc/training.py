"""TrainingService on the wire: thin. Partners hold one stream each; whoever started a run may leave and come back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from federation.core.errors import DataError, Reason, TrainingError
from federation.training.models import KINDS, MAX_MODEL_BYTES
from federation.v1 import common_pb2
from federation.v1 import training_pb2 as pb
from federation.v1.training_pb2_grpc import TrainingServiceServicer
from gateway.identity.caller import current_caller
from gateway.training.hub import Hub
from gateway.training.runs import FAILED, FINISHED, RUNNING
from gateway.training.service import LiveRun, TrainingService

POLL_S = 0.1
"""How often a follower looks at its run."""
MAX_KEY = 128
MAX_ID = 64
STATES = {RUNNING: pb.RUN_STATE_RUNNING, FINISHED: pb.RUN_STATE_FINISHED, FAILED: pb.RUN_STATE_FAILED}
Context = grpc.aio.ServicerContext[Any, Any]


class TrainingServicer(TrainingServiceServicer):
    """Serves training.

    Args:
        service: Starts runs and hands out models.
        hub: Where the partners' streams meet.
    """

    def __init__(self, service: TrainingService, hub: Hub) -> None:
        self._service, self._hub = service, hub

    def connected(self) -> frozenset[str]:
        """Partners whose agent is there."""
        return self._hub.connected()

    async def ExchangeMessages(
        self, request_iterator: AsyncIterator[pb.ExchangeMessagesRequest], context: Context
    ) -> AsyncIterator[pb.ExchangeMessagesResponse]:
        """One partner's stream: what it owes goes down, replies and refusals come up."""
        party = str(current_caller().party)
        loop = asyncio.get_running_loop()
        outbox: asyncio.Queue[pb.ExchangeMessagesResponse | None] = asyncio.Queue()

        def send(message: pb.ExchangeMessagesResponse | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(outbox.put_nowait, message)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    await asyncio.to_thread(self._take, party, request)
            finally:
                outbox.put_nowait(None)

        try:
            first = await anext(aiter(request_iterator))
        except StopAsyncIteration:
            return
        if first.WhichOneof("part") != "ready" or not set(first.ready.models) & set(KINDS):
            raise DataError(Reason.BAD_FIELD, item="first message must be ready, with a known model")
        self._hub.attach(party, send)
        reader = asyncio.create_task(read())
        try:
            while (message := await outbox.get()) is not None:
                yield message
            if reader.done() and not reader.cancelled():
                reader.result()  # raises what the reader raised
        finally:
            self._hub.detach(party, send)
            reader.cancel()

    async def StartRun(self, request: pb.StartRunRequest, context: Context) -> AsyncIterator[pb.StartRunResponse]:
        """Starts a run, or finds the one of the same key, and follows it to its end."""
        if len(request.idempotency_key) > MAX_KEY:
            raise DataError(Reason.BAD_FIELD, item="idempotency_key")
        caller = current_caller()
        live = await asyncio.to_thread(self._service.start, caller, request.proposal, request.idempotency_key)
        told = None
        while True:
            ended = live.ended.is_set()  # read before the state, so that the last message is complete
            now = _tell(live)
            if ended and live.error is not None:
                raise live.error
            if ended or now != told:
                yield now
                told = now
            if ended:
                return
            await asyncio.sleep(POLL_S)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Every run, newest first."""
        records = await asyncio.to_thread(self._service.list_runs)
        infos = [
            pb.RunInfo(
                run_id=record.run_id,
                state=STATES[record.state],
                started_at=record.started_at,
                ended_at=record.ended_at,
                rounds_done=record.rounds_done,
                proposal=record.proposal,
                reason=record.reason,
            )
            for record in records
        ]
        return pb.ListRunsResponse(runs=infos)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """A finished model with its card."""
        if len(request.run_id) > MAX_ID:
            raise TrainingError(Reason.UNKNOWN_RUN)
        give, which = self._service.get_model, (request.run_id, request.version)
        model = await asyncio.to_thread(give, current_caller(), *which, in_use=request.in_use)
        signed = common_pb2.Signed.FromString(model.signed_card)
        return pb.GetModelResponse(
            run_id=model.run_id,
            version=model.version,
            weights=model.weights,
            card_json=model.card_json,
            signed_card=signed,
        )

    def _take(self, party: str, request: pb.ExchangeMessagesRequest) -> None:
        """One message from a partner. Raises DataError."""
        match request.WhichOneof("part"):
            case "reply":
                if len(request.reply.message) > MAX_MODEL_BYTES or len(request.reply.run_id) > MAX_ID:
                    raise DataError(Reason.TOO_LARGE, item="reply")
                self._hub.deliver(party, request.reply)
            case "refusal":
                self._hub.refuse(party, request.refusal)
            case _:
                raise DataError(Reason.BAD_FIELD, item="part")


def _tell(live: LiveRun) -> pb.StartRunResponse:
    """Where a run is, for its followers."""
    progress = common_pb2.Progress(stage="round", done=live.done, total=live.total, text=live.text)
    return pb.StartRunResponse(run_id=live.run_id, progress=progress, state=STATES[live.state], reason=live.reason)
