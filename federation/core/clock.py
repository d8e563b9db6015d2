"""Time as a value that is passed in. Everything is UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from federation.core.errors import DataError, Reason

_CACHED = 10_000


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The current time, with time zone UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The current time, with time zone UTC."""
        return datetime.now(UTC)


@dataclass
class FixedClock:
    """A clock that a test or a replay sets."""

    at: datetime

    def now(self) -> datetime:
        """The time it was set to."""
        return self.at


def to_text(at: datetime) -> str:
    """RFC 3339 in UTC, for example ``2026-11-01T00:00:00+00:00``. Raises DataError for a time without zone."""
    if at.tzinfo is None:
        raise DataError(Reason.BAD_TIME, item="time without zone")
    return _to_text(at)


def from_text(text: str, *, item: str = "time") -> datetime:
    """Reads RFC 3339; a time without zone is refused.

    Args:
        text: The time.
        item: What it is called in the error.

    Raises:
        DataError: BAD_TIME.
    """
    try:
        return _from_text(text)
    except (ValueError, OverflowError) as exc:  # the latter at the ends of the calendar
        raise DataError(Reason.BAD_TIME, item=item) from exc


# Many people say the same at the same time, and to write and read it again is most of the work.
@lru_cache(_CACHED)
def _to_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()


@lru_cache(_CACHED)
def _from_text(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("time without zone")
    return at.astimezone(UTC)
