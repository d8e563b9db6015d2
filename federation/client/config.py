"""A partner's configuration: one YAML file, ``partner.yaml``; unknown keys are refused, secrets are given by path."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.consent.terms import ConsentTerms
from federation.core.errors import ConfigError, Reason
from federation.core.nearest import unknown_key

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-\[\]:]+:\d{1,5}$")]
FILE_NAME = "partner.yaml"
CLIENT_FILE_NAME = "client.yaml"
MAX_CONFIG_BYTES = 1 << 20


class Section(BaseModel):
    """Base of every part of a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Section)


class Columns(Section):
    """What the partner's columns are called."""

    id: str = "customer_id"
    email: str = "email"
    phone: str = "phone"
    national_id: str = "national_id"
    region: str = "region"
    yearly_value: str = "yearly_value_eur"
    """In the holdings: what the product brings in a year."""


class DataConfig(Section):
    """Where the partner's own files are. Paths are relative to the configuration file."""

    customers: Path = Path("customers.csv")
    consents: Path = Path("consents.csv")
    holdings: Path = Path("holdings.csv")
    columns: Columns = Columns()
    phone_region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "US"
    phone_numbers: Literal["valid", "possible"] = "valid"
    """"possible" also takes numbers of the right length that nobody was assigned; for test data."""
    max_empty_share: float = Field(default=0.5, ge=0, le=1)
    """An identifier column emptier than this is refused: it is more likely a wrong file than a fact."""
    max_shrink_share: float = Field(default=0.2, ge=0, le=1)
    """A delta that takes away a larger share of the partner's people is refused; see ``overlap.shrink``."""


class StandingRule(Section):
    """What the agent may approve without asking a person; None: whatever the other limits allow."""

    max_epsilon: float | None = Field(default=None, gt=0)
    """Of a run, for a person who may be a customer of every partner."""
    models: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None


class Limits(Section):
    """What the partner allows, whatever the gateway asks."""

    epsilon_per_customer: float = Field(default=4.0, gt=0)
    """Training privacy loss of one customer at this partner, over all runs ever, at ``delta``."""
    delta: float = Field(default=1e-6, gt=0, le=1e-4)
    """At which epsilons are stated; a run may not state its own at a larger one, where they look smaller."""
    max_epsilon_per_run: float = Field(default=3.0, gt=0)
    features: tuple[str, ...] | None = None
    """Columns a model may use; None: those of the partner's own policy."""
    models: tuple[str, ...] | None = None
    """Kinds of models that may be trained; None: those of the partner's own policy."""
    training_approval: Literal["automatic", "manual"] = "automatic"
    """manual: every training run waits for ``entente train approve`` here. automatic: only one beyond the next."""
    automatic_within: StandingRule = StandingRule()
    max_rows_blinded_per_epoch: int = Field(default=100_000_000, gt=0)
    """Of each other partner, over all of its batches that this one blinds in one epoch: best, a little more than the
    largest of them has customers times two. It bounds the guesses that a gateway and that partner can test together."""
    max_epochs_per_day: int = Field(default=24, gt=0)
    """Overlap epochs that this partner takes part in, in any 24 hours: every one is a quota of its own."""
    key_types: tuple[Literal["email", "phone", "national_id"], ...] | None = None
    """Kinds of identifier that this partner's rows may be sent by, blinded; None: all."""


class PartnerConfig(Section):
    """Everything the agent needs to know."""

    party: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    gateway: Address
    identity: Path = Path("identity")
    state: Path = Path("state")
    policy: Path = Path("policies")
    data: DataConfig = DataConfig()
    limits: Limits = Limits()
    consent: ConsentTerms | None = None
    """What every consent record needs beside its row; without it records are incomplete, and no consent counts."""


class ClientConfig(Section):
    """What a person of the alliance (marketing, compliance, operator, auditor) needs to call the gateway."""

    gateway: Address
    identity: Path = Path("identity")
    state: Path = Path("state")


def _resolve(value: Any, base: Path) -> Any:
    """The same tree with every path made absolute against ``base``."""
    if isinstance(value, Path):
        return (base / value).absolute()
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: _resolve(getattr(value, name), base) for name in type(value).model_fields}
        )
    return value


def load_partner_config(path: Path) -> PartnerConfig:
    """Reads ``partner.yaml`` (or a folder that holds it); paths come back absolute. Raises ConfigError."""
    return load_section(PartnerConfig, path, FILE_NAME, "Make a partner folder with: entente partner enrol.")


def load_client_config(path: Path) -> ClientConfig:
    """Reads ``client.yaml`` of a person, or what a person needs of a partner's file. Raises ConfigError."""
    if (path / FILE_NAME).is_file() or path.name == FILE_NAME:
        partner = load_partner_config(path)
        return ClientConfig(gateway=partner.gateway, identity=partner.identity, state=partner.state)
    return load_section(ClientConfig, path, CLIENT_FILE_NAME, "Give the folder of your identity with --config.")


def load_section(kind: type[S], path: Path, file_name: str, fix: str) -> S:
    """Reads one configuration file, or the one of that name in a folder; relative paths become absolute.

    Raises:
        ConfigError: MISSING_FILE, TOO_LARGE, or BAD_CONFIG naming the key.
    """
    path = path / file_name if path.is_dir() else path
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(path), fix=fix) from exc
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(Reason.TOO_LARGE, item=str(path))
    try:
        config = kind.model_validate(yaml.safe_load(raw) or {})  # of an empty file: which keys it lacks
    except yaml.YAMLError as exc:
        detail = " ".join(str(exc).replace('"<byte string>", ', "").split())
        raise ConfigError(Reason.BAD_CONFIG, item=str(path), detail=detail, fix="Mend the YAML there.") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = unknown_key(kind, first["loc"]) if first["type"] == "extra_forbidden" else first["msg"]
        text = "write HOST:PORT" if first["loc"] == ("gateway",) and first["type"] != "missing" else text
        raise ConfigError(Reason.BAD_CONFIG, item=f"{path}: {where}: {text}") from exc
    resolved: S = _resolve(config, path.parent)
    return resolved
