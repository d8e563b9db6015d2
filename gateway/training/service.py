"""Joint training as the alliance sees it: propose, approve, start, follow, pause, stop; list runs, hand out a model.

A run goes through the release path as one thing that leaves: every partner's data permits it, its cost (for a person
who may be a customer of every partner) is in the ledger before any partner draws noise, and the intent is in the audit
log. A round of a secure sum that is tried again is one more thing that leaves, decided, paid and logged before it is.
Handing out a finished model costs nothing more, and is decided and logged again.

A run begins when every partner has approved its proposal (``gateway.training.desk``) and goes on over restarts of the
gateway (``gateway.training.runner``). One is under way at a time; others wait for approval, or for their turn.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable

from federation.core.clock import Clock, to_text
from federation.core.errors import Reason, TrainingError
from federation.training.models import weights_digest
from federation.training.plan import read_plan
from federation.v1 import training_pb2 as pb
from gateway.identity.caller import Caller, CheckStanding
from gateway.release import AuditLog, Exit, PolicyGate, ReleasePath
from gateway.training.control import RunControl, check_mine
from gateway.training.desk import MAX_TEXT, Prices, ProposalDesk
from gateway.training.hub import Hub, plain
from gateway.training.press import Press
from gateway.training.proposals import TrainingRules
from gateway.training.runner import LiveRun, Patience, Runner, exit_facts
from gateway.training.runs import APPROVED, OVER, PROPOSED, RUNNING, STOPPED, Model, RunKey, RunRecord, RunStore
from gateway.training.versions import Versions

APPROVAL_S = 7 * 86_400.0
GRACE_S = 3.0
"""How long a gateway that stops lets the round under way end."""


class TrainingService:
    """Safe to call from any thread. A run that was under way when the last process ended goes on by itself.

    Args:
        hub: Where the partners are.
        runs: The registry.
        release: The only way out.
        policy: Decides about proposals before they wait.
        prices: Says what the budget would have left.
        audit: Where steps are logged.
        rules: What the active policy says of training.
        clock: Tells the time.
        press: Makes the model with its card.
        versions: Which model is in use.
        check_standing: Says whether who proposed a run was struck off since.
        patience: How long a run waits for what.
        approval_s: How long a proposal waits for approvals.
        monotonic: Measures waiting and pace.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        runs: RunStore,
        release: ReleasePath,
        policy: PolicyGate,
        prices: Prices,
        audit: AuditLog,
        rules: Callable[[], TrainingRules],
        clock: Clock,
        press: Press,
        versions: Versions,
        check_standing: CheckStanding,
        patience: Patience | None = None,
        approval_s: float = APPROVAL_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub, self._runs, self._release, self._audit, self._clock = hub, runs, release, audit, clock
        self._desk = ProposalDesk(
            hub=hub,
            runs=runs,
            policy=policy,
            prices=prices,
            audit=audit,
            rules=rules,
            clock=clock,
            judgeable=press.check,
            approval_s=approval_s,
        )
        self._runner = Runner(
            hub=hub,
            runs=runs,
            release=release,
            rules=rules,
            clock=clock,
            press=press,
            versions=versions,
            check_standing=check_standing,
            patience=patience or Patience(),
            monotonic=monotonic,
        )
        self.control = RunControl(hub=hub, runs=runs, runner=self._runner, audit=audit, clock=clock)
        """Pauses of runs."""
        self._versions, self._lock = versions, threading.RLock()
        self._lives: dict[str, LiveRun] = {}
        self._current: LiveRun | None = None
        self._worker: threading.Thread | None = None
        self._halted = False
        self._runner.mark_models()
        with self._lock:
            self._dispatch()

    def propose(
        self, caller: Caller, asked: pb.TrainingProposal, idempotency_key: str, *, autostart: bool
    ) -> RunRecord:
        """Registers a proposal, or finds the one that the same call made before. Partners need not be connected.

        Raises:
            EntenteError: see ``ProposalDesk.propose``, and IDEMPOTENCY_CONFLICT.
        """
        key = _key(caller, asked, idempotency_key)
        with self._lock:
            record = self._find(key)
            return record or self._desk.propose(caller, asked, key, there=None, autostart=autostart)

    def start(self, caller: Caller, asked: pb.TrainingProposal, idempotency_key: str, run_id: str = "") -> LiveRun:
        """Proposes a run that starts as soon as it is approved, or finds the one that the same call made before.

        Args:
            caller: Who asks.
            asked: Zero or empty fields take the policy's defaults.
            idempotency_key: Empty for a call that is never repeated.
            run_id: Instead of the two before: of a proposal.

        Raises:
            EntenteError: see ``ProposalDesk.propose``.
            TrainingError: RUN_BUSY, IDEMPOTENCY_CONFLICT, UNKNOWN_RUN, NOT_YOURS.
        """
        key = _key(caller, asked, idempotency_key)
        with self._lock:
            record = self._runs.need(run_id) if run_id else self._find(key)
            if record is None:
                self._check_free()
                record = self._desk.propose(caller, asked, key, there=self._hub.connected(), autostart=True)
            elif record.stored_state == PROPOSED and not record.autostart:
                check_mine(caller, record)
                self._check_free()
                self._audit.append("training_armed", {"caller": str(caller.party), "run": record.run_id})
                self._runs.arm(record.run_id)
            live = self._live_of(record)
            self._dispatch()
            return live

    def decide(self, party: str, said: pb.TrainerDecision) -> RunRecord:
        """See ``ProposalDesk.decide``; the last yes starts a run that is to start by itself."""
        with self._lock:
            record = self._desk.decide(party, said)
            self._tell(record)
            self._dispatch()
            return record

    def stop_run(self, caller: Caller, run_id: str, reason: str) -> RunRecord:
        """Ends a run, or its proposal, without a model; the budget stays spent. Again is fine.

        Raises:
            TrainingError: UNKNOWN_RUN, NOT_YOURS, WRONG_STEP for a run that ended otherwise.
        """
        with self._lock:
            record = self._runs.need(run_id)
            check_mine(caller, record)
            if record.state == STOPPED:
                return record
            self._audit.append("training_stopped", {"caller": str(caller.party), "run": run_id})
            words = f": {plain(reason, MAX_TEXT)}" if reason else ""
            why = f"{Reason.RUN_STOPPED}: by {caller.party}{words}"
            if not self._runs.end(run_id, STOPPED, why, to_text(self._clock.now())):
                raise TrainingError(Reason.WRONG_STEP, item=f"{run_id} is {record.state}")
            self._desk.settle(run_id)
            self._hub.abort(run_id, TrainingError(Reason.RUN_STOPPED, item=f"by {caller.party}"))
            self._runner.wake()
            if self._current is None or self._current.run_id != run_id or self._current.ended.is_set():
                self._hub.tell_ended(run_id, record.proposal.partners)
                self._tell(self._runs.need(run_id))
            return self._runs.need(run_id)

    def list_runs(self) -> list[RunRecord]:
        """Every run and proposal, newest first."""
        self.expire()
        return self._runs.all()

    def expire(self) -> None:
        """Ends proposals that have waited too long."""
        self._desk.expire()
        with self._lock:
            for live in list(self._lives.values()):
                if live.state in (PROPOSED, APPROVED):
                    self._tell(self._runs.need(live.run_id))

    def at_rest(self, run_id: str) -> bool:
        """Whether no round of a run is under way in this process."""
        with self._lock:
            live = self._lives.get(run_id)
            return live is None or live.state != RUNNING or live.ended.is_set()

    def get_model(self, caller: Caller, run_id: str = "", version: int = 0, *, in_use: bool = False) -> Model:
        """Hands out a finished model by its run or version, or the one in use; without any of them the newest.

        Raises:
            TrainingError: UNKNOWN_RUN.
            PolicyError: POLICY_DENIED.
            AuditError: AUDIT_UNAVAILABLE.
        """
        model = self._runs.model(run_id, self._versions.in_use() if in_use else version)
        record = self._runs.need(model.run_id)
        subject = {"run": model.run_id, "weights_sha256": weights_digest(model.weights)}
        leaving = Exit("model", subject, exit_facts(caller, read_plan(record.proposal), self._clock))
        return self._release.release(caller, leaving, lambda _: model, lambda given: {"run": given.run_id})

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Puts the run under way down, where the next process takes it up; a round longer than the grace is lost."""
        with self._lock:
            self._halted, worker, current = True, self._worker, self._current
        self._runner.halt()
        if worker is not None and current is not None:
            worker.join(timeout=grace_s)
            self._hub.abort(current.run_id, TrainingError(Reason.RUN_PAUSED, item="the gateway is stopping"))
            worker.join(timeout=10)

    def _check_free(self) -> None:
        """Raises TrainingError (RUN_BUSY)."""
        if self._current is not None and not self._current.ended.is_set():
            raise TrainingError(Reason.RUN_BUSY, item=f"run {self._current.run_id}")

    def _find(self, key: RunKey) -> RunRecord | None:
        """The run of an earlier call with this key. Raises TrainingError (IDEMPOTENCY_CONFLICT)."""
        record = self._runs.find_key(key.name)
        if record is not None and record.key != key:
            raise TrainingError(Reason.IDEMPOTENCY_CONFLICT, item="idempotency key")
        return record

    def _live_of(self, record: RunRecord) -> LiveRun:
        """A run as its followers see it; the caller holds the lock."""
        live = self._lives.get(record.run_id)
        if live is None:
            live = LiveRun(record.run_id, record.proposal.rounds, done=record.rounds_done)
            self._lives[record.run_id] = live
            self._tell(record)
        return live

    def _tell(self, record: RunRecord) -> None:
        """Brings followers up to date on a run that no thread works on; the caller holds the lock."""
        live = self._lives.get(record.run_id)
        if live is None or live.ended.is_set() or live is self._current:
            return
        live.state, live.reason = record.state, record.reason
        if record.undecided and record.state == PROPOSED:
            live.text = f"waiting for approval by {', '.join(record.undecided)}"
        if record.state in OVER:
            live.text = record.reason
            live.ended.set()
            del self._lives[record.run_id]

    def _dispatch(self) -> None:
        """Has a thread work on the next run, if there is one; the caller holds the lock."""
        if self._worker is None or not self._worker.is_alive():
            first = self._take()
            if first is not None:
                self._worker = threading.Thread(target=self._work, args=(first,), name="training", daemon=True)
                self._worker.start()

    def _take(self) -> LiveRun | None:
        """The run to work on now: what was under way, else the oldest that may begin; the caller holds the lock."""
        if self._halted:
            return None
        records = list(reversed(self._runs.all()))
        ready = [record for record in records if record.stored_state == RUNNING]
        ready += [record for record in records if record.state == APPROVED and record.autostart]
        if not ready:
            return None
        self._current = live = self._live_of(ready[0])
        live.state, live.text = RUNNING, "waiting for the gates"
        self._desk.settle(live.run_id)
        return live

    def _work(self, live: LiveRun | None) -> None:
        """One run after another."""
        while live is not None:
            try:
                self._runner.execute(live)
            finally:
                with self._lock:
                    self._lives.pop(live.run_id, None)
            with self._lock:
                live = self._take()
                if live is None:
                    self._worker = None


def _key(caller: Caller, asked: pb.TrainingProposal, idempotency_key: str) -> RunKey:
    name = f"{caller.party}\0{idempotency_key}" if idempotency_key else secrets.token_hex(16)
    parts = (name.encode(), asked.SerializeToString(deterministic=True))
    return RunKey(*(hashlib.sha256(part).hexdigest() for part in parts))
