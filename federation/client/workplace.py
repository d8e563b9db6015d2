"""Everything an agent or a partner's command works with, opened once from the configuration."""

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from federation.client.config import PartnerConfig
from federation.client.connection import Connection
from federation.client.consent.book import ConsentBook
from federation.client.consent.link import ConsentLink
from federation.client.data import PartnerData
from federation.client.egress import EgressLedger
from federation.client.files.columns import ColumnStore
from federation.client.handles import HandleBook
from federation.core.clock import Clock
from federation.core.database import open_database
from federation.core.errors import ConfigError, Reason
from federation.core.identity import Identity, load_identity
from federation.policy.load import load_policy
from federation.policy.policy_set import PolicySet

STATE_FILE = "partner.db"
EGRESS_FILE = "egress.db"
TAP_VARIABLE = "ENTENTE_EGRESS_TAP"
"""Names a folder in which every outgoing message is kept in full, for an inspection."""


@dataclass(frozen=True)
class Workplace:
    """A partner's data, policy, durable state and connection."""

    config: PartnerConfig
    clock: Clock
    identity: Identity
    policy: PolicySet
    engine: Engine
    handles: HandleBook
    data: PartnerData
    egress: EgressLedger
    connection: Connection
    consents: ConsentLink

    def close(self) -> None:
        """Closes connection and database."""
        self.connection.close()
        self.engine.dispose()


def open_workplace(config: PartnerConfig, clock: Clock) -> Workplace:
    """Opens what the configuration names; connects when first used.

    Raises:
        ConfigError: a file is missing, or the certificate is another party's than the configuration says.
        PolicyError: the partner's own policy does not load.
    """
    identity = load_identity(config.identity)
    if identity.subject.party != config.party:
        item = f"party {config.party!r} in partner.yaml, certificate of {identity.subject.party!r}"
        raise ConfigError(Reason.BAD_CONFIG, item=item)
    policy = load_policy(config.policy)
    engine = open_database(config.state / STATE_FILE)
    tap = os.environ.get(TAP_VARIABLE)
    tap_folder = Path(tap) / config.party if tap else None
    egress = EgressLedger(open_database(config.state / EGRESS_FILE), clock, tap_folder)
    connection = Connection(config.gateway, identity, record=egress.record)
    handles = HandleBook(engine)
    terms, store = config.consent, ColumnStore(config.state)

    def complete(purpose: str) -> bool:
        return terms is not None and terms.covers(purpose)

    book = ConsentBook(config.data.consents, engine, clock, complete, store)
    data = PartnerData(config.data, config.party, policy, book, clock, store)
    consents = ConsentLink(connection.consent, data, handles, engine)
    return Workplace(config, clock, identity, policy, engine, handles, data, egress, connection, consents)
