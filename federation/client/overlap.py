"""A partner's side of the overlap: blinds its own identifiers and, for the others, batches that they signed.

The gateway only carries. Before this agent blinds a batch it has verified the origin's signature, every earlier hop's
receipt, that it is next in the ring, that the label is one the agreement lists, that the points are those that were
signed, and that it stays within its own limits (``overlap_state.EpochState.reserve``). Anything else is refused with a
reason, and the agent goes on with the next task.

Trusts its own policy, its own data and the alliance CA; not the gateway.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.client.config import PartnerConfig
from federation.client.connection import translated
from federation.client.overlap_batches import BatchBuilder, Data, Handles
from federation.client.overlap_state import EpochState, OwnBatch
from federation.core.clock import Clock
from federation.core.errors import EntenteError, OverlapError, Reason, TransportError
from federation.core.identity import Identity, write_secret
from federation.core.ids import HANDLE_BYTES, POINT_BYTES, CustomerId, Handle
from federation.overlap.batch import Chain, Random, check_points, permutation, reorder, sign_receipt, verify_chain
from federation.overlap.blind import CHUNK_ROWS, blind
from federation.overlap.plan import STATISTICS, SWITCHBOARD, Agreement, check_plan
from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceStub

Progress = Callable[[str, int, int], None]
"""Stage ("blind" or "send"), rows done, rows in all."""
_log = structlog.get_logger()


def _no_progress(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


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
        progress: Called while rows are worked on.
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
        progress: Progress = _no_progress,
        random: Random = os.urandom,
    ) -> None:
        self._stub, self._identity, self._data, self._handles = stub, identity, data, handles
        self._config, self._policy, self._clock = config, policy, clock
        self._before_switchboard, self._progress, self._random = before_switchboard, progress, random
        self._state = EpochState(config.state, random)

    def serve(self, stop: threading.Event) -> None:
        """Works on tasks until the stream ends or ``stop`` is set. A task that ends in an error does not end it.

        Raises:
            grpc.RpcError: the stream broke.
            TransportError: the gateway went away in the middle of a task, which it will send again.
        """
        for task in self._stub.WatchOverlapTasks(pb.WatchOverlapTasksRequest()):
            if stop.is_set():
                return
            reason, item = self._work(task)
            with translated():
                report = pb.ReportOverlapTaskRequest(task_id=task.task_id, reason=reason, text=item)
                self._stub.ReportOverlapTask(report)

    def _work(self, task: pb.WatchOverlapTasksResponse) -> tuple[str, str]:
        """Does one task; returns the reason and item of its failure, empty when it went well."""
        try:
            with translated():
                if task.WhichOneof("task") == "submit":
                    self.submit(task.submit.plan)
                elif task.WhichOneof("task") == "blind":
                    self.blind(task.blind.batch_id)
                else:
                    raise OverlapError(Reason.BAD_FIELD, item="field task")
        except TransportError:
            raise
        except EntenteError as exc:
            _log.warning("overlap_task_refused", reason=str(exc.reason), item=exc.item, detail=exc.detail)
            return str(exc.reason), exc.item
        except Exception:
            _log.exception("overlap_task_failed")
            return str(Reason.INTERNAL), ""
        return "", ""

    def submit(self, plan: pb.EpochPlan) -> None:
        """Builds the partner's own batches of an epoch, once, and sends them.

        Raises:
            OverlapError: the plan is not the agreement's.
            DataError: the partner's files are not usable; nothing was sent.
        """
        check_plan(plan, self._identity.subject.alliance, self._policy)
        if self._identity.subject.party not in plan.partners:
            raise OverlapError(Reason.BAD_MANIFEST, item="plan field partners")
        self._state.pin_plan(plan)
        if not self._state.has_own(plan.epoch):
            self._build(plan)
        for batch in self._state.own(plan.epoch):
            if batch.handles and self._before_switchboard is not None:
                self._before_switchboard(self._customers(batch.handles))
            self._send(batch)

    def blind(self, batch_id: str) -> None:
        """Fetches another partner's batch, checks it, blinds it and sends it back.

        Raises:
            IdentityError: a signature is not what it must be.
            OverlapError: the batch is not what was signed, or more than the limits allow.
        """
        header, chain, points = self._receive(batch_id)
        manifest = chain.manifest
        key = self._state.key(manifest.plan.epoch, manifest.index)
        blinded, low_order = bytearray(), 0
        step = CHUNK_ROWS * POINT_BYTES
        for start in range(0, len(points), step):
            done = blind(points[start : start + step], key)
            blinded += done.points
            low_order += len(done.low_order_rows)
            self._progress("blind", len(blinded) // POINT_BYTES, manifest.count)
        if low_order:
            _log.warning("low_order_points", origin=manifest.origin, epoch=manifest.plan.epoch, rows=low_order)
        out = bytes(blinded)
        if manifest.index == STATISTICS:
            out = reorder(out, permutation(manifest.count, self._random))
        self._send(OwnBatch(sign_receipt(self._identity, header, chain, out), out, b""))

    def _build(self, plan: pb.EpochPlan) -> None:
        builder = BatchBuilder(
            plan,
            identity=self._identity,
            data=self._data,
            handles=self._handles,
            config=self._config.data,
            agreement=self._policy,
            random=self._random,
        )
        keys: dict[int, X25519PrivateKey] = {
            index: self._state.key(plan.epoch, index) for index in (STATISTICS, SWITCHBOARD)
        }
        self._state.save_own(plan.epoch, builder.build(keys))
        report = json.dumps(builder.report(), indent=1, sort_keys=True).encode()
        write_secret(self._config.state / "reports" / f"overlap-{plan.epoch}.json", report)

    def _customers(self, handles: bytes) -> list[CustomerId]:
        """Whose handles these are; padding is nobody's."""
        rows = (Handle(handles[at : at + HANDLE_BYTES]) for at in range(0, len(handles), HANDLE_BYTES))
        return [customer for customer in map(self._handles.customer_of, rows) if customer is not None]

    def _receive(self, batch_id: str) -> tuple[pb.BatchHeader, Chain, bytes]:
        """A batch whose every proof holds, recorded within the quota."""
        parts = self._stub.GetBatch(pb.GetBatchRequest(batch_id=batch_id))
        try:
            header, chain = self._header(next(parts, None))
            # Recorded before a row is read: what arrives must have the digest that is recorded here.
            self._state.reserve(chain, self._config.limits.max_rows_blinded_per_epoch)
            points = bytearray()
            for part in parts:
                if part.WhichOneof("part") != "chunk" or len(part.chunk.points) > CHUNK_ROWS * POINT_BYTES:
                    raise OverlapError(Reason.BAD_FIELD, item="field chunk")
                points += part.chunk.points
                if len(points) > chain.manifest.count * POINT_BYTES:
                    raise OverlapError(Reason.TOO_LARGE, item=f"batch of {chain.manifest.origin}")
        finally:
            parts.cancel()
        check_points(chain, bytes(points))
        return header, chain, bytes(points)

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

    def _send(self, batch: OwnBatch) -> None:
        rows = len(batch.points) // POINT_BYTES

        def messages() -> Iterator[pb.PutBatchRequest]:
            yield pb.PutBatchRequest(header=batch.header)
            for start in range(0, rows, CHUNK_ROWS):
                stop = start + CHUNK_ROWS
                chunk = pb.PointsChunk(
                    points=batch.points[start * POINT_BYTES : stop * POINT_BYTES],
                    handles=batch.handles[start * HANDLE_BYTES : stop * HANDLE_BYTES],
                )
                self._progress("send", min(stop, rows), rows)
                yield pb.PutBatchRequest(chunk=chunk)

        answer = self._stub.PutBatch(messages())
        if answer.rejected_rows:
            _log.warning("rows_rejected", batch=answer.batch_id, rows=len(answer.rejected_rows))
