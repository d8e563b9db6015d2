"""TrainingService on the wire: thin. Partners hold one stream each; whoever started a run may leave and come back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from federation.core.errors import DataError, EntenteError, Reason, TrainingError
from federation.training.models import KINDS
from federation.v1 import common_pb2
from federation.v1 import training_pb2 as pb
from federation.v1.training_pb2_grpc import TrainingServiceServicer
from gateway.identity.caller import current_caller
from gateway.training.desk import MAX_TEXT
from gateway.training.hub import Hub
from gateway.training.runner import LiveRun
from gateway.training.runs import APPROVED, FAILED, FINISHED, PAUSED, PROPOSED, RUNNING, STOPPED, RunRecord
from gateway.training.service import TrainingService

POLL_S = 0.1
"""How often a follower looks at its run."""
MAX_KEY = 128
MAX_ID = 64
PAUSE_WAIT_S = 5.0
"""How long a call that pauses waits for the round under way to end."""
STATES = {
    PROPOSED: pb.RUN_STATE_PROPOSED,
    APPROVED: pb.RUN_STATE_APPROVED,
    RUNNING: pb.RUN_STATE_RUNNING,
    PAUSED: pb.RUN_STATE_PAUSED,
    FINISHED: pb.RUN_STATE_FINISHED,
    FAILED: pb.RUN_STATE_FAILED,
    STOPPED: pb.RUN_STATE_STOPPED,
}
_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]


class TrainingServicer(TrainingServiceServicer):
    """Serves training.

    Args:
        service: Starts runs and hands out models.
        hub: Where the partners' streams meet.
    """

    def __init__(self, service: TrainingService, hub: Hub) -> None:
        self._service, self._hub = service, hub

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
        """Starts a run, or finds the one of the same key or id, and follows it to its end."""
        _check_key(request.idempotency_key)
        _check_id(request.run_id)
        caller, asked = current_caller(), (request.proposal, request.idempotency_key, request.run_id)
        live = await asyncio.to_thread(self._service.start, caller, *asked)
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

    async def ProposeRun(self, request: pb.ProposeRunRequest, context: Context) -> pb.ProposeRunResponse:
        """Registers a proposal."""
        _check_key(request.idempotency_key)
        asked = (current_caller(), request.proposal, request.idempotency_key)
        record = await asyncio.to_thread(self._service.propose, *asked, autostart=request.start_when_approved)
        return pb.ProposeRunResponse(run=_info(record))

    async def DecideRun(self, request: pb.DecideRunRequest, context: Context) -> pb.DecideRunResponse:
        """A person's word, at a partner, on a proposal."""
        _check_id(request.run_id)
        _check_text(request.reason)
        said = pb.TrainerDecision(
            run_id=request.run_id,
            proposal_sha256=request.proposal_sha256,
            approved=request.approved,
            reason=request.reason,
        )
        record = await asyncio.to_thread(self._service.decide, str(current_caller().party), said)
        return pb.DecideRunResponse(run=_info(record))

    async def PauseRun(self, request: pb.PauseRunRequest, context: Context) -> pb.PauseRunResponse:
        """Pauses a run; waits a little for its round to end, so that whoever leaves now costs no attempt."""
        _check_id(request.run_id)
        _check_text(request.reason)
        record = await asyncio.to_thread(self._service.control.pause, current_caller(), request.run_id, request.reason)
        for _ in range(int(PAUSE_WAIT_S / POLL_S)):
            if self._service.at_rest(request.run_id):
                break
            await asyncio.sleep(POLL_S)
        return pb.PauseRunResponse(run=_info(record))

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Context) -> pb.ResumeRunResponse:
        """Ends a pause."""
        _check_id(request.run_id)
        record = await asyncio.to_thread(self._service.control.resume, current_caller(), request.run_id)
        return pb.ResumeRunResponse(run=_info(record))

    async def StopRun(self, request: pb.StopRunRequest, context: Context) -> pb.StopRunResponse:
        """Ends a run or a proposal."""
        _check_id(request.run_id)
        _check_text(request.reason)
        record = await asyncio.to_thread(self._service.stop_run, current_caller(), request.run_id, request.reason)
        return pb.StopRunResponse(run=_info(record))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Every run, newest first."""
        records = await asyncio.to_thread(self._service.list_runs)
        return pb.ListRunsResponse(runs=[_info(record) for record in records])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """A finished model with its card."""
        _check_id(request.run_id)
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
                self._hub.deliver(party, request.reply)
            case "refusal":
                self._hub.refuse(party, request.refusal)
            case "decision":
                try:
                    self._service.decide(party, request.decision)
                except EntenteError as exc:  # a proposal that has gone meanwhile; the stream has other work
                    _log.info("stray_decision", party=party, reason=str(exc.reason), item=exc.item)
            case "paused":
                self._service.control.step_aside(party, request.paused.run_id)
            case _:
                raise DataError(Reason.BAD_FIELD, item="part")


def _tell(live: LiveRun) -> pb.StartRunResponse:
    """Where a run is, for its followers."""
    progress = common_pb2.Progress(stage="round", done=live.done, total=live.total, text=live.text)
    state = STATES[live.state]
    return pb.StartRunResponse(
        run_id=live.run_id, progress=progress, state=state, reason=live.reason, seconds_left=live.seconds_left
    )


def _info(record: RunRecord) -> pb.RunInfo:
    """A run as the registry has it."""
    decisions = [
        pb.RunDecision(party=d.party, approved=d.approved, by_rule=d.by_rule, reason=d.reason, at=d.at)
        for d in record.decisions
    ]
    return pb.RunInfo(
        run_id=record.run_id,
        state=STATES[record.state],
        started_at=record.started_at,
        ended_at=record.ended_at,
        rounds_done=record.rounds_done,
        proposal=record.proposal,
        reason=record.reason,
        proposed_by="" if record.caller is None else str(record.caller.party),
        proposed_at=record.proposed_at,
        expires_at=record.expires_at,
        decisions=decisions,
        holds=[pb.RunHold(party=hold.party, reason=hold.reason, since=hold.since) for hold in record.holds],
    )


def _check_key(key: str) -> None:
    if len(key) > MAX_KEY:
        raise DataError(Reason.BAD_FIELD, item="idempotency_key")


def _check_id(run_id: str) -> None:
    if len(run_id) > MAX_ID:
        raise TrainingError(Reason.UNKNOWN_RUN)


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise DataError(Reason.BAD_FIELD, item=f"reason: at most {MAX_TEXT} characters")
