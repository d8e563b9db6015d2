"""Sends a withdrawal to the indexes by itself, soon after it was recorded, and not only when somebody asks.

The gateway asks before every fresh answer anyway (its ``withdrawals``), so this is not what the promise rests on: it
takes people out of the switchboard and the counts while nobody asks, and what is sent by then is not in the way when
somebody does. Withdrawals that come within one pause go in one delta, where they hide each other.
"""

import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from federation.client.connection import translated

LOOK_EVERY_S = 5.0
_log = structlog.get_logger()


class Withdrawing(Protocol):
    """Sends what was withdrawn; ``federation.client.overlap.agent.OverlapAgent``."""

    def withdraw(self) -> int | None:
        """Number of the last delta of the epoch that answers; None before there is one."""
        ...


class WithdrawalWatch:
    """A part of the agent.

    Args:
        agent: Sends.
        revision: Another value whenever somebody may have withdrawn from what was sent: a consent changed, by whatever
            process; another epoch is complete, which was built before; a day began, with consents that ended.
        look_every_s: Seconds between two looks.
    """

    def __init__(self, agent: Withdrawing, revision: Callable[[], object], look_every_s: float = LOOK_EVERY_S) -> None:
        self._agent, self._revision, self._look_every_s = agent, revision, look_every_s

    def serve(self, stop: threading.Event) -> None:
        """Looks until told to stop. What could not be sent is sent at the next start of this part.

        Raises:
            grpc.RpcError: the gateway is away.
            EntenteError: the gateway refused, or the partner's files are not usable.
        """
        seen: object = None
        while not stop.is_set():
            now = self._revision()
            if now != seen:
                with translated():
                    sequence = self._agent.withdraw()
                if sequence is not None:  # before there is an epoch, there is nothing to take anybody out of
                    seen = now
            stop.wait(self._look_every_s)
