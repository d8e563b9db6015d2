"""Files that only their owner can read, whole or not at all whenever a process is killed; locks that end with one."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path


def write_secret(path: Path, data: bytes | Iterable[memoryview]) -> None:
    """Writes a file that only its owner can read, whole or not at all.

    What comes before is a new file of a name that nobody can guess, so that nothing planted there gets the secret: no
    link to follow, and no file with a mode or an owner of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def keep_secret(path: Path, size_bytes: int = 32, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Random bytes in a file that only its owner can read: made by the first who asks, the same for all after.

    They are on disk under their name when they are returned, also where their folder is new.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        write_secret(scratch, random(size_bytes))
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)  # whole at once, and never over another's
        scratch.unlink()
        sync_folder(path.parent)
        sync_folder(path.parent.parent)
    return path.read_bytes()


def try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether an open file's lock was free. It is this descriptor's then, until that is closed, by whatever end."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    return False


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
