"""Drives an epoch: asks every partner for its batches, carries each from hop to hop, then builds the two indexes.

Batches come in and go out through ``carrying``. The gateway holds no key and cannot make a batch that a hop accepts.

A blinded batch is kept until the next stage is durable; when an epoch is complete all its batches are removed, and so
are the tokens and counts of earlier epochs, and of those that were abandoned: their partners delete their keys then, so
that no withdrawal could reach them. Deltas to the newest complete epoch (``deltas``) come in like any batch.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import structlog
from cryptography.x509 import Certificate

from federation.core.clock import Clock
from federation.core.database import open_database
from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId, PartyId
from federation.overlap.plan import (
    MAX_PARTNERS,
    MIN_PARTNERS,
    PROTOCOL,
    RULES,
    base_keys,
    check_epoch_name,
    key_types_of,
    partners_of,
)
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.arrived import Arrived, labels_by_party
from gateway.overlap.carrying import ActivePolicy, Carrier
from gateway.overlap.deltas import Deltas
from gateway.overlap.epochs import Batch, Counts, Epoch, known_epoch
from gateway.overlap.epochs_sql import SqlEpochs
from gateway.overlap.index import StatisticsIndex
from gateway.overlap.spool import Spool
from gateway.overlap.switchboard import Switchboard

_log = structlog.get_logger()


class Coordinator:
    """The gateway's side of the overlap protocol. Safe to call from several threads.

    Args:
        state_dir: The gateway's state folder; this part keeps to ``overlap/`` in it.
        alliance: Name of the alliance.
        ca: Its certificate authority.
        policies: The active policy: partners and labels.
        clock: Tells the time.
    """

    def __init__(
        self, state_dir: Path, *, alliance: str, ca: Certificate, policies: ActivePolicy, clock: Clock
    ) -> None:
        folder = state_dir / "overlap"
        engine = open_database(folder / "overlap.db")
        self.index = StatisticsIndex(folder / "index")
        self.epochs = SqlEpochs(engine)
        self.switchboard = Switchboard(folder / "switchboard", self.index.files, self.epochs.newest_complete)
        self._spool = Spool(folder / "batches")
        self.deltas = Deltas(self.epochs, self.index, self.switchboard, self._spool)
        self._alliance, self._policies, self._clock = alliance, policies, clock
        self._lock = threading.Lock()  # steps of batches
        self.carrier = Carrier(
            self.epochs,
            self._spool,
            self.deltas,
            alliance=alliance,
            ca=ca,
            policies=policies,
            clock=clock,
            lock=self._lock,
        )
        self._building = threading.Lock()  # one index at a time
        # What a process that was killed had begun.
        self._spool.retain(self.epochs.open_batches)
        self._retire()
        self.deltas.settle()

    def begin(self, epoch: str, key_type: str) -> EpochId:
        """Starts an epoch, or goes on with it: what failed is tried again.

        Args:
            epoch: A name, or "" for the one that is being built by that key type under today's policy; where there is
                none, for the next free name of today.
            key_type: As ``plan.key_types_of`` takes it, or "" for the epoch's own or e-mail.

        Raises:
            OverlapError: BAD_FIELD; EPOCH_ABANDONED; TOO_FEW_PARTNERS.
        """
        key_type = "+".join(key_types_of(key_type)) if key_type else ""
        with self._lock:
            name = check_epoch_name(epoch) if epoch else self._going_on(key_type) or self._free_name()
            known = self.epochs.get(name)
            if known is not None:
                if key_type not in ("", known.plan.key_type):
                    raise OverlapError(Reason.BAD_FIELD, item=f"key_type: epoch {name} is by {known.plan.key_type}")
                if known.state == "abandoned":
                    raise OverlapError(Reason.EPOCH_ABANDONED, item=name)
                self.epochs.reopen(name)
                return known.epoch
            agreement = self._policies.active
            partners = partners_of(agreement)
            if not MIN_PARTNERS <= len(partners) <= MAX_PARTNERS:
                raise OverlapError(Reason.TOO_FEW_PARTNERS, item=f"{len(partners)} partners in the policy")
            plan = pb.EpochPlan(
                alliance=self._alliance,
                epoch=name,
                key_type=key_type or "email",
                rules=RULES,
                partners=partners,
                protocol=PROTOCOL,
            )
            expected = {party: base_keys(agreement.parties[party]) for party in partners}
            for abandoned in self.epochs.create(plan, expected, self._clock.now()):
                self._spool.clear(abandoned)
        _log.info("epoch_opened", epoch=name, key_type=plan.key_type, partners=list(partners))
        return EpochId(name)

    def tasks(self, party: PartyId) -> list[tuple[int, pb.WatchOverlapTasksResponse]]:
        """What waits for a partner: the messages that ask for it, with how often each was opened again."""
        found = []
        for task in self.epochs.tasks(party):
            message = pb.WatchOverlapTasksResponse(task_id=task.task_id)
            if task.kind == "submit":
                message.submit.plan.CopyFrom(known_epoch(self.epochs, task.epoch).plan)
            else:
                message.blind.batch_id = task.batch_id
            found.append((task.attempt, message))
        return found

    def report(self, party: PartyId, task_id: str, reason: str, text: str, sequence: int = 0) -> None:
        """Takes a partner's word on a task. "Done" needs no word: what arrived says it; without that it failed."""
        if self.deltas.report(party, task_id, reason, text, sequence):
            return
        if self.epochs.fail(task_id, party, reason or Reason.TRUNCATED_STREAM, text):
            _log.warning("overlap_task_failed", party=party, reason=reason)

    def counts(self, epoch: EpochId) -> Counts:
        """How far an epoch is."""
        return self.epochs.counts(epoch)

    def is_complete(self, epoch: EpochId) -> bool:
        """Whether an epoch can be asked. Raises OverlapError (UNKNOWN_EPOCH, EPOCH_ABANDONED)."""
        state = known_epoch(self.epochs, epoch).state
        if state == "abandoned":
            later = self.epochs.opened() or self.epochs.newest_complete() or "another"
            raise OverlapError(Reason.EPOCH_ABANDONED, item=f"{epoch}; {later} was begun")
        return state == "complete"

    def finish(self, epoch: EpochId) -> None:
        """Builds both indexes from batches that have all passed every hop, and completes the epoch.

        Raises:
            OverlapError: EPOCH_INCOMPLETE; UNKNOWN_EPOCH where another was begun meanwhile; DECOYS_MISSING where a hop
                did not give back what it was given; TOO_LARGE, BAD_FIELD for what a partner sent. An epoch whose
                batches are not usable is given up: they would be the same the next time.
        """
        with self._building:
            current = known_epoch(self.epochs, epoch)
            if current.state == "complete":
                return
            batches = self.epochs.batches(epoch)
            hops = len(current.plan.partners) - 1
            if current.state != "open" or any(batch.position != hops for batch in batches):
                raise OverlapError(Reason.EPOCH_INCOMPLETE, item=epoch)
            try:
                self._build(current, batches)
            except Exception as exc:
                self._check_open(epoch)  # else another was begun, which removed the batches
                if isinstance(exc, OverlapError):
                    self._abandon(epoch)  # its rows will not become right
                raise
            # Meanwhile no other epoch is begun, and no delta is applied to the one that goes now.
            with self.deltas.held(), self._lock:
                self._check_open(epoch)
                abandoned = self.epochs.complete(epoch, self._clock.now())
            for batch_id in (*abandoned, *(batch.batch_id for batch in batches)):
                self._spool.clear(batch_id)
            self._retire()
        self.deltas.changed()
        _log.info("epoch_complete", epoch=epoch, rejected_rows=sum(batch.rejected for batch in batches))

    def _build(self, epoch: Epoch, batches: Sequence[Batch]) -> None:
        keys, arrived = len(key_types_of(epoch.plan.key_type)), Arrived(self._spool, epoch.plan, batches)
        labels = labels_by_party(epoch.plan, batches, self._policies.active)
        self.index.build(epoch.epoch, labels, arrived.tokens(), keys)
        self.switchboard.build(epoch.epoch, arrived.handles(), keys)
        arrived.check()

    def _check_open(self, epoch: EpochId) -> None:
        if known_epoch(self.epochs, epoch).state != "open":
            self._retire()
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{epoch} was abandoned")

    def _abandon(self, epoch: EpochId) -> None:
        with self._lock:
            for batch_id in self.epochs.abandon(epoch):
                self._spool.clear(batch_id)
        self._retire()
        self.deltas.changed()

    def _retire(self) -> None:
        """Removes what only fresh answers of earlier epochs would need, and all of epochs that were abandoned."""
        for epoch in self.epochs.replaced():
            self.index.retire(epoch)
            self.switchboard.remove(epoch)
        for epoch in self.epochs.abandoned():  # its indexes may have been built before it was
            self.index.remove(epoch)
            self.switchboard.remove(epoch)

    def _going_on(self, key_type: str) -> str:
        """The epoch that is being built, if it is what would be begun now; else ""."""
        opened = self.epochs.opened()
        found = self.epochs.get(opened) if opened else None
        if found is None or key_type not in ("", found.plan.key_type):
            return ""
        agreement = self._policies.active
        about = (tuple(found.plan.partners), found.plan.protocol, found.plan.rules)
        if about != (tuple(partners_of(agreement)), PROTOCOL, RULES):
            return ""
        now = {(party, *key) for party in found.plan.partners for key in base_keys(agreement.parties[party])}
        there = {(one.origin, one.index, one.operation, one.label) for one in self.epochs.batches(found.epoch)}
        return found.epoch if now == there else ""

    def _free_name(self) -> str:
        day = self._clock.now().date().isoformat()
        taken = self.epochs.names(f"{day}.")
        return next(name for number in range(1, len(taken) + 2) if (name := f"{day}.{number}") not in taken)
