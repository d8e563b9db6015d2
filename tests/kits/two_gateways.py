"""Two gateway processes on one state folder, over real mutual TLS on loopback, with people on the switchboard."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from federation.client.connection import Connection
from federation.core.clock import SystemClock, to_text
from federation.core.database import open_database
from federation.core.identity import Identity, Role, Subject, load_identity, new_key
from federation.core.ids import HANDLE_BYTES, Handle, PartyId
from federation.v1 import consent_pb2, offers_pb2, overlap_pb2
from gateway.alliance import create_alliance
from gateway.identity.authority import Authority
from gateway.overlap.duck import DuckFiles
from gateway.overlap.epochs_sql import SqlEpochs
from gateway.overlap.switchboard import HandleBatch, Switchboard

ENTENTE = (sys.executable, "-c", "from gateway.cli import main; main()")
PARTNERS = ("bank", "insurer", "airline")
START_S = 60.0


def handle(party: str, person: int) -> Handle:
    return Handle(party.encode().ljust(HANDLE_BYTES - 4, b".") + person.to_bytes(4, "big"))


@dataclass
class Pair:
    """An alliance folder and its two gateways."""

    folder: Path
    processes: list[subprocess.Popen[bytes]]
    ports: list[int]
    identities: dict[str, Identity]

    def connect(self, party: str, which: int) -> Connection:
        connection = Connection(f"127.0.0.1:{self.ports[which]}", self.identities[party])
        connection.wait_ready(20)
        return connection

    def kill(self, which: int) -> None:
        self.processes[which].send_signal(signal.SIGKILL)
        self.processes[which].wait(20)

    def restart(self, which: int) -> None:
        self.processes[which], self.ports[which] = _start(self.folder / f"gateway{which}")


def state_of(party: str, person: int, now: datetime, status: str = "given") -> consent_pb2.ConsentState:
    return consent_pb2.ConsentState(
        handle=handle(party, person),
        purpose="offer_sharing",
        status=status,
        recipients=PARTNERS,
        given_at=to_text(now - timedelta(days=1)),
        expires_at=to_text(now + timedelta(days=300)),
        separate_consent=True,
        cross_border_consent=True,
        jurisdiction="GDPR",
        region="PT",
    )


def offer(party: str, person: int, now: datetime, name: str = "", product: str = "home") -> offers_pb2.Offer:
    return offers_pb2.Offer(
        offer_id=name or f"{party}-{person}",
        handle=handle(party, person),
        product=product,
        recipient="insurer",
        channel="app",
        score_band="top5",
        purpose="offer_sharing",
        benefit="The first month is free.",
        expires_at=to_text(now + timedelta(days=20)),
    )


@contextmanager
def two_gateways(folder: Path, people: int) -> Iterator[Pair]:
    """Both serve; ``people`` customers of all three partners agreed to offers."""
    clock = SystemClock()
    create_alliance(folder, clock)
    authority = Authority.load(folder / "ca")
    identities = {}
    for party in PARTNERS:
        subject = Subject(load_identity(folder / "gateway" / "identity").subject.alliance, Role.PARTNER, PartyId(party))
        key = new_key()
        certificate = authority.issue(key.public_key(), subject, clock.now())
        identities[party] = Identity(subject, key, certificate, authority.certificate)
    for role in ("operator", "compliance"):
        identities[role] = load_identity(folder / "people" / role / "identity")
    overlap = folder / "gateway" / "state" / "overlap"
    epochs = SqlEpochs(open_database(overlap / "overlap.db"))
    board = Switchboard(overlap / "switchboard", DuckFiles(overlap / "index"), epochs.newest_complete)
    tokens = b"".join(b"\1" + person.to_bytes(31, "big") for person in range(people))
    board.build(
        "test.1", [HandleBatch(PartyId(p), [(tokens, b"".join(handle(p, n) for n in range(people)))]) for p in PARTNERS]
    )
    epochs.create(overlap_pb2.EpochPlan(epoch="test.1"), {}, clock.now())
    epochs.complete("test.1", clock.now())
    shared = {"identity": "../gateway/identity", "state": "../gateway/state", "policies": "../policies"}
    with ExitStack() as stack:
        processes, ports = [], []
        for which in range(2):
            home = folder / f"gateway{which}"
            home.mkdir()
            listen = {"listen": "127.0.0.1:0", "listen_enrolment": "127.0.0.1:0"}
            (home / "gateway.yaml").write_text(yaml.safe_dump({**listen, **shared}))
            process, port = _start(home)
            processes.append(process)
            ports.append(port)
        pair = Pair(folder, processes, ports, identities)
        stack.callback(_stop, pair)
        now = clock.now()
        for party in PARTNERS:
            with pair.connect(party, 0) as connection:
                for start in range(0, people, 5_000):
                    states = [state_of(party, n, now) for n in range(start, min(people, start + 5_000))]
                    connection.consent.RecordConsents(consent_pb2.RecordConsentsRequest(states=states), timeout=60)
        yield pair


def _start(home: Path) -> tuple[subprocess.Popen[bytes], int]:
    log = home / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen([*ENTENTE, "gateway", "serve", "--config", str(home)], stdout=sink, stderr=sink)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for line in log.read_text(errors="replace").splitlines():
            if "serving" in line and (found := re.search(r"\bport\W+(\d+)", _plain(line))):
                return process, int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError(f"the gateway did not start: {log.read_text(errors='replace')[-2000:]}")


def _plain(line: str) -> str:
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return json.dumps(json.loads(line)) if line.startswith("{") else line


def _stop(pair: Pair) -> None:
    for process in pair.processes:
        if process.poll() is None:
            process.terminate()
    for process in pair.processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
