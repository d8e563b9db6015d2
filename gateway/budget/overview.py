"""What the ledger shows: limits, what was spent of them and on what, and what one more release would leave."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class BudgetEntry:
    """One release that was paid for."""

    entry_id: str
    at: str
    purpose: str
    what: str
    epsilon: float  # alone, at the budget's delta
    state: str
    mechanism: str
    share: float  # its part of what the alliance has spent


@dataclass(frozen=True)
class BudgetScope:
    """What a purpose, or the whole alliance, may spend and has spent."""

    scope: str
    epsilon_limit: float
    epsilon_spent: float
    delta: float


@dataclass(frozen=True)
class BudgetOverview:
    """Everything that counts in the active period."""

    period_start: date
    period_end: date  # exclusive
    scopes: tuple[BudgetScope, ...]
    entries: tuple[BudgetEntry, ...]
    conversion: float  # what the shares leave of the alliance's epsilon: from Renyi loss to (epsilon, delta)
    order: float  # the Renyi order of the shares


@dataclass(frozen=True)
class ScopePreview:
    """What one more release would leave of a scope."""

    scope: str
    epsilon_limit: float
    epsilon_spent: float
    epsilon_after: float

    @property
    def fits(self) -> bool:
        """Whether the limit allows it."""
        return self.epsilon_after <= self.epsilon_limit
