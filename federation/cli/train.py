"""``entente train``: propose, approve and follow joint training runs, look at their models."""

import typer

from federation.cli.train_audit import audit
from federation.cli.train_control import approve, pause, refuse, resume, stop
from federation.cli.train_runs import list_runs, propose, run
from federation.cli.train_show import show

app = typer.Typer(no_args_is_help=True, help="Joint models under differential privacy.")
app.command(epilog="Example: entente train run --config people/marketing --epsilon 2")(run)
app.command(epilog="Example: entente train propose --epsilon 1.5 --rounds 30 --config people/marketing")(propose)
app.command("list", epilog="Example: entente train list --config people/marketing")(list_runs)
app.command(epilog="Example: entente train approve RUN --config bank")(approve)
app.command(epilog='Example: entente train refuse RUN --reason "not before the audit" --config bank')(refuse)
app.command(epilog="Example: entente train pause RUN --config people/marketing")(pause)
app.command(epilog="Example: entente train resume RUN --config people/marketing")(resume)
app.command(epilog="Example: entente train stop RUN --config people/operator")(stop)
app.command(epilog="Example: entente train audit --config people/marketing --plot audit.svg")(audit)
app.command(epilog="Example: entente train show --config people/marketing --save model/ --plots plots/")(show)
