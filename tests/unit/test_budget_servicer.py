"""The budget over the wire."""

import asyncio

import pytest
from dp_accounting import GaussianDpEvent

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import IdentityError
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.policy.specs import BudgetSpec
from federation.v1 import budget_pb2
from gateway.budget.ledger import SqlLedger
from gateway.identity.caller import Caller, set_caller
from gateway.overlap.prices import Price
from gateway.rpc.budget import BudgetServicer


@pytest.fixture
def servicer(clock: FixedClock) -> BudgetServicer:
    spec = BudgetSpec(
        period_start="2026-01-01", period_end="2027-01-01", delta=1e-6, epsilon=4, purposes={"overlap_statistics": 3}
    )
    ledger = SqlLedger(open_database(None), lambda: spec, clock, random=lambda count: b"\x01" * count)
    ledger.reserve(key="k", purpose="overlap_statistics", what="cube venn", event=GaussianDpEvent(10.0))
    return BudgetServicer(ledger, lambda: [Price("cube tiers", "overlap_statistics", True, 0.5, 0.2, False)])


def test_limits_and_entries_travel_as_they_are(servicer: BudgetServicer, clock: FixedClock) -> None:
    async def ask() -> budget_pb2.GetBudgetResponse:
        set_caller(Caller(PartyId("compliance"), Role.COMPLIANCE, serial="01", expires_at=clock.at))
        return await servicer.GetBudget(budget_pb2.GetBudgetRequest(), None)

    answer = asyncio.run(ask())
    assert (answer.period_start, answer.period_end) == ("2026-01-01", "2027-01-01")
    alliance, purpose = answer.scopes
    assert (alliance.scope, alliance.epsilon_limit, alliance.delta) == ("alliance", 4.0, 1e-6)
    assert (purpose.scope, purpose.epsilon_limit) == ("overlap_statistics", 3.0)
    (entry,) = answer.entries
    assert (entry.entry_id, entry.what, entry.state) == ("01" * 16, "cube venn", "reserved")
    assert (entry.at, entry.mechanism) == ("2026-11-01T00:00:00+00:00", "Gaussian, noise multiplier 10")
    assert entry.share + answer.conversion == pytest.approx(alliance.epsilon_spent)
    (price,) = answer.questions
    assert (price.what, price.released, price.epsilon, price.fits) == ("cube tiers", True, 0.5, False)
    assert answer.unit.startswith("one person across the alliance")
    assert 0 < entry.epsilon == alliance.epsilon_spent == purpose.epsilon_spent < 3


def test_a_caller_is_needed(servicer: BudgetServicer) -> None:
    with pytest.raises(IdentityError):
        asyncio.run(servicer.GetBudget(budget_pb2.GetBudgetRequest(), None))
