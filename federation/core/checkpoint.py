"""A log's signed tree head: a C2SP tlog-checkpoint in a signed note, with Ed25519.

    entente-audit            the origin: which log
    17                       entries
    CsUYap...2I=             root of RFC 6962 over them

    — entente-audit Az3g...  key id and signature over the three lines above

Guarantees that an opened checkpoint was signed with the given key, under the given name, and is well formed. It does
not say that the tree is right, nor that the log shows the same tree to everybody; the first is the verifier's work,
the second that of comparing checkpoints between parties.

Source: https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint (type 0x01).
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.core.errors import AuditError, ConfigError, Reason
from federation.core.merkle import HASH_BYTES

MAX_NOTE_CHARS = 16_384
MAX_SIGNATURES = 16
_ED25519 = b"\x01"
_NAME = re.compile(r"[^\s+]{1,200}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Checkpoint:
    """What a log says of itself at one moment."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True)
class VerifierKey:
    """A public key and the name under which it signs. Its text form is ``name+keyid+base64``."""

    name: str
    public: Ed25519PublicKey

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys apart; not a commitment."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed).digest()[:4]

    @property
    def text(self) -> str:
        """As it is handed out."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._typed).decode()}"

    @property
    def _typed(self) -> bytes:
        return _ED25519 + self.public.public_bytes_raw()


def verifier_key(name: str, public: Ed25519PublicKey) -> VerifierKey:
    """A key under a name. Raises ConfigError (BAD_CONFIG) for a name with spaces or a plus."""
    if not _NAME.fullmatch(name):
        raise ConfigError(Reason.BAD_CONFIG, item="name of the log: no spaces, no plus, at most 200 characters")
    return VerifierKey(name, public)


def parse_verifier_key(text: str) -> VerifierKey:
    """Reads ``name+keyid+base64``. Raises ConfigError (BAD_CONFIG)."""
    bad = ConfigError(Reason.BAD_CONFIG, item="verifier key of the log")
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise bad
    try:
        typed = base64.b64decode(parts[2], validate=True)
        key = verifier_key(parts[0], Ed25519PublicKey.from_public_bytes(typed[1:]))
    except (ValueError, binascii.Error) as exc:
        raise bad from exc
    if typed[:1] != _ED25519 or key.key_id.hex() != parts[1]:
        raise bad
    return key


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The signed note; the key's name is the origin."""
    public = verifier_key(checkpoint.origin, key.public_key())
    signature = base64.b64encode(public.key_id + key.sign(checkpoint.text.encode())).decode()
    return f"{checkpoint.text}\n— {public.name} {signature}\n"


def open_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """Reads a checkpoint that the key's holder signed for its own origin.

    Raises:
        AuditError: AUDIT_BROKEN.
    """
    lines = open_note(note, key).split("\n")[:-1]
    if len(lines) < 3 or not all(lines) or lines[0] != key.name or not _SIZE.fullmatch(lines[1]):
        raise _broken("lines of the checkpoint")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except binascii.Error as exc:
        raise _broken("root of the checkpoint") from exc
    if len(root) != HASH_BYTES:
        raise _broken("root of the checkpoint")
    return Checkpoint(lines[0], int(lines[1]), root)


def open_note(note: str, key: VerifierKey) -> str:
    """The text of a note that the key signed; signatures of others are ignored, as the format demands.

    Raises:
        AuditError: AUDIT_BROKEN.
    """
    if len(note) > MAX_NOTE_CHARS or any(ord(char) < 0x20 and char != "\n" for char in note):
        raise _broken("form of the checkpoint")
    text, separator, block = note.rpartition("\n\n")
    lines = block.split("\n")
    if not separator or lines.pop() or not 1 <= len(lines) <= MAX_SIGNATURES:
        raise _broken("form of the checkpoint")
    text += "\n"
    verified = False
    for line in lines:
        dash, name, encoded = (*line.split(" "), "", "")[:3]
        try:
            raw = base64.b64decode(encoded, validate=True)
        except ValueError as exc:
            raise _broken("signature line of the checkpoint") from exc
        if dash != "—" or len(raw) < 5 or line.count(" ") != 2:
            raise _broken("signature line of the checkpoint")
        if (name, raw[:4]) == (key.name, key.key_id):
            try:
                key.public.verify(raw[4:], text.encode())
            except InvalidSignature as exc:
                raise _broken("signature of the checkpoint") from exc
            verified = True
    if not verified:
        raise _broken(f"checkpoint has no signature of {key.name}")
    return text


def _broken(item: str) -> AuditError:
    return AuditError(Reason.AUDIT_BROKEN, item=item)
