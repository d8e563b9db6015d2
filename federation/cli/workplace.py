"""A partner's workplace for the length of a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from federation.core.clock import SystemClock
from federation.core.errors import ConfigError, Reason

if TYPE_CHECKING:
    from federation.client.workplace import Workplace


@contextmanager
def workplace(config: Path) -> Iterator["Workplace"]:
    """Opens what a configuration names. Raises ConfigError."""
    from sqlalchemy.exc import OperationalError

    from federation.client.config import load_partner_config
    from federation.client.workplace import open_workplace

    settings = load_partner_config(config)
    try:
        place = open_workplace(settings, SystemClock())
    except OperationalError as error:
        detail, fix = str(error.orig), "Make room on its disk, and see who owns the files in it."
        raise ConfigError(Reason.STATE_UNWRITABLE, item=str(settings.state), detail=detail, fix=fix) from error
    try:
        yield place
    finally:
        place.close()
