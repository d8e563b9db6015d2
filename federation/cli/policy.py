"""``entente policy``: check the files, and ask what the active version would say."""

import json
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, out, table
from federation.v1 import policy_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="The rules that compliance edits.")


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
            out.print(" ".join(part for part in (f"{f.where}:", f.text, f.fix) if part), markup=False)
        out.print(f"{len(errors)} errors, {len(findings) - len(errors)} warnings in {folder}")

    emit(as_json, {"findings": rows, "errors": len(errors)}, text)
    if errors:
        raise typer.Exit(3)


@app.command(epilog="Example: entente policy explain request.json --config people/compliance")
def explain(
    facts: Annotated[Path, typer.Argument(help="JSON file with the facts of a request.")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Ask the active version about a request, with every reason (compliance, auditor). Nothing is released."""
    with connect(config) as connection:
        request = pb.ExplainRequestRequest(facts_json=facts.read_text())
        answer = connection.policy.ExplainRequest(request, timeout=RPC_TIMEOUT_S)
    reasons = [{"rule": r.rule, "code": r.code, "text": r.text, "legal_ref": r.legal_ref} for r in answer.reasons]
    value = {
        "permitted": answer.permitted,
        "reasons": reasons,
        "obligations": json.loads(answer.obligations_json or "{}"),
        "policy_version": answer.policy_version,
    }

    def text() -> None:
        out.print("[green]permitted[/]" if answer.permitted else "[red]denied[/]")
        shown = table("Reasons", "rule", "code", "why", "law")
        for r in answer.reasons:
            shown.add_row(r.rule, r.code, r.text, r.legal_ref)
        out.print(shown)

    emit(as_json, value, text)


@app.command(epilog="Example: entente policy show --config people/compliance")
def show(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show which version is in force, and its files."""
    with connect(config) as connection:
        answer = connection.policy.GetPolicy(pb.GetPolicyRequest(), timeout=RPC_TIMEOUT_S)
    files = {file.name: file.yaml for file in answer.files}
    value = {"version": answer.version, "active_since": answer.active_since, "files": files}

    def text() -> None:
        out.print(f"version {answer.version}\nin force since {answer.active_since}\nfiles: {', '.join(files)}")

    emit(as_json, value, text)
