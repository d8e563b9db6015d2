"""The first step: an alliance folder, a running gateway, and three partners with certificates and agents."""

import json
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from federation.core.errors import EntenteError, Reason
from federation.policy.load import load_policy
from gateway.demo.processes import ENTENTE, run_command
from gateway.demo.record import Partner, Story
from gateway.demo.stage import PARTNERS, Stage

ENROL_S = 60


def enrol(stage: Stage) -> tuple[Story, str]:
    """Makes the alliance, enrols the partners, starts the agents."""
    # Loaded here, because a demonstration that goes on with a later step needs neither.
    from gateway.alliance import create_alliance  # noqa: PLC0415
    from gateway.demo.synthetic import make_alliance  # noqa: PLC0415

    if stage.story.synthetic and not (stage.data / "truth.json").exists():
        stage.show("making a synthetic alliance", 0, 5)
        scratch = stage.data.with_name("data.unfinished")
        shutil.rmtree(scratch, ignore_errors=True)
        make_alliance(scratch, today=stage.clock.now())
        scratch.rename(stage.data)
    if not (stage.alliance / "ca").exists():
        shutil.rmtree(stage.alliance, ignore_errors=True)
        create_alliance(stage.alliance, stage.clock, port=free_ports())
    _judge_models_on(stage.alliance / "gateway" / "gateway.yaml", stage.data / "test.csv")
    stage.show("starting the gateway", 1, 5)
    stage.ensure_gateway()
    stage.show("keys, requests, certificates", 2, 5)
    asked = {party: _ask(stage, party) for party in PARTNERS}
    # Each party reads its request's id out to the operator, who signs exactly these.
    waiting = [line["waiting"] for line in (_first_line(process) for process in asked.values()) if "waiting" in line]
    if waiting:
        operator = ("--config", str(stage.person("operator")), "--ca", str(stage.alliance / "ca"))
        run_command("operator", "approve", *waiting, *operator)
    for party, process in asked.items():
        if process.wait(ENROL_S):
            text = process.stderr.read()[-500:] if process.stderr else ""
            raise EntenteError(Reason.INTERNAL, item=f"enrolment of {party}", detail=text)
    stage.show("starting the agents", 3, 5)
    stage.ensure_running()
    policy = load_policy(stage.alliance / "policies")
    partners = tuple(
        Partner(party, policy.parties[party].display_name, policy.parties[party].country, _rows(stage, party), 0, 0)
        for party in PARTNERS
    )
    story = replace(stage.story, alliance=policy.alliance, partners=partners, policy_version=policy.version)
    return story, f"{', '.join(PARTNERS)}: certificates signed by the alliance CA, agents connected over mutual TLS."


def _judge_models_on(config_file: Path, test_file: Path) -> None:
    settings = yaml.safe_load(config_file.read_text())
    if test_file.exists() and settings.get("evaluation_csv") != str(test_file):
        config_file.write_text(yaml.safe_dump({**settings, "evaluation_csv": str(test_file)}, sort_keys=False))


def _ask(stage: Stage, party: str) -> "subprocess.Popen[str]":
    invitation = stage.alliance / "invitations" / f"{party}.yaml"
    folders = ("--dir", str(stage.partner(party)), "--data", str(stage.data / party))
    terms = ("--contact", f"privacy@{party}.example", "--notice", f"https://{party}.example/privacy")
    options = (*terms, "--wait", str(ENROL_S), "--phone-numbers", "possible")
    command = ("partner", "enrol", str(invitation), *folders, *options)
    return subprocess.Popen(
        [*ENTENTE, *command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def _first_line(process: "subprocess.Popen[str]") -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout else ""
    try:
        value: dict[str, Any] = json.loads(line)
    except ValueError as exc:
        text = process.stderr.read()[-500:] if process.stderr else ""
        raise EntenteError(Reason.INTERNAL, item="partner enrol", detail=text) from exc
    return value


def _rows(stage: Stage, party: str) -> int:
    with (stage.data / party / "customers.csv").open("rb") as file:
        return sum(1 for _ in file) - 1


def free_ports() -> int:
    """A port such that it and the next one are free now."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
