"""Seeded interleavings of everything that may happen to one person's offers, over two gateways on one file.

The steps of both gateways alternate, and either may be killed in the middle of a decision. No offer is handed out after
an acknowledged withdrawal at either end, none again after its acknowledgement, and nobody has more open offers than the
policy allows.
"""

import random
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.ids import Handle
from gateway.offers.book import Delivery
from gateway.offers.turn import FileTurn, Turns
from tests.conftest import NOW
from tests.kits.offers import (
    AIRLINE,
    BANK,
    INSURER,
    SPEC,
    FakeSwitchboard,
    World,
    an_offer,
    caller,
    given,
    handle,
    record,
)

pytestmark = pytest.mark.sim
PEOPLE = (1, 2)
PRODUCTS = ("home", "motor", "term_life")
STEPS = 40


class Alliance:
    """Two gateways on one file, and what the parties know."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw, self.clock = folder, random.Random(seed), FixedClock(NOW)
        self.board = FakeSwitchboard({BANK: PEOPLE, INSURER: PEOPLE, AIRLINE: PEOPLE})
        self.gateways = [self.start(), self.start()]
        self.gateways[0].agree()
        self.names = 0
        self.handed: dict[str, Delivery] = {}
        self.closed: set[str] = set()
        self.live = {(party, person): True for party in (BANK, INSURER) for person in PEOPLE}

    def start(self) -> World:
        world = World(open_database(self.folder / "gateway.db"), clock=self.clock, switchboard=self.board)
        world.desk._turns = Turns(lambda party: FileTurn(self.folder / f"offers-{party}.lock", wait_s=10))
        return world

    def step(self) -> None:
        self.clock.at += timedelta(minutes=self.draw.choice((0, 1, 60)))
        which = self.draw.randrange(2)
        steps = (
            self.propose,
            self.propose,
            self.decide,
            self.pull,
            self.pull,
            self.withdraw,
            self.agree,
            self.acknowledge,
        )
        self.draw.choice((*steps, self.propose, self.agree, self.agree, self.crash))(which)

    def propose(self, which: int) -> None:
        person, product = self.draw.choice(PEOPLE), self.draw.choice(PRODUCTS)
        self.names += 1
        offer = an_offer(person, offer_id=f"o{self.names}", product=product)
        [receipt] = self.gateways[which].desk.propose(caller(BANK), [offer])
        assert receipt.accepted is self.live[BANK, person]

    def decide(self, which: int) -> None:
        self.gateways[which].desk.decide_waiting()

    def pull(self, which: int) -> None:
        for one in self.gateways[which].desk.pull(caller(INSURER), 100):
            person = person_of(one.handle)
            assert self.live[BANK, person]
            assert self.live[INSURER, person]
            assert one.delivery_id not in self.closed
            assert self.handed.setdefault(one.delivery_id, one).handle == one.handle
        queued = Counter(person_of(one.handle) for one in self.gateways[which].book.inbox(INSURER, 100, 0))
        assert all(count <= SPEC.max_open_per_person for count in queued.values())

    def withdraw(self, which: int) -> None:
        party, person = self.draw.choice(list(self.live))
        if self.draw.random() < 0.5:
            self.gateways[which].consents.withdraw(party, handle(party, person), "offer_sharing")
        else:
            ended = given(status=self.draw.choice(("withdrawn", "refused")), given_at=self.clock.at)
            self.gateways[which].consents.record(party, [record(party, person, ended)])
        self.live[party, person] = False
        # An upload that was on its way all the time changes nothing.
        self.gateways[1 - which].consents.record(party, [record(party, person)])

    def agree(self, which: int) -> None:
        party, person = self.draw.choice(list(self.live))
        self.clock.at += timedelta(seconds=1)
        again = given(given_at=self.clock.at, expires_at=self.clock.at + timedelta(days=100))
        self.gateways[which].consents.record(party, [record(party, person, again)])
        self.live[party, person] = True

    def acknowledge(self, which: int) -> None:
        if self.handed:
            one = self.draw.choice(list(self.handed))
            if self.gateways[which].desk.acknowledge(caller(INSURER), [one]):
                self.closed.add(one)

    def crash(self, which: int) -> None:
        """Killed at a moment of the next decision, then started again."""
        world = self.gateways[which]
        world.log.crash_after = self.draw.choice(("intent", "outcome", "refused"))
        with suppress(KeyboardInterrupt):
            world.desk.decide_waiting()
        world.engine.dispose()
        self.gateways[which] = self.start()

    def end(self) -> None:
        for world in self.gateways:
            world.engine.dispose()


def person_of(handle_: Handle) -> int:
    return int.from_bytes(handle_[12:], "big")


@pytest.mark.parametrize("seed", range(12))
def test_no_interleaving_hands_out_what_must_not_be(tmp_path: Path, seed: int) -> None:
    alliance = Alliance(tmp_path, seed)
    try:
        for _ in range(STEPS):
            alliance.step()
        alliance.pull(0)
        alliance.pull(1)
        assert alliance.handed  # else nothing was tried
    finally:
        alliance.end()


@pytest.mark.parametrize("seed", range(4))
def test_two_deciders_at_once_never_use_a_persons_last_place_twice(tmp_path: Path, seed: int) -> None:
    """Even without taking turns: the transaction that holds an offer counts again."""
    alliance = Alliance(tmp_path, seed)
    deciders = [World(open_database(tmp_path / "gateway.db"), clock=alliance.clock, switchboard=alliance.board)]
    deciders.append(World(open_database(tmp_path / "gateway.db"), clock=alliance.clock, switchboard=alliance.board))
    try:
        offers = [an_offer(n, offer_id=f"{n}-{p}", product=p) for n in PEOPLE for p in PRODUCTS]
        assert all(receipt.accepted for receipt in alliance.gateways[0].desk.propose(caller(BANK), offers))
        ready, failed = Barrier(2), list[BaseException]()

        def decide(world: World) -> None:
            ready.wait(10)
            try:
                world.desk.decide_waiting()
            except Exception as exc:
                failed.append(exc)

        threads = [Thread(target=decide, args=(world,)) for world in deciders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        delivered = deciders[0].desk.pull(caller(INSURER), 100)
        counts = Counter(person_of(one.handle) for one in delivered)
        assert counts == dict.fromkeys(PEOPLE, SPEC.max_open_per_person)
        assert len({(one.handle, one.product) for one in delivered}) == len(delivered)
    finally:
        for world in deciders:
            world.engine.dispose()
        alliance.end()
