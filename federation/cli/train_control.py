"""``entente train approve``, ``refuse``, ``pause``, ``resume``, ``stop``: who decides about a run, and when it waits.

A partner's word and its pauses are kept at the partner first: its agent goes by them, whatever the gateway makes of
them.
"""

from pathlib import Path
from typing import Annotated

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect
from federation.cli.train_runs import OVER, STATES, show_run
from federation.cli.workplace import workplace
from federation.client.connection import translated
from federation.core.errors import EntenteError, Reason, TrainingError
from federation.v1 import training_pb2 as pb

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="As in: entente train list.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="For the others to read; no personal data.")]


def approve(config: ConfigOption, run_id: RunArgument, as_json: JsonOption = False) -> None:
    """Approve a proposed run, as a person at a partner; the partner's limits are checked first."""
    _decide(config, run_id, "", approved=True, as_json=as_json)


def refuse(config: ConfigOption, run_id: RunArgument, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Refuse a run, as a person at a partner; that ends it for everybody.

    The partner's agent answers nothing of the run from then on, even if the gateway cannot be reached now.
    """
    _decide(config, run_id, reason, approved=False, as_json=as_json)


def pause(config: ConfigOption, run_id: RunArgument, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Pause a run after its round: who started it, an operator, or a partner for itself.

    A partner's agent answers nothing of the run from then on, even if the gateway cannot be reached now. The run waits
    for a limited time.
    """
    request = pb.PauseRunRequest(run_id=run_id, reason=reason)
    if not _is_partner(config):
        with connect(config) as connection:
            show_run(connection.training.PauseRun(request, timeout=RPC_TIMEOUT_S).run, as_json=as_json)
        return
    from federation.client.training.approvals import Approvals

    with workplace(config) as place:
        try:
            place.connection.wait_ready(10)
            with translated():  # first, so that the round under way can end in good order
                paused = place.connection.training.PauseRun(request, timeout=RPC_TIMEOUT_S).run
        except EntenteError as error:
            error.fix = f"The pause holds here all the same, until: entente train resume {run_id}"
            raise
        finally:
            Approvals(place.engine, place.clock).pause(run_id, paused=True)
        show_run(paused, as_json=as_json)


def resume(config: ConfigOption, run_id: RunArgument, as_json: JsonOption = False) -> None:
    """End your own pause of a run; an operator also ends that of who started it."""
    request = pb.ResumeRunRequest(run_id=run_id)
    if not _is_partner(config):
        with connect(config) as connection:
            show_run(connection.training.ResumeRun(request, timeout=RPC_TIMEOUT_S).run, as_json=as_json)
        return
    from federation.client.training.approvals import Approvals

    with workplace(config) as place:
        approvals = Approvals(place.engine, place.clock)
        was_paused = approvals.paused(run_id)
        approvals.pause(run_id, paused=False)
        place.connection.wait_ready(10)
        try:
            with translated():
                run = place.connection.training.ResumeRun(request, timeout=RPC_TIMEOUT_S).run
        except EntenteError as exc:
            if exc.reason is not Reason.WRONG_STEP or not was_paused:
                raise
            with translated():  # the gateway never heard of the pause
                run = _find(place.connection.training.ListRuns(pb.ListRunsRequest(), timeout=RPC_TIMEOUT_S), run_id)
        show_run(run, as_json=as_json)


def stop(config: ConfigOption, run_id: RunArgument, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Stop a run or a proposal for good (who started it, operator); no model, and its budget stays spent."""
    with connect(config) as connection:
        request = pb.StopRunRequest(run_id=run_id, reason=reason)
        show_run(connection.training.StopRun(request, timeout=RPC_TIMEOUT_S).run, as_json=as_json)


def _decide(config: Path, run_id: str, reason: str, *, approved: bool, as_json: bool) -> None:
    """A person's word: kept here, an approval within the partner's limits only, then told to the gateway.

    What is approved is the proposal that waits here, as ``entente partner status`` shows it; the gateway's is taken
    only where none does. One that came over a SuperLink the gateway does not know.
    """
    from federation.client.training.approvals import Approvals, ProposalRules
    from federation.training.memory import RunMemory
    from federation.training.plan import proposal_digest

    with workplace(config) as place:
        training, settings = place.connection.training, place.config
        approvals = Approvals(place.engine, place.clock)
        waiting = next((each for each in approvals.waiting() if each.run_id == run_id), None)

        def approve(proposal: pb.TrainingProposal) -> None:
            ProposalRules(settings.party, settings.limits, place.policy, RunMemory(place.engine)).check(proposal)
            approvals.decide(proposal, proposal_digest(proposal), approved=True)

        if not approved:
            approvals.refuse(run_id)
        elif waiting is not None:
            approve(waiting.proposal)
        try:
            place.connection.wait_ready(10)
            with translated():
                run = _find(training.ListRuns(pb.ListRunsRequest(), timeout=RPC_TIMEOUT_S), run_id)
            proposal = run.proposal if waiting is None else waiting.proposal
            if approved and waiting is None:
                if run.state in OVER:
                    raise TrainingError(Reason.WRONG_STEP, item=f"{run_id[:64]} is {STATES[run.state]}")
                approve(proposal)
            digest = proposal_digest(proposal)
            word = pb.DecideRunRequest(run_id=run_id, proposal_sha256=digest, approved=approved, reason=reason)
            with translated():
                run = training.DecideRun(word, timeout=RPC_TIMEOUT_S).run
        except EntenteError as error:
            if error.reason is not Reason.UNKNOWN_RUN or waiting is None:
                if not approved or waiting is not None:
                    error.fix = "Your word holds at this partner all the same."
                raise
            state = pb.RUN_STATE_APPROVED if approved else pb.RUN_STATE_FAILED
            run = pb.RunInfo(run_id=run_id, state=state, proposal=waiting.proposal)
        show_run(run, as_json=as_json)


def _find(listed: pb.ListRunsResponse, run_id: str) -> pb.RunInfo:
    for run in listed.runs:
        if run.run_id == run_id:
            return run
    raise TrainingError(Reason.UNKNOWN_RUN, item=run_id[:64], fix="See: entente train list")


def _is_partner(config: Path) -> bool:
    from federation.client.config import FILE_NAME

    return (config / FILE_NAME).is_file() or config.name == FILE_NAME
