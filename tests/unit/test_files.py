"""Secrets in files: whole, for the owner alone, and nowhere else."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.core import files
from federation.core.files import write_secret

WORD = "00" * 8


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def scratches(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[Path]]:
    """The names under which somebody who guesses would plant something before a secret is written."""
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: WORD)
    return lambda path: [path.with_name(f".{path.name}.{end}") for end in (os.getpid(), WORD)]


def test_a_secret_is_the_owners_alone_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    write_secret(path, b"one")
    path.chmod(0o644)
    write_secret(path, b"two")
    assert (path.read_bytes(), mode(path)) == (b"two", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_planted_link_is_not_followed(tmp_path: Path, scratches: Callable[[Path], list[Path]]) -> None:
    path, elsewhere = tmp_path / "key.pem", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    for scratch in scratches(path):
        scratch.symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        write_secret(path, b"secret")
    assert elsewhere.read_bytes() == b""
    assert not path.exists()


def test_a_planted_file_lends_no_mode(tmp_path: Path, scratches: Callable[[Path], list[Path]]) -> None:
    path = tmp_path / "key.pem"
    for scratch in scratches(path):
        scratch.touch()
        scratch.chmod(0o666)
    with pytest.raises(FileExistsError):
        write_secret(path, b"secret")
    assert all(scratch.read_bytes() == b"" for scratch in scratches(path))


def test_what_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "key.pem").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_secret(tmp_path / "key.pem", b"secret")
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]
