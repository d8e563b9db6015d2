"""A round's key in two halves, for a process that ends between the two phases of a round.

Under Flower's own transport each message is answered by a process of its own. The private key of a secure sum must
outlive the one that offered it, and is all that keeps a masked vector secret: with it and the other parties' public
keys the vector could be opened later. So it is kept for one attempt, sealed (AES-256-GCM) in a file of the partner's
state that only its owner can read, under a fresh lock that is in the memory of the partner's SuperNode alone (Flower's
``Context.state``, which never goes to the SuperLink). One half is of no use without the other:

- who gets the disk later, or a copy of it, finds a sealed key whose lock is gone. That files are not overwritten when
  they are deleted does not matter;
- who may speak to the SuperNode's own interface on the partner's machine gets a lock, and not the file;
- who has both is the partner's own user, who may read the rows themselves.

Taking renames the file before it is read: of several processes one gets the key, once. A lost or broken half is a lost
attempt, which the strategy tries again with new keys.
"""

import json
import secrets
from collections.abc import MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from federation.core.canonical import canonical_json
from federation.core.files import write_secret
from federation.core.identity import Identity
from federation.training.draws import RandomBytes
from federation.training.secure_sum import Attempt, RoundKey

FILE_NAME = "round-key"
LOCK_BYTES = 32
_NONCE = bytes(12)  # a lock seals one key


class SplitKeys:
    """See KeyKeeper.

    Args:
        folder: The partner's state.
        locks: Where the lock is kept, under the name "lock": of the partner's SuperNode.
        identity: Of the partner.
        random_bytes: A cryptographic source.
    """

    def __init__(
        self, folder: Path, locks: MutableMapping[str, Any], identity: Identity, random_bytes: RandomBytes
    ) -> None:
        self._path, self._locks = folder / FILE_NAME, locks
        self._identity, self._random_bytes = identity, random_bytes

    def put(self, message_id: str, key: RoundKey) -> None:
        """See KeyKeeper."""
        lock, about = self._random_bytes(LOCK_BYTES), {"message": message_id, "attempt": asdict(key.attempt)}
        sealed = AESGCM(lock).encrypt(_NONCE, key.private_bytes(), canonical_json(about))
        write_secret(self._path, canonical_json({**about, "sealed": sealed.hex()}))
        self._locks["lock"] = lock

    def find(self, message_id: str) -> RoundKey | None:
        """See KeyKeeper."""
        found = self._open(self._path)
        return found[1] if found is not None and found[0] == message_id else None

    def take(self) -> RoundKey | None:
        """See KeyKeeper."""
        mine = self._path.with_name(f".{FILE_NAME}.{secrets.token_hex(8)}")
        try:
            self._path.rename(mine)
        except FileNotFoundError:
            return None
        try:
            found = self._open(mine)
        finally:
            mine.unlink()
            self._locks.pop("lock", None)
        return None if found is None else found[1]

    def _open(self, path: Path) -> tuple[str, RoundKey] | None:
        """The message's id and the key; None where a half is missing or does not fit the other."""
        lock = self._locks.get("lock")
        if not isinstance(lock, bytes) or len(lock) != LOCK_BYTES:
            return None
        try:
            kept = json.loads(path.read_bytes())
            message_id, attempt = str(kept["message"]), Attempt(**kept["attempt"])
            about = canonical_json({"message": message_id, "attempt": asdict(attempt)})
            private = AESGCM(lock).decrypt(_NONCE, bytes.fromhex(kept["sealed"]), about)
        except (FileNotFoundError, InvalidTag, ValueError, KeyError, TypeError):
            return None
        return message_id, RoundKey(attempt, self._identity, lambda _: private)
