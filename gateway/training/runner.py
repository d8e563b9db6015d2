"""One run from its approval to its end: waits for whoever is needed, passes the gates, goes through the rounds.

What a run does is in the registry before it is done, so that this process may be killed at any point and another goes
on:

- a leg is what runs without a break. Each leg is let out by the release path anew: whether who proposed the run was
  struck off since, and the policy in force, are asked again,
  the audit log has an intent and an outcome for each, and the ledger, where the run has one key, counts it once;
- after every complete round, model and strategy are on disk. Before partners are asked for vectors of a secure sum, how
  often they were asked is on disk. A leg that breaks off in a round has made that attempt, whoever answered: the next
  leg asks again with new keys, as one more attempt, which is paid for before it is asked for;
- under local noise the same question is asked again by the same id, and partners send the very answer that they gave or
  make it now; nothing leaves twice;
- once a model is kept, and before anybody can see it, the ledger marks its run as released. A registry that is put back
  from a backup makes no second model for the price of the first: the next leg fails (ANSWER_LOST). Attempts that it
  forgets of a run under way, at most the spare ones, the alliance's ledger does not count; every partner's own does.

A pause takes effect after the round under way. A run waits for a limited time, for pauses to end and for partners to
come back; then it fails and names them.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import numpy as np
import structlog
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import EntenteError, IdentityError, Reason, TrainingError
from federation.policy.facts import Facts
from federation.training.flower import ArrayRecord, from_record, to_record
from federation.training.models import check_weights, initial, load_weights, save_weights, weights_digest
from federation.training.plan import PURPOSE, Plan, read_plan
from federation.training.strategy import AllOrNothing, TrainOnly, run_rounds
from federation.training.summed import SummedTraining
from gateway.identity.caller import Caller, CheckStanding
from gateway.release import Cost, Exit, Released, ReleasePath
from gateway.training.grid import HubGrid
from gateway.training.hub import Hub
from gateway.training.press import Press
from gateway.training.proposals import TrainingRules, check_plan
from gateway.training.runs import FAILED, FINISHED, OVER, PAUSED, RUNNING, Model, RunRecord, RunStore
from gateway.training.versions import Versions

_log = structlog.get_logger()
CATEGORY = "model"
LOOK_EVERY_S = 0.5
"""How often a run that waits looks whether it may go on; it is woken at once for what this process is told."""


@dataclass(frozen=True)
class Patience:
    """How long a run waits, in seconds."""

    round_s: float = 120.0
    """For one phase of a round."""
    partners_s: float = 900.0
    """For all its partners to be connected, before a leg."""
    pause_s: float = 86_400.0
    """For a pause to end."""


@dataclass
class LiveRun:
    """A run in this process; read by any number of followers."""

    run_id: str
    total: int
    state: str = RUNNING
    done: int = 0
    text: str = "waiting for the gates"
    reason: str = ""
    seconds_left: float = 0.0
    """Until the last round, at the pace of this leg; 0: not known."""
    error: EntenteError | None = None
    """Why a gate refused the run before it began."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Nothing more happens to the run in this process."""


def exit_facts(caller: Caller, plan: Plan, clock: Clock) -> list[Facts]:
    """One question per party whose data is in the model; a party needs no permit for its own."""
    at, fields = clock.now(), plan.fields
    return [
        Facts(purpose=PURPOSE, data_category=CATEGORY, origin=origin, recipient=caller.party, at=at, fields=fields)
        for origin in plan.partners
        if origin != caller.party
    ]


class Runner:
    """Executes one run at a time, in the thread that calls it.

    Args:
        hub: Where the partners are.
        runs: The registry.
        release: The only way out.
        rules: What the active policy says of training.
        clock: Tells the time.
        press: Makes the model with its card.
        versions: Hears of a finished model.
        check_standing: Says whether who proposed the run was struck off since.
        patience: How long to wait for what.
        monotonic: Measures waiting and pace.
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
        check_standing: CheckStanding,
        patience: Patience,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub, self._runs, self._release, self._rules, self._clock = hub, runs, release, rules, clock
        self._press, self._versions, self._patience, self._monotonic = press, versions, patience, monotonic
        self._check_standing = check_standing
        self._wake, self._halted = threading.Event(), threading.Event()

    def wake(self) -> None:
        """Something changed that a waiting run may have waited for."""
        self._wake.set()

    def halt(self) -> None:
        """The gateway stops: the run under way is put down after its round, and goes on at the next start."""
        self._halted.set()
        self._wake.set()

    def mark_models(self) -> None:
        """No kept model is made again; called after one is kept, and at the start for a crash in between."""
        for model in self._runs.models():
            self._release.mark(_key(model.run_id))

    def execute(self, live: LiveRun) -> None:
        """Takes a run to its end, or as far as it comes before ``halt``. Every ending is told to the followers."""
        try:
            while self._wait_until_free(live):
                try:
                    self._leg(live)
                    return
                except TrainingError as exc:
                    if exc.reason is not Reason.RUN_PAUSED:
                        raise
                    _log.info("run_put_down", run=live.run_id, item=exc.item)
        except Exception as exc:
            self._fail(live, exc)
        finally:
            live.ended.set()

    def _fail(self, live: LiveRun, exc: Exception) -> None:
        error = exc if isinstance(exc, EntenteError) else TrainingError(Reason.INTERNAL)
        if error is not exc:
            _log.error("run_crashed", run=live.run_id, exc_info=exc)
        reason = f"{error.reason}: {error.item}" if error.item else str(error.reason)
        self._runs.end(live.run_id, FAILED, reason, to_text(self._clock.now()))
        record = self._runs.need(live.run_id)  # one that was stopped meanwhile stays stopped
        if not record.started_at:
            live.error = error
        live.state, live.reason, live.text, live.seconds_left = record.state, record.reason, error.public, 0.0
        self._hub.tell_ended(live.run_id, record.proposal.partners)
        _log.warning("run_failed", run=live.run_id, reason=reason)

    def _wait_until_free(self, live: LiveRun) -> bool:
        """Waits until nobody pauses the run and all partners are there. False where the gateway stops.

        Raises:
            TrainingError: RUN_STOPPED, PARTNER_UNAVAILABLE naming who is missing, RUN_FAILED naming whose pause was too
                long.
        """
        end = self._monotonic() + self._patience.partners_s
        while not self._halted.is_set():
            self._wake.clear()
            record = self._runs.need(live.run_id)
            if record.state in OVER:
                raise TrainingError(Reason.RUN_STOPPED, item=record.reason)
            missing = sorted(set(record.proposal.partners) - self._hub.connected())
            if record.holds:
                live.state, live.text = PAUSED, f"paused by {', '.join(hold.party for hold in record.holds)}"
                for hold in record.holds:
                    if self._clock.now() - from_text(hold.since) > timedelta(seconds=self._patience.pause_s):
                        raise TrainingError(Reason.RUN_FAILED, item=f"paused for too long by {hold.party}")
                end = self._monotonic() + self._patience.partners_s
            elif missing:
                live.state, live.text = RUNNING, f"waiting for {', '.join(missing)}"
                if self._monotonic() > end:
                    raise TrainingError(Reason.PARTNER_UNAVAILABLE, item=", ".join(missing))
            else:
                live.state = RUNNING
                return True
            self._wake.wait(LOOK_EVERY_S)
        return False

    def _leg(self, live: LiveRun) -> None:
        """From the last complete round to the end, through the gates. Raises RUN_PAUSED where it is put down."""
        record = self._runs.need(live.run_id)
        if record.caller is None:
            raise TrainingError(Reason.RUN_FAILED, item="the gateway stopped, and nothing is kept to go on from")
        caller, plan = record.caller, read_plan(record.proposal)
        check_plan(plan, self._rules())
        self._press.check(plan)
        cost = Cost(plan.person_event(plan.rounds), PURPOSE, f"run {plan.run_id}", _key(plan.run_id))
        subject = {"run": plan.run_id, "rounds": plan.rounds, "partners": list(plan.partners)}
        if record.rounds_done:
            subject["after_round"] = record.rounds_done
        leaving = Exit("model", subject, exit_facts(caller, plan, self._clock), cost)
        try:
            self._check_standing(caller)
        except IdentityError as exc:
            self._release.refuse(caller, leaving, exc)
            raise
        model = self._release.release(caller, leaving, partial(self._make, record, caller, plan, live), digest_of)
        if not self._runs.finish(model, to_text(self._clock.now())):
            raise TrainingError(Reason.RUN_STOPPED, item="stopped before its model was kept")
        self.mark_models()
        self._versions.settle()
        live.state, live.text, live.seconds_left = FINISHED, "model released", 0.0
        self._hub.tell_ended(plan.run_id, plan.partners)

    def _make(self, record: RunRecord, caller: Caller, plan: Plan, live: LiveRun, released: Released) -> Model:
        """The rounds that are left, and the model. Raises TrainingError."""
        if not self._runs.begin(plan.run_id, to_text(self._clock.now())):
            raise TrainingError(Reason.RUN_STOPPED)
        strategy = self._train(record, caller, plan, live)
        learner = strategy.learner if isinstance(strategy, SummedTraining) else None
        version = released.decisions[0].version
        return self._press.finish(
            plan, strategy.model(), attempts=strategy.attempts, learner=learner, policy_version=version
        )

    def _train(self, record: RunRecord, caller: Caller, plan: Plan, live: LiveRun) -> TrainOnly:
        """Goes on from the checkpoint to the last round. Raises TrainingError."""
        grid = HubGrid(self._hub, _number(plan.run_id), plan.partners, self._patience.round_s)
        strategy: TrainOnly = AllOrNothing(plan, grid.nodes)
        kept = self._runs.checkpoint(plan.run_id)
        if plan.noise is not None:
            before_retry = partial(self._pay_retry, caller, plan, live)
            before_ask = partial(self._runs.keep_attempt, plan.run_id)
            strategy = SummedTraining(plan, grid.nodes, self._patience.round_s, before_retry, before_ask)
            self._press.prepare(plan, strategy.learner)
        arrays = initial(plan.kind, plan.width)
        if kept.rounds_done:
            strategy.restore(load_arrays(kept.state))
            arrays = load_weights(kept.weights, plan.kind, plan.width)
        if isinstance(strategy, SummedTraining):
            strategy.recall(kept.attempts, kept.number)
        began, first = self._monotonic(), kept.rounds_done + 1
        live.done, live.text = kept.rounds_done, f"round {kept.rounds_done} of {plan.rounds}"

        def after_round(number: int, arrays: ArrayRecord) -> None:
            model = check_weights(from_record(arrays, item="model"), plan.kind, plan.width, item="model")
            state = {name: np.array(array) for name, array in strategy.state().items()}
            self._runs.keep_round(plan.run_id, number, save_weights(model), save_arrays(state))
            self._press.watch(plan, number, model)
            pace = (self._monotonic() - began) / (number + 1 - first)
            live.done, live.seconds_left = number, pace * (plan.rounds - number)
            live.text = f"round {number} of {plan.rounds}"
            if number < plan.rounds:
                self._check_may_go_on(plan.run_id)

        self._hub.open(record.proposal)
        try:
            self._check_may_go_on(plan.run_id)
            numbers = range(first, plan.rounds + 1)
            timeout_s = self._patience.round_s
            run_rounds(strategy, grid, to_record(arrays), numbers, timeout_s=timeout_s, after_round=after_round)
        finally:
            self._hub.close()
        return strategy

    def _check_may_go_on(self, run_id: str) -> None:
        """Raises TrainingError: RUN_PAUSED or RUN_STOPPED."""
        record = self._runs.need(run_id)
        if record.state in OVER:
            raise TrainingError(Reason.RUN_STOPPED, item=record.reason)
        if record.holds:
            raise TrainingError(Reason.RUN_PAUSED, item=", ".join(hold.party for hold in record.holds))
        if self._halted.is_set():
            raise TrainingError(Reason.RUN_PAUSED, item="the gateway is stopping")

    def _pay_retry(self, caller: Caller, plan: Plan, live: LiveRun, attempts: int) -> None:
        """One more noisy sum may leave: decided, paid and logged like the run itself, before it is asked for."""
        name = f"run {plan.run_id}, attempt {attempts + 1}"
        cost = Cost(plan.person_event(1), PURPOSE, name, f"run/{plan.run_id}/{attempts + 1}")
        subject = {"run": plan.run_id, "attempt": attempts + 1}
        leaving = Exit("training_attempt", subject, exit_facts(caller, plan, self._clock), cost)
        self._release.release(caller, leaving, lambda _: None, lambda _: subject)
        live.text = f"trying again, attempt {attempts + 1}"


def digest_of(model: Model) -> dict[str, str]:
    """What the log keeps of a model."""
    card = hashlib.sha256(model.card_json.encode()).hexdigest()
    return {"run": model.run_id, "weights_sha256": weights_digest(model.weights), "card_sha256": card}


def _key(run_id: str) -> str:
    """Names a run in the ledger."""
    return f"run/{run_id}"


def _number(run_id: str) -> int:
    """A run's number for Flower: 63 bits of its id's digest."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big") >> 1
