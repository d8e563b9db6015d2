"""The proposing side: own policy first, masked before sending, the same offers under the same ids."""

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.consent.link import ConsentLink
from federation.client.offers.campaign import Campaign
from federation.client.offers.proposer import OfferProposer
from federation.core.database import open_database
from federation.core.errors import DataError, Reason
from federation.core.ids import CustomerId
from tests.conftest import NOW
from tests.kits.offers import BANK, INSURER, FakePolicy, Partner, Stub, World, customer

PEOPLE = range(1, 41)
SCORES = {customer(n): 1 - n / 100 for n in PEOPLE}  # C1 is the best
CAMPAIGN = Campaign("home", "insurer", "email", "The first month is free.", top=5, attributes=("age", "job"))


class Side:
    """The bank with its stub; its people are on a switchboard of its own handles."""

    def __init__(self, folder: Path) -> None:
        self.world = World(open_database(None))
        self.partner = Partner(folder, BANK, self.world.clock, FakePolicy())
        self.partner.write(PEOPLE)
        self.stub = Stub(self.world, BANK)
        self.restart()
        self.link.upload(list(zip(SCORES, self.partner.handles.handles_for(list(SCORES)), strict=True)))
        self.world.switchboard.handles = lambda party, handle, _: [(party, handle), (INSURER, handle)]  # type: ignore[method-assign]

    def restart(self) -> None:
        self.partner.engine.dispose()
        self.partner.reopen()
        parts: Any = (self.stub, self.partner.data, self.partner.handles, self.partner.engine)
        self.link = ConsentLink(*parts)
        self.proposer = OfferProposer(*parts, b"m" * 32)

    def sent(self) -> list[Any]:
        return [offer for name, request in self.stub.calls if name == "ProposeOffers" for offer in request.offers]

    def people(self) -> list[str | None]:
        return [self.partner.handles.customer_of(offer.handle) for offer in self.sent()]


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def test_the_best_eligible_people_are_proposed_masked(side: Side) -> None:
    side.partner.book.withdraw(customer(2), "offer_sharing")
    summary = side.proposer.propose(SCORES, CAMPAIGN)
    assert (summary.scored, summary.eligible, summary.picked, summary.accepted) == (40, 39, 5, 5)
    assert (summary.already_proposed, summary.rejected) == (0, {})
    assert summary.refused_by_own_policy == {"consent_withdrawn": 1}
    assert side.people() == ["C1", "C3", "C4", "C5", "C6"]
    assert [offer.score_band for offer in side.sent()] == ["top1", "top10", "top10", "top25", "top25"]
    assert {json.dumps(dict(offer.attributes)) for offer in side.sent()} == {'{"age": "<30"}'}
    assert all(len(offer.offer_id) == 32 for offer in side.sent())
    assert b"C1" not in b"".join(request.SerializeToString() for _, request in side.stub.calls)


def test_nobody_below_the_best_quarter(side: Side) -> None:
    summary = side.proposer.propose(SCORES, Campaign("home", "insurer", "email", "Free.", top=1000))
    assert summary.picked == 10
    assert side.people() == [f"C{n}" for n in range(1, 11)]


def test_equal_scores_always_pick_the_same(side: Side) -> None:
    scores = dict.fromkeys([customer(n) for n in (9, 3, 30, 5, 11, 6, 7, 8)], 0.5)
    side.proposer.propose(scores, Campaign("home", "insurer", "email", "Free.", top=2))
    assert side.people() == ["C11", "C3"]


def test_killed_before_and_during_sending_it_sends_the_same_once(side: Side) -> None:
    side.stub.down = True
    with pytest.raises(grpc.RpcError):
        side.proposer.propose(SCORES, CAMPAIGN)
    side.restart()
    side.stub.down = False
    side.stub.lose_answer_of = "ProposeOffers"
    side.world.clock.at = NOW + timedelta(hours=3)
    with pytest.raises(grpc.RpcError):
        side.proposer.propose(SCORES, CAMPAIGN)
    side.restart()
    summary = side.proposer.propose(SCORES, CAMPAIGN)
    assert (summary.picked, summary.already_proposed, summary.accepted) == (5, 5, 5)
    first, second = side.sent()[:5], side.sent()[5:]
    assert first == second
    assert len(side.world.book.waiting(100)) == 5
    assert side.proposer.propose(SCORES, CAMPAIGN).accepted == 5
    assert len(side.sent()) == 10


def test_what_waits_is_not_sent_after_a_withdrawal(side: Side) -> None:
    side.stub.down = True
    with pytest.raises(grpc.RpcError):
        side.proposer.propose(SCORES, CAMPAIGN)
    side.link.withdraw(customer(3), "offer_sharing")
    side.stub.down = False
    assert side.proposer.flush() == 4
    assert side.people() == ["C1", "C2", "C4", "C5"]
    assert side.proposer.flush() == 0


def test_what_waits_is_not_sent_under_a_stricter_policy(side: Side) -> None:
    side.stub.down = True
    with pytest.raises(grpc.RpcError):
        side.proposer.propose(SCORES, CAMPAIGN)
    side.partner.policy.masks["age"] = "drop"
    side.stub.down = False
    assert side.proposer.flush() == 0
    assert side.sent() == []


def test_a_new_offer_after_the_old_one_expired_or_was_rejected(side: Side) -> None:
    side.world.policy.closed_channels.add("email")
    assert side.proposer.propose(SCORES, CAMPAIGN).rejected == {"forbidden": 5}
    side.world.policy.closed_channels.clear()
    summary = side.proposer.propose(SCORES, CAMPAIGN)
    assert (summary.already_proposed, summary.accepted) == (0, 5)
    side.world.clock.at = NOW + timedelta(days=31)
    assert side.proposer.propose(SCORES, CAMPAIGN).already_proposed == 0
    assert len({offer.offer_id for offer in side.sent()}) == 15


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [("email", Reason.BAD_FIELD), ("customer_id", Reason.BAD_FIELD), ("shoe_size", Reason.MISSING_COLUMN)],
)
def test_identifiers_and_unknown_columns_do_not_go_along(side: Side, attribute: str, reason: Reason) -> None:
    with pytest.raises(DataError) as caught:
        side.proposer.propose(SCORES, Campaign("home", "insurer", "email", "Free.", 5, (attribute,)))
    assert caught.value.reason is reason
    assert side.sent() == []


def test_a_score_must_be_a_number(side: Side) -> None:
    with pytest.raises(DataError):
        side.proposer.propose({CustomerId("C1"): float("nan")}, CAMPAIGN)


def test_partners_without_people_in_common_learn_nothing(side: Side) -> None:
    side.world.switchboard.handles = lambda party, handle, _: [(party, handle)]  # type: ignore[method-assign]
    assert side.proposer.propose(SCORES, CAMPAIGN).accepted == 5
    assert side.world.pull() == []
    assert side.world.refusals() == [["not_at_recipient"]] * 5


def test_whom_the_gateway_does_not_know_is_passed_over(side: Side) -> None:
    side.partner.write(range(1, 61))
    scores = {customer(n): n / 100 for n in range(1, 61)}  # C60 is the best; C41 to C60 have no handle
    summary = side.proposer.propose(scores, Campaign("home", "insurer", "email", "Free.", top=3))
    assert (summary.eligible, summary.picked, summary.not_on_switchboard) == (60, 0, 15)
    assert side.partner.handles.existing(customer(60)) is None  # nobody got one by being proposed
    assert side.sent() == []


def test_the_agent_sends_what_waits_by_itself(side: Side) -> None:
    side.stub.down = True
    with pytest.raises(grpc.RpcError):
        side.proposer.propose(SCORES, CAMPAIGN)
    side.stub.down = False
    stop = threading.Event()
    agent = threading.Thread(target=side.proposer.serve, args=(stop,))
    agent.start()
    for _ in range(200):
        if len(side.sent()) == 5:
            break
        stop.wait(0.02)
    stop.set()
    agent.join(10)
    assert len(side.sent()) == 5


def test_old_proposals_are_purged(side: Side) -> None:
    side.proposer.propose(SCORES, CAMPAIGN)
    side.world.clock.at = NOW + timedelta(days=30 + 89)
    assert side.proposer.purge() == 0
    side.world.clock.at = NOW + timedelta(days=30 + 91)
    assert (side.proposer.purge(), side.proposer.purge()) == (5, 0)
