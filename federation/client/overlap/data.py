"""What the overlap needs of a partner's data and handle book, and whom the partner's own policy lets into an index."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import pandas as pd
import pyarrow as pa

from federation.client.files.columns import Places
from federation.client.files.derived import Derive, Derived
from federation.core.ids import CustomerId, Handle
from federation.overlap.plan import STATISTICS, SWITCHBOARD
from federation.policy.specs import PartySpec

PURPOSES: Mapping[int, str] = {STATISTICS: "overlap_statistics", SWITCHBOARD: "offer_sharing"}
DATA_CATEGORY, RECIPIENT = "blinded_identifier", "gateway"


class Eligible(Protocol):
    """Who may be in a use, and how many may not, by reason code."""

    @property
    def refused(self) -> dict[str, int]:
        """The others, counted by the first reason's code."""
        ...

    @property
    def permitted(self) -> pa.Array:
        """Ids of customers that may."""
        ...

    def rows_among(self, customers: pa.Array) -> Places:
        """Places of those who may among customers, rising."""
        ...


class Data(Protocol):
    """What the overlap needs of a partner's data."""

    def derived(self, names: Sequence[str], optional: Sequence[str], derive: Derive) -> Derived:
        """Columns that follow from each line of the customers file; ``optional`` ones are read where they are there."""
        ...

    def holdings(self) -> pd.DataFrame:
        """Which products each customer has, with what they bring in a year."""
        ...

    def eligible(
        self, purpose: str, data_category: str, recipient: str, *, fields: frozenset[str] = frozenset()
    ) -> Eligible:
        """Asks the partner's own policy about every customer; ``fields`` are the columns that would label them."""
        ...

    def recorded(self, purpose: str) -> Sequence[CustomerId]:
        """Customers of whom something that counts for a purpose was recorded apart from the partner's files."""
        ...


class Handles(Protocol):
    """What the overlap needs of a partner's handle book."""

    def handles_for(self, ids: Sequence[CustomerId]) -> list[Handle]:
        """The handle of each customer, made where there is none."""
        ...

    def named(self, some: Sequence[Handle]) -> list[tuple[CustomerId, Handle]]:
        """Those of some handles that are somebody's, each with whose it is."""
        ...


def allowed(data: Data, party: PartySpec, index: int) -> Eligible:
    """Who may be in an index now, by the partner's own policy and consents.

    A label says something about the person, so the rules must allow its column as they do any other field.
    """
    columns = frozenset(party.columns) if index == STATISTICS else frozenset()
    return data.eligible(PURPOSES[index], DATA_CATEGORY, RECIPIENT, fields=columns)
