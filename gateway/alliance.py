"""Makes an alliance folder: CA, gateway, identities for people, invitations for partners, and the policy files.

DIR/ca/                    the CA's key: the operator's, kept away from the gateway in real life
DIR/gateway/               gateway.yaml, its identity and state
DIR/people/<party>/        client.yaml and identity of each person: marketing, compliance officers, operator, auditor
DIR/invitations/<party>.yaml  what a partner needs to enrol, to be handed over in confidence
DIR/policies/              what compliance edits
"""

import re
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from federation.client.config import CLIENT_FILE_NAME
from federation.client.enrolment import LOG_KEY_FILE, Invitation
from federation.core.clock import Clock
from federation.core.database import open_database
from federation.core.errors import ConfigError, Reason
from federation.core.files import write_secret
from federation.core.identity import Role, Subject, load_identity, new_key, private_pem
from federation.core.ids import PartyId
from federation.policy.load import load_policy, parse_policy
from federation.policy.policy_set import PolicySet
from gateway.audit.key import make_log_key
from gateway.config import FILE_NAME, load_gateway_config
from gateway.identity.authority import Authority
from gateway.identity.registry import Registry
from gateway.policy.versions import SqlVersions

STATE_FILE = "gateway.db"
POLICY_FILE = "policy.db"


@dataclass(frozen=True)
class Created:
    """What ``create_alliance`` made."""

    alliance: str
    partners: tuple[str, ...]
    people: tuple[str, ...]
    policy_version: str


def shipped_policies() -> Path:
    """The policy files that come with the project: beside the packages in a checkout, inside them when installed."""
    checkout = Path(__file__).resolve().parent.parent / "policies"
    installed = Path(str(resources.files("gateway"))) / "shipped" / "policies"
    return checkout if checkout.is_dir() else installed


def create_alliance(
    folder: Path, clock: Clock, *, policies: Path | None = None, host: str = "127.0.0.1", port: int = 7443
) -> Created:
    """Makes the folder; it must not hold an alliance yet.

    Args:
        folder: Where. Made if it is not there.
        clock: Dates the certificates.
        policies: Policy files to copy; None takes the shipped set.
        host: Name or address by which partners reach the gateway.
        port: Port for mutual TLS; the next one is for enrolment.

    Raises:
        ConfigError: BAD_CONFIG when there is an alliance already.
        PolicyError: the policy files do not load.
    """
    if (folder / "ca").exists():
        fix = "Choose another folder, or remove this one if nobody uses it."
        raise ConfigError(Reason.BAD_CONFIG, item=f"{folder} already holds an alliance", fix=fix)
    source = policies or shipped_policies()
    policy = load_policy(source)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copytree(source, folder / "policies", dirs_exist_ok=True)
    if policies is None:
        policy = _bring_up_to_date(folder / "policies", policy, clock)
    # The CA comes into being under another name and is renamed last: its presence says that the folder is complete.
    scratch = folder / ".ca-unfinished"
    shutil.rmtree(scratch, ignore_errors=True)
    authority = Authority.create(policy.alliance, clock.now())
    authority.save(scratch)

    gateway_folder = folder / "gateway"
    hosts = tuple(dict.fromkeys((host, "localhost", "127.0.0.1")))
    gateway = Subject(policy.alliance, Role.GATEWAY, PartyId("gateway"))
    _write_identity(gateway_folder / "identity", authority, gateway, clock, hosts)
    make_log_key(gateway_folder / "state", f"{policy.alliance}-audit")
    log_vkey = (gateway_folder / "state" / LOG_KEY_FILE).read_text()
    address = f"{host}:{port}"
    config = {"listen": address, "listen_enrolment": f"{host}:{port + 1}", "policies": "../policies"}
    (gateway_folder / FILE_NAME).write_text(yaml.safe_dump(config, sort_keys=False))

    registry = Registry(
        open_database(gateway_folder / "state" / STATE_FILE), policy.alliance, authority.certificate, clock
    )
    partners, people = [], []
    for party in policy.parties.values():
        if party.role == "partner":
            _invitation(folder, party.id, policy.alliance, clock).save(folder / "invitations" / f"{party.id}.yaml")
            partners.append(party.id)
        else:
            person = folder / "people" / party.id
            subject = Subject(policy.alliance, Role(party.role), PartyId(party.id))
            registry.know(_write_identity(person / "identity", authority, subject, clock))
            (person / "identity" / LOG_KEY_FILE).write_text(log_vkey)
            (person / CLIENT_FILE_NAME).write_text(yaml.safe_dump({"gateway": address}))
            people.append(party.id)
    scratch.rename(folder / "ca")
    return Created(policy.alliance, tuple(partners), tuple(people), policy.version)


def _bring_up_to_date(folder: Path, policy: PolicySet, clock: Clock) -> PolicySet:
    """Moves every date of the shipped example by whole years, so that its budget period is the current one."""
    start, today = policy.budget.period_start, clock.now().date()
    years = today.year - start.year - ((today.month, today.day) < (start.month, start.day))
    if years <= 0:
        return policy
    for file in folder.glob("*.yaml"):
        text = re.sub(r"\b(20\d\d)(-\d\d-\d\d)\b", lambda date: f"{int(date[1]) + years}{date[2]}", file.read_text())
        file.write_text(text)
    return load_policy(folder)


def invite_party(folder: Path, party: str, clock: Clock) -> Invitation:
    """A new invitation for a partner or person of the agreement in force, on the gateway's machine.

    Raises:
        ConfigError: BAD_FIELD for a party that the agreement does not name; MISSING_FILE.
    """
    policy = _policy_in_force(folder)
    spec = policy.parties.get(party)
    if spec is None:
        raise ConfigError(Reason.BAD_FIELD, item=f"party {party!r} is not named by the agreement in force")
    return _invitation(folder, party, policy.alliance, clock, Role(spec.role))


def renew_gateway(folder: Path, authority: Authority, clock: Clock) -> Path:
    """A longer valid certificate for the gateway's key and names; its file, which a gateway reads when it starts.

    Raises:
        ConfigError: MISSING_FILE, BAD_CONFIG.
    """
    identity = load_identity(load_gateway_config(folder).identity)
    names = x509.load_pem_x509_certificate(identity.certificate_pem).extensions
    reached = names.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = (*reached.get_values_for_type(x509.DNSName), *map(str, reached.get_values_for_type(x509.IPAddress)))
    path = load_gateway_config(folder).identity / "certificate.pem"
    write_secret(path, authority.issue(identity.key.public_key(), identity.subject, clock.now(), hosts))
    return path


def _policy_in_force(folder: Path) -> PolicySet:
    """What the gateway has in force; before its first start, what it will start with."""
    config = load_gateway_config(folder / "gateway")
    file = config.state / POLICY_FILE
    if file.exists():
        versions = SqlVersions(open_database(file))
        latest = versions.latest()
        files = None if latest is None else versions.files(latest.version)
        if files is not None:
            return parse_policy(files)
    return load_policy(config.policies)


def _invitation(folder: Path, party: str, alliance: str, clock: Clock, role: Role = Role.PARTNER) -> Invitation:
    config = load_gateway_config(folder / "gateway")
    ca = load_identity(config.identity).ca
    registry = Registry(open_database(config.state / STATE_FILE), alliance, ca, clock)
    return Invitation(
        alliance=alliance,
        party=party,
        role=role,
        gateway=config.listen,
        enrolment=config.listen_enrolment,
        code=registry.invite(PartyId(party), role),
        ca_pem=ca.public_bytes(serialization.Encoding.PEM).decode(),
        log_vkey=(config.state / LOG_KEY_FILE).read_text(),
    )


def _write_identity(
    folder: Path, authority: Authority, subject: Subject, clock: Clock, hosts: tuple[str, ...] = ()
) -> bytes:
    """Writes a new key, its certificate and the CA's; returns the certificate."""
    key = new_key()
    pem = authority.issue(key.public_key(), subject, clock.now(), hosts)
    write_secret(folder / "key.pem", private_pem(key))
    write_secret(folder / "certificate.pem", pem)
    write_secret(folder / "ca.pem", authority.pem)
    return pem
