"""What all commands share: options, output as text or JSON, progress, and how an error ends a command.

Exit codes, for scripts: 0 done; 1 a gate said no (identity, policy, budget, audit); 2 wrong usage; 3 bad input or
configuration; 4 not reachable or not now, try again; 5 a fault of ours; 130 interrupted; 141 nobody read the output to
its end.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from federation.core.errors import CATALOG, EntenteError, Reason
from federation.core.terminal import harmless

if TYPE_CHECKING:
    from federation.client.connection import Connection
    from federation.v1 import common_pb2

T = TypeVar("T")


class _Screen(Console):
    """Shows what peers and files say, and lets the terminal obey nothing of it: rich takes out only some of that."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The same segments, those of rich's own control sequences as they are."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else harmless(text), style, control)


out = _Screen(highlight=False, soft_wrap=True)
err = _Screen(stderr=True, highlight=False, soft_wrap=True)

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="ENTENTE_CONFIG", help="Folder with partner.yaml or client.yaml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
RPC_TIMEOUT_S = 30.0
MAX_NUMBER = 2**31 - 1
"""Every number of the contract holds as much; protobuf raises for more than a number holds, and below 0."""
SOON_S = 2.0
"""Longer than this nobody waits for the gateway without being told."""
MAX_WORD = 26
"""Longer words are folded; the longest name of a segment's column and every id of a run are shorter."""
GAP = 2
"""Between two columns of a table."""
_FRACTION = re.compile(r"(?<=:\d\d)\.\d+")
_NUMBER = re.compile(r"\d[\d,.]*")

_EXIT = {
    "UNAUTHENTICATED": 1,
    "PERMISSION_DENIED": 1,
    "RESOURCE_EXHAUSTED": 1,
    "DATA_LOSS": 1,
    "INVALID_ARGUMENT": 3,
    "FAILED_PRECONDITION": 3,
    "NOT_FOUND": 3,
    "ALREADY_EXISTS": 3,
    "UNAVAILABLE": 4,
    "ABORTED": 4,
    "INTERNAL": 5,
}


_ADVICE = {
    # The key is struck with its certificates, and to enrol again would take up the same one.
    Reason.CERTIFICATE_REVOKED: "Ask the operator for a new invitation, move `identity` away, and enrol again.",
    Reason.BAD_INVITATION: "Ask the operator for a new one (entente operator invite).",
    Reason.ROLE_NOT_ALLOWED: "Name the folder of an identity that may with --config.",
    Reason.POLICY_DENIED: "Ask for less, or ask compliance, who can change the policy.",
    Reason.UNKNOWN_RUN: "See: entente train list, entente model list.",
    Reason.RUN_BUSY: "Wait for its end (entente train list), or end it: entente train stop RUN.",
    Reason.PARTNER_UNAVAILABLE: "The partner starts its agent (entente partner run); then run this again.",
    Reason.WITHDRAWALS_UNCONFIRMED: "Ask again once all partners' agents are there and can read their files.",
    Reason.BUILD_FAILED: "The partner sees what to mend by entente partner status; then run this again.",
}
"""What to do about a reason where the error says nothing of it: a gateway's seldom do."""
INTERRUPTED = 130
UNREAD = 141
"""What a shell says of a command whose reader, as ``head``, went first. Rich and click would end it with 1."""
FAULT = 5


class Left(SystemExit):
    """A command was interrupted, and has said itself how to go on: not by the same command."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)


def exit_code(error: EntenteError) -> int:
    """The exit code that tells a script what kind of error it was."""
    entry = CATALOG[error.reason]
    return _EXIT["UNAVAILABLE" if entry.retryable else entry.status]


def report(error: EntenteError) -> None:
    """Prints what is wrong, where, and what to do, on standard error; as JSON where the command was asked for it."""
    entry, fix = CATALOG[error.reason], error.fix or _ADVICE.get(error.reason, "")
    if "--json" in sys.argv:
        body = {"reason": str(error.reason), "message": entry.message, "item": error.item, "fix": fix}
        print(json.dumps({"error": {**body, "detail": error.detail, "retryable": entry.retryable}}), file=sys.stderr)
        return
    err.print(f"[bold red]Error[/] {entry.message}  [dim]{error.reason}[/]")
    for name, text in (("where", error.item), ("detail", error.detail), ("do", fix)):
        if text:
            err.print(f"  [bold]{name}[/]: ", end="")
            err.print(text, markup=False)


def emit(as_json: bool, value: Any, text: Callable[[], None]) -> None:
    """Prints a result: the value as one JSON object, or the text form."""
    if as_json:
        print(harmless(json.dumps(value, ensure_ascii=False, sort_keys=True)), flush=True)
    else:
        text()


class _Whole(Table):
    """Keeps words whole where there is room: an id or a name that is folded in two can neither be read nor copied.

    Cells are shown as they are. What a peer wrote stands in many of them, and as markup it could colour a line, set a
    link of its choice, or end the command by a closing tag too many. A cell with a style of ours is a ``styled``.
    """

    def add_row(self, *cells: str | Text, **options: Any) -> None:  # type: ignore[override]
        """A row; columns in which every cell is one word do not give way, others not below their longest word."""
        shown = [cell if isinstance(cell, Text) else Text(harmless(cell)) for cell in cells]
        super().add_row(*shown, **options)
        for column, cell in zip(self.columns, shown, strict=False):
            plain = cell.plain
            column.no_wrap = column.no_wrap and (column.justify == "right" or len(plain.split()) < 2)
            parts = plain.splitlines() if column.no_wrap else plain.split()
            longest = max(map(cell_len, parts), default=0)
            column.min_width = max(column.min_width or 0, min(longest, MAX_WORD))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Runs over the edge of a terminal that is too narrow for the longest words: rich would leave out columns."""
        least = sum((column.min_width or 0) + GAP for column in self.columns) - GAP
        return super().__rich_console__(console, options.update(max_width=max(options.max_width, least)))


def table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """A table in the style of all commands; columns named in ``right`` hold numbers, and words give way to them."""
    heading = Text(harmless(title), style="bold")
    made = _Whole(title=heading, title_justify="left", header_style="bold", box=None, pad_edge=False)
    numbers = set(right)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in numbers else "left"
        single = justify == "right" or " " not in column
        least = cell_len(column) if single else max(map(cell_len, column.split()))
        made.add_column(Text(harmless(column)), justify=justify, no_wrap=single, min_width=least, overflow="fold")
    return made


def moment(text: str) -> str:
    """A time as a peer or a file wrote it, for a person: to the second, and still with its zone."""
    return _FRACTION.sub("", text)


def styled(text: str, style: str) -> Text:
    """A cell of a table with a style."""
    return Text(harmless(text), style=style)


@contextmanager
def connect(config: Path, timeout_s: float = 10.0) -> "Iterator[Connection]":
    """A connection as the party of a configuration; RPC errors within come out as EntenteError."""
    from federation.client.config import load_client_config
    from federation.client.connection import Connection, translated
    from federation.core.identity import load_identity

    settings = load_client_config(config)
    with Connection(settings.gateway, load_identity(settings.identity)) as connection:
        wait(connection, timeout_s)
        with translated():
            yield connection


def wait(connection: "Connection", timeout_s: float) -> None:
    """Waits until the gateway answers, and says so where it takes long. Raises EntenteError."""
    try:
        connection.wait_ready(min(SOON_S, timeout_s))
    except EntenteError as exc:
        if exc.reason is not Reason.UNAVAILABLE or timeout_s <= SOON_S:
            raise
        if "--json" not in sys.argv:
            err.print(f"[dim]no answer yet from the gateway at {connection.target}; waiting[/]")
        connection.wait_ready(timeout_s - SOON_S)


def follow(stream: Iterable[T], progress_of: "Callable[[T], common_pb2.Progress]", quiet: bool) -> T | None:
    """Tells on standard error how far each stage of a stream is, and returns the last message.

    A terminal gets a bar for each stage. What goes into a file or a pipe gets a line when a stage begins, is done, or
    says something else but for numbers: nobody would see a bar there, and everybody each of its steps.
    """
    last: T | None = None
    with _lines() if not err.is_terminal else _bars(quiet) as show:
        for last in stream:
            step = progress_of(last)
            if step.stage and not quiet:
                show(step)
    return last


@contextmanager
def _lines() -> "Iterator[Callable[[common_pb2.Progress], None]]":
    told: dict[str, tuple[str, bool]] = {}

    def show(step: "common_pb2.Progress") -> None:
        now = (_NUMBER.sub("", step.text), 0 < step.total <= step.done)
        if told.get(step.stage) != now:
            told[step.stage] = now
            count = f" {step.done}/{step.total}" if step.total else ""
            err.print(f"{step.stage}{count}" + (f": {step.text}" if step.text else ""), markup=False)

    yield show


@contextmanager
def _bars(quiet: bool) -> "Iterator[Callable[[common_pb2.Progress], None]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
    from rich.table import Column

    # In a narrow terminal the words give way, on further lines: by rich's own choice time and count would be cut.
    columns = (
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        BarColumn(20, table_column=Column(no_wrap=True)),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=False)),
    )
    with Progress(*columns, console=err, disable=quiet) as bars:
        stages: dict[str, TaskID] = {}

        def show(step: "common_pb2.Progress") -> None:
            if step.stage not in stages:
                stages[step.stage] = bars.add_task(step.stage)
            described = step.stage + (f": {step.text}" if step.text else "")
            bars.update(stages[step.stage], completed=step.done, total=step.total or None, description=described)

        yield show
