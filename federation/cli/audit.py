"""``entente audit``: is the log what it was, and is every entry in it."""

from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.console import MAX_NUMBER, ConfigOption, JsonOption, connect, emit, moment, out, table
from federation.core.errors import ConfigError, Reason

if TYPE_CHECKING:
    from federation.client.audit.listing import Line
    from federation.client.audit.verifier import AuditReport

app = typer.Typer(no_args_is_help=True, help="The append-only audit log.")
SEEN_FILE = "seen-checkpoint"
LIST_S = 300.0


@app.command(epilog="Example: entente audit verify --config people/auditor")
def verify(
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="ENTENTE_CONFIG", help="Folder with partner.yaml or client.yaml.")
    ],
    files: Annotated[Path | None, typer.Option("--files", help="A folder of `audit export`; needs no gateway.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute the whole tree, check signature and form, and that what was seen last time is still there.

    A copy that is older than what was seen last time is checked in itself only.

    Exit code 1 when the log does not verify; the message names the first broken entry.
    """
    from federation.client.audit.verifier import AuditVerifier, verify_folder
    from federation.client.config import load_client_config

    settings = load_client_config(config)
    vkey = _log_key(settings.identity)
    if files is not None:
        report = verify_folder(files, vkey, settings.state / SEEN_FILE)
    else:
        with connect(config) as connection:
            report = AuditVerifier(connection.audit, vkey, settings.state / SEEN_FILE).verify()
    emit(as_json, _to_json(report), lambda: out.print(f"Audit log: {report.summary}\nroot {report.root}"))


@app.command(epilog="Example: entente audit export log-copy --config people/auditor")
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")], config: ConfigOption, as_json: JsonOption = False
) -> None:
    """Check the log and write a copy that can be verified without the gateway."""
    from federation.client.audit.verifier import AuditVerifier
    from federation.client.config import load_client_config

    settings = load_client_config(config)
    with connect(config) as connection:
        report = AuditVerifier(connection.audit, _log_key(settings.identity), settings.state / SEEN_FILE).export(folder)
    emit(as_json, _to_json(report), lambda: out.print(f"Written to {folder}: {report.summary}"))


@app.command("list", epilog="Example: entente audit list --kind refused --config people/compliance")
def list_entries(
    config: ConfigOption,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only these: refused, or more narrowly `refused: table`. Repeatable."),
    ] = None,
    start: Annotated[int, typer.Option(min=0, max=MAX_NUMBER, help="Only entries from this index on.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List what the log has, newest last: decisions of every kind, refusals, steps of policies, models and training.

    Nothing is verified here. Why an entry says what it says: entente policy explain --index ENTRY.
    """
    from federation.client.audit.listing import line_of
    from federation.v1 import audit_pb2

    found = deque["Line"](maxlen=limit)
    fit, wanted = 0, set(kind or ())
    request = audit_pb2.ListEntriesRequest(start=start)
    with connect(config) as connection:
        for page in connection.audit.ListEntries(request, timeout=LIST_S):
            for index, entry in enumerate(page.entries, page.start):
                line = line_of(index, entry)
                if not wanted or not wanted.isdisjoint((line.kind, line.kind.partition(":")[0])):
                    found.append(line)
                    fit += 1

    def text() -> None:
        shown = table("Audit log", "index", "at", "kind", "who", "about", "why", right=["index"])
        for line in found:
            shown.add_row(str(line.index), moment(line.at), line.kind, line.who, line.about, line.why)
        out.print(shown)
        left = f", the newest of {fit:,}; see --limit and --start" if fit > len(found) else ""
        out.print(f"{len(found):,} entries{left}")

    emit(as_json, {"entries": [asdict(line) for line in found], "fit": fit}, text)


def _log_key(identity: Path) -> str:
    from federation.client.enrolment import LOG_KEY_FILE

    try:
        return (identity / LOG_KEY_FILE).read_text()
    except OSError as exc:
        fix = "It came with the invitation; without it there is nothing to check the log against."
        raise ConfigError(Reason.MISSING_FILE, item=str(identity / LOG_KEY_FILE), fix=fix) from exc


def _to_json(report: "AuditReport") -> dict[str, Any]:
    about = {"old_size": report.old_size, "size": report.size, "root": report.root, "summary": report.summary}
    return {**about, "kinds": dict(report.kinds), "open_intents": list(report.open_intents), "intact": True}
