"""``entente policy``: check and test the files, explain decisions, and put a version in force."""

import json
from pathlib import Path
from typing import Annotated

import typer

from federation.cli import policy_changes, policy_export, policy_versions
from federation.cli.console import MAX_NUMBER, RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, moment, out
from federation.cli.policy_tools import decision_at, versions_at
from federation.client.connection import Connection
from federation.core.errors import ConfigError, DataError, Reason
from federation.core.ids import PolicyVersion
from federation.policy.facts import Decision, Facts, Given, Obligations, facts_from_json
from federation.v1 import policy_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="The rules that compliance edits, and how they come into force.")


@app.command("lint", epilog="Example: entente policy lint policies/", help="The same as check.")
@app.command(epilog="Example: entente policy check policies/")
def check(
    folder: Annotated[Path, typer.Argument(help="Folder with the policy files.")],
    as_json: JsonOption = False,
) -> None:
    """Check policy files before they are put in force. Exit code 3 when there is an error."""
    from federation.core.clock import SystemClock
    from federation.policy.lint import lint

    findings = lint(folder, SystemClock())
    errors = [f for f in findings if f.severity == "error"]
    names = ("where", "key", "severity", "rule", "text", "fix")
    rows = [{name: getattr(finding, name) for name in names} for finding in findings]

    def text() -> None:
        for f in findings:
            colour = "red" if f.severity == "error" else "yellow"
            out.print(f"[{colour}]{f.severity}[/] ", end="")
            text = f.text if f.text.endswith(("?", ".")) else f"{f.text}."  # another sentence follows
            out.print(f"{f.where}: {text} {f.fix}", markup=False)
        counts = (("error", len(errors)), ("warning", len(findings) - len(errors)))
        told = ", ".join(f"{count} {word}{'s' * (count != 1)}" for word, count in counts)
        out.print(f"{told} in {folder}")

    emit(as_json, {"findings": rows, "errors": len(errors)}, text)
    if errors:
        raise typer.Exit(3)


@app.command("test", epilog="Example: entente policy test policies/")
def run_tests(
    folder: Annotated[Path, typer.Argument(help="Folder with the policy files and tests/.")] = Path("policies"),
    as_json: JsonOption = False,
) -> None:
    """Run the cases beside the policy, and say which rules none of them exercised. Exit code 1 on a failure."""
    from federation.policy.cases import load_cases, run_cases
    from federation.policy.load import load_policy

    policy = load_policy(folder)
    report = run_cases(policy, load_cases(folder))

    def text() -> None:
        for failure in report.failures:
            out.print(f"[red]FAILED[/] {failure.case.file}: ", end="")
            out.print(failure.case.name, markup=False)
            for line in failure.differences:
                out.print(f"  {line}", markup=False, style="red" if line.startswith("-") else "green")
        out.print(f"{len(report.results)} cases, {len(report.failures)} failed")
        covered = len(policy.rules) - len(report.untouched)
        out.print(f"{covered} of {len(policy.rules)} rules exercised")
        if report.untouched:
            out.print(f"[yellow]no case for[/] {', '.join(report.untouched)}")

    failures = [{"file": r.case.file, "case": r.case.name, "differences": list(r.differences)} for r in report.failures]
    value = {"cases": len(report.results), "failures": failures, "rules": len(policy.rules)}
    emit(as_json, {**value, "untouched_rules": list(report.untouched)}, text)
    if report.failures:
        raise typer.Exit(1)


@app.command(epilog="Example: entente policy explain --index 41 --lang zh --config people/compliance")
def explain(
    config: ConfigOption,
    facts: Annotated[Path | None, typer.Argument(help="JSON file with the facts of a request: would it pass?")] = None,
    index: Annotated[
        int | None, typer.Option(min=0, max=MAX_NUMBER, help="Of a decision in the audit log: why?")
    ] = None,
    lang: Annotated[str, typer.Option(help="en or zh.")] = "en",
    as_json: JsonOption = False,
) -> None:
    """Say why a decision of the log was made, or whether a request would pass (compliance, auditor).

    The text may be read out to a customer. Nothing is released.
    """
    from federation.policy.explain import explain_decision, explain_record, obligations_to_json
    from federation.policy.messages import LANGUAGES

    language = next((known for known in LANGUAGES if known == lang), None)
    if language is None:
        raise typer.BadParameter("give en or zh", param_hint="--lang")
    if (facts is None) == (index is None):
        raise typer.BadParameter("give a facts file, or --index")
    with connect(config) as connection:
        if index is not None:
            record = decision_at(connection, index)
            told: tuple[Given, ...] = (*record.other, *record.reasons)
            permitted, version = record.permitted, record.version
            fetch = versions_at(connection)
            text = explain_record(record, lambda facts: fetch(version).decide(facts), language)
            duties: dict[str, object] = {}
            if permitted:  # the log keeps the reasons of refusals; the version that permitted it names its rules again
                again = [fetch(version).decide(facts) for facts in record.facts]
                told = tuple(dict.fromkeys(given for decision in again for given in decision.reasons))
                duties = obligations_to_json(again[0].obligations)
        else:
            decision, asked = _ask(connection, facts or Path())
            told, text = decision.reasons, explain_decision(decision, asked, language)
            permitted, version = decision.permitted, decision.version
            duties = obligations_to_json(decision.obligations)
    reasons = [given.to_json() for given in told]
    value = {"permitted": permitted, "reasons": reasons, "obligations": duties, "policy_version": version, "text": text}
    emit(as_json, value, lambda: out.print(text, markup=False))


def _ask(connection: Connection, file: Path) -> tuple[Decision, Facts]:
    """What the version in force says. The gateway decides; its version is fetched to say it in words."""
    try:
        text = file.read_text()
        asked = facts_from_json(json.loads(text))
    except OSError as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(file)) from exc
    except (ValueError, RecursionError) as exc:
        raise DataError(Reason.BAD_FIELD, item=f"{file} is no JSON") from exc
    answer = connection.policy.ExplainRequest(pb.ExplainRequestRequest(facts_json=text), timeout=RPC_TIMEOUT_S)
    told = tuple(Given(r.rule, r.code, r.text, r.legal_ref) for r in answer.reasons)
    duties = Obligations(**json.loads(answer.obligations_json or "{}"))
    return Decision(answer.permitted, told, duties, PolicyVersion(answer.policy_version)), asked


@app.command(epilog="Example: entente policy show --config people/compliance")
def show(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show which version is in force, and its files."""
    with connect(config) as connection:
        answer = connection.policy.GetPolicy(pb.GetPolicyRequest(), timeout=RPC_TIMEOUT_S)
    files = {file.name: file.yaml for file in answer.files}
    value = {"version": answer.version, "active_since": answer.active_since, "files": files}

    def text() -> None:
        out.print(f"version {answer.version}\nin force since {moment(answer.active_since)}\nfiles: {', '.join(files)}")

    emit(as_json, value, text)


policy_changes.register(app)
policy_export.register(app)
policy_versions.register(app)
