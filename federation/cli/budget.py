"""``entente budget``: where the alliance's privacy budget went."""

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, out, table
from federation.v1 import budget_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="The privacy budget of the alliance.")


@app.command(epilog="Example: entente budget show --config people/compliance")
def show(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show limits, where every epsilon went, and what the declared questions would still cost.

    Reserved entries count as spent. The parts of all entries and the conversion add up to what the alliance has spent.
    """
    with connect(config) as connection:
        answer = connection.budget.GetBudget(pb.GetBudgetRequest(), timeout=RPC_TIMEOUT_S)
    value = {
        "period_start": answer.period_start,
        "period_end": answer.period_end,
        "scopes": [
            {"scope": s.scope, "epsilon_limit": s.epsilon_limit, "epsilon_spent": s.epsilon_spent, "delta": s.delta}
            for s in answer.scopes
        ],
        "entries": [
            {
                "entry_id": e.entry_id,
                "at": e.at,
                "purpose": e.purpose,
                "what": e.what,
                "epsilon": e.epsilon,
                "state": e.state,
                "mechanism": e.mechanism,
                "share": e.share,
            }
            for e in answer.entries
        ],
        "unit": answer.unit,
        "conversion": answer.conversion,
        "order": answer.order,
        "questions": [
            {
                "what": q.what,
                "purpose": q.purpose,
                "released": q.released,
                "epsilon": q.epsilon,
                "epsilon_more": q.epsilon_more,
                "fits": q.fits,
            }
            for q in answer.questions
        ],
    }

    def text() -> None:
        period = f"{answer.period_start} to {answer.period_end}"
        numbers = ["limit", "spent", "left"]
        scopes = table(f"Privacy budget, {period} (epsilon for one person)", "scope", *numbers, right=numbers)
        for s in answer.scopes:
            left = max(0.0, s.epsilon_limit - s.epsilon_spent)
            scopes.add_row(s.scope, f"{s.epsilon_limit:g}", f"{s.epsilon_spent:.3f}", f"{left:.3f}")
        out.print(scopes)
        parts = ["its part", "alone"]
        entries = table("Where it went", "when", "what", "noise", *parts, "state", right=parts)
        for e in answer.entries:
            entries.add_row(e.at[:16], e.what, e.mechanism, f"{e.share:.3f}", f"{e.epsilon:.3f}", e.state)
        if answer.entries:
            entries.add_row("", "turning Renyi loss into epsilon, once for all", "", f"{answer.conversion:.3f}", "", "")
        out.print(entries)
        if answer.entries:
            out.print("its part: of what the alliance has spent; alone: had nothing else been released.", style="dim")
        prices = ["alone", "on top of this"]
        asked = table("What questions would cost", "question", "now", *prices, "next release", right=prices)
        for q in answer.questions:
            now = "free: released" if q.released else f"{q.epsilon_more:.3f}"
            allowed = "allowed" if q.fits else "over a limit"
            asked.add_row(q.what, now, f"{q.epsilon:.3f}", f"{q.epsilon_more:.3f}", allowed)
        out.print(asked)
        if answer.questions:
            out.print(
                "now: what asking spends in the newest epoch, nothing where it is released; on top of this: what the "
                "next release, in this epoch or a later one, adds to what the alliance has spent.",
                style="dim",
            )
        out.print(f"Protected is {answer.unit}.", style="dim")

    emit(as_json, value, text)
