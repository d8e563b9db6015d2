"""Answers a stock SuperNode's messages with the installed app, whatever bundle they came with.

A SuperNode that starts its apps itself unpacks and runs the code that its SuperLink ships. One that is started with
``--isolation process`` leaves that to somebody else on its machine: here, to this process, which takes each message,
gives it to the partner's own app (``federation.client.stock.app``) and hands the reply back. The bundle is never
unpacked, so no code travels; what a SuperLink can make this partner do is what the app does, after its own checks.

The SuperNode's interface on the machine does not ask who takes a message. Another local user could take one and spoil
a round; of this partner it would get the model and half of a round's key (``federation.client.stock.keys``), no more.
"""

import threading
from pathlib import Path

import structlog

from federation.client.stock.app import build_stock_app
from federation.core.clock import Clock
from federation.training.flower_runtime import TaskDoor

POLL_S = 0.2
MAX_BACKOFF_S = 5.0
_log = structlog.get_logger()


def serve(door: TaskDoor, config: Path, clock: Clock, stop: threading.Event) -> None:
    """Answers messages until ``stop`` is set; an interface that is away is tried again.

    Args:
        door: Of the SuperNode.
        config: The partner's ``partner.yaml``, or its folder.
        clock: Tells the time.
        stop: Ends it between two messages.
    """
    app = build_stock_app(lambda _: config, clock)
    pause_s = POLL_S
    while not stop.wait(pause_s):
        try:
            token = door.take()
            if token is not None:
                door.answer(token, app)
            pause_s = POLL_S
        except Exception as exc:  # Flower's client raises whatever its parts raise; the next message is another chance
            _log.warning("stock_runner_failed", error=type(exc).__name__)
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)
