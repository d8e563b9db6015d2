"""Threads of each party's own, for calls whose work is long, or which strangers or other parties can make long.

A party's calls wait for its own calls only, and what everybody else asks is done in other threads. A call that was
cancelled before its turn never runs; one that is under way ends by itself, so the work it does must be bounded.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from federation.core.ids import PartyId

P = ParamSpec("P")
T = TypeVar("T")


class PartyThreads:
    """Runs what blocks; for use in one event loop. Parties come from certificates, so there are few; strangers are one.

    Args:
        each: How many calls of one party are worked on at a time.
        name: Of the threads.
    """

    def __init__(self, each: int, name: str) -> None:
        self._each, self._name = each, name
        self._of: dict[PartyId | None, ThreadPoolExecutor] = {}

    async def run(self, party: PartyId | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of some work, done in a thread of the party; None: of those who have no certificate yet."""
        if party not in self._of:
            self._of[party] = ThreadPoolExecutor(self._each, thread_name_prefix=f"{self._name}-{party or ''}")
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._of[party], lambda: run(work, *args, **kwargs))
