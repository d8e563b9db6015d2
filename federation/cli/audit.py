"""``entente audit``: is the log what it was, and is every entry in it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.console import ConfigOption, JsonOption, connect, emit, out
from federation.core.errors import ConfigError, Reason

if TYPE_CHECKING:
    from federation.client.audit.verifier import AuditReport

app = typer.Typer(no_args_is_help=True, help="The append-only audit log.")
SEEN_FILE = "seen-checkpoint"


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
