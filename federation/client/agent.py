"""The partner's agent: one process beside its data that does what the gateway asks and its own policy permits.

It opens one connection, serves overlap and training work on it until it is told to stop, and comes back after every
interruption. It keeps a small status file for ``entente partner status``. One part failing (a broken file, a refused
task) is reported and leaves the others working.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog

from federation.core.clock import Clock, to_text
from federation.core.errors import EntenteError
from federation.core.files import write_secret

MIN_BACKOFF_S, MAX_BACKOFF_S = 0.2, 5.0
HEALTHY_S = 10.0
"""A connection that lasted this long resets the backoff."""
_log = structlog.get_logger()


class Part(Protocol):
    """One kind of work on a stream of its own."""

    def serve(self, stop: threading.Event) -> None:
        """Works until the stream ends or ``stop`` is set; may raise grpc.RpcError or EntenteError."""
        ...


class Status:
    """What the agent is doing, in a file that another process can read."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock, self._lock = path, clock, threading.Lock()
        self._parts: dict[str, dict[str, Any]] = {}

    def set(self, part: str, state: str, text: str = "") -> None:
        """Records the state of a part: "connecting", "serving", "waiting" or "stopped"."""
        with self._lock:
            at = to_text(self._clock.now())
            self._parts[part] = {"state": state, "since": at, "text": text}
            write_secret(self._path, json.dumps({"at": at, "parts": self._parts}).encode())


class Agent:
    """Runs the parts, each in its own thread, until it is stopped."""

    def __init__(self, parts: dict[str, Part], status: Status, close: Callable[[], None]) -> None:
        self._parts, self._status, self._close = parts, status, close
        self._stop = threading.Event()

    def stop(self) -> None:
        """Asks every part to end; safe to call from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serves until ``stop``; then closes the connection, which ends the streams."""
        threads = [threading.Thread(target=self._serve, args=item, name=item[0]) for item in self._parts.items()]
        for thread in threads:
            thread.start()
        self._stop.wait()
        self._close()
        for thread in threads:
            thread.join(timeout=30)

    def _serve(self, name: str, part: Part) -> None:
        """Serves one part again and again, with growing pauses while it fails."""
        backoff_s = MIN_BACKOFF_S
        while not self._stop.is_set():
            started, text = time.monotonic(), ""
            self._status.set(name, "serving")
            try:
                part.serve(self._stop)
            except grpc.RpcError as exc:
                text = str(exc.code()) if isinstance(exc, grpc.Call) else "connection lost"
            except EntenteError as exc:
                text = exc.public
                _log.warning("part_failed", part=name, reason=str(exc.reason), item=exc.item)
            except Exception as exc:
                # The channel is closed under the parts when the agent stops, which grpc reports as ValueError.
                if self._stop.is_set():
                    break
                text = type(exc).__name__
                _log.error("part_crashed", part=name, exc_info=exc)
            if time.monotonic() - started > HEALTHY_S:
                backoff_s = MIN_BACKOFF_S
            self._status.set(name, "waiting", text)
            self._stop.wait(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
        self._status.set(name, "stopped")
