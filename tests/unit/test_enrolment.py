"""What a new party writes down: whole, or made again by the same command."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.client.enrolment import Invitation, copy_policy, enrol, load_invitation
from federation.core.clock import FixedClock
from federation.core.errors import ConfigError
from gateway.identity.authority import Authority
from tests.conftest import NOW
from tests.kits.command import entente
from tests.kits.identity import make_identity

NOBODY = "127.0.0.1:1"


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


def invite(party: str) -> Invitation:
    """To a gateway that is not there."""
    rest = {"code": "secret-code", "ca_pem": "", "log_vkey": ""}
    return Invitation(alliance="skyline", party=party, role="partner", gateway=NOBODY, enrolment=NOBODY, **rest)


def test_a_folder_of_another_party_is_left_as_it_is(tmp_path: Path) -> None:
    clock = FixedClock(NOW)
    held = make_identity(Authority.create("skyline", clock.now()), clock).certificate_pem
    (tmp_path / "certificate.pem").write_bytes(held)
    with pytest.raises(ConfigError, match="skyline/partner/bank"):
        enrol(invite("insurer"), tmp_path, wait_s=0)
    assert [file.name for file in tmp_path.iterdir()] == ["certificate.pem"]
    assert (tmp_path / "certificate.pem").read_bytes() == held


def test_a_file_that_is_no_invitation_is_told_without_its_code(tmp_path: Path) -> None:
    file = tmp_path / "bank.yaml"
    invite("bank").save(file)
    assert load_invitation(file).party == "bank"
    file.write_text(file.read_text().replace("enrolment:", "enrollment:"))
    with pytest.raises(ConfigError, match="not an invitation") as caught:
        load_invitation(file)
    assert "secret-code" not in str(caught.value)


def test_a_misspelt_choice_is_refused_before_the_invitation_is_used(tmp_path: Path) -> None:
    invite("bank").save(tmp_path / "bank.yaml")
    (tmp_path / "customers.csv").touch()
    words = ["--dir", str(tmp_path / "bank"), "--data", str(tmp_path), "--contact", "a", "--notice", "b"]
    done = entente("partner", "enrol", str(tmp_path / "bank.yaml"), *words, "--phone-numbers", "posible", "--wait", "0")
    assert done.returncode == 2
    assert not (tmp_path / "bank").exists()
