"""The gateway's configuration: one YAML file, ``gateway.yaml``; unknown keys are refused, secrets are given by path."""

from pathlib import Path

from pydantic import Field

from federation.client.config import Address, Section, load_section
from gateway.consent.sql import MAX_STATES_PER_PARTY

FILE_NAME = "gateway.yaml"


class GatewayConfig(Section):
    """Everything the gateway needs to know. Paths are relative to the file."""

    listen: Address = "127.0.0.1:7443"
    """Mutual TLS: everything but the first enrolment."""
    listen_enrolment: Address = "127.0.0.1:7444"
    """TLS without a client certificate: nothing but the first enrolment."""
    identity: Path = Path("identity")
    state: Path = Path("state")
    policies: Path = Path("../policies")
    evaluation_csv: Path | None = None
    """Labelled rows of people who are in no partner's file; every released model is judged on them."""
    build_timeout_s: float = Field(default=900, gt=0)
    round_timeout_s: float = Field(default=120, gt=0)
    partners_timeout_s: float = Field(default=900, gt=0)
    """How long a training run waits for its partners to be connected, before it begins or goes on."""
    pause_timeout_s: float = Field(default=86_400, gt=0)
    """How long a training run may be paused."""
    approval_timeout_s: float = Field(default=604_800, gt=0)
    """How long the proposal of a training run waits for approvals."""
    max_consent_states: int = Field(default=MAX_STATES_PER_PARTY, gt=0)
    """Consents of one partner, by handle and purpose, that are kept; twice as many where they are withdrawals."""


def load_gateway_config(path: Path) -> GatewayConfig:
    """Reads ``gateway.yaml`` (or a folder that holds it); paths come back absolute. Raises ConfigError."""
    return load_section(GatewayConfig, path, FILE_NAME, "Make an alliance folder with: entente init DIR.")
