"""A partner's side of the overlap: blinds its own identifiers and, for the others, batches that they signed.

Others' batches are checked before they are blinded (``hop``). Whatever is refused is refused with a reason, and the
agent goes on with the next task.

After the base of an epoch it sends deltas (``delta``): when the operator asks for what changed, when the
gateway asks whether a withdrawal is outstanding, and by itself after a withdrawal (``withdrawals``).

Trusts its own policy, its own data and the alliance CA; not the gateway.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import structlog

from federation.client.config import PartnerConfig
from federation.client.connection import translated
from federation.client.overlap.carry import send, send_together
from federation.client.overlap.data import Data, Handles
from federation.client.overlap.files import read_chunks
from federation.client.overlap.hop import Hop
from federation.client.overlap.own import OwnBatches
from federation.client.overlap.progress import LoggedProgress, Progress
from federation.client.overlap.state import EpochState
from federation.client.overlap.stored import StoredBatch
from federation.core.clock import Clock
from federation.core.errors import DataError, EntenteError, OverlapError, Reason, TransportError
from federation.core.identity import Identity
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, CustomerId, Handle
from federation.overlap.batch import Random
from federation.overlap.plan import (
    ADD,
    BASE,
    MAX_TOGETHER,
    MAX_TOGETHER_POINTS,
    Agreement,
    check_plan,
    key_types_of,
    row_bytes,
)
from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceStub

AT_ONCE = 4
"""Batches of others, or small ones that came together, that are worked on at a time."""
MAX_QUEUED = AT_ONCE * MAX_TOGETHER
"""Of them, those that are taken from the gateway before the first is done."""
OWN_LOG = "its own log says where"
_log = structlog.get_logger()


class OverlapAgent:
    """Serves overlap tasks on one stream.

    Args:
        stub: Of the gateway.
        identity: The partner's.
        data: Its rows, under its own policy.
        handles: Its handle book.
        config: Its configuration: how identifiers are written, limits, state folder.
        policy: Its own policy: parties, labels, decoys.
        clock: For the validity of certificates.
        before_switchboard: Called with the customers of the switchboard batch and their handles, some thousands at a
            time, before that batch is sent (again).
        progress: Called while rows are worked on; by default the log says how far it is.
        random: Keys, order and decoys.
        on_refused: Told why a task was refused or failed, in words for this partner alone.
    """

    def __init__(  # noqa: PLR0917 - the parts of one agent, each of its own type
        self,
        stub: OverlapServiceStub,
        identity: Identity,
        data: Data,
        handles: Handles,
        config: PartnerConfig,
        policy: Agreement,
        clock: Clock,
        before_switchboard: Callable[[Sequence[tuple[CustomerId, Handle]]], None] | None = None,
        progress: Progress | None = None,
        random: Random = os.urandom,
        on_refused: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._stub, self._identity, self._handles = stub, identity, handles
        self._config, self._policy, self._clock = config, policy, clock
        self._before_switchboard, self._random = before_switchboard, random
        self._progress, self._on_refused = progress or LoggedProgress(), on_refused
        self._state = EpochState(config.state, random)
        self._changing = threading.Lock()  # one delta at a time
        self._hop = Hop(
            stub,
            identity,
            self._state,
            limits=config.limits,
            policy=policy,
            clock=clock,
            progress=self._progress,
            random=random,
            send=self._send,
        )
        self._own = OwnBatches(
            self._state,
            identity=identity,
            data=data,
            handles=handles,
            config=config,
            policy=policy,
            progress=self._progress,
            random=random,
            clock=clock,
        )

    def serve(self, stop: threading.Event) -> None:
        """Works on tasks until the stream ends or ``stop`` is set. A task that ends in an error does not end it.

        Others' batches are worked on several at a time, because most of a small one's time is waiting for disks.

        Raises:
            grpc.RpcError: the stream broke.
            TransportError: the gateway went away in the middle of a task, which it will send again.
        """
        tasks = self._stub.WatchOverlapTasks(pb.WatchOverlapTasksRequest())
        running: deque[Future[None]] = deque()
        with ExitStack() as stack:
            stack.callback(tasks.cancel)  # else the gateway takes an agent that failed for one that works
            workers = [(ThreadPoolExecutor(1), deque[pb.WatchOverlapTasksResponse]()) for _ in range(AT_ONCE)]
            for pool, _ in workers:
                stack.callback(pool.shutdown, cancel_futures=True)
            for task in tasks:
                if stop.is_set():
                    return
                blinds = task.WhichOneof("task") == "blind"
                while len(running) >= (MAX_QUEUED if blinds else 1):
                    running.popleft().result()
                if not blinds:  # begins, extends or ends an epoch: alone
                    self._work_and_report(task)
                    continue
                # One batch always has the same worker: two at once could change what the other has verified.
                pool, waiting = workers[hash(task.blind.batch_id) % AT_ONCE]
                waiting.append(task)
                future = pool.submit(self._blind_waiting, waiting)
                future.add_done_callback(lambda done: done.cancelled() or done.exception() is None or tasks.cancel())
                running.append(future)

    def _work_and_report(self, task: pb.WatchOverlapTasksResponse) -> None:
        report = self.work(task)
        if task.WhichOneof("task") == "blind" and not report.reason:
            return  # that it was done the gateway saw when the batch came
        with translated():
            self._stub.ReportOverlapTask(report)

    def _blind_waiting(self, waiting: deque[pb.WatchOverlapTasksResponse]) -> None:
        """Blinds what waits for a worker: small batches together, others one by one."""
        tasks = [waiting.popleft() for _ in range(min(len(waiting), MAX_TOGETHER))]
        left = [task.blind.batch_id for task in tasks]
        if len(set(left)) > 1:
            try:
                with translated():
                    left = self._hop.blind_together(list(dict.fromkeys(left)))
            except TransportError:
                raise
            except EntenteError as exc:  # one of them, or its turn is over: each by itself says which
                _log.info("overlap_batches_apart", batches=len(left), reason=str(exc.reason), item=exc.item)
            except Exception:
                _log.exception("overlap_batches_apart")
        for task in tasks:
            if task.blind.batch_id in left:
                self._work_and_report(task)

    def work(self, task: pb.WatchOverlapTasksResponse) -> pb.ReportOverlapTaskRequest:
        """Does one task; returns what to report: why it failed, without what is in files; empty when it went well.

        Raises:
            TransportError: the gateway went away.
        """
        report = pb.ReportOverlapTaskRequest(task_id=task.task_id)
        try:
            with translated():
                if task.WhichOneof("task") == "submit":
                    self.submit(task.submit.plan)
                elif task.WhichOneof("task") == "blind":
                    self.blind(task.blind.batch_id)
                elif task.WhichOneof("task") == "delta":
                    report.sequence = self.update(task.delta.plan, withdrawals_only=task.delta.withdrawals_only)
                elif task.WhichOneof("task") == "complete":
                    self.complete(task.complete.plan)
                else:
                    raise OverlapError(Reason.BAD_FIELD, item="field task")
        except TransportError:
            raise
        except EntenteError as exc:
            _log.warning("overlap_task_refused", reason=str(exc.reason), item=exc.item, detail=exc.detail, do=exc.fix)
            self._on_refused(f"{exc.public} {exc.fix}".strip())
            # What is wrong with a partner's files, and where, says something about its customers.
            report.reason, report.text = str(exc.reason), OWN_LOG if isinstance(exc, DataError) else exc.item
        except Exception as exc:
            _log.exception("overlap_task_failed")
            self._on_refused(f"A task failed by a fault of ours ({type(exc).__name__}); the agent's log says where.")
            report.reason = str(Reason.INTERNAL)
        return report

    def submit(self, plan: pb.EpochPlan) -> None:
        """Builds the partner's own batches of an epoch, once, and sends them.

        Raises:
            OverlapError: the plan is not the agreement's.
            DataError: the partner's files are not usable; nothing was sent.
        """
        self._pin(plan)
        self._state.retire_others(plan.epoch)
        if not self._state.has_own(plan.epoch):
            self._own.build(plan)
        self._send_own(self._state.own(plan.epoch), plan)

    def complete(self, plan: pb.EpochPlan) -> None:
        """Takes note that an epoch is complete, and so that earlier ones need no key any more."""
        self._pin(plan)
        self._state.complete(plan.epoch)

    def update(self, plan: pb.EpochPlan, *, withdrawals_only: bool) -> int:
        """Sends what changed since the last batches of an epoch; returns the number of the last delta, 0 for none.

        Raises:
            OverlapError: the plan is not the agreement's; UNKNOWN_EPOCH for one that this partner is not in; BAD_FIELD
                for a label that the epoch does not have; TOO_LARGE after ``MAX_DELTAS``.
            DataError: the partner's files are not usable; nothing was sent.
        """
        with self._changing:
            self.complete(plan)
            if not self._state.has_own(plan.epoch):
                raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"no batches of this partner in {plan.epoch}")
            self._send_delta(plan)
            try:
                self._own.change(plan, withdrawals_only=withdrawals_only)
            finally:  # what was withdrawn here goes, also where the files are not believed
                self._send_delta(plan)
            return self._state.last_delta(plan.epoch)

    def epoch(self) -> str:
        """The newest complete epoch, "" before there is one."""
        plan = self._state.current()
        return plan.epoch if plan is not None else ""

    def withdraw(self) -> int | None:
        """Sends what was withdrawn from the newest complete epoch; as ``update``, None before there is an epoch."""
        plan = self._state.current()
        return None if plan is None else self.update(plan, withdrawals_only=True)

    def blind(self, batch_id: str) -> None:
        """Blinds another partner's batch; see ``Hop.blind``."""
        self._hop.blind(batch_id)

    def _send(self, batch: StoredBatch, width: int) -> None:
        send(self._stub, batch, width, self._progress)

    def _pin(self, plan: pb.EpochPlan) -> None:
        check_plan(plan, self._identity.subject.alliance, self._policy)
        if self._identity.subject.party not in plan.partners:
            raise OverlapError(Reason.BAD_MANIFEST, item="plan field partners")
        limits = self._config.limits
        kinds = set(key_types_of(plan.key_type))
        if limits.key_types is not None and not kinds <= set(limits.key_types):
            item = f"plan field key_type: {plan.key_type}, allowed here: {', '.join(limits.key_types)}"
            raise OverlapError(Reason.BAD_MANIFEST, item=item)
        self._state.pin_plan(plan, self._clock.now(), limits.max_epochs_per_day)

    def _send_own(self, batches: Iterable[StoredBatch], plan: pb.EpochPlan) -> None:
        """Sends them in their order, small ones that follow each other together."""
        together, points = list[pb.WholeBatch](), 0
        for batch in batches:
            comes = pb.Manifest.FromString(batch.header.manifest.payload).operation in (BASE, ADD)
            if batch.handles is not None and self._before_switchboard is not None and comes:
                for chunk in read_chunks(batch.handles, HANDLE_BYTES):
                    given = [Handle(chunk[at : at + HANDLE_BYTES]) for at in range(0, len(chunk), HANDLE_BYTES)]
                    self._before_switchboard(self._handles.named(given))  # decoys are nobody's
            mine = batch.points.stat().st_size // POINT_BYTES
            if together and (points + mine > MAX_TOGETHER_POINTS or len(together) == MAX_TOGETHER):
                send_together(self._stub, together)
                together, points = [], 0
            if mine > MAX_TOGETHER_POINTS:
                self._send(batch, row_bytes(plan))
                continue
            together.append(batch.whole())
            points += mine
        if together:
            send_together(self._stub, together)

    def _send_delta(self, plan: pb.EpochPlan) -> None:
        """Sends the last delta where the gateway may not have it."""
        sequence, batches = self._state.unsent(plan.epoch)
        if batches:
            self._send_own(batches, plan)
            self._state.sent(plan.epoch, sequence)
