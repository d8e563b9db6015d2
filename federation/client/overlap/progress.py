"""How far long work of the overlap is."""

import time
from collections.abc import Callable

import structlog

Progress = Callable[[str, int, int], None]
"""Stage ("build", "fetch", "blind" or "send"), rows done, rows in all."""

_log = structlog.get_logger()


class LoggedProgress:
    """Writes to the log how far long work is, at most once in a while."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s, self._last_s = every_s, time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Takes note of rows done."""
        if time.monotonic() - self._last_s >= self._every_s:
            self._last_s = time.monotonic()
            _log.info("overlap_progress", stage=stage, rows=done, of=total)
