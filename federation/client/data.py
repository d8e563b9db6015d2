"""The partner's own data: who its customers are, what they hold, and whom its own policy lets into a use.

Nothing here leaves the partner. Files are read strictly (see ``tables``) and again whenever they change on disk. Who
may be in a use is decided row by row by the partner's *own* policy with that row's own consent, whatever is asked.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from federation.client.config import DataConfig
from federation.client.consents import ConsentBook
from federation.client.tables import FileStamp, read_table, stamp
from federation.core.clock import Clock
from federation.core.errors import DataError, Reason
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact, Decision, Facts, Given
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX

IdentifierKind = Literal["email", "phone", "national_id"]

_NO_REASON = Given("default", "no_reason", "The policy gave no reason.")


class OwnPolicy(Protocol):
    """The partner's own compiled rules."""

    def decide(self, facts: Facts) -> Decision:
        """Permit or deny with reasons; never raises for missing input."""
        ...


@dataclass(frozen=True)
class Eligible:
    """Who may be in a use, and how many may not, by the first reason's code."""

    ids: list[CustomerId]
    refused: dict[str, int]
    reasons: dict[str, Given]
    """One reason in full for each code of ``refused``."""


def refuses(objection: ConsentFact | None) -> bool:
    """Whether a person refuses automated marketing, by the person's record for it; without one nobody does."""
    return objection is not None and objection.status != "given"


class PartnerData:
    """One partner's files under its own policy. Safe to share between threads.

    Args:
        config: Where the files are and what the columns are called.
        party: The partner, as in its certificate.
        policy: Its own rules.
        consents: Its consent book.
        clock: Tells the time of decisions.
    """

    def __init__(self, config: DataConfig, party: str, policy: OwnPolicy, consents: ConsentBook, clock: Clock) -> None:
        self.config, self.party, self.policy, self.consents, self.clock = config, party, policy, consents, clock
        self._lock = threading.Lock()
        self._tables: dict[Path, tuple[FileStamp, pd.DataFrame]] = {}

    def customers(self) -> pd.DataFrame:
        """All customers, indexed by customer id (str, unique, sorted as in the file). Do not change it: it is shared.

        Identifier and region columns are text, "" where empty; other columns are numbers where every value is one.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN (id, region) or BROKEN_ROW.
        """
        names = self.config.columns
        text = {names.id, names.email, names.phone, names.national_id, names.region}

        def read() -> pd.DataFrame:
            table = read_table(self.config.customers, required=(names.id, names.region), text=text, key=names.id)
            return table.set_index(names.id)

        return self._cached(self.config.customers, read)

    def holdings(self) -> pd.DataFrame:
        """Which products each customer has: at least the columns ``customer_id`` and ``product``, as text.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
        """
        needed = ("customer_id", "product")
        path = self.config.holdings
        return self._cached(path, lambda: read_table(path, required=needed, text=needed))

    def identifier(self, kind: IdentifierKind) -> "pd.Series[str]":
        """One identifier column, by customer id, "" where empty.

        Raises:
            DataError: MISSING_COLUMN; HALF_EMPTY_COLUMN where more than ``max_empty_share`` of it is empty, which means
                a wrong file more often than a fact.
        """
        table, column = self.customers(), getattr(self.config.columns, kind)
        if column not in table.columns:
            raise DataError(Reason.MISSING_COLUMN, item=f"{self.config.customers.name}, column {column}")
        values: pd.Series[str] = table[column]
        empty = float((values.str.strip() == "").mean()) if len(values) else 1.0
        if empty > self.config.max_empty_share:
            fix = "Check the file, or raise data.max_empty_share in partner.yaml if this is how your data is."
            item = f"{self.config.customers.name}, column {column}: {empty:.0%} empty"
            raise DataError(Reason.HALF_EMPTY_COLUMN, item=item, fix=fix)
        return values

    def eligible(
        self,
        purpose: str,
        data_category: str,
        recipient: str,
        *,
        channel: str | None = None,
        fields: frozenset[str] = frozenset(),
    ) -> Eligible:
        """Asks the partner's own policy about every customer.

        Args:
            purpose: For example "overlap_statistics".
            data_category: For example "blinded_identifier".
            recipient: "gateway" or a party.
            channel: For offers.
            fields: Names of further attributes that would go along.

        Raises:
            DataError: as ``customers``, and for the consent file.
        """
        at = self.clock.now()
        consents = self.consents.for_purpose(purpose)
        sensitive = self.consents.for_purpose(purpose + SENSITIVE_SUFFIX)
        objections = self.consents.for_purpose(OBJECTION_PURPOSE)
        regions = self.customers()[self.config.columns.region]
        ids: list[CustomerId] = []
        refused: Counter[str] = Counter()
        reasons: dict[str, Given] = {}
        # Many rows have equal facts (same region, same consent state and day), and equal facts have equal answers.
        answers: dict[tuple[object, ...], Decision] = {}
        for customer, region in zip(regions.index.tolist(), regions.tolist(), strict=True):
            consent, separate = consents.get(customer), sensitive.get(customer)
            objected = refuses(objections.get(customer))
            decision = answers.get((region, consent, separate, objected))
            if decision is None:
                facts = Facts(
                    purpose=purpose,
                    data_category=data_category,
                    origin=self.party,
                    recipient=recipient,
                    at=at,
                    channel=channel,
                    subject_region=region or None,
                    consent=consent,
                    fields=fields,
                    sensitive_consent=separate,
                    objected=objected,
                )
                decision = answers[region, consent, separate, objected] = self.policy.decide(facts)
            if decision.permitted:
                ids.append(CustomerId(customer))
            else:
                first = decision.reasons[0] if decision.reasons else _NO_REASON
                refused[first.code] += 1
                reasons.setdefault(first.code, first)
        return Eligible(ids, dict(refused), reasons)

    def region(self, customer_id: CustomerId) -> str | None:
        """Country of residence, None where unknown."""
        regions = self.customers()[self.config.columns.region]
        return str(regions[customer_id]) or None if customer_id in regions.index else None

    def _cached(self, path: Path, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        with self._lock:
            now = stamp(path)
            known = self._tables.get(path)
            if known is None or known[0] != now:
                known = self._tables[path] = (now, read())
            return known[1]
