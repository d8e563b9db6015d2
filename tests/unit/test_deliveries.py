"""How batches cross, apart from what is in them."""

import asyncio
import threading
from typing import Any

from federation.core.ids import PartyId
from gateway.rpc.deliveries import Deliveries
from gateway.rpc.motion import Motion

BANK, INSURER = PartyId("bank"), PartyId("insurer")


class Slow:
    """Has work for one partner that takes until it is let go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def carry_together(self, party: PartyId, _names: Any) -> list[Any]:
        if party == BANK:
            assert self.go_on.wait(60)
        return []


def test_a_partner_that_has_much_to_do_done_keeps_no_other_waiting() -> None:
    async def run() -> None:
        carrier: Any = Slow()
        deliveries = Deliveries(carrier, lambda: None, Motion())
        flood = [asyncio.create_task(deliveries.get_together(BANK, [])) for _ in range(64)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.wait_for(deliveries.get_together(INSURER, []), 30) == []
            assert not any(call.done() for call in flood)
            await asyncio.wait_for(asyncio.to_thread(int), 30)  # nor the threads of all
        finally:
            carrier.go_on.set()
            await asyncio.gather(*flood)

    asyncio.run(run())
