"""What a partner reads of its own mistakes: the key that was meant, the allowed words, the path that is wrong."""

import threading
from pathlib import Path

import pytest

from federation.client.agent import Agent, Status
from federation.client.config import load_client_config, load_partner_config
from federation.client.files.tables import missing
from federation.core.clock import FixedClock
from federation.core.errors import ConfigError, OverlapError, Reason
from federation.overlap.plan import check_epoch_name, key_types_of
from tests.conftest import NOW


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {custmers: a.csv}", "data.custmers: unknown key; did you mean customers?"),
        (
            "limits: {automatic_within: {max_epsilom: 1}}",
            "automatic_within.max_epsilom: unknown key; did you mean max_eps",
        ),
        ("polices: p", "polices: unknown key; did you mean policy?"),
        ("zzzzzz: 1", "zzzzzz: unknown key"),
    ],
)
def test_a_wrong_key_says_what_was_meant(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "partner.yaml").write_text(f"party: bank\ngateway: localhost:1\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_partner_config(tmp_path)
    assert caught.value.reason is Reason.BAD_CONFIG
    assert said in caught.value.item
    assert ("did you mean" in caught.value.item) == ("did you mean" in said)


def test_a_wrong_word_says_what_is_allowed() -> None:
    with pytest.raises(OverlapError, match=r"email, phone, national_id.* or any"):
        key_types_of("fax")
    with pytest.raises(OverlapError, match="letters, digits, - and single dots between, at most 64"):
        check_epoch_name("last/week")


def test_the_agents_own_status_names_the_path_of_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nowhere" / "customers.csv"

    class Part:
        turns = 0

        def serve(self, stop: threading.Event) -> None:
            self.turns += 1
            if self.turns == 1:
                raise missing(path, FileNotFoundError(2, "No such file or directory"))
            stop.set()

    told: list[str] = []
    status = Status(tmp_path / "status", FixedClock(NOW))
    monkeypatch.setattr(status, "set", lambda _part, _state, text="": told.append(text))
    Agent({"overlap": Part()}, status, lambda: None).run()
    assert any(f"{path}: No such file or directory" in text for text in told)


def test_of_an_empty_file_the_first_key_that_it_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "client.yaml").touch()
    with pytest.raises(ConfigError, match=r"client\.yaml: gateway: "):
        load_client_config(tmp_path)
