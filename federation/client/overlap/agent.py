"""A partner's side of the overlap: blinds its own identifiers and, for the others, batches that they signed.

The gateway only carries. Before this agent blinds a batch it has verified the origin's signature, every earlier hop's
receipt, that it is next in the ring, that the label is one the agreement lists, that the points are those that were
signed, and that it stays within its own limits (``state.EpochState.reserve``). Anything else is refused with a
reason, and the agent goes on with the next task.

After the base of an epoch it sends deltas (``delta``): when the operator asks for what changed, when the
gateway asks whether a withdrawal is outstanding, and by itself after a withdrawal (``withdrawals``).

Trusts its own policy, its own data and the alliance CA; not the gateway.
"""

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import structlog

from federation.client.config import PartnerConfig
from federation.client.connection import translated
from federation.client.overlap.carry import fetch, rows_in, send
from federation.client.overlap.data import Data, Handles
from federation.client.overlap.files import create_private, read_chunks, shuffled, write_rows
from federation.client.overlap.own import OwnBatches
from federation.client.overlap.progress import LoggedProgress, Progress
from federation.client.overlap.state import EpochState
from federation.client.overlap.stored import StoredBatch
from federation.core.clock import Clock
from federation.core.errors import EntenteError, OverlapError, Reason, TransportError
from federation.core.identity import Identity
from federation.core.ids import HANDLE_BYTES, CustomerId, Handle
from federation.overlap.batch import Chain, Random, sign_receipt, verify_chain
from federation.overlap.blind import blind
from federation.overlap.plan import (
    REMOVE,
    STATISTICS,
    Agreement,
    check_plan,
    row_bytes,
)
from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceStub

AT_ONCE = 4
"""Batches of others that are worked on at a time."""
MAX_QUEUED = 64
"""Of them, those that are taken from the gateway before the first is done."""
_log = structlog.get_logger()


class OverlapAgent:
    """Serves overlap tasks on one stream.

    Args:
        stub: Of the gateway.
        identity: The partner's.
        data: Its rows, under its own policy.
        handles: Its handle book.
        config: Its configuration: how identifiers are written, limits, state folder.
        policy: Its own policy: parties, labels, padding.
        clock: For the validity of certificates.
        before_switchboard: Called with the customers of the switchboard batch before that batch is sent (again).
        progress: Called while rows are worked on; by default the log says how far it is.
        random: Keys, order and padding.
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
        before_switchboard: Callable[[Sequence[CustomerId]], None] | None = None,
        progress: Progress | None = None,
        random: Random = os.urandom,
    ) -> None:
        self._stub, self._identity, self._handles = stub, identity, handles
        self._config, self._policy, self._clock = config, policy, clock
        self._before_switchboard, self._random = before_switchboard, random
        self._progress = progress or LoggedProgress()
        self._state = EpochState(config.state, random)
        self._changing = threading.Lock()  # one delta at a time
        self._own = OwnBatches(
            self._state,
            identity=identity,
            data=data,
            handles=handles,
            config=config,
            policy=policy,
            progress=self._progress,
            random=random,
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
            workers = [ThreadPoolExecutor(1) for _ in range(AT_ONCE)]
            for worker in workers:
                stack.callback(worker.shutdown, cancel_futures=True)
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
                future = workers[hash(task.blind.batch_id) % AT_ONCE].submit(self._work_and_report, task)
                future.add_done_callback(lambda done: done.cancelled() or done.exception() is None or tasks.cancel())
                running.append(future)

    def _work_and_report(self, task: pb.WatchOverlapTasksResponse) -> None:
        report = self.work(task)
        with translated():
            self._stub.ReportOverlapTask(report)

    def work(self, task: pb.WatchOverlapTasksResponse) -> pb.ReportOverlapTaskRequest:
        """Does one task; returns what to report: the reason and item of its failure, empty when it went well.

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
            _log.warning("overlap_task_refused", reason=str(exc.reason), item=exc.item, detail=exc.detail)
            report.reason, report.text = str(exc.reason), exc.item
        except Exception:
            _log.exception("overlap_task_failed")
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
            self._own.change(plan, withdrawals_only=withdrawals_only)
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
        """Fetches another partner's batch, checks it, blinds it and sends it back.

        Each stage is on disk before the next begins: a process that was killed goes on with the rows it has, or, where
        the result was finished, with sending that very result.

        Raises:
            IdentityError: a signature is not what it must be.
            OverlapError: the batch is not what was signed, or more than the limits allow.
        """
        folder = self._state.hop_folder(batch_id)
        done = StoredBatch.load(folder / "out.points")
        if done is None:
            header, chain = self._receive(batch_id, folder)
            done = self._blind_all(header, chain, folder)
        manifest = pb.Manifest.FromString(done.header.manifest.payload)
        self._send(done, row_bytes(manifest.plan))
        shutil.rmtree(folder)

    def _blind_all(self, header: pb.BatchHeader, chain: Chain, folder: Path) -> StoredBatch:
        """Blinds and, for statistics, shuffles a batch that is on disk whole; signs the result."""
        manifest, width = chain.manifest, row_bytes(chain.manifest.plan)
        key = self._state.key(manifest.plan.epoch, manifest.index)
        low_order = 0

        def blinded() -> Iterator[bytes]:
            nonlocal low_order
            done = 0
            for chunk in read_chunks(folder / "in.points", width):
                result = blind(chunk, key)
                low_order += len(result.low_order_rows)
                done += len(chunk) // width
                self._progress("blind", done, manifest.count)
                yield result.points

        rows: Iterator[bytes] = blinded()
        if manifest.index == STATISTICS:
            rows = shuffled(rows, folder / "bucket", rows=manifest.count, width=width, random=self._random)
        content = write_rows(folder / "out.points", rows, width)
        if low_order:
            _log.warning("low_order_points", origin=manifest.origin, epoch=manifest.plan.epoch, rows=low_order)
        out = StoredBatch(sign_receipt(self._identity, header, chain, content.digest), folder / "out.points", None)
        out.save()
        return out

    def _pin(self, plan: pb.EpochPlan) -> None:
        check_plan(plan, self._identity.subject.alliance, self._policy)
        if self._identity.subject.party not in plan.partners:
            raise OverlapError(Reason.BAD_MANIFEST, item="plan field partners")
        self._state.pin_plan(plan)

    def _send_own(self, batches: Iterable[StoredBatch], plan: pb.EpochPlan) -> None:
        for batch in batches:
            gone = pb.Manifest.FromString(batch.header.manifest.payload).operation == REMOVE
            if batch.handles is not None and self._before_switchboard is not None and not gone:
                self._before_switchboard(self._customers(batch.handles))
            self._send(batch, row_bytes(plan))

    def _send_delta(self, plan: pb.EpochPlan) -> None:
        """Sends the last delta where the gateway may not have it."""
        sequence, batches = self._state.unsent(plan.epoch)
        if batches:
            self._send_own(batches, plan)
            self._state.sent(plan.epoch, sequence)

    def _customers(self, handles: Path) -> list[CustomerId]:
        """Whose handles these are; padding is nobody's."""
        rows = (Handle(chunk) for chunk in read_chunks(handles, HANDLE_BYTES, rows=1))
        return [customer for customer in map(self._handles.customer_of, rows) if customer is not None]

    def _receive(self, batch_id: str, folder: Path) -> tuple[pb.BatchHeader, Chain]:
        """Brings a batch into a folder, whole; returns its header, whose every proof holds, within the quota."""
        target, name = folder / "in.points", folder / "in.name"
        for _ in range(2):
            known = name.read_bytes() if name.exists() else b""
            # Without a name, rows are of nobody knows what.
            request = pb.GetBatchRequest(batch_id=batch_id, from_row=_rows(target, known) if known else 0)
            parts = self._stub.GetBatch(request)
            try:
                header, chain = self._header(next(parts, None))
                # Recorded before a row is read: what arrives must have the digest that is recorded here.
                self._state.reserve(chain, self._config.limits.max_rows_blinded_per_epoch)
                width = row_bytes(chain.manifest.plan)
                mine = width.to_bytes(2, "big") + chain.manifest_digest + chain.digest
                if known == mine or request.from_row == 0:
                    if known != mine:
                        target.unlink(missing_ok=True)
                        with os.fdopen(create_private(name), "wb") as file:  # not synced: without it, begin anew
                            file.write(mine)
                    fetch(parts, chain, target, width, self._progress)
                    return header, chain
                name.unlink()  # rows of another batch: begin anew
            finally:
                parts.cancel()
        raise OverlapError(Reason.DIGEST_MISMATCH, item="batch that changes while it is fetched")

    def _header(self, part: pb.GetBatchResponse | None) -> tuple[pb.BatchHeader, Chain]:
        if part is None or part.WhichOneof("part") != "header":
            raise OverlapError(Reason.TRUNCATED_STREAM, item="batch header")
        subject = self._identity.subject
        chain = verify_chain(
            part.header,
            alliance=subject.alliance,
            agreement=self._policy,
            ca=self._identity.ca,
            at=self._clock.now(),
        )
        if chain.next_hop != subject.party:
            raise OverlapError(Reason.BAD_MANIFEST, item=f"next hop {chain.next_hop}")
        self._state.pin_plan(chain.manifest.plan)
        return part.header, chain

    def _send(self, batch: StoredBatch, width: int) -> None:
        answer = send(self._stub, batch, width, self._progress)
        if answer.rejected_rows:
            _log.warning("rows_rejected", batch=answer.batch_id, rows=len(answer.rejected_rows))


def _rows(target: Path, name: bytes) -> int:
    """Rows that are there of a batch whose width stands at the start of its name."""
    return rows_in(target, int.from_bytes(name[:2], "big"))
