"""BudgetService: where the alliance's privacy budget went."""

import asyncio
from typing import Any

from federation.v1 import budget_pb2, budget_pb2_grpc
from gateway.budget.ledger import SqlLedger
from gateway.identity.caller import current_caller


class BudgetServicer(budget_pb2_grpc.BudgetServiceServicer):
    """Reads only. The interceptor checked the caller's role."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def GetBudget(self, request: budget_pb2.GetBudgetRequest, context: Any) -> budget_pb2.GetBudgetResponse:
        """Limits, totals and entries of the active period."""
        current_caller()
        overview = await asyncio.to_thread(self._ledger.overview)
        return budget_pb2.GetBudgetResponse(
            period_start=overview.period_start.isoformat(),
            period_end=overview.period_end.isoformat(),
            scopes=[budget_pb2.BudgetScope(**vars(scope)) for scope in overview.scopes],
            entries=[budget_pb2.BudgetEntry(**vars(entry)) for entry in overview.entries],
        )
