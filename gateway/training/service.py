"""Joint training as the alliance sees it: start a run, follow it, list runs, hand out a model.

A run goes through the release path as one thing that leaves: every partner's data permits it, its cost (for a person
who may be a customer of every partner) is in the ledger before any partner draws noise, and the intent is in the audit
log. A round of a secure sum that is tried again is one more thing that leaves, decided, paid and logged before it is.
Handing out a finished model costs nothing more, and is decided and logged again.

What is released of sums is what the plan's learner makes of them; under local noise, the mean of the models after the
later half of the rounds: averaging is post-processing, costs no privacy, and takes out much of the last steps' noise.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import structlog

from federation.core.clock import Clock, to_text
from federation.core.errors import EntenteError, Reason, TrainingError
from federation.policy.facts import Facts
from federation.training.flower import ArrayRecord, ConfigRecord, MetricRecord, from_record, to_record
from federation.training.learner import Learner
from federation.training.models import Weights, check_weights, initial, save_weights, weights_digest
from federation.training.plan import PURPOSE, Plan, read_plan
from federation.training.strategy import AllOrNothing
from federation.training.summed import SummedTraining
from federation.v1 import training_pb2 as pb
from gateway.identity.caller import Caller
from gateway.release import Cost, Exit, Released, ReleasePath
from gateway.training.grid import HubGrid
from gateway.training.hub import Hub
from gateway.training.press import Press
from gateway.training.proposals import TrainingRules, complete
from gateway.training.runs import FAILED, FINISHED, RUNNING, Model, RunKey, RunRecord, RunStore
from gateway.training.versions import Versions

_log = structlog.get_logger()
CATEGORY = "model"


@dataclass
class LiveRun:
    """A run in this process; read by any number of followers."""

    run_id: str
    total: int
    state: str = RUNNING
    done: int = 0
    text: str = "waiting for the gates"
    reason: str = ""
    error: EntenteError | None = None
    """Why a gate refused the run before it began."""
    ended: threading.Event = field(default_factory=threading.Event)


class TrainingService:
    """Safe to call from any thread.

    Args:
        hub: Where the partners are.
        runs: The registry.
        release: The only way out.
        rules: What the active policy says of training.
        clock: Tells the time.
        press: Makes the model with its card.
        versions: Which model is in use.
        round_timeout_s: How long one round may take.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        runs: RunStore,
        release: ReleasePath,
        rules: Callable[[], TrainingRules],
        clock: Clock,
        press: Press,
        versions: Versions,
        round_timeout_s: float = 120.0,
    ) -> None:
        self._hub, self._runs, self._release, self._rules, self._clock = hub, runs, release, rules, clock
        self._press, self._versions, self._round_timeout_s = press, versions, round_timeout_s
        self._lock = threading.Lock()
        self._live: LiveRun | None = None
        self._live_key: RunKey | None = None
        self._worker: threading.Thread | None = None
        for run_id in runs.fail_interrupted(to_text(clock.now())):
            _log.warning("run_interrupted", run=run_id)

    def start(self, caller: Caller, asked: pb.TrainingProposal, idempotency_key: str) -> LiveRun:
        """Starts a run in a thread of its own, or finds the one that the same call started before.

        Args:
            caller: Who asks.
            asked: Zero or empty fields take the policy's defaults.
            idempotency_key: Empty for a call that is never repeated.

        Raises:
            DataError: BAD_FIELD, or a proposal that the policy does not allow.
            TrainingError: RUN_BUSY, PARTNER_UNAVAILABLE, TOO_FEW_PARTNERS, IDEMPOTENCY_CONFLICT.
            BudgetError: BAD_COST.
        """
        name = f"{caller.party}\0{idempotency_key}" if idempotency_key else secrets.token_hex(16)
        key = RunKey(_sha256(name.encode()), _sha256(asked.SerializeToString(deterministic=True)))
        with self._lock:
            known = self._find(key)
            if known is not None:
                return known
            if self._live is not None and not self._live.ended.is_set():
                raise TrainingError(Reason.RUN_BUSY, item=f"run {self._live.run_id}")
            proposal = complete(asked, self._rules(), self._hub.connected())
            # The same key is the same run: repeated after a crash between ledger and registry it pays once.
            proposal.run_id = f"run-{key.name[:16]}"
            plan = read_plan(proposal)
            live = LiveRun(plan.run_id, plan.rounds)
            self._live, self._live_key = live, key
            self._worker = threading.Thread(
                target=self._work, args=(caller, plan, proposal, key, live), name=plan.run_id, daemon=True
            )
            self._worker.start()
            return live

    def list_runs(self) -> list[RunRecord]:
        """Every run, newest first."""
        return self._runs.all()

    def get_model(self, caller: Caller, run_id: str = "", version: int = 0, *, in_use: bool = False) -> Model:
        """Hands out a finished model by its run or version, or the one in use; without any of them the newest.

        Raises:
            TrainingError: UNKNOWN_RUN.
            PolicyError: POLICY_DENIED.
            AuditError: AUDIT_UNAVAILABLE.
        """
        model = self._runs.model(run_id, self._versions.in_use() if in_use else version)
        record = self._runs.find(model.run_id)
        if record is None:
            raise TrainingError(Reason.UNKNOWN_RUN, item=model.run_id)
        subject = {"run": model.run_id, "weights_sha256": weights_digest(model.weights)}
        leaving = Exit("model", subject, self._facts(caller, read_plan(record.proposal)))
        return self._release.release(caller, leaving, lambda _: model, lambda given: {"run": given.run_id})

    def stop(self) -> None:
        """Ends the run under way, as failed, and waits for its thread. For a gateway that shuts down."""
        self._hub.abort(TrainingError(Reason.RUN_FAILED, item="the gateway is stopping"))
        if self._worker is not None:
            self._worker.join(timeout=10)

    def _find(self, key: RunKey) -> LiveRun | None:
        """The run of an earlier call with this key. Raises TrainingError (IDEMPOTENCY_CONFLICT)."""
        live, known = self._live, self._live_key
        if live is None or known is None or known.name != key.name or live.error is not None:
            record = self._runs.find_key(key.name)
            if record is None:
                return None
            live = LiveRun(record.run_id, record.proposal.rounds, record.state, record.rounds_done)
            live.reason, known = record.reason, record.key
            live.ended.set()
        if known != key:
            raise TrainingError(Reason.IDEMPOTENCY_CONFLICT, item="idempotency key")
        return live

    def _facts(self, caller: Caller, plan: Plan) -> list[Facts]:
        """One question per party whose data is in the model; a party needs no permit for its own."""
        at, fields = self._clock.now(), plan.fields
        return [
            Facts(
                purpose=PURPOSE,
                data_category=CATEGORY,
                origin=origin,
                recipient=caller.party,
                at=at,
                fields=fields,
            )
            for origin in plan.partners
            if origin != caller.party
        ]

    def _work(self, caller: Caller, plan: Plan, proposal: pb.TrainingProposal, key: RunKey, live: LiveRun) -> None:
        """The run's thread: gates, rounds, outcome. Every ending is told to the followers."""
        registered = False

        def do(released: Released) -> Model:
            nonlocal registered
            self._runs.begin(plan.run_id, key, proposal, to_text(self._clock.now()))
            registered = True
            weights, attempts, learner = self._train(caller, plan, proposal, live)
            version = released.decisions[0].version
            return self._press.finish(plan, weights, attempts=attempts, learner=learner, policy_version=version)

        cost = Cost(plan.person_event(plan.rounds), PURPOSE, f"run {plan.run_id}", f"run/{plan.run_id}")
        subject = {"run": plan.run_id, "rounds": plan.rounds, "partners": list(plan.partners)}
        leaving = Exit("model", subject, self._facts(caller, plan), cost)
        try:
            model = self._release.release(caller, leaving, do, _digest)
            self._runs.finish(model, to_text(self._clock.now()))
            self._versions.settle()
            live.state, live.text = FINISHED, "model released"
        except Exception as exc:
            error = exc if isinstance(exc, EntenteError) else TrainingError(Reason.INTERNAL)
            if error is not exc:
                _log.error("run_crashed", run=plan.run_id, exc_info=exc)
            reason = f"{error.reason}: {error.item}" if error.item else str(error.reason)
            if registered:
                self._runs.fail(plan.run_id, reason, to_text(self._clock.now()))
            else:
                live.error = error
            live.state, live.reason, live.text = FAILED, reason, error.public
            _log.warning("run_failed", run=plan.run_id, reason=reason)
        finally:
            live.ended.set()

    def _train(
        self, caller: Caller, plan: Plan, proposal: pb.TrainingProposal, live: LiveRun
    ) -> tuple[Weights, int, Learner | None]:
        """All rounds: the model, how many attempts were paid for, and what learned from sums. Raises TrainingError."""
        later: list[Weights] = []

        def before_retry(attempts: int) -> None:
            """One more noisy sum may leave: decided, paid and logged like the run itself, before it is asked for."""
            name = f"run {plan.run_id}, attempt {attempts + 1}"
            cost = Cost(plan.person_event(1), PURPOSE, name, f"run/{plan.run_id}/{attempts + 1}")
            subject = {"run": plan.run_id, "attempt": attempts + 1}
            leaving = Exit("training_attempt", subject, self._facts(caller, plan), cost)
            self._release.release(caller, leaving, lambda _: None, lambda _: subject)
            live.text = f"trying again, attempt {attempts + 1}"

        def after_round(number: int, arrays: ArrayRecord) -> MetricRecord | None:
            if number:
                weights = check_weights(from_record(arrays, item="model"), plan.kind, plan.width, item="model")
                if number > plan.rounds // 2:
                    later.append(weights)
                self._runs.keep_round(plan.run_id, number, save_weights(weights))
                self._press.watch(plan, number, weights)
                live.done = number
            live.text = f"round {live.done} of {plan.rounds}"
            return None

        self._hub.open(proposal)
        try:
            grid = HubGrid(self._hub, _number(plan.run_id), plan.partners, self._round_timeout_s)
            summed = None
            if plan.noise is not None:
                summed = SummedTraining(plan, grid.nodes, self._round_timeout_s, before_retry)
                self._press.prepare(plan, summed.learner)
            (summed or AllOrNothing(plan, grid.nodes)).start(
                grid=grid,
                initial_arrays=to_record(initial(plan.kind, plan.width)),
                num_rounds=plan.rounds,
                timeout=self._round_timeout_s,
                train_config=ConfigRecord(),
                evaluate_fn=after_round,
            )
        finally:
            self._hub.close()
        if summed is not None:
            return summed.learner.model(), summed.attempts, summed.learner
        mean = {
            name: np.asarray(np.mean([weights[name] for weights in later], axis=0, dtype=np.float64), dtype=np.float32)
            for name in later[0]
        }
        return mean, plan.rounds, None


def _digest(model: Model) -> dict[str, str]:
    card = _sha256(model.card_json.encode())
    return {"run": model.run_id, "weights_sha256": weights_digest(model.weights), "card_sha256": card}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _number(run_id: str) -> int:
    """A run's number for Flower: 63 bits of its id's digest."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big") >> 1
