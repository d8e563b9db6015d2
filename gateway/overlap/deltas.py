"""What changes within an epoch: who is asked for it, what came, and when it is in both indexes.

A partner sends deltas by itself or because it is asked; either way they come in as batches (``carrying``) and go
round the ring one delta of an origin after another. When the last batch of one has passed its last hop, ``settle``
applies it to the statistics and then to the switchboard. Each of the two knows what it applied, so a process that dies
in between applies the rest, and only the rest, after the next start.

None is applied at the moment at which an epoch becomes complete, because its end is that of the one before.

What is asked is kept in memory: whoever asks waits for the answer, and asks again where the process died. What a
partner sent is durable, on both ends.

A delta that does not fit what its origin sent before is refused, and so is all that would come after it: then no fresh
answer can be given with that partner until a new epoch is built. The same holds where one side was restored from a
backup: a partner that does not know of a delta which is in the index cannot say who of it withdrew since.
"""

import contextlib
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from federation.core.errors import EntenteError, OverlapError, Reason
from federation.core.ids import PartyId
from federation.overlap.plan import ADD, STATISTICS, BatchKey, key_types_of
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.arrived import Arrived
from gateway.overlap.epochs import Batch, Delta, Epoch, Epochs
from gateway.overlap.index import StatisticsIndex
from gateway.overlap.spool import Spool
from gateway.overlap.switchboard import Switchboard

_REBUILD = "Build a new epoch."
_log = structlog.get_logger()


@dataclass
class Ask:
    """A partner is asked what changed; ``sequence`` is its answer: all of it is in the deltas up to that number."""

    task_id: str
    plan: pb.EpochPlan
    party: PartyId
    withdrawals_only: bool
    known: int  # deltas that the partner had begun to send before it was asked
    sequence: int | None = None
    reason: str = ""
    text: str = ""
    looked: bool = False  # whether all that the answer speaks of came


class Deltas:
    """Changes of the newest complete epoch. Safe to call from several threads.

    Args:
        epochs: What came so far.
        index: The statistics.
        switchboard: The handles.
        spool: The batches.
    """

    def __init__(self, epochs: Epochs, index: StatisticsIndex, switchboard: Switchboard, spool: Spool) -> None:
        self._epochs, self._index, self._switchboard, self._spool = epochs, index, switchboard, spool
        self._asks: dict[str, Ask] = {}
        self._connected: dict[PartyId, int] = {}
        self._changed = threading.Condition()
        self._settling = threading.Lock()
        self._stuck = False  # whether this process could not apply what is there
        self._wake: list[Callable[[], None]] = []

    def newest(self) -> Epoch | None:
        """The epoch that changes are of."""
        name = self._epochs.newest_complete()
        return self._epochs.get(name) if name else None

    def admit(self, manifest: pb.Manifest, keys: Sequence[BatchKey]) -> None:
        """Opens the delta that a verified manifest belongs to, if it is the next one of its origin.

        Args:
            manifest: Verified.
            keys: All of the delta's batches.

        Raises:
            OverlapError: UNKNOWN_EPOCH for any but the newest complete one; OUT_OF_SEQUENCE; BAD_MANIFEST for a label
                that was declared after the epoch was built.
        """
        newest = self.newest()
        if newest is None or newest.epoch != manifest.plan.epoch:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{manifest.plan.epoch} is not the epoch that answers")
        known = self._index.combinations(newest.epoch)[manifest.origin]
        if any((index, operation) == (STATISTICS, ADD) and label not in known for index, operation, label in keys):
            raise OverlapError(Reason.BAD_MANIFEST, item="label that is not of this epoch")
        self._epochs.open_delta(newest.epoch, manifest.origin, manifest.sequence, keys)

    def settle(self) -> bool:
        """Applies what is there whole; returns whether anything was.

        What fails for a reason that is not the delta's (a full disk, a file that another process holds) stays open, and
        is tried again with the next question.
        """
        done = False
        with self._settling:
            try:
                while (ready := self._ready()) is not None:
                    self._apply(*ready)
                    done = True
                self._stuck = False
            except Exception:
                self._stuck = True
                _log.exception("deltas_wait")
        if done:
            self.changed()
        return done

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Applies no delta meanwhile."""
        with self._settling:
            yield

    def ask(self, plan: pb.EpochPlan, parties: Iterable[str], *, withdrawals_only: bool) -> list[Ask]:
        """Asks partners for their changes, and hops that failed to try again. End it with ``drop``."""
        self.settle()  # what an earlier attempt left
        self._epochs.reopen(plan.epoch)
        known = Counter(delta.origin for delta in self._epochs.deltas(plan.epoch))
        asks = [
            Ask(secrets.token_hex(16), plan, PartyId(party), withdrawals_only, known[PartyId(party)])
            for party in parties
        ]
        with self._changed:
            self._asks |= {ask.task_id: ask for ask in asks}
        self.changed()
        return asks

    def drop(self, asks: Iterable[Ask]) -> None:
        """Ends questions, answered or not."""
        with self._changed:
            for ask in asks:
                self._asks.pop(ask.task_id, None)

    def report(self, party: PartyId, task_id: str, reason: str, text: str, sequence: int) -> bool:
        """Takes a partner's answer; returns whether it was asked."""
        with self._changed:
            ask = self._asks.get(task_id)
            if ask is None or ask.party != party:
                return False
            ask.sequence, ask.reason, ask.text = sequence, reason, text
        self.changed()
        return True

    def is_done(self, ask: Ask) -> bool:
        """Whether everything that a partner was asked for is in both indexes.

        Raises:
            OverlapError: BUILD_FAILED where the partner could not do it, or what it sent does not fit, also where its
                number shows that one side forgot a delta; where it believes to have sent what never came; where this
                gateway cannot apply what came. NO_ROOM where the gateway could not take it.
        """
        if ask.reason == Reason.NO_ROOM:  # told by the partner that was to send, but it is not its fault
            raise OverlapError(Reason.NO_ROOM, item=ask.text)
        if ask.reason:
            text = f": {ask.text}" if ask.text else ""
            raise OverlapError(Reason.BUILD_FAILED, item=f"partner {ask.party}: {ask.reason}{text}")
        if ask.sequence is None:
            return False
        mine = self._of(ask)
        if not ask.looked:
            ask.looked = True
            mine = self._without_missing(ask, mine)
        for delta in mine:
            if delta.state == "failed":
                item = f"partner {ask.party}: delta {delta.sequence}: {delta.reason}: {delta.text}"
                raise OverlapError(Reason.BUILD_FAILED, item=item, fix=_REBUILD)
        if not ask.known <= ask.sequence <= len(mine):
            item = f"partner {ask.party}: its last delta is {ask.sequence}, here it is {len(mine)}: an old state"
            raise OverlapError(Reason.BUILD_FAILED, item=item, fix=_REBUILD)
        self._check_hops(ask)
        first = next((delta for delta in mine if delta.state == "open"), None)
        if self._stuck and first is not None and not self._missing(first, len(ask.plan.partners) - 1):
            item = "gateway: what changed cannot be put into the index now; its log says why"
            raise OverlapError(Reason.BUILD_FAILED, item=item)
        return sum(delta.state == "applied" for delta in mine) >= ask.sequence

    def late(self, asks: Iterable[Ask]) -> list[PartyId]:
        """For whom questions wait: partners that did not answer, and those whose turn it is to blind."""
        late = set[PartyId]()
        for ask in asks:
            late |= {ask.party} if ask.sequence is None else set()
            hops = map(PartyId, ask.plan.partners)
            late |= {hop for hop in hops if any(task.epoch == ask.plan.epoch for task in self._epochs.tasks(hop))}
        return sorted(late)

    def tasks(self, party: PartyId) -> list[tuple[int, pb.WatchOverlapTasksResponse]]:
        """What a partner is asked or told that is not kept on disk: each once, as its first attempt."""
        found = []
        newest = self.newest()
        if newest is not None and party in newest.plan.partners:
            message = pb.WatchOverlapTasksResponse(
                task_id=f"complete {newest.epoch}", complete=pb.CompleteTask(plan=newest.plan)
            )
            found.append((0, message))
        with self._changed:
            asks = [ask for ask in self._asks.values() if ask.party == party and ask.sequence is None]
        for ask in asks:
            delta = pb.DeltaTask(plan=ask.plan, withdrawals_only=ask.withdrawals_only)
            message = pb.WatchOverlapTasksResponse(task_id=ask.task_id, delta=delta)
            found.append((0, message))
        return found

    def attach(self, party: PartyId) -> None:
        """Notes that an agent has a task stream open."""
        with self._changed:
            self._connected[party] = self._connected.get(party, 0) + 1
            self._changed.notify_all()

    def detach(self, party: PartyId) -> None:
        """Notes that a stream ended."""
        with self._changed:
            self._connected[party] -= 1
            if not self._connected[party]:
                del self._connected[party]
            self._changed.notify_all()

    def connected(self) -> Collection[PartyId]:
        """Partners whose agent has a task stream open."""
        with self._changed:
            return sorted(self._connected)

    def listen(self, wake: Callable[[], None]) -> None:
        """Has a function called, from any thread, when there may be new tasks."""
        self._wake.append(wake)

    def changed(self) -> None:
        """Wakes whoever waits for tasks or answers."""
        for wake in self._wake:
            wake()
        with self._changed:
            self._changed.notify_all()

    def wait(self, until_s: float) -> bool:
        """Waits for a change until a time of the monotonic clock; False when it is over."""
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            return False
        with self._changed:
            self._changed.wait(min(left_s, 0.2))  # a change between a look and this wait is seen at the next look
        return True

    def _of(self, ask: Ask) -> list[Delta]:
        return [delta for delta in self._epochs.deltas(ask.plan.epoch) if delta.origin == ask.party]

    def _missing(self, delta: Delta, position: int) -> int:
        return sum(batch.position < position for batch in self._epochs.delta_batches(delta))

    def _without_missing(self, ask: Ask, mine: list[Delta]) -> list[Delta]:
        """The deltas of who answered; closed is one of which batches never came, because nobody would send them.

        A partner answers when all that it counts was taken here. If it was not, the answer is of another state than
        what came: a second agent's, or one side was restored.
        """
        for delta in mine[: ask.sequence]:
            if delta.state == "open" and (missing := self._missing(delta, 0)):
                item = f"{missing} batches never came, and the partner says that it sent them"
                _log.error("delta_refused", origin=delta.origin, sequence=delta.sequence, item=item)
                self._epochs.close_delta(delta, str(Reason.TRUNCATED_STREAM), item)
                return self._of(ask)
        return mine

    def _check_hops(self, ask: Ask) -> None:
        for task in self._epochs.failed(ask.plan.epoch):
            batch = self._epochs.batch(task.batch_id)
            if batch is not None and batch.origin == ask.party:
                text = f": {task.text}" if task.text else ""
                raise OverlapError(Reason.BUILD_FAILED, item=f"partner {task.party}: {task.reason}{text}")

    def _ready(self) -> tuple[Epoch, Delta, list[Batch]] | None:
        newest = self.newest()
        if newest is None:
            return None
        arrived = self._epochs.arrived(newest.epoch, len(newest.plan.partners) - 1)
        seen: set[PartyId] = set()
        for delta in self._epochs.deltas(newest.epoch) if arrived else ():
            if delta.state == "open" and delta.origin not in seen and (delta.origin, delta.sequence) in arrived:
                return newest, delta, self._epochs.delta_batches(delta)
            if delta.state != "applied":
                seen.add(delta.origin)
        return None

    def _apply(self, epoch: Epoch, delta: Delta, batches: list[Batch]) -> None:
        kinds = len(key_types_of(epoch.plan.key_type))
        try:
            arrived = Arrived(self._spool, epoch.plan, batches)
            arrived.read_all()  # before any of it has an effect
            arrived.check()
            tokens = arrived.tokens()
            self._index.apply(epoch.epoch, delta.origin, delta.sequence, tokens, kinds)
            self._switchboard.apply(epoch.epoch, delta.origin, delta.sequence, arrived.handles(), kinds)
        except EntenteError as exc:
            about = {"origin": delta.origin, "sequence": delta.sequence}
            _log.error("delta_refused", **about, reason=str(exc.reason), item=exc.item)
            self._epochs.close_delta(delta, str(exc.reason), exc.item)
        else:
            self._epochs.close_delta(delta)
            _log.info("delta_applied", epoch=epoch.epoch, origin=delta.origin, sequence=delta.sequence)
        for batch in batches:
            self._spool.clear(batch.batch_id)
