"""The audit log's signing key: made once, readable by its owner only, with the public half beside it."""

import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.core.checkpoint import parse_verifier_key, verifier_key
from federation.core.errors import ConfigError, Reason
from federation.core.files import write_secret

KEY_FILE = "log.key"
VERIFIER_FILE = "log.vkey"


def make_log_key(folder: Path, origin: str) -> str:
    """Makes ``log.key`` and ``log.vkey``, or keeps those of an earlier call for the same origin.

    Args:
        folder: Made if it is not there.
        origin: Name of the log, without spaces or plus.

    Returns:
        The verifier key's text, which every party gets.

    Raises:
        ConfigError: BAD_CONFIG when the folder holds a key of another log, or the name is not usable.
    """
    path = folder / KEY_FILE
    if path.exists():
        key = _load_private(path)
    else:
        key = Ed25519PrivateKey.generate()
        verifier_key(origin, key.public_key())  # checks the name before anything is written
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_secret(path, pem)
    text = verifier_key(origin, key.public_key()).text
    public = folder / VERIFIER_FILE
    if public.exists():
        if public.read_text().strip() != text:
            raise ConfigError(Reason.BAD_CONFIG, item=f"{public} belongs to another log than {origin}")
    else:
        write_secret(public, f"{text}\n".encode())
    return text


def load_log_key(folder: Path) -> tuple[Ed25519PrivateKey, str]:
    """The signing key and the log's origin.

    Raises:
        ConfigError: MISSING_FILE; BAD_CONFIG when others may read the key, or it does not belong to ``log.vkey``.
    """
    key = _load_private(folder / KEY_FILE)
    public = folder / VERIFIER_FILE
    try:
        named = parse_verifier_key(public.read_text())
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(public), fix="Restore it, or make the key again.") from exc
    if named.public != key.public_key():
        raise ConfigError(Reason.BAD_CONFIG, item=f"{public} does not belong to {KEY_FILE}")
    return key, named.name


def _load_private(path: Path) -> Ed25519PrivateKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        pem = path.read_bytes()
    except OSError as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(path), fix="Make the alliance with `entente init`.") from exc
    if mode & 0o077:
        raise ConfigError(Reason.BAD_CONFIG, item=f"{path} can be read by others", fix=f"Run chmod 600 {path}.")
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as exc:
        raise ConfigError(Reason.BAD_CONFIG, item=str(path)) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(Reason.BAD_CONFIG, item=f"{path}, expected an Ed25519 key")
    return key
