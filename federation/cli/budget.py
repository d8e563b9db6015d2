"""``entente budget``: where the alliance's privacy budget went."""

import typer

from federation.cli.console import RPC_TIMEOUT_S, ConfigOption, JsonOption, connect, emit, out, table
from federation.v1 import budget_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="The privacy budget of the alliance.")


@app.command(epilog="Example: entente budget show --config people/compliance")
def show(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show limits, what is spent, and every entry. Reserved entries count as spent."""
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
            }
            for e in answer.entries
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
        entries = table("Entries", "when", "what", "epsilon alone", "state", right=["epsilon alone"])
        for e in answer.entries:
            entries.add_row(e.at[:19], e.what, f"{e.epsilon:.3f}", e.state)
        out.print(entries)
        out.print("Entries compose to less than their sum.", style="dim")

    emit(as_json, value, text)
