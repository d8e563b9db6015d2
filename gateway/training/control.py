"""Who may have a run wait, and who may go on: pauses of people and of partners, durable and in the audit log first."""

import structlog

from federation.core.clock import Clock, to_text
from federation.core.errors import Reason, TrainingError
from federation.core.identity import Role
from gateway.identity.caller import Caller
from gateway.release import AuditLog
from gateway.training.desk import MAX_TEXT
from gateway.training.hub import Hub, plain
from gateway.training.runner import Runner
from gateway.training.runs import OVER, RUNNING, Hold, RunRecord, RunStore

_log = structlog.get_logger()


def check_mine(caller: Caller, record: RunRecord, *, partners: bool = False) -> None:
    """Raises TrainingError (NOT_YOURS) for anybody but who proposed a run, an operator, or, if so asked, a partner."""
    mine = record.caller is not None and record.caller.party == caller.party
    partner = partners and caller.role is Role.PARTNER and caller.party in record.proposal.partners
    if not (mine or partner or caller.role is Role.OPERATOR):
        raise TrainingError(Reason.NOT_YOURS, item=record.run_id)


class RunControl:
    """Safe to call from any thread.

    Args:
        hub: Where the partners are.
        runs: The registry.
        runner: Executes the run that is paused.
        audit: Where steps are logged.
        clock: Dates them.
    """

    def __init__(self, *, hub: Hub, runs: RunStore, runner: Runner, audit: AuditLog, clock: Clock) -> None:
        self._hub, self._runs, self._runner, self._audit, self._clock = hub, runs, runner, audit, clock

    def pause(self, caller: Caller, run_id: str, reason: str) -> RunRecord:
        """Has a run wait after the round under way, until ``resume``.

        Raises:
            TrainingError: UNKNOWN_RUN, NOT_YOURS, WRONG_STEP for a run that is not under way.
        """
        record = self._runs.need(run_id)
        check_mine(caller, record, partners=True)
        if record.stored_state != RUNNING:
            raise TrainingError(Reason.WRONG_STEP, item=f"{run_id} is {record.state}")
        self._hold(record, str(caller.party), plain(reason, MAX_TEXT))
        self._runner.wake()
        return self._runs.need(run_id)

    def step_aside(self, party: str, run_id: str) -> None:
        """A partner's agent has paused itself: the round under way is broken off, and the run waits for the partner."""
        record = self._runs.find(run_id)
        if record is None or record.stored_state != RUNNING or party not in record.proposal.partners:
            _log.warning("stray_pause", party=party, run=run_id[:64])
            return
        self._hold(record, party, "at the partner")
        self._hub.abort(run_id, TrainingError(Reason.RUN_PAUSED, item=party))

    def resume(self, caller: Caller, run_id: str) -> RunRecord:
        """Ends the caller's own pause; an operator's call also ends those of people, never a partner's.

        Raises:
            TrainingError: UNKNOWN_RUN, NOT_YOURS, WRONG_STEP where the caller has no pause to end.
        """
        record = self._runs.need(run_id)
        check_mine(caller, record, partners=True)
        held, partners = {hold.party for hold in record.holds}, set(record.proposal.partners)
        ended = sorted(held - partners if caller.role is Role.OPERATOR else held & {str(caller.party)})
        if not ended or record.state in OVER:
            raise TrainingError(Reason.WRONG_STEP, item=f"{run_id} is {record.state}, not by {caller.party}")
        self._audit.append("training_resumed", {"caller": str(caller.party), "run": run_id, "pauses_of": ended})
        self._runs.release_hold(run_id, ended)
        self._runner.wake()
        return self._runs.need(run_id)

    def _hold(self, record: RunRecord, party: str, reason: str) -> None:
        """Logs a pause, then keeps it. One that stands is neither: an agent says it anew at every message it gets."""
        if any(hold.party == party for hold in record.holds):
            return
        self._audit.append("training_paused", {"caller": party, "run": record.run_id})
        self._runs.hold(record.run_id, Hold(party, reason, to_text(self._clock.now())))
