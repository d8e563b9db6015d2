"""``entente policy propose|approve|veto|activate|rollback|history``: how a version comes into force."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.console import ConfigOption, JsonOption, connect, emit, out
from federation.cli.policy_tools import CALL_S, proposal_json
from federation.core.clock import SystemClock
from federation.core.identity import load_identity
from federation.v1 import policy_pb2 as pb

if TYPE_CHECKING:
    from federation.client.policy_steps import PolicySteps

VersionArgument = Annotated[str, typer.Argument(help="The version, at least its first six digits.")]


@contextmanager
def _steps(config: Path) -> "Iterator[PolicySteps]":
    from federation.client.config import load_client_config
    from federation.client.policy_steps import PolicySteps

    with connect(config) as connection:
        yield PolicySteps(connection.policy, load_identity(load_client_config(config).identity), SystemClock())


def _tell(proposal: pb.PolicyProposal, as_json: bool, more: str = "") -> None:
    def text() -> None:
        when = f" at {proposal.effective_at}" if proposal.state == "scheduled" else ""
        out.print(f"version [bold]{proposal.version[:12]}[/] is {proposal.state}{when}")
        if more:
            out.print(more, markup=False)

    emit(as_json, proposal_json(proposal), text)


def propose(
    folder: Annotated[Path, typer.Argument(help="Folder with the policy files.")],
    config: ConfigOption,
    message: Annotated[str, typer.Option("--message", "-m", help="What changes and why, for the colleague.")],
    as_json: JsonOption = False,
) -> None:
    """Propose the files as a new version (compliance). Nothing changes until a colleague approves it."""
    from federation.policy.load import load_policy

    policy = load_policy(folder)
    with _steps(config) as steps:
        proposal = steps.propose(policy, message)
    _tell(proposal, as_json, f"A colleague approves it: entente policy approve {proposal.version[:12]}")


def approve(version: VersionArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Approve a colleague's version (compliance). Look at it first: entente policy diff active VERSION."""
    with _steps(config) as steps:
        proposal = steps.approve(version)
    _tell(proposal, as_json, f"Put it in force: entente policy activate {proposal.version[:12]}")


def veto(
    version: VersionArgument,
    config: ConfigOption,
    reason: Annotated[str, typer.Option(help="Why; everybody sees it in the history.")],
    as_json: JsonOption = False,
) -> None:
    """End a proposal that is not in force yet (a partner, or compliance to withdraw it)."""
    with _steps(config) as steps:
        proposal = steps.veto(version, reason)
    _tell(proposal, as_json)


def activate(
    version: VersionArgument,
    config: ConfigOption,
    at: Annotated[str, typer.Option("--at", help="When, RFC 3339 with a zone; empty for now.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Put an approved version in force, now or at a time (compliance)."""
    with _steps(config) as steps:
        proposal = steps.activate(version, at)
    _tell(proposal, as_json)


def rollback(
    config: ConfigOption,
    reason: Annotated[str, typer.Option(help="Why; everybody sees it in the history.")],
    as_json: JsonOption = False,
) -> None:
    """Put the version directly before in force again, now (compliance). Whatever was scheduled is cancelled."""
    with _steps(config) as steps:
        version = steps.roll_back(reason)
    emit(as_json, {"version": version}, lambda: out.print(f"version [bold]{version[:12]}[/] is in force again"))


def history(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show every proposal and step, with each signature checked here. Exit code 1 when one does not hold."""
    from federation.client.config import load_client_config
    from federation.client.policy_steps import verify_history

    identity = load_identity(load_client_config(config).identity)
    with connect(config) as connection:
        answer = connection.policy.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=CALL_S)
    checked = verify_history(answer.steps, identity.ca, identity.subject.alliance)
    names = ("number", "kind", "proposal", "version", "base", "party", "words", "at", "effective_at")
    rows = [
        {**{name: getattr(c.step, name) for name in names}, "audit_index": _index(c.step), "problem": c.problem}
        for c in checked
    ]
    wrong = [row for row in rows if row["problem"]]

    def text() -> None:
        for row, c in zip(rows, checked, strict=True):
            signed = c.problem or ("signature holds" if c.step.HasField("signed") else "noted by the gateway")
            log = "in the log" if row["audit_index"] is None else f"log entry {row['audit_index']}"
            log = "not in the log yet" if row["audit_index"] == -1 else log
            what = f"{row['kind']:<10}  {str(row['version'])[:12]}  {row['party']:<12}"
            line = f"{row['number']:>4}  {str(row['at'])[:19]}  {what}  {signed}, {log}"
            out.print(line, markup=False, style="red" if c.problem else "")
            if row["words"]:
                out.print(f"{'':>27}{row['words']}", markup=False)
        for proposal in answer.proposals:
            when = f" at {proposal.effective_at}" if proposal.state == "scheduled" else ""
            out.print(f"version {proposal.version[:12]} by {proposal.party}: {proposal.state}{when}")
        if current := [row for row in rows if row["kind"] == "in_force"][-1:]:
            out.print(f"in force is version {str(current[0]['version'])[:12]}, since {str(current[0]['at'])[:19]}")

    value = {"steps": rows, "proposals": [proposal_json(p) for p in answer.proposals], "problems": len(wrong)}
    emit(as_json, value, text)
    if wrong:
        raise typer.Exit(1)


def _index(step: pb.PolicyStep) -> int | None:
    """The step's entry in the audit log; -1 where it is not there yet, None where our role may not know which it is."""
    return step.audit_entry - 1 if step.HasField("audit_entry") else None


def register(app: typer.Typer) -> None:
    """Adds the commands to ``entente policy``."""
    office = "--config people/compliance"
    app.command(epilog=f"Example: entente policy propose policies/ -m 'shorter cooling-off' {office}")(propose)
    app.command(epilog=f"Example: entente policy approve 3894c9 {office}-2")(approve)
    app.command(epilog="Example: entente policy veto 3894c9 --reason 'our notice says otherwise' --config bank")(veto)
    app.command(epilog=f"Example: entente policy activate 3894c9 --at 2026-12-01T00:00:00+01:00 {office}")(activate)
    app.command(epilog=f"Example: entente policy rollback --reason 'too strict' {office}")(rollback)
    app.command(epilog="Example: entente policy history --config people/auditor")(history)
