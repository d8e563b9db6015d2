"""Whose turn it is to decide offers, among all threads and processes that work on one state folder.

Each recipient has a turn of its own: what one sees never waits for decisions about another's customers, which take as
long as those customers make them take.

Guarantees that at most one holder is at work at a time and that a holder that dies, however it dies, loses its turn at
once: the lock belongs to an open file, and the kernel closes that. It does not reach other machines, and neither does
SQLite. Correctness does not rest on it (the book's transactions check again); it keeps two processes from deciding,
and logging, the same offer twice.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from federation.core.errors import OfferError, Reason
from federation.core.files import try_lock
from federation.core.ids import PartyId

WAIT_S = 30.0
"""A turn is one chunk of decisions, far below a second; a longer wait means that a process hangs."""
_POLL_S = 0.005


class FileTurn:
    """A context manager; use one object per process and state folder.

    Args:
        path: The lock file; made if it is not there, never deleted.
        wait_s: How long to wait for the turn.
    """

    def __init__(self, path: Path, wait_s: float = WAIT_S) -> None:
        self._path, self._wait_s = path, wait_s
        self._lock = threading.Lock()
        self._descriptor = -1

    def __enter__(self) -> None:
        """Waits for the turn. Raises OfferError (UNAVAILABLE)."""
        deadline = time.monotonic() + self._wait_s
        if not self._lock.acquire(timeout=self._wait_s):
            raise OfferError(Reason.UNAVAILABLE, item="offers are being decided")
        descriptor = -1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            while not try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise OfferError(Reason.UNAVAILABLE, item="offers are being decided by another process")
                time.sleep(_POLL_S)
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            self._lock.release()
            raise
        self._descriptor = descriptor

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the turn back."""
        os.close(self._descriptor)  # which also unlocks
        self._lock.release()


class Turns:
    """The turn of each recipient.

    Args:
        make: Makes the turn of one.
    """

    def __init__(self, make: Callable[[PartyId], AbstractContextManager[object]]) -> None:
        self._make, self._made, self._lock = make, dict[PartyId, AbstractContextManager[object]](), threading.Lock()

    def of(self, recipient: PartyId) -> AbstractContextManager[object]:
        """The one turn of a recipient in this process."""
        with self._lock:
            if recipient not in self._made:
                self._made[recipient] = self._make(recipient)
            return self._made[recipient]
