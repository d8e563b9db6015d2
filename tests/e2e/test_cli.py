"""The command line as a script meets it: exit codes, JSON, and errors that say what, where and what to do."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from federation.cli import groups
from federation.cli.console import exit_code
from federation.core.clock import FixedClock
from federation.core.errors import EntenteError, Reason
from federation.policy.load import load_policy
from gateway import cli
from gateway.alliance import create_alliance, shipped_policies
from tests.kits.command import entente

ENTENTE = (sys.executable, "-c", "from gateway.cli import main; main()")
GROUPS = {
    "": ("init", "demo"),
    "gateway": ("serve",),
    "operator": ("pending", "approve", "revoke", "invite"),
    "partner": ("enrol", "renew", "run", "status"),
    "overlap": ("build", "query", "cubes"),
    "train": ("run", "show", "list"),
    "offers": ("propose", "inbox", "decisions"),
    "consent": ("record", "withdraw", "show"),
    "policy": (
        "check",
        "test",
        "explain",
        "diff",
        "replay",
        "propose",
        "approve",
        "veto",
        "activate",
        "rollback",
        "history",
        "show",
    ),
    "budget": ("show",),
    "audit": ("verify", "list", "export"),
}


def in_a_shell(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """As a process of its own."""
    return subprocess.run([*ENTENTE, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "alliance"
    made = in_a_shell("init", str(folder), "--json", "--port", "17943")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["partners"] == ["bank", "insurer", "airline"]
    return folder


def test_every_command_has_help_with_an_example() -> None:
    from typer.main import get_command

    from gateway.cli import app

    root = get_command(app)
    for group, names in GROUPS.items():
        own = root.commands[group] if group else root  # type: ignore[attr-defined]
        holder = groups.load_group(group) if group in groups.GROUPS else own
        for name in names:
            command = holder.commands[name]
            assert command.help, name
            assert (command.epilog or "").startswith("Example: entente"), name
            has_json = any("--json" in option.opts for option in command.params)
            assert has_json or name in ("serve", "run"), f"{group} {name}"


def test_init_refuses_to_overwrite_and_says_what_to_do(alliance: Path) -> None:
    again = entente("init", str(alliance))
    assert again.returncode == 3
    assert "already holds an alliance" in again.stderr
    assert "Choose another folder" in again.stderr


def test_secrets_can_be_read_by_their_owner_only(alliance: Path) -> None:
    secrets = [*alliance.rglob("*.key"), *alliance.rglob("key.pem"), *alliance.glob("invitations/*.yaml")]
    assert len(secrets) >= 8
    assert not [path for path in secrets if path.stat().st_mode & 0o077]


def test_a_gateway_that_is_away_is_exit_code_4_and_json_on_request(alliance: Path) -> None:
    away = in_a_shell("budget", "show", "--config", str(alliance / "people" / "compliance"), "--json")
    assert (away.returncode, away.stdout) == (4, "")
    error = json.loads(away.stderr)["error"]
    assert (error["reason"], error["retryable"]) == ("UNAVAILABLE", True)
    assert "127.0.0.1:17943" in error["item"]


def test_a_missing_configuration_is_exit_code_3_and_named(tmp_path: Path) -> None:
    missing = in_a_shell("partner", "status", "--config", str(tmp_path))
    assert missing.returncode == 3
    assert "partner.yaml" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("surprise: 1", "surprise"),
        ("limits: {epsilon_per_customer: -1}", "epsilon_per_customer"),
        ("party: [", "partner.yaml"),
    ],
)
def test_a_wrong_configuration_key_is_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "partner.yaml").write_text(f"party: bank\ngateway: localhost:1\n{line}\n")
    wrong = entente("partner", "status", "--config", str(tmp_path), "--json")
    assert wrong.returncode == 3
    assert says in json.loads(wrong.stderr)["error"]["item"]


@pytest.mark.parametrize("arguments", [["--help"], ["policy", "check", "--help"], ["init", "new", "--json"]])
def test_a_reader_that_went_first_is_exit_code_141_and_no_gates_no(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*ENTENTE, *arguments], stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_fault_of_ours_is_exit_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty() -> None:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(cli, "app", faulty)
    done = entente("budget", "show")
    assert (done.returncode, done.stdout) == (5, "")
    assert "nobody thought of this" in done.stderr


def test_what_may_be_tried_again_is_exit_code_4() -> None:
    assert exit_code(EntenteError(Reason.RUN_BUSY)) == exit_code(EntenteError(Reason.TOO_MANY_OFFERS)) == 4
    assert exit_code(EntenteError(Reason.BUDGET_EXHAUSTED)) == 1


@pytest.mark.parametrize(
    "words",
    [
        "offers decisions --after -5",
        "model use 99999999999 --reason x",
        "model compare 1 99999999999",
        "train propose --rounds 99999999999",
        "train show --version 99999999999",
        "operator flower-run new --policies none --rounds -1",
    ],
)
def test_a_number_that_no_message_holds_is_wrong_usage(words: str) -> None:
    given = [] if "flower-run" in words else ["--config", "none"]
    assert entente(*words.split(), *given).returncode == 2


def test_wrong_usage_is_exit_code_2() -> None:
    assert entente("overlap", "query").returncode == 2
    assert in_a_shell("nonsense").returncode == 2


def test_policy_check_names_file_line_and_key(tmp_path: Path) -> None:
    for file in shipped_policies().glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    good = entente("policy", "check", str(tmp_path), "--json")
    assert good.returncode == 0, good.stdout
    budget = tmp_path / "budget.yaml"
    budget.write_text(budget.read_text() + "generosity: 100\n")
    bad = entente("policy", "check", str(tmp_path), "--json")
    assert bad.returncode == 3
    finding = json.loads(bad.stdout)["findings"][0]
    assert re.match(r"budget\.yaml:\d+:\d+", finding["where"])
    assert (finding["key"], finding["text"]) == ("generosity", "unknown key")


def test_a_new_alliance_has_the_budget_period_of_its_year(tmp_path: Path) -> None:
    for year in (2026, 2031):
        at = datetime(year, 11, 5, tzinfo=UTC)
        create_alliance(tmp_path / str(year), FixedClock(at))
        policy = load_policy(tmp_path / str(year) / "policies")
        assert policy.budget.period_start <= at.date() < policy.budget.period_end


def test_the_demo_refuses_a_folder_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused = entente("demo", "--dir", str(tmp_path))
    assert refused.returncode == 3
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    incomplete = entente("demo", "--data", str(tmp_path), "--dir", str(tmp_path / "demo"))
    assert incomplete.returncode == 3
    assert not (tmp_path / "demo").exists()
