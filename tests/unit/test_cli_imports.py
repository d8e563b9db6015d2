"""Help and small commands start fast: what they import, never how long it takes."""

import subprocess
import sys

import pytest

from federation.cli.groups import GROUPS, load_group, reflow

HEAVY = {"sqlalchemy", "torch", "duckdb", "flwr", "numpy", "pandas", "pydantic"}
NETWORK = {"grpc", "cryptography"}
TELL = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"


def imported_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has after the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{TELL}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", ["--help", "score --help", "init --help", "budget show --help", "audit --help"])
def test_help_imports_no_library_that_only_the_work_needs(arguments: str) -> None:
    code = f"from gateway.cli import app\napp({arguments.split()!r}, standalone_mode=False)"
    found = imported_by(code)
    assert {"gateway", "federation", "rich"} <= found
    assert not found & (HEAVY | NETWORK)


def test_a_gateway_can_be_called_without_a_database() -> None:
    assert "sqlalchemy" not in imported_by("import federation.client.connection")


def test_no_group_imports_a_library_before_a_command_of_it_runs() -> None:
    found = imported_by("import " + ", ".join(group.module for group in GROUPS.values()))
    assert not found & HEAVY


@pytest.mark.parametrize("name", GROUPS)
def test_the_list_of_commands_says_of_a_group_what_the_group_says_of_itself(name: str) -> None:
    group = load_group(name)
    assert group.help == GROUPS[name].help
    assert group.commands
    assert (group.short_help, group.hidden, group.deprecated) == (None, False, False)  # the list would show these too


@pytest.mark.parametrize("name", GROUPS)
def test_help_is_broken_where_the_terminal_ends_and_not_where_the_source_does(name: str) -> None:
    group = load_group(name)
    words = {part: (command.help or "").split() for part, command in group.commands.items()}
    reflow(group)
    for part, command in group.commands.items():
        assert "\n" not in (command.help or "").replace("\n\n", "")
        assert (command.help or "").split() == words[part]


@pytest.mark.parametrize(("words", "meant"), [(["ovrlap"], "overlap"), (["overlap", "qury"], "query")])
def test_a_misspelt_command_gets_one_piece_of_advice(words: list[str], meant: str) -> None:
    from typer.testing import CliRunner

    from gateway.cli import app

    said = CliRunner().invoke(app, words).output
    assert said.count(f"'{meant}'") == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("init", "Folder to make."),
        ("operator approve", "Request ids, as the parties told you."),
        ("partner enrol", "Invitation file from the operator."),
    ],
)
def test_help_says_what_an_argument_is(words: str, meant: str) -> None:
    from typer.testing import CliRunner

    from gateway.cli import app

    said = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "200"}).output
    assert meant in said
