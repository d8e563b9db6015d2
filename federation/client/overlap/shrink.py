"""Whether far fewer people are in a partner's files than it had sent, which is more likely a broken file than a fact.

A file that was copied half looks like one from which thousands were taken out, and a delta would take them out of the
index. So a delta by the partner's files that takes away more than a share of its people is refused, until the files are
mended or somebody at the partner says that so many went. That is said once, for one delta, with a number.

A fresh answer asks for withdrawals alone first. Whoever withdrew at this partner (``entente consent``) goes then all
the same, and the answer is refused: such a file cannot say whether somebody else withdrew.
"""

import json
from datetime import timedelta
from pathlib import Path

import structlog

from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import DataError, Reason
from federation.core.files import write_secret

PERMISSION_FILE = "accept-shrink.json"
VALID = timedelta(days=1)
SMALL = 20
"""So many may always go: in a small set a few people are a large share."""
_log = structlog.get_logger()


class ShrinkLimit:
    """The limit of one partner.

    Args:
        state: Its state folder, where permissions are.
        share: ``data.max_shrink_share``.
        clock: Tells the time.
    """

    def __init__(self, state: Path, share: float, clock: Clock) -> None:
        self._path, self._share, self._clock = state / PERMISSION_FILE, share, clock

    def check(self, *losses: tuple[int, int]) -> None:
        """Lets a delta pass, and uses a permission up where it needs one.

        Args:
            losses: Of each index, people it takes away and people who are there.

        Raises:
            DataError: FILE_SHRANK.
        """
        large = [(lost, before) for lost, before in losses if lost > max(SMALL, self._share * before)]
        if not large:
            return
        lost, before = max(large)
        if lost <= self._permitted():
            self._path.unlink()  # before it is used: a process that dies here leaves none behind
            _log.info("overlap_shrink_accepted", gone=lost, of=before)
            return
        item = f"{lost:,} of {before:,} people are gone, more than data.max_shrink_share ({self._share:.0%})"
        fix = f"Mend the files; if so many really went: entente partner accept-shrink {lost}, then update again."
        raise DataError(Reason.FILE_SHRANK, item=item, fix=fix)

    def permit(self, people: int) -> None:
        """Lets one delta within a day take away at most so many people."""
        said = {"people": people, "until": to_text(self._clock.now() + VALID)}
        write_secret(self._path, json.dumps(said).encode())

    def _permitted(self) -> int:
        try:
            said = json.loads(self._path.read_text())
        except FileNotFoundError:
            return 0
        return int(said["people"]) if self._clock.now() < from_text(said["until"]) else 0
