"""The partner's agent: one process beside its data that does what the gateway asks and its own policy permits.

It opens one connection, serves overlap and training work on it until it is told to stop, and comes back after every
interruption. It keeps a small status file for ``entente partner status``. One part failing (a broken file, a refused
task, a full disk) is reported, leaves the others working, and is tried again. If a part cannot be, the agent ends with
an error, so that whoever started the process can start it anew: it never lives on without one of its parts.
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog

from federation.client.connection import translated
from federation.core.clock import Clock, to_text
from federation.core.errors import EntenteError, Reason
from federation.core.files import write_secret

MIN_BACKOFF_S, MAX_BACKOFF_S = 0.2, 5.0
HEALTHY_S = 10.0
"""A connection that lasted this long resets the backoff."""
GATEWAY_AWAY = "The gateway cannot be reached."
NOT_RUNNING = "not running"
TROUBLE = "last_trouble"
"""In the status of a part: what it refused or failed at last, and when; kept when the part works again."""
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
        """Records the state of a part: "connecting", "serving", "waiting" or "stopped".

        Where the file cannot be written the work goes on; the next change that can be written brings it up to date.
        """
        with self._lock:
            at, kept = to_text(self._clock.now()), self._parts.get(part, {}).get(TROUBLE)
            self._parts[part] = {"state": state, "since": at, "text": text, TROUBLE: kept}
            if state == "waiting" and text not in {"", GATEWAY_AWAY}:
                self._parts[part][TROUBLE] = {"at": at, "text": text}
            self._write(at)

    def refused(self, part: str, text: str) -> None:
        """Records what a part refused to do, or could not; it works on, so its state is as it was."""
        with self._lock:
            at = to_text(self._clock.now())
            self._parts.setdefault(part, {"state": "serving", "since": at, "text": ""})[TROUBLE] = {
                "at": at,
                "text": text,
            }
            self._write(at)

    def _write(self, at: str) -> None:
        try:
            write_secret(self._path, json.dumps({"at": at, "parts": self._parts}).encode())
        except OSError as exc:
            _warn("status_not_written", why=exc.strerror)


def read_status(path: Path, *, running: bool) -> dict[str, Any]:
    """What ``Status`` wrote, and whether it still holds: an agent that was killed wrote nothing at its end."""
    said: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    if not running:
        said["parts"] = {name: {**part, "state": NOT_RUNNING, "text": ""} for name, part in said["parts"].items()}
    return {**said, "running": running}


class Agent:
    """Runs the parts, each in its own thread, until it is stopped."""

    def __init__(self, parts: dict[str, Part], status: Status, close: Callable[[], None]) -> None:
        self._parts, self._status, self._close = parts, status, close
        self._stop = threading.Event()
        self._died = list[str]()

    def stop(self) -> None:
        """Asks every part to end; safe to call from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serves until ``stop``; then closes the connection, which ends the streams.

        Raises:
            EntenteError: INTERNAL, where a part ended for a reason that trying again does not mend.
        """
        threads = [threading.Thread(target=self._keep, args=item, name=item[0]) for item in self._parts.items()]
        for thread in threads:
            thread.start()
        self._stop.wait()
        self._close()
        for thread in threads:
            thread.join(timeout=30)
        if self._died:
            item = f"part {', '.join(self._died)} of the agent ended"
            raise EntenteError(Reason.INTERNAL, item=item, fix="Start the agent again; its log says why.")

    def _keep(self, name: str, part: Part) -> None:
        """Serves one part; whatever ends it but ``stop`` ends the agent."""
        try:
            self._serve(name, part)
        except BaseException as exc:
            self._died.append(name)
            _warn("part_died", part=name, exc_info=exc)
        finally:
            self._stop.set()

    def _serve(self, name: str, part: Part) -> None:
        """Serves one part again and again, with growing pauses while it fails."""
        backoff_s = MIN_BACKOFF_S
        while not self._stop.is_set():
            started, text = time.monotonic(), ""
            self._status.set(name, "serving")
            try:
                part.serve(self._stop)
            except Exception as exc:
                # The channel is closed under the parts when the agent stops, which grpc reports as ValueError.
                if self._stop.is_set():
                    break
                text = _words(exc)
                if isinstance(exc, EntenteError):
                    _warn("part_failed", part=name, reason=str(exc.reason), item=exc.item, detail=exc.detail)
                elif not isinstance(exc, grpc.RpcError):  # a connection that was lost is no news
                    _warn("part_crashed", part=name, exc_info=exc)
            if time.monotonic() - started > HEALTHY_S:
                backoff_s = MIN_BACKOFF_S
            self._status.set(name, "waiting", text)
            self._stop.wait(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
        self._status.set(name, "stopped")


def _words(exc: Exception) -> str:
    """Why a part waits, in words for this partner's own eyes."""
    if isinstance(exc, grpc.RpcError):
        try:
            with translated():
                raise exc
        except EntenteError as meant:
            return GATEWAY_AWAY if meant.reason is Reason.UNAVAILABLE else meant.public
    if isinstance(exc, EntenteError):
        return GATEWAY_AWAY if exc.reason is Reason.UNAVAILABLE else f"{exc.public} {exc.detail}".rstrip()
    if isinstance(exc, OSError) and exc.strerror:
        return f"This partner's own files: {exc.strerror}."
    cause = getattr(exc, "orig", None)  # SQLAlchemy's
    if isinstance(cause, sqlite3.OperationalError):
        return f"This partner's own database: {cause}."
    return type(exc).__name__


def _warn(event: str, **about: Any) -> None:
    """A line of the log; where it cannot be written (to a file on the disk that is full), work is worth more."""
    with contextlib.suppress(OSError):
        _log.warning(event, **about)
