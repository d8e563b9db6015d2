"""What the commands about versions share: reading versions and recorded decisions from where they are."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.console import connect
from federation.client.audit.check import MAX_ENTRY_BYTES
from federation.client.audit.files import ENTRIES_FILE
from federation.client.connection import Connection, translated
from federation.core.clock import from_text
from federation.core.errors import AuditError, ConfigError, DataError, EntenteError, PolicyError, Reason
from federation.core.ids import PolicyVersion
from federation.policy.records import Recorded, ended_by, intent_of, read_entry, recorded
from federation.v1 import audit_pb2
from federation.v1 import policy_pb2 as pb

if TYPE_CHECKING:
    from federation.policy.policy_set import PolicySet

OptionalConfig = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="ENTENTE_CONFIG", help="Folder with partner.yaml or client.yaml."),
]
LogOption = Annotated[Path | None, typer.Option("--log", help="A folder of `audit export`, instead of the gateway.")]
DOWNLOAD_S = 600.0
CALL_S = 30.0
_DAYS = re.compile(r"(\d{1,4})d")
_VERSION = re.compile(r"[0-9a-f]{6,64}")


@contextmanager
def optional(config: Path | None) -> Iterator[Connection | None]:
    """A connection where there is a configuration; folders can be compared without one."""
    if config is None:
        yield None
        return
    with connect(config) as connection:
        yield connection


def since_of(text: str, now: datetime) -> datetime | None:
    """``30d`` or a time. Raises typer.BadParameter."""
    if not text:
        return None
    if found := _DAYS.fullmatch(text):
        return now - timedelta(days=int(found[1]))
    try:
        return from_text(text if "T" in text else f"{text}T00:00:00+00:00", item="--since")
    except EntenteError as exc:
        raise typer.BadParameter("give days as 30d, or a date as 2026-11-01") from exc


def versions_at(connection: Connection | None) -> "Callable[[PolicyVersion], PolicySet]":
    """Fetches versions from a gateway, each once, and checks that they are what they are called."""
    from federation.policy.load import parse_policy

    known: dict[str, PolicySet] = {}

    def fetch(version: PolicyVersion) -> "PolicySet":
        if version not in known:
            if connection is None:
                raise ConfigError(Reason.BAD_CONFIG, item=f"version {version[:12]}", fix="Say --config too.")
            answer = connection.policy.GetPolicy(pb.GetPolicyRequest(version=version), timeout=CALL_S)
            policy = parse_policy({file.name: file.yaml for file in answer.files})
            if version and policy.version != version:
                raise PolicyError(Reason.POLICY_INVALID, item=f"the gateway's files are not version {version[:12]}")
            known[version] = policy
        return known[version]

    return fetch


def policy_of(name: str, connection: Connection | None) -> "PolicySet":
    """A folder, a version by its first digits, or ``active``."""
    from federation.policy.load import load_policy

    if Path(name).is_dir():
        return load_policy(Path(name))
    if name == "active":
        return versions_at(connection)(PolicyVersion(""))
    if not _VERSION.fullmatch(name) or connection is None:
        fix = "Give a folder, or with --config a version or `active`."
        raise PolicyError(Reason.MISSING_FILE, item=name[:80], fix=fix)
    steps = connection.policy.ListPolicySteps(pb.ListPolicyStepsRequest(), timeout=CALL_S).steps
    fit = sorted({step.version for step in steps if step.version.startswith(name)})
    if len(fit) != 1:
        fix = "See: entente policy history."
        raise PolicyError(Reason.UNKNOWN_PROPOSAL, item=f"version {name}: {len(fit)} fit", fix=fix)
    return versions_at(connection)(PolicyVersion(fit[0]))


def decisions_of(
    connection: Connection | None, folder: Path | None, since: datetime | None = None
) -> Iterator[Recorded]:
    """Recorded decisions: from a folder of ``audit export``, else from the gateway's log (compliance, auditor)."""
    if folder is not None:
        return recorded(_lines(folder / ENTRIES_FILE), since=since)
    if connection is None:
        raise ConfigError(Reason.BAD_CONFIG, item="no log", fix="Say --log FOLDER or --config.")
    pages = connection.audit.ListEntries(audit_pb2.ListEntriesRequest(), timeout=DOWNLOAD_S)
    return recorded((entry for page in pages for entry in page.entries), since=since)


def entry_of(connection: Connection, index: int) -> bytes:
    """One entry of the log. Raises DataError for an index beyond the log, AuditError for no answer."""
    request = audit_pb2.ListEntriesRequest(start=index, end=index + 1)
    try:
        with translated():
            pages = list(connection.audit.ListEntries(request, timeout=CALL_S))
    except EntenteError as exc:
        if exc.reason is not Reason.BAD_FIELD:
            raise
        fix = "Take an index from: entente audit list."
        raise DataError(Reason.BAD_FIELD, item=f"the log has no entry {index}", fix=fix) from exc
    entries = [entry for page in pages for entry in page.entries]
    if len(entries) != 1:
        raise AuditError(Reason.AUDIT_BROKEN, item=f"entry {index}")
    return entries[0]


def decision_at(connection: Connection, index: int) -> Recorded:
    """The decision of an entry, or the one whose outcome it is: an offer that passed is listed by its outcome.

    Raises DataError (BAD_FIELD) for an entry that is neither.
    """
    entry = entry_of(connection, index)
    found = read_entry(index, entry)
    if found is None and (intent := intent_of(entry)) is not None:
        found = read_entry(intent, entry_of(connection, intent))
        if found is not None and (other := ended_by(entry)):
            found = replace(found, permitted=False, other=other)
    if found is None:
        fix = "Find one with: entente audit list."
        raise DataError(Reason.BAD_FIELD, item=f"entry {index} holds no decision of the policy", fix=fix)
    return found


def proposal_json(proposal: pb.PolicyProposal) -> dict[str, Any]:
    """Plain values."""
    names = ("id", "version", "base", "party", "state", "effective_at")
    return {name: getattr(proposal, name) for name in names}


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_ENTRY_BYTES + 2):
                yield line.rstrip(b"\n")
    except OSError as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(path), fix="See: entente audit export.") from exc
