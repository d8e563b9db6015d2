"""``entente partner supernode``: the partner's app beside a stock Flower SuperNode."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.console import ConfigOption, out
from federation.core.clock import SystemClock


def supernode(
    config: ConfigOption,
    runtime: Annotated[
        str, typer.Option(help="Where the SuperNode serves its apps: host and port.")
    ] = "127.0.0.1:9094",
    root_certificates: Annotated[Path | None, typer.Option(help="PEM, where that is served with TLS.")] = None,
) -> None:
    """Answer for a Flower SuperNode that was started with --isolation process, with the installed app alone.

    The same checks, limits and account as under the gateway; code that a SuperLink ships is never unpacked.
    """
    import threading

    from federation.client.config import load_partner_config
    from federation.client.stock.runner import serve
    from federation.training.flower_runtime import TaskDoor

    settings, stop = load_partner_config(config), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    trusted = root_certificates.read_bytes() if root_certificates is not None else None
    out.print(f"[bold]{settings.party}[/] answers for the SuperNode at {runtime}; stop it with Ctrl-C.")
    with TaskDoor(runtime, trusted) as door:
        serve(door, config, SystemClock(), stop)
