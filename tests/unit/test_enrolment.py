"""What a new party writes down: whole, or made again by the same command."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.client.enrolment import copy_policy


def test_a_copy_of_the_policy_that_was_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the partner would go on without the files that were to come, those with what is forbidden perhaps."""
    texts = {"agreement.yaml": "a: 1\n", "rules.yaml": "b: 2\n"}
    answer = SimpleNamespace(version="v1", files=[SimpleNamespace(name=n, yaml=text) for n, text in texts.items()])
    connection: Any = SimpleNamespace(policy=SimpleNamespace(GetPolicy=lambda *_args, **_options: answer))
    real = Path.write_text

    def killed_at_the_second(self: Path, text: str) -> int:
        if self.name == "rules.yaml":
            raise KeyboardInterrupt
        return real(self, text)

    folder = tmp_path / "bank" / "policies"
    monkeypatch.setattr(Path, "write_text", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        copy_policy(connection, folder)
    monkeypatch.undo()
    assert copy_policy(connection, folder) == "v1"
    assert {file.name: file.read_text() for file in folder.iterdir()} == texts
