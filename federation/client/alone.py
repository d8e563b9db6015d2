"""One agent at a time on a partner's state folder.

Two agents would answer the gateway's questions in turn from one state, each with its own deltas under the same numbers:
what one sends does not fit what the other sent, and the epoch takes no changes any more. The lock belongs to an open
file, so the kernel ends it with the process, however that dies. It does not reach other machines on a shared folder.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.core.errors import ConfigError, Reason
from federation.core.files import try_lock

LOCK_FILE = "agent.lock"
WAIT_S = 1.0
"""``is_running`` holds the lock for an instant, and an agent that was stopped a moment ago until it is gone."""
_POLL_S = 0.05


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Holds a state folder for the one agent that works on it. Raises ConfigError (STATE_IN_USE)."""
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + WAIT_S
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                fix = "Stop the other agent, or give this one a folder and an enrolment of its own."
                raise ConfigError(Reason.STATE_IN_USE, item=str(state), fix=fix)
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)  # which also unlocks


def is_running(state: Path) -> bool:
    """Whether an agent works on a state folder now."""
    try:
        descriptor = os.open(state / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
