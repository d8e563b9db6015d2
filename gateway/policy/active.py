"""The one policy version in force. A file that does not load never replaces one that did."""

import threading
from datetime import datetime
from pathlib import Path

import structlog

from federation.core.clock import Clock
from federation.core.errors import PolicyError, Reason
from federation.core.ids import PolicyVersion
from federation.policy.facts import Decision, Facts
from federation.policy.load import load_policy, parse_policy
from federation.policy.policy_set import PolicySet
from gateway.policy.versions import VersionStore

_log = structlog.get_logger()


class ActivePolicy:
    """Decides under the version in force. Safe to call from several threads.

    Args:
        source: The policy folder, or a policy set that is there already.
        clock: Tells when a version comes into force.
        versions: Where every version is kept.

    Raises:
        PolicyError: MISSING_FILE or POLICY_INVALID when the source does not load and no version was ever in force. If
            one was, it stays in force, and the log says why the folder was not taken.
    """

    def __init__(self, source: Path | PolicySet, clock: Clock, versions: VersionStore) -> None:
        self._source, self._clock, self._versions = source, clock, versions
        self._lock = threading.Lock()
        self._now = self._activate(self._start())

    @property
    def active(self) -> PolicySet:
        """The version in force."""
        return self._now[0]

    @property
    def active_since(self) -> datetime:
        """Since when it is in force."""
        return self._now[1]

    @property
    def in_force(self) -> tuple[PolicySet, datetime]:
        """Version and since when, of one moment."""
        return self._now

    def decide(self, facts: Facts) -> Decision:
        """Permit or deny under the version in force; never raises for missing input."""
        return self._now[0].decide(facts)

    def reload(self) -> PolicySet:
        """Reads the folder again and puts it in force, durably, before it returns.

        Raises:
            PolicyError: the folder does not load, or is another alliance's; the version in force stays.
        """
        with self._lock:
            fresh = self._source if isinstance(self._source, PolicySet) else load_policy(self._source)
            if fresh.alliance != self.active.alliance:
                item = f"agreement.yaml alliance: got {fresh.alliance}, expected {self.active.alliance}"
                raise PolicyError(Reason.POLICY_INVALID, item=item)
            self._now = self._activate(fresh)
            return fresh

    def at_version(self, version: PolicyVersion) -> PolicySet:
        """A version that is or was in force, to replay a decision.

        Raises:
            PolicyError: POLICY_INVALID for a version that never was, or whose stored files no longer give it.
        """
        if version == self.active.version:
            return self.active
        files = self._versions.files(version)
        if files is None:
            raise PolicyError(Reason.POLICY_INVALID, item="a version that was never in force")
        policy = parse_policy(files)
        if policy.version != version:
            raise PolicyError(Reason.POLICY_INVALID, item=f"the stored files of version {version[:12]} were changed")
        return policy

    def _start(self) -> PolicySet:
        if isinstance(self._source, PolicySet):
            return self._source
        try:
            return load_policy(self._source)
        except PolicyError as exc:
            latest = self._versions.latest()
            files = None if latest is None else self._versions.files(latest.version)
            if files is None:
                raise
            _log.error("policy_not_taken", reason=str(exc.reason), item=exc.item)
            return parse_policy(files)

    def _activate(self, policy: PolicySet) -> tuple[PolicySet, datetime]:
        activation = self._versions.activate(policy.version, policy.files, self._clock.now())
        _log.info("policy_in_force", version=policy.version, since=activation.at.isoformat())
        return policy, activation.at
