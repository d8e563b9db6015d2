"""Proposals of runs: what may be asked, who has to say yes, and for how long it waits.

A proposal is completed and held against the policy and the budget when it is made, so that nobody is asked to approve
what could not start; both are asked again when it starts, and only then is anything spent. Every partner of the run
says yes or no to the proposal as it stands, byte for byte. One no ends it, and so does time. Steps are in the audit log
before they have effect, without anybody's words; waiting proposals survive a restart and are few.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog
from dp_accounting import DpEvent

from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import BudgetError, DataError, PolicyError, Reason, TrainingError
from federation.training.plan import PURPOSE, Plan, proposal_digest, read_plan
from federation.v1 import training_pb2 as pb
from gateway.identity.caller import Caller
from gateway.release import AuditLog, PolicyGate
from gateway.training.hub import Hub, plain
from gateway.training.proposals import TrainingRules, complete
from gateway.training.runner import exit_facts
from gateway.training.runs import APPROVED, FAILED, PROPOSED, Decision, RunKey, RunRecord, RunStore

MAX_WAITING = 16
"""Proposals that may wait at the same time: each is shown to people at every partner."""
MAX_TEXT = 200
_log = structlog.get_logger()


class Scope(Protocol):
    """What a spend would leave of a limit."""

    @property
    def scope(self) -> str:
        """Whose limit."""
        ...

    @property
    def fits(self) -> bool:
        """Whether it allows the spend."""
        ...


class Prices(Protocol):
    """Knows what is left."""

    def preview(self, purpose: str, event: DpEvent) -> Sequence[Scope]:
        """What a spend would leave of every limit; nothing is reserved. Raises BudgetError (BAD_COST)."""
        ...


class ProposalDesk:
    """Takes proposals and partners' words on them. Safe to call from any thread.

    Args:
        hub: Asks the partners.
        runs: The registry.
        policy: Decides whether a model may be made.
        prices: Says whether it could be paid for.
        audit: Where steps are logged.
        rules: What the active policy says of training.
        clock: Tells the time.
        judgeable: Raises DataError where the gateway could not measure the model of a plan.
        approval_s: How long a proposal waits, in seconds.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        runs: RunStore,
        policy: PolicyGate,
        prices: Prices,
        audit: AuditLog,
        rules: Callable[[], TrainingRules],
        clock: Clock,
        judgeable: Callable[[Plan], None],
        approval_s: float,
    ) -> None:
        self._hub, self._runs, self._policy, self._prices, self._audit = hub, runs, policy, prices, audit
        self._rules, self._clock, self._approval = rules, clock, timedelta(seconds=approval_s)
        self._judgeable, self._lock = judgeable, threading.Lock()
        self._waiting: dict[str, datetime] = {}
        for record in runs.all():
            if record.stored_state == PROPOSED:
                self._announce(record)

    def propose(
        self, caller: Caller, asked: pb.TrainingProposal, key: RunKey, *, there: frozenset[str] | None, autostart: bool
    ) -> RunRecord:
        """Registers a proposal and asks the partners.

        Args:
            caller: Who asks.
            asked: Zero or empty fields take the policy's defaults.
            key: Of the call.
            there: Partners that may be chosen where none are named; None: all of the agreement.
            autostart: It starts as soon as every partner has approved.

        Raises:
            DataError: BAD_FIELD, and MISSING_COLUMN where the gateway's own public rows lack what the model needs.
            TrainingError: PARTNER_UNAVAILABLE, TOO_FEW_PARTNERS, TOO_MANY_PROPOSALS.
            PolicyError: POLICY_DENIED.
            BudgetError: BAD_COST, BUDGET_EXHAUSTED.
            AuditError: AUDIT_UNAVAILABLE.
        """
        rules = self._rules()
        proposal = complete(asked, rules, frozenset(rules.partners) if there is None else there)
        # The same key is the same run: repeated after a crash it is registered, and pays, once.
        proposal.run_id = f"run-{key.name[:16]}"
        plan = read_plan(proposal)
        self._judgeable(plan)
        self.expire()
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise TrainingError(Reason.TOO_MANY_PROPOSALS, item=f"at most {MAX_WAITING}")
            self._check(caller, plan)
            now = self._clock.now()
            about = {"proposal_sha256": plan.digest, "epsilon": str(plan.epsilon), "rounds": plan.rounds}
            subject = {"run": plan.run_id, "model": plan.kind, "partners": list(plan.partners), **about}
            self._log_step("training_proposed", caller.party, subject)
            times = {"at": to_text(now), "expires_at": to_text(now + self._approval)}
            self._runs.propose(plan.run_id, key, proposal, caller, autostart=autostart, **times)
            record = self._runs.need(plan.run_id)
            self._announce(record)
            return record

    def decide(self, party: str, said: pb.TrainerDecision) -> RunRecord:
        """A partner's word on a proposal; until the run starts, a later no counts after a yes.

        Raises:
            TrainingError: UNKNOWN_RUN for one that the partner is not asked about, WRONG_STEP for one that does not
                wait.
            DataError: BAD_FIELD where the word is about another proposal.
            AuditError: AUDIT_UNAVAILABLE.
        """
        self.expire()
        with self._lock:
            record = self._runs.need(said.run_id)
            if party not in record.proposal.partners:
                raise TrainingError(Reason.UNKNOWN_RUN, item=record.run_id)
            if record.stored_state != PROPOSED:
                raise TrainingError(Reason.WRONG_STEP, item=f"{record.run_id} is {record.state}")
            digest = proposal_digest(record.proposal)
            if said.proposal_sha256 != digest:
                raise DataError(Reason.BAD_FIELD, item="proposal_sha256: this is not the proposal that waits")
            known = {decision.party: decision.approved for decision in record.decisions}
            if known.get(party) is said.approved:
                return record
            reason = plain(said.reason, MAX_TEXT)
            word = {"run": record.run_id, "proposal_sha256": digest, "approved": said.approved, "by_rule": said.by_rule}
            self._log_step("training_decision", party, word)
            now = to_text(self._clock.now())
            self._runs.decide(record.run_id, Decision(party, said.approved, said.by_rule, reason, now))
            if said.approved:
                self._hub.decided(record.run_id, party)
            else:
                self._drop(record, f"{Reason.PROPOSAL_REFUSED}: {party}: {reason or 'no reason given'}")
            return self._runs.need(record.run_id)

    def expire(self) -> None:
        """Ends proposals that have waited too long, naming whose word is missing."""
        now = self._clock.now()
        with self._lock:
            for run_id in [run_id for run_id, end in self._waiting.items() if end <= now]:
                record = self._runs.need(run_id)
                if record.state == APPROVED and record.autostart:
                    continue  # waits for another run to end, not for a word
                if record.stored_state == PROPOSED:
                    self._log_step("training_expired", "gateway", {"run": run_id, "undecided": record.undecided})
                    self._drop(record, f"{Reason.NOT_APPROVED}: {', '.join(record.undecided) or 'not started in time'}")
                self._waiting.pop(run_id, None)

    def settle(self, run_id: str) -> None:
        """A run does not wait any longer: it has begun, or is over."""
        with self._lock:
            self._waiting.pop(run_id, None)
            self._hub.forget(run_id)

    def _check(self, caller: Caller, plan: Plan) -> None:
        """Whether the run could start now; a refusal is in the log. Raises PolicyError, BudgetError."""
        terms = self._policy.active
        decisions = [terms.decide(facts) for facts in exit_facts(caller, plan, self._clock)]
        codes = dict.fromkeys(given.code for d in decisions if not d.permitted for given in d.reasons)
        about = {"run": plan.run_id, "proposal_sha256": plan.digest}
        if not decisions or not all(decision.permitted for decision in decisions):
            item = ", ".join(codes) or "no policy permits it"
            self._log_step("training_refused", caller.party, {**about, "reason": item})
            raise PolicyError(Reason.POLICY_DENIED, item=item)
        scopes = self._prices.preview(PURPOSE, plan.person_event(plan.rounds))
        short = [scope.scope for scope in scopes if not scope.fits]
        if short:
            self._log_step("training_refused", caller.party, {**about, "reason": f"budget of {', '.join(short)}"})
            fix = "Propose a smaller epsilon, wait for the next period, or have compliance raise the limit."
            raise BudgetError(Reason.BUDGET_EXHAUSTED, item=f"run {plan.run_id} for {', '.join(short)}", fix=fix)

    def _announce(self, record: RunRecord) -> None:
        """Has the partners asked that have not said yes."""
        self._waiting[record.run_id] = from_text(record.expires_at)
        by = "" if record.caller is None else str(record.caller.party)
        asked = pb.ProposedRun(proposal=record.proposal, proposed_by=by, expires_at=record.expires_at)
        self._hub.announce(asked, record.undecided)

    def _drop(self, record: RunRecord, reason: str) -> None:
        """Ends a proposal; the caller holds the lock."""
        self._runs.end(record.run_id, FAILED, reason, to_text(self._clock.now()))
        self._waiting.pop(record.run_id, None)
        self._hub.forget(record.run_id)
        self._hub.tell_ended(record.run_id, record.proposal.partners)
        _log.info("proposal_dropped", run=record.run_id, reason=reason)

    def _log_step(self, kind: str, party: str, body: dict[str, Any]) -> None:
        self._audit.append(kind, {"caller": str(party), **body})
