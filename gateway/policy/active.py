"""The one policy version in force, the same in every gateway process on one state folder.

Guarantees: a decision is made under the version that was in force at most ``STALE_S`` before it, whichever process put
it there; what was pinned (``active``) never changes, so a request under way finishes under its version and none is
dropped. It looks at the database when it is asked and has not looked for ``STALE_S``: no thread that could die
unnoticed, no read per decision (a decision takes microseconds, a read a hundred times that), and a database that cannot
be read is a denial, not an old policy. A process that takes a step looks at once.

The policy folder is read at the first start only; after that a version comes into force by proposal and approval.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from federation.core.clock import Clock
from federation.core.errors import PolicyError, Reason
from federation.core.ids import PolicyVersion
from federation.policy.facts import Decision, Facts
from federation.policy.load import load_policy, parse_policy
from federation.policy.policy_set import PolicySet
from gateway.policy.versions import VersionStore

STALE_S = 0.25
_log = structlog.get_logger()


class ActivePolicy:
    """Decides under the version in force. Safe to call from several threads.

    Args:
        source: The policy folder, or a policy set that is there already, for the first start.
        clock: Dates the first version.
        versions: Where every version is kept.
        settle: Called before each look; brings into force what is due.
        tick: A monotonic clock in seconds.

    Raises:
        PolicyError: MISSING_FILE or POLICY_INVALID when no version was ever in force and the source does not load, or
            when the version in force cannot be read.
    """

    def __init__(
        self,
        source: Path | PolicySet,
        clock: Clock,
        versions: VersionStore,
        settle: Callable[[], object] = lambda: None,
        tick: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions, self._settle, self._tick = versions, settle, tick
        self._lock = threading.Lock()
        latest = versions.latest()
        if latest is None:
            first = source if isinstance(source, PolicySet) else load_policy(source)
            latest = versions.activate(first.version, first.files, clock.now())
        self._now = self._read(latest.version), latest
        self._seen = self._tick()
        self.refresh()

    @property
    def active(self) -> PolicySet:
        """The version in force. Raises PolicyError (UNAVAILABLE) when nobody can tell which that is."""
        return self.in_force[0]

    @property
    def active_since(self) -> datetime:
        """Since when it is in force."""
        return self.in_force[1]

    @property
    def in_force(self) -> tuple[PolicySet, datetime]:
        """Version and since when, of one moment."""
        if self._tick() - self._seen > STALE_S:
            with self._lock:
                if self._tick() - self._seen > STALE_S:  # another thread may have looked meanwhile
                    self._look()
        policy, activation = self._now
        return policy, activation.at

    def decide(self, facts: Facts) -> Decision:
        """Permit or deny under the version in force; never raises for missing input."""
        return self.active.decide(facts)

    def refresh(self) -> PolicySet:
        """Looks now, and returns what is in force.

        Raises:
            PolicyError: UNAVAILABLE when the database cannot be read; POLICY_INVALID when the version cannot.
        """
        with self._lock:
            return self._look()

    def at_version(self, version: PolicyVersion) -> PolicySet:
        """A version that was ever proposed or in force, to replay a decision or to compare.

        Raises:
            PolicyError: POLICY_INVALID for a version that never was, or whose stored files no longer give it.
        """
        policy, _ = self._now
        return policy if policy.version == version else self._read(version)

    def _read(self, version: PolicyVersion) -> PolicySet:
        files = self._versions.files(version)
        if files is None:
            raise PolicyError(Reason.POLICY_INVALID, item="a version that was never proposed or in force")
        policy = parse_policy(files)
        if policy.version != version:
            raise PolicyError(Reason.POLICY_INVALID, item=f"the stored files of version {version[:12]} were changed")
        return policy

    def _look(self) -> PolicySet:
        try:
            self._settle()
            latest = self._versions.latest()
        except SQLAlchemyError as exc:
            raise PolicyError(Reason.UNAVAILABLE, item="policy versions", detail=str(exc)) from exc
        if latest is None:
            raise PolicyError(Reason.POLICY_INVALID, item="no version is in force")
        if self._now[1] != latest:
            policy = self.at_version(latest.version)
            self._now = policy, latest
            _log.info("policy_in_force", version=policy.version, since=latest.at.isoformat())
        self._seen = self._tick()
        return self._now[0]
