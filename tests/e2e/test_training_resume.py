"""A run by hand, over processes with mutual TLS: a person approves it, the gateway is killed, and it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from federation.client.connection import Connection
from federation.core.clock import SystemClock
from federation.core.errors import EntenteError
from federation.core.identity import load_identity
from federation.v1 import training_pb2 as pb
from gateway.alliance import create_alliance
from gateway.demo.enrolling import free_ports
from gateway.demo.synthetic import make_alliance
from tests.kits.command import entente

ENTENTE = (sys.executable, "-c", "from gateway.cli import main; main()")
PARTNERS = ("bank", "insurer", "airline")
ROUNDS = 40
"""Enough that a run is in its midst when it is killed, and again when it is paused."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


class Tour:
    """The alliance of the README's tour, with a partner that approves by hand."""

    def __init__(self, base: Path) -> None:
        self.base, self.alliance, data = base, base / "alliance", base / "data"
        make_alliance(data, people=24_000, today=SystemClock().now())
        create_alliance(self.alliance, SystemClock(), port=free_ports())
        policy = self.alliance / "policies" / "training.yaml"
        limits = yaml.safe_load(policy.read_text())
        policy.write_text(yaml.safe_dump({**limits, "max_rounds": 1_000}))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.start_gateway()
        about = ("--phone-numbers", "possible", "--contact", "x@example.org", "--notice", "https://example.org/n")
        asking = []
        for party in PARTNERS:
            files = (str(self.alliance / "invitations" / f"{party}.yaml"), "--dir", str(base / party))
            command = ["partner", "enrol", *files, "--data", str(data / party), *about]
            asking.append(subprocess.Popen([*ENTENTE, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        ca = ("--ca", str(self.alliance / "ca"))
        wait_for(lambda: len(self.run("operator", "pending", party="operator")["requests"]) == len(PARTNERS), 60)
        self.run("operator", "approve", "--all", *ca, party="operator")
        assert [process.wait(60) for process in asking] == [0, 0, 0]
        file = base / "bank" / "partner.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "limits": {"training_approval": "manual"}}))
        for party in PARTNERS:
            self._start(party, "partner", "run", "--config", str(base / party))
        for party in PARTNERS:
            wait_for(lambda who=party: self.run("partner", "status", party=who)["gateway"].get("agent_connected"), 60)

    def config(self, party: str) -> Path:
        return self.base / party if party in PARTNERS else self.alliance / "people" / party

    def run(self, *words: str, party: str, code: int = 0) -> Any:
        done = entente(*words, "--config", str(self.config(party)), "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads((done.stdout or done.stderr).strip().splitlines()[-1])

    def start_gateway(self) -> None:
        self._start("gateway", "gateway", "serve", "--config", str(self.alliance / "gateway"))
        wait_for(lambda: self.listed() is not None, 60)

    def listed(self) -> list[pb.RunInfo] | None:
        """All runs by one call, or None where nobody answers."""
        folder = self.config("marketing")
        address = yaml.safe_load((folder / "client.yaml").read_text())["gateway"]
        with Connection(address, load_identity(folder / "identity")) as connection:
            try:
                connection.wait_ready(1)
                return list(connection.training.ListRuns(pb.ListRunsRequest(), timeout=5).runs)
            except (EntenteError, grpc.RpcError):
                return None

    def state(self) -> pb.RunInfo:
        runs = self.listed()
        assert runs
        return runs[0]

    def kill(self, name: str) -> None:
        os.kill(self._running[name].pid, signal.SIGKILL)
        self._running[name].wait()

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(30)

    def _start(self, name: str, *command: str) -> None:
        with (self.base / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen([*ENTENTE, *command], stdout=log, stderr=log)


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    tour = Tour(tmp_path_factory.mktemp("resume"))
    yield tour
    tour.stop()


def test_run_waits_for_a_person_survives_a_kill_and_a_pause_and_is_paid_truly(tour: Tour) -> None:
    words = ["train", "run", "--rounds", str(ROUNDS), "--model", "logistic_regression", "--key", "k1", "--json"]
    command = [*ENTENTE, *words, "--config", str(tour.config("marketing"))]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: tour.listed() and len(tour.state().decisions) == 2, 60)
    wait_for(lambda: tour.run("partner", "status", party="bank")["training_proposals"], 30)
    [waiting] = tour.run("partner", "status", party="bank")["training_proposals"]
    [listed] = tour.run("train", "list", party="bank")["runs"]
    assert (listed["run_id"], listed["state"], listed["waits_for"]) == (waiting["run_id"], "proposed", ["bank"])
    run_id = listed["run_id"]
    assert tour.run("train", "approve", run_id, party="bank")["state"] in ("approved", "running")

    wait_for(lambda: tour.state().rounds_done >= 3, 60)
    tour.kill("gateway")
    # The partner pauses itself while nobody can be told: its agent says so when the gateway takes the run up again.
    assert tour.run("train", "pause", run_id, party="insurer", code=4)["error"]["reason"] == "UNAVAILABLE"
    tour.start_gateway()
    wait_for(lambda: tour.state().state == pb.RUN_STATE_PAUSED, 60)
    paused = tour.state()
    assert (paused.run_id, [hold.party for hold in paused.holds]) == (run_id, ["insurer"])
    assert 3 <= paused.rounds_done < ROUNDS
    assert tour.run("train", "resume", run_id, party="marketing", code=3)["error"]["reason"] == "WRONG_STEP"
    assert tour.state().rounds_done == paused.rounds_done
    assert tour.run("train", "resume", run_id, party="insurer")["state"] == "running"

    out, err = following.communicate(timeout=120)
    assert following.returncode == 0, err
    assert json.loads(out) == {"run_id": run_id, "state": "finished"}
    card = tour.run("train", "show", run_id, party="marketing")["card"]
    paid = [entry["what"] for entry in tour.run("budget", "show", party="compliance")["entries"]]
    retries = [what for what in paid if what.startswith(f"run {run_id}, attempt ")]
    assert sorted(paid) == sorted([f"run {run_id}", *retries])
    assert card["attempts"] == card["rounds"] + len(retries)
    assert card["epsilon_per_person"] <= 2.0
    assert tour.run("audit", "verify", party="auditor")
    listed = tour.run("audit", "list", party="compliance")["entries"]
    assert {"training_proposed", "training_paused", "intent: model"} <= {line["kind"] for line in listed}


def test_proposal_is_refused_by_a_person_or_stopped_by_who_made_it(tour: Tour) -> None:
    first = tour.run("train", "propose", "--rounds", "5", "--model", "logistic_regression", party="marketing")
    assert (first["state"], first["started_at"]) == ("proposed", "")
    wait_for(lambda: len(tour.state().decisions) == 2, 30)
    refused = tour.run("train", "refuse", first["run_id"], "--reason", "not this month", party="bank")
    assert (refused["state"], refused["reason"]) == ("failed", "PROPOSAL_REFUSED: bank: not this month")
    second = tour.run("train", "propose", "--rounds", "6", "--model", "logistic_regression", party="marketing")
    assert tour.run("train", "stop", second["run_id"], party="operator")["state"] == "stopped"
    denied = tour.run("train", "stop", second["run_id"], party="bank", code=1)
    assert denied["error"]["reason"] == "ROLE_NOT_ALLOWED"
