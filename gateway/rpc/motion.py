"""What streams wait for: changes that all must see, and steps of batches that one partner must see."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable

GATHER_S = 0.02
"""Between two looks at the state by one stream: a look costs as much for many batches that moved as for one."""


class Motion:
    """Wakes streams of one event loop, each of which begins with a ``change``.

    ``wake`` may be called from any thread, all else from the loop alone.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.changes = 0
        self.steps: Counter[str] = Counter()
        """Batches that came, by who blinds them next; "" for nobody."""
        self.points = 0
        """That came or went, ever: large batches are slow, not stuck."""

    async def change(self) -> None:
        """Something that any stream may wait for."""
        self._loop = asyncio.get_running_loop()
        async with self._changed:
            self.changes += 1
            self._changed.notify_all()

    async def step(self, hop: str) -> None:
        """A batch came that a partner blinds next, or "" for nobody: of no interest to other partners."""
        async with self._changed:
            self.steps[hop] += 1
            self._changed.notify_all()

    def wake(self) -> None:
        """As ``change``, from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                asyncio.run_coroutine_threadsafe(self.change(), self._loop)

    async def wait(self, state: Callable[[], object], seen: object, at_most_s: float | None = None) -> None:
        """Until a state is not what was seen of it; what comes close together is looked at once."""
        await asyncio.sleep(GATHER_S)
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: state() != seen), at_most_s)


class Stillness:
    """For how long something has been as it is."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since_s = time.monotonic()

    def moved(self, now: object) -> bool:
        """Whether it is not what it was at the last look; then it begins to count anew."""
        if now == self._seen:
            return False
        self._seen, self._since_s = now, time.monotonic()
        return True

    @property
    def still_s(self) -> float:
        """Since the last look at which it had moved."""
        return time.monotonic() - self._since_s
