"""``entente policy diff|replay``: what a change of the rules changes, in words and on recorded decisions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.console import JsonOption, emit, out, table
from federation.cli.policy_tools import (
    LogOption,
    OptionalConfig,
    decisions_of,
    optional,
    policy_of,
    since_of,
    versions_at,
)
from federation.core.clock import SystemClock
from federation.core.identity import Role, load_identity

if TYPE_CHECKING:
    from federation.policy.diff import Change
    from federation.policy.replay import Comparison

_READS_LOG = frozenset({Role.COMPLIANCE, Role.AUDITOR, Role.OPERATOR})
_COLOURS = {"looser": "yellow", "open": "yellow", "stricter": "green", "words": "dim"}


def diff(
    old: Annotated[str, typer.Argument(help="A folder, a version, or `active`.")],
    new: Annotated[str, typer.Argument(help="A folder, a version, or `active`.")],
    config: OptionalConfig = None,
    log: LogOption = None,
    since: Annotated[str, typer.Option(help="Replay decisions since then: 30d, or a date.")] = "30d",
    as_json: JsonOption = False,
) -> None:
    """Say what changes, in words, and how many recorded decisions would be otherwise.

    Decisions come from the gateway's log (compliance, auditor, operator) or from a folder of `audit export`; a partner
    without either sees the words only.
    """
    from federation.client.config import load_client_config
    from federation.policy.diff import changes
    from federation.policy.replay import compare

    start = since_of(since, SystemClock().now())
    role = None if config is None else load_identity(load_client_config(config).identity).subject.role
    with optional(config) as connection:
        before, after = policy_of(old, connection), policy_of(new, connection)
        replayed = None
        if log is not None or role in _READS_LOG:
            replayed = compare(decisions_of(connection, log, start), before, after)
    found = changes(before, after)
    value = {"old": before.version, "new": after.version, "changes": [change.to_json() for change in found]}
    replay_value = None if replayed is None else _replayed_json(replayed)

    def text() -> None:
        _show_changes(found)
        if replayed is None:
            out.print("Recorded decisions were not replayed: that needs --log, or compliance, auditor or operator.")
        else:
            _show_replay(replayed)

    emit(as_json, {**value, "replay": replay_value}, text)


def replay(
    config: OptionalConfig = None,
    log: LogOption = None,
    since: Annotated[str, typer.Option(help="Only decisions since then: 30d, or a date; empty for all.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make every recorded decision again under the version that made it. Exit code 1 when one comes out otherwise."""
    from federation.policy.replay import repeat

    start = since_of(since, SystemClock().now())
    with optional(config) as connection:
        done = repeat(decisions_of(connection, log, start), versions_at(connection))
    found = [{"index": d.index, "recorded": d.recorded, "replayed": d.replayed} for d in done.differences]

    def text() -> None:
        out.print(f"{done.repeated} decisions repeated, {len(found)} otherwise; {done.other_gates} were other gates'")
        for difference in found:
            out.print(f"  entry {difference['index']}: was {difference['recorded']}", markup=False)
            out.print(f"  now {difference['replayed']}", markup=False)

    emit(as_json, {"repeated": done.repeated, "other_gates": done.other_gates, "differences": found}, text)
    if found:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the commands to ``entente policy``."""
    epilog = "Example: entente policy diff active policies/ --since 30d --config people/compliance"
    app.command(epilog=epilog)(diff)
    app.command(epilog="Example: entente policy replay --config people/auditor")(replay)


def _show_changes(found: "Sequence[Change]") -> None:
    if not found:
        out.print("Nothing changes.")
    for change in found:
        out.print(f"[{_COLOURS[change.effect]}]{change.effect:>8}[/]  ", end="")
        where = " ".join(part for part in (change.subject, change.key) if part)
        concerns = ", ".join(change.concerns) or "nobody's data"
        out.print(f"{where}: {change.text}  ({change.file}; concerns {concerns})", markup=False)


def _show_replay(replayed: "Comparison") -> None:
    flips = replayed.to_permit + replayed.to_refuse
    out.print(f"{replayed.considered} recorded decisions replayed, {flips} would flip:")
    out.print(f"  {replayed.to_permit} refused would be permitted, {replayed.to_refuse} permitted would be refused")
    out.print(
        f"  {replayed.other_reasons} refused for other reasons, {replayed.other_duties} permitted with other duties"
    )
    if replayed.still_refused:
        out.print(f"  {replayed.still_refused} the rules for offers refuse all the same")
    for (way, rule), count in replayed.rules.most_common():
        out.print(f"  {count} by rule {rule}, which {way}")
    for origin, count in sorted(replayed.origins.items()):
        out.print(f"  [yellow]{count} more would leave {origin}[/]")
    if replayed.samples:
        shown = table(
            "Samples", "entry", "what", "from", "to", "purpose", "region", "would be", "because", right=["entry"]
        )
        for sample in replayed.samples:
            route = [str(sample.route[name] or "-") for name in ("origin", "recipient", "purpose", "subject_region")]
            said = "permitted" if sample.permitted else "refused"
            shown.add_row(str(sample.index), sample.what, *route, said, ", ".join(sample.codes))
        out.print(shown)


def _replayed_json(replayed: "Comparison") -> dict[str, Any]:
    names = ("considered", "to_permit", "to_refuse", "other_reasons", "other_duties", "still_refused")
    rules = [{"way": way, "rule": rule, "count": count} for (way, rule), count in replayed.rules.most_common()]
    samples = [sample.to_json() for sample in replayed.samples]
    more = {"rules": rules, "more_leaves": dict(replayed.origins), "samples": samples}
    return {name: getattr(replayed, name) for name in names} | more
