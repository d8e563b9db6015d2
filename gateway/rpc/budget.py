"""BudgetService: where the alliance's privacy budget went, and what is still to be asked for what."""

import asyncio
from typing import Any

from federation.v1 import budget_pb2, budget_pb2_grpc
from gateway.budget.ledger import SqlLedger
from gateway.identity.caller import current_caller
from gateway.overlap.prices import PriceList

UNIT = (
    "one person across the alliance: everything that all partners hold about one identifier "
    "(a table with max_tokens_per_person t protects t identifiers together)"
)


class BudgetServicer(budget_pb2_grpc.BudgetServiceServicer):
    """Reads only. The interceptor checked the caller's role.

    Args:
        ledger: Where it went.
        prices: What the declared questions would cost.
    """

    def __init__(self, ledger: SqlLedger, prices: PriceList) -> None:
        self._ledger, self._prices = ledger, prices

    async def GetBudget(self, request: budget_pb2.GetBudgetRequest, context: Any) -> budget_pb2.GetBudgetResponse:
        """Limits, totals and entries of the active period."""
        current_caller()
        overview = await asyncio.to_thread(self._ledger.overview)
        prices = await asyncio.to_thread(self._prices)
        return budget_pb2.GetBudgetResponse(
            period_start=overview.period_start.isoformat(),
            period_end=overview.period_end.isoformat(),
            scopes=[budget_pb2.BudgetScope(**vars(scope)) for scope in overview.scopes],
            entries=[budget_pb2.BudgetEntry(**vars(entry)) for entry in overview.entries],
            unit=UNIT,
            conversion=overview.conversion,
            order=overview.order,
            questions=[budget_pb2.BudgetQuestion(**vars(price)) for price in prices],
        )
