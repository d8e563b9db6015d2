"""An alliance of processes for the benchmark: one gateway, one agent a partner, mutual TLS, invented people.

Everything is as in production: policy files, enrolment, consents, certificates, state on disk. What is invented: the
people, who all agreed to statistics and, where nothing else is said, not to offers (so the switchboard stays empty).
"""

import contextlib
import csv
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import yaml

from federation.cli.console import connect
from federation.core.clock import SystemClock, to_text
from federation.v1 import enrolment_pb2
from federation.v1 import overlap_pb2 as pb
from gateway.alliance import create_alliance
from gateway.demo.enrolling import free_ports
from gateway.demo.processes import ENTENTE, Processes, run_command
from tests.bench.overlap_people import email_of, people_of

ENROL_S = 60
CUBE = "count"
COLUMNS = {"bank": "value_tier", "insurer": "life_stage", "airline": "activity"}
"""A column of each partner by which the shipped policy lets people be labelled."""


@dataclass(frozen=True)
class Build:
    """One epoch, from the operator's call to marketing's answer."""

    wall_s: float
    index_s: float
    noisy: int  # people at all partners
    agent: "Memory"  # of the largest
    gateway: "Memory"


@dataclass
class Memory:
    """The most that a process took, in MiB."""

    resident: float = 0.0
    """With pages of its files that it has looked at, which the kernel takes back where memory is short."""
    private: float = 0.0
    """Of that, what is nowhere else."""


class Watch(threading.Thread):
    """Looks at the memory of all processes below a folder until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._stop_it = folder, threading.Event()
        self.seen: dict[str, Memory] = {}

    def run(self) -> None:
        """Looks twenty times a second; the kernel itself keeps the largest resident size."""
        while not self._stop_it.wait(0.05):
            for file in (self._folder / "run").glob("*.pid"):
                with contextlib.suppress(OSError, ValueError):
                    status = Path(f"/proc/{int(file.read_text())}/status").read_text()
                    sizes = {
                        line.split()[0]: int(line.split()[1]) / 1024 for line in status.splitlines() if " kB" in line
                    }
                    most = self.seen.setdefault(file.stem, Memory())
                    most.resident = max(most.resident, sizes.get("VmHWM:", 0.0))
                    most.private = max(most.private, sizes.get("RssAnon:", 0.0))

    def stop(self) -> dict[str, Memory]:
        """The most of each process, by name."""
        self._stop_it.set()
        self.join()
        return self.seen


def build_once(folder: Path, partners: Sequence[str], people: int, labels: int = 1, *, offers: bool = False) -> Build:
    """Makes an alliance, builds one epoch over ``people`` customers a partner, asks for the noisy count.

    With more than one label customers take turns with so many but one, which is for those without. With offers, every
    second customer agreed to them, and so is on the switchboard.
    """
    clock = SystemClock()
    alliance = folder / "alliance"
    create_alliance(alliance, clock, port=free_ports())
    _restrict(alliance / "policies", partners, labels)
    for place, party in enumerate(partners):
        _write_files(folder / "data" / party, place, people, clock, labels, offers=offers)
    processes = Processes(folder)
    try:
        with _running(processes, folder, partners):
            watch = Watch(folder)
            watch.start()
            started = time.perf_counter()
            with connect(alliance / "people" / "operator") as operator:
                for message in operator.overlap.BuildIndex(pb.BuildIndexRequest()):
                    epoch, complete = message.epoch, message.complete
            if not complete:
                raise SystemExit("the epoch did not complete")
            indexed = time.perf_counter()
            with connect(alliance / "people" / "marketing") as marketing:
                answer = marketing.overlap.QueryCube(pb.QueryCubeRequest(cube=CUBE, epoch=epoch))
            done = time.perf_counter()
            peaks = watch.stop()
    finally:
        processes.stop()
    [noisy] = [cell.count for cell in answer.cells if len(cell.members) == len(partners)]
    agents = [peaks[party] for party in partners]
    largest = Memory(max(agent.resident for agent in agents), max(agent.private for agent in agents))
    return Build(done - started, indexed - started, noisy, largest, peaks["gateway"])


@contextlib.contextmanager
def _running(processes: Processes, folder: Path, partners: Sequence[str]) -> Iterator[None]:
    """The gateway and an enrolled, connected agent for every partner."""
    alliance = folder / "alliance"
    gateway = alliance / "gateway"
    listen = str(yaml.safe_load((gateway / "gateway.yaml").read_text())["listen"])
    processes.ensure("gateway", ("gateway", "serve", "--config", str(gateway)), lambda: _listens(listen))
    _enrol(folder, partners)
    for party in partners:
        processes.ensure(party, ("partner", "run", "--config", str(folder / party)), lambda: True)
    with connect(alliance / "people" / "operator") as operator:
        deadline = time.monotonic() + ENROL_S
        while set(operator.enrolment.WhoAmI(enrolment_pb2.WhoAmIRequest()).connected_partners) != set(partners):
            if time.monotonic() > deadline:
                raise SystemExit(f"the agents did not connect; see {folder / 'logs'}")
            time.sleep(0.1)
    yield


def _enrol(folder: Path, partners: Sequence[str]) -> None:
    alliance = folder / "alliance"
    asked = []
    for party in partners:
        where = ("--dir", str(folder / party), "--data", str(folder / "data" / party))
        told = ("--contact", "privacy@example.com", "--notice", "https://example.com/privacy")
        command = ("partner", "enrol", str(alliance / "invitations" / f"{party}.yaml"), *where, *told, "--json")
        asked.append(
            subprocess.Popen(
                [*ENTENTE, *command, "--wait", str(ENROL_S)],
                stdout=subprocess.PIPE,
                stderr=sys.stderr,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        )
    waiting = [json.loads(process.stdout.readline())["waiting"] for process in asked if process.stdout]
    operator = ("--config", str(alliance / "people" / "operator"), "--ca", str(alliance / "ca"))
    run_command("operator", "approve", *waiting, *operator)
    for process in asked:
        if process.wait(ENROL_S):
            raise SystemExit("an enrolment failed")


def _restrict(policies: Path, partners: Sequence[str], labels: int = 1) -> None:
    """The shipped policy with these partners only, their labels, and one table: who has whom in common."""
    file = policies / "agreement.yaml"
    agreement = yaml.safe_load(file.read_text())
    gone = {p["id"] for p in agreement["parties"] if p["role"] == "partner"}.difference(partners)
    agreement["parties"] = [p for p in agreement["parties"] if p["id"] not in gone]
    agreement["sharing"] = [c for c in agreement["sharing"] if gone.isdisjoint((*c["origin"], *c["recipient"]))]
    for party in agreement["parties"]:
        segments = party.pop("segments", None)
        if segments and labels > 1:
            party["segments"] = {COLUMNS[party["id"]]: [f"t{number}" for number in range(labels - 1)]}
    file.write_text(yaml.safe_dump(agreement, sort_keys=False))
    file = policies / "offers.yaml"
    offers = yaml.safe_load(file.read_text())
    offers["products"] = [product for product in offers["products"] if product["owner"] in partners]
    file.write_text(yaml.safe_dump(offers, sort_keys=False))
    cube = {"name": CUBE, "partners": list(partners), "epsilon": 0.5, "min_count": 20}
    (policies / "cubes.yaml").write_text(yaml.safe_dump({"cubes": [cube]}, sort_keys=False))


def _write_files(
    folder: Path, place: int, people: int, clock: SystemClock, labels: int = 1, *, offers: bool = False
) -> None:
    folder.mkdir(parents=True)
    now = clock.now()
    given, expires = to_text(now - timedelta(days=30)), to_text(now + timedelta(days=700))
    with (
        (folder / "customers.csv").open("w", newline="") as customers,
        (folder / "consents.csv").open("w", newline="") as consents,
    ):
        rows, records = csv.writer(customers), csv.writer(consents)
        rows.writerow(("customer_id", "email", "phone", "region", *([COLUMNS[folder.name]] if labels > 1 else [])))
        records.writerow(
            (
                *("record_id", "customer_id", "purpose", "status", "recipients", "given_at", "expires_at"),
                *("separate_consent", "cross_border_consent", "jurisdiction"),
            )
        )
        for number, person in enumerate(people_of(place, people)):
            name = f"C{number:08d}"
            label = [f"t{number % (labels - 1)}"] if labels > 1 else []
            rows.writerow((name, email_of(person), "", "PT", *label))
            recipients = "bank insurer airline gateway"
            for purpose in ("overlap_statistics", "offer_sharing")[: 1 + (offers and number % 2)]:
                records.writerow((f"r{number}", name, purpose, "given", recipients, given, expires, 1, 1, "GDPR"))
    (folder / "holdings.csv").write_text("customer_id,product\n")


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
