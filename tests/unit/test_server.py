"""What a gateway does on its own."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from gateway import server


class Flaky:
    """Policy and training; the first look at each fails as on a full disk."""

    def __init__(self) -> None:
        self.policy_looks = self.expiries = 0
        self.done, self._loop = asyncio.Event(), asyncio.get_running_loop()

    def refresh(self) -> None:
        self.policy_looks += 1
        if self.policy_looks == 1:
            raise OperationalError("BEGIN IMMEDIATE", None, Exception("database or disk is full"))

    def expire(self) -> None:
        self.expiries += 1
        if self.expiries == 1:
            raise OperationalError("BEGIN IMMEDIATE", None, Exception("database or disk is full"))
        self._loop.call_soon_threadsafe(self.done.set)


def test_a_disk_that_was_full_for_a_moment_does_not_end_what_comes_into_force_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.01)

    async def run() -> None:
        parts: Any = Flaky()
        watch = asyncio.create_task(server._keep_current(parts, parts))
        await asyncio.wait_for(parts.done.wait(), 30)
        watch.cancel()

    asyncio.run(run())
