"""Three partners on synthetic rows, and a stock SuperLink with SuperNodes: real processes, TLS and node keys."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.client.enrolment import starting_terms
from federation.core.clock import SystemClock
from federation.core.identity import Role, Subject, new_key, private_pem
from federation.core.ids import PartyId
from federation.policy.load import load_policy
from federation.training.stock.bundle import write_bundle
from federation.training.stock.server_app import HOME_VARIABLE
from federation.v1 import training_pb2 as pb
from gateway.alliance import create_alliance
from gateway.demo.synthetic import make_alliance
from gateway.identity.authority import Authority
from gateway.training.proposals import TrainingRules, complete

BIN = Path(sys.executable).parent
PARTNERS = ("bank", "insurer", "airline")
MODEL = "logistic_regression"
START_S = 90.0
RUN_S = 400.0
LOOK_S = 15.0
"""A look at a run is a process of its own, so it is seldom."""
ROUND_TIMEOUT_S = 120.0


@dataclass
class Site:
    """An alliance and its partners' folders, each with data, identity and policy."""

    folder: Path
    data: Path

    @property
    def alliance(self) -> Path:
        return self.folder / "alliance"

    def partner(self, party: str) -> Path:
        return self.folder / party

    def propose(self, run_id: str, **fields: Any) -> pb.TrainingProposal:
        """A complete proposal under the shipped policy, without the rounds that judge a model."""
        policy = load_policy(self.alliance / "policies")
        spec = policy.training.model_copy(update={"judging": None})
        rules = TrainingRules(spec, policy.budget.delta, PARTNERS)
        filled = complete(pb.TrainingProposal(**{"model": MODEL, **fields}), rules, frozenset(PARTNERS))
        filled.run_id = run_id
        return filled


def make_site(folder: Path, *, people: int = 6_000, data: Path | None = None, port: int = 7443) -> Site:
    """Partners whose certificates the alliance's CA issued, as after enrolment."""
    clock = SystemClock()
    site = Site(folder, data or folder / "data")
    if data is None:
        make_alliance(site.data, people=people, today=clock.now())
    made = create_alliance(site.alliance, clock, port=port)
    authority, policy = Authority.load(site.alliance / "ca"), load_policy(site.alliance / "policies")
    for party in PARTNERS:
        subject, key = Subject(made.alliance, Role.PARTNER, PartyId(party)), new_key()
        home = site.partner(party) / "identity"
        home.mkdir(parents=True)
        (home / "key.pem").write_bytes(private_pem(key))
        (home / "certificate.pem").write_bytes(authority.issue(key.public_key(), subject, clock.now()))
        (home / "ca.pem").write_bytes(authority.certificate.public_bytes(pem.Encoding.PEM))
        terms = starting_terms(policy.parties[party], policy.countries["gateway"], "a@b.example", "https://b.example")
        files = {name: str(site.data / party / f"{name}.csv") for name in ("customers", "consents", "holdings")}
        settings = {
            "party": party,
            "gateway": f"127.0.0.1:{port}",
            "policy": str(site.alliance / "policies"),
            "data": {**files, "phone_numbers": "possible"},
            "consent": terms.model_dump(mode="json"),
        }
        (site.partner(party) / "partner.yaml").write_text(yaml.safe_dump(settings))
    return site


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class SuperLink:
    """A stock SuperLink and the partners' SuperNodes, as their commands start them."""

    def __init__(
        self, site: Site, folder: Path, env: Mapping[str, str] | None = None, *, own_runners: Sequence[str] = ()
    ) -> None:
        self._own_runners = own_runners
        self.site, self.folder, self.port, self._env = site, folder, free_port(), dict(env or {})
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        (self.home / "ca.pem").write_bytes((site.partner(PARTNERS[0]) / "identity" / "ca.pem").read_bytes())
        self._flwr = folder / "flwr"
        self._flwr.mkdir()
        tls = f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{folder / "tls" / "ca.pem"}"\n'
        (self._flwr / "config.toml").write_text(f'[superlink]\ndefault = "alliance"\n\n[superlink.alliance]\n{tls}')
        self._write_tls()
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """Flower is silent and keeps to our folder."""
        ours = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(self._flwr)}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **ours, "PATH": path, HOME_VARIABLE: str(self.home), **self._env}

    def start(self) -> None:
        """Starts everything; nodes are registered by their public keys before they connect."""
        tls = self.folder / "tls"
        certificates = [f"--ssl-{kind}file={tls / name}" for kind, name in _TLS_FILES.items()]
        options = ["--host=127.0.0.1", f"--port={self.port}", "--enable-supernode-auth"]
        self._popen("flower-superlink", *options, *certificates, "--disable-runtime-dependency-installation")
        self.wait_log("flower-superlink", "Application startup complete")
        for party in PARTNERS:
            key = ec.generate_private_key(ec.SECP384R1())
            secret, public = tls / f"{party}.key", tls / f"{party}.pub"
            openssh = pem.PrivateFormat.OpenSSH
            secret.write_bytes(key.private_bytes(pem.Encoding.PEM, openssh, pem.NoEncryption()))
            public.write_bytes(key.public_key().public_bytes(pem.Encoding.OpenSSH, pem.PublicFormat.OpenSSH))
            self.flwr("supernode", "register", str(public))
            self.start_node(party)

    def start_node(self, party: str) -> None:
        """The partner's SuperNode; beside it, where asked for, our runner instead of Flower's own processes."""
        own, home = party in self._own_runners, {"FLWR_HOME": str(self.unpacked(party).parent)}
        tls, config, runtime = self.folder / "tls", self.site.partner(party) / "partner.yaml", free_port()
        self._popen(
            "flower-supernode",
            f"--superlink=127.0.0.1:{self.port}",
            f"--root-certificates={tls / 'ca.pem'}",
            f"--auth-supernode-private-key={tls / f'{party}.key'}",
            "--host=127.0.0.1",
            f"--port={runtime}",
            f'--node-config=partner="{config}"',
            f"--isolation={'process' if own else 'subprocess'}",
            log=f"supernode-{party}",
            env=home,
        )
        if own:
            options = (f"--config={config}", f"--runtime=127.0.0.1:{runtime}")
            self._popen("entente", "partner", "supernode", *options, log=f"runner-{party}", env=home)

    def unpacked(self, party: str) -> Path:
        """Where Flower unpacks bundles at a partner."""
        return self.folder / f"flwr-{party}" / "apps"

    def run(self, proposal: pb.TrainingProposal) -> float:
        """Runs a proposal to its end; the seconds from ``flwr run`` to the model."""
        start = time.monotonic()
        run, model, looked = self._start(proposal), self.model(proposal.run_id), start
        while not model.exists():
            now = time.monotonic()
            if now - looked > LOOK_S and (looked := now) and (ended := self._ended(run)) and not model.exists():
                raise AssertionError(f"{ended}\n{self.logs()}")
            if now - start > RUN_S:
                raise AssertionError(f"no model in time\n{self.logs()}")
            time.sleep(0.1)
        return time.monotonic() - start

    def run_refused(self, proposal: pb.TrainingProposal) -> str:
        """Runs a proposal that fails; what Flower says of it."""
        run, deadline = self._start(proposal), time.monotonic() + RUN_S
        while not (details := self._ended(run)):
            if time.monotonic() > deadline:
                raise AssertionError(f"no end in time\n{self.logs()}")
            time.sleep(1)
        return details

    def _start(self, proposal: pb.TrainingProposal) -> str:
        """Flower's number of the run."""
        bundle = self.folder / "bundles" / proposal.run_id
        write_bundle(bundle, proposal, ROUND_TIMEOUT_S)
        started = json.loads(self.flwr("run", str(bundle), "--format", "json"))
        return str(started["run-id"])

    def _ended(self, run: str) -> str:
        """How a run ended, empty while it runs."""
        listed = json.loads(self.flwr("list", "--run-id", run, "--format", "json"))["runs"][0]
        return f"{listed['status']}: {listed['status-details']}" if listed["status"].startswith("finished") else ""

    def model(self, run_id: str) -> Path:
        return self.home / "models" / f"{run_id}.safetensors"

    def flwr(self, *arguments: str) -> str:
        """A command of Flower's. Raises AssertionError with what it said."""
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            check=False,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """Every process that was started for this SuperLink, however far removed."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(HOME_VARIABLE) == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self, timeout_s: float = 20.0) -> list[str]:
        """Asks all to end as an operator would (SIGTERM); names what is left of them after a while, and ends it."""
        for process in reversed(self._started):
            process.terminate()
        deadline = time.monotonic() + timeout_s
        for process in self._started:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = [" ".join(process.cmdline()) for process in left]
        for process in left:
            process.kill()
        return names

    def logs(self) -> str:
        """The end of every log."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self.folder.glob("*.log")))

    def wait_log(self, name: str, text: str) -> None:
        path, deadline = self.folder / f"{name}.log", time.monotonic() + START_S
        while not re.search(text, path.read_text(errors="replace")):
            if self._started[-1].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.logs())
            time.sleep(0.1)

    def _popen(self, command: str, *arguments: str, log: str = "", env: Mapping[str, str] | None = None) -> None:
        with (self.folder / f"{log or command}.log").open("wb") as sink:
            self._started.append(
                subprocess.Popen(
                    [str(BIN / command), *arguments],
                    env={**self.environment, **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                )
            )

    def _write_tls(self) -> None:
        """A certificate authority of the SuperLink's own, and its certificate for 127.0.0.1."""
        folder, now = self.folder / "tls", SystemClock().now()
        folder.mkdir()
        keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server")}
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink test CA")])
        for name, authority in (("ca", True), ("server", False)):
            subject = issuer if authority else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
            builder = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(issuer)
                .public_key(keys[name].public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - timedelta(minutes=5))
                .not_valid_after(now + timedelta(days=1))
                .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[name].public_key()), critical=False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["ca"].public_key()), critical=False
                )
            )
            if authority:
                usage = dict.fromkeys(_KEY_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
                builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
            else:
                names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
                builder = builder.add_extension(names, critical=False)
            certificate = builder.sign(keys["ca"], hashes.SHA256())
            (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem.Encoding.PEM))
        (folder / "server.key").write_bytes(private_pem(keys["server"]))


_TLS_FILES = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@contextmanager
def superlink(site: Site, folder: Path) -> Iterator[SuperLink]:
    """A SuperLink that is up, its nodes on their way; everything is ended afterwards."""
    link = SuperLink(site, folder)
    with ExitStack() as stack:
        stack.callback(link.stop)
        link.start()
        yield link
