"""A party's own random secret in a file, made once."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from federation.core.errors import ConfigError, Reason
from federation.core.identity import write_secret

SECRET_BYTES = 32


def load_secret(path: Path, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """The 32 bytes in a file, which is made (readable by its owner only) when it is not there.

    Two processes that start at once get the same secret.

    Raises:
        ConfigError: BAD_CONFIG where the file holds something else.
    """
    if not path.exists():
        scratch = path.with_name(f"{path.name}.{os.getpid()}.{random(4).hex()}")
        write_secret(scratch, random(SECRET_BYTES))
        with suppress(FileExistsError):  # another process was faster; its secret stands
            path.hardlink_to(scratch)
        scratch.unlink()
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ConfigError(Reason.BAD_CONFIG, item=f"{path.name} does not hold {SECRET_BYTES} bytes")
    return secret
