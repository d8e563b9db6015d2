"""Tables of commands: what a peer wrote is shown, and is no markup."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from federation.cli import console
from federation.cli.console import moment, styled, table
from federation.core.errors import EntenteError, Reason
from federation.v1 import common_pb2

CLI = Path(console.__file__).parent


def shown(made: object) -> str:
    screen = Console(width=200, highlight=False, force_terminal=True, color_system="truecolor")
    with screen.capture() as captured:
        screen.print(made)
    return captured.get()


@pytest.mark.parametrize(
    "words", ["no [/] thanks", "[link=https://evil.example]see the report[/link]", "[red]approved[/red]", "[bold"]
)
def test_a_peers_words_are_shown_as_they_are(words: str) -> None:
    made = table(f"Run {words}", "reason", f"label {words}")
    made.add_row(f"PROPOSAL_REFUSED: bank: {words}", words)
    text = shown(made)
    assert Text.from_ansi(text).plain.count(words) == 4
    assert "evil.example" not in text or "\x1b]8" not in text


@pytest.mark.parametrize("word", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\u202eabc\u202c", "\x7f", "\rAll well"])
def test_a_terminal_obeys_nothing_of_what_a_peer_wrote(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an error, in a table, as markup and as progress; rich takes out some of these characters, not escape."""
    words = f"partner bank: {word} 数 ok"
    monkeypatch.setattr("sys.argv", ["entente", "overlap", "build"])
    console.report(EntenteError(Reason.BUILD_FAILED, item=words, fix=words))
    made = table(words, words)
    made.add_row(words)
    console.out.print(made)
    console.out.print(words, markup=False)
    console.follow([common_pb2.Progress(stage="blind", total=2, text=words)], lambda step: step, quiet=False)
    console.emit(True, {words: words}, lambda: None)
    said = "".join(capsys.readouterr())
    assert said.count("数") == 9
    assert all(character.isprintable() for character in said.replace("\n", ""))


def test_json_with_what_a_terminal_obeys_is_read_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"benefit": 'a\x9b31m \u202e "b" \\ \x1b[0m'}
    console.emit(True, value, lambda: None)
    assert json.loads(capsys.readouterr().out) == value


def test_a_style_of_ours_is_a_style() -> None:
    made = table("Decisions", "said")
    made.add_row(styled("refused", "red"))
    assert "\x1b[31mrefused" in shown(made)


def test_no_command_puts_markup_into_a_cell() -> None:
    """It would be shown; and whoever escapes by hand forgets a cell one day."""
    for path in CLI.glob("*.py"):
        for cells in re.findall(r"add_row\((?:[^()]|\([^()]*\))*\)", path.read_text()):
            assert "[/]" not in cells, path


def test_a_time_is_told_to_the_second_with_its_zone() -> None:
    assert moment("2026-11-29T08:16:46.750734+00:00") == "2026-11-29T08:16:46+00:00"
    assert moment("epsilon 1.926, 10:28") == "epsilon 1.926, 10:28"


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_a_narrow_terminal_hides_no_column(width: int) -> None:
    made = table(
        "Links", "who holds", "also holds", "people", "confidence", "lift", right=["people", "confidence", "lift"]
    )
    made.add_row("airline miles_card", "bank gold_card", "101", "0.61 (0.46-0.79)", "1.53 (1.05-2.24)")
    screen = Console(width=width, highlight=False, soft_wrap=True)
    with screen.capture() as captured:
        screen.print(made)
    words = captured.get().split()
    assert {"who", "also", "miles_card", "gold_card", "101", "(0.46-0.79)", "(1.05-2.24)"} <= set(words)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_gateways_no_comes_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    monkeypatch.setattr("sys.argv", ["entente", "overlap", "query", *["--json"] * as_json])
    console.report(EntenteError(Reason.POLICY_DENIED, item="field_not_allowed: These fields may not pass: bank.tier"))
    console.report(EntenteError(Reason.POLICY_DENIED, fix="Read the letter."))
    first, second = capsys.readouterr().err.split("Read the letter")
    assert "ask compliance" in first
    assert "ask compliance" not in second
