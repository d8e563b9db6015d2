"""Signed notes: the format's own example, and everything that is refused."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.core.checkpoint import (
    Checkpoint,
    open_checkpoint,
    open_note,
    parse_verifier_key,
    sign_checkpoint,
    verifier_key,
)
from federation.core.errors import AuditError, ConfigError, Reason
from federation.core.merkle import EMPTY_ROOT

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
VKEY = verifier_key("alliance-audit", KEY.public_key())
CHECKPOINT = Checkpoint("alliance-audit", 17, b"\x11" * 32)
NOTE = sign_checkpoint(CHECKPOINT, KEY)


def signed(text: str) -> str:
    """A note over any text, by the log's own key."""
    signature = base64.b64encode(VKEY.key_id + KEY.sign(text.encode())).decode()
    return f"{text}\n— {VKEY.name} {signature}\n"


def test_a_note_of_another_implementation_opens() -> None:
    vector = json.loads((Path(__file__).parent.parent / "vectors" / "signed_note.json").read_text())
    key = parse_verifier_key(vector["vkey"])
    assert key.text == vector["vkey"]
    assert open_note(vector["note"], key) == vector["text"]


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, Checkpoint("alliance-audit", 0, EMPTY_ROOT)])
def test_what_was_signed_is_what_is_read(checkpoint: Checkpoint) -> None:
    assert open_checkpoint(sign_checkpoint(checkpoint, KEY), parse_verifier_key(VKEY.text)) == checkpoint


def test_extension_lines_and_signatures_of_others_are_ignored() -> None:
    witness = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    foreign = sign_checkpoint(Checkpoint("witness", 17, b"\x11" * 32), witness).splitlines()[-1]
    assert open_checkpoint(signed(f"{CHECKPOINT.text}more\n") + f"{foreign}\n", VKEY) == CHECKPOINT


def test_any_changed_character_is_refused() -> None:
    for place, char in enumerate(NOTE):
        changed = NOTE[:place] + ("A" if char != "A" else "B") + NOTE[place + 1 :]
        with pytest.raises(AuditError) as caught:
            open_checkpoint(changed, VKEY)
        assert caught.value.reason == Reason.AUDIT_BROKEN


def test_another_key_is_refused() -> None:
    other = verifier_key("alliance-audit", Ed25519PrivateKey.generate().public_key())
    with pytest.raises(AuditError, match="no signature of alliance-audit"):
        open_checkpoint(NOTE, other)


@pytest.mark.parametrize(
    "text",
    [
        "alliance-audit\n17\n",
        "alliance-audit\n017\nERERERERERERERERERERERERERERERERERERERERERE=\n",
        "alliance-audit\n-1\nERERERERERERERERERERERERERERERERERERERERERE=\n",
        "alliance-audit\n17\nEREREQ==\n",
        "alliance-audit\n17\nnot base64\n",
        "other-log\n17\nERERERERERERERERERERERERERERERERERERERERERE=\n",
        "alliance-audit\n\n17\nERERERERERERERERERERERERERERERERERERERERERE=\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(AuditError):
        open_checkpoint(signed(text), VKEY)


@pytest.mark.parametrize(
    "note", ["", "\n\n", NOTE[:-1], NOTE.replace("—", "-"), NOTE + "\n", NOTE + "— a\n", "\t" + NOTE, NOTE * 40]
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(AuditError):
        open_checkpoint(note, VKEY)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", VKEY.text.replace("+", "-"), VKEY.text[:-4], "other" + VKEY.text, "a+00000000+AQ==", "a+b+\xff"],
)
def test_a_malformed_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_verifier_key(text)


@pytest.mark.parametrize("name", ["", "with space", "with+plus", "line\nbreak", "x" * 201])
def test_a_name_that_the_format_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        verifier_key(name, KEY.public_key())
