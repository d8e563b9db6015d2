"""The receiving side: stored before acknowledged, once, and judged when shown."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.offers.inbox import OfferInbox
from federation.core.database import open_database
from federation.core.errors import OfferError
from federation.core.ids import CustomerId
from tests.conftest import NOW
from tests.kits.offers import BANK, INSURER, PERSON, FakePolicy, Partner, Stub, World, an_offer, customer, handle


class Side:
    """The insurer with its inbox; its handles are those of the kit."""

    def __init__(self, folder: Path) -> None:
        self.world = World(open_database(None))
        self.world.agree()
        self.partner = Partner(folder, INSURER, self.world.clock, FakePolicy())
        self.partner.write([PERSON, 8])
        self.stub = Stub(self.world, INSURER)
        self.restart()

    def restart(self) -> None:
        self.partner.engine.dispose()
        self.partner.reopen()
        book = self.partner.handles
        book.customer_of = lambda h: next((customer(n) for n in (PERSON, 8) if h == handle(INSURER, n)), None)  # type: ignore[method-assign]
        parts: Any = (self.stub, self.partner.data, book, self.partner.engine)
        self.inbox = OfferInbox(*parts)

    def statuses(self) -> dict[CustomerId | None, str]:
        return {offer.customer_id: offer.status for offer in self.inbox.offers()}


@pytest.fixture
def side(tmp_path: Path) -> Side:
    side = Side(tmp_path)
    side.world.propose(an_offer(), an_offer(8))
    return side


def test_offers_come_under_the_own_customers(side: Side) -> None:
    offers = side.inbox.pull()
    assert {offer.customer_id for offer in offers} == {"C7", "C8"}
    first = offers[0]
    assert (first.sender, first.product, first.status, first.attributes) == ("bank", "home", "open", {"age": "30-59"})
    assert first.expires_at == NOW + timedelta(days=20)
    assert side.world.pull() == []
    assert side.inbox.pull() == []
    assert side.inbox.offers() == offers


@pytest.mark.parametrize("moment", ["PullInbox", "AcknowledgeOffers"])
def test_a_lost_answer_stores_each_offer_once(side: Side, moment: str) -> None:
    side.stub.lose_answer_of = moment
    with pytest.raises(grpc.RpcError):
        side.inbox.pull()
    side.restart()
    side.inbox.pull()
    assert len(side.inbox.offers()) == 2
    assert side.world.pull() == []


def test_killed_between_storing_and_acknowledging(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(side.stub, "AcknowledgeOffers", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        side.inbox.pull()
    monkeypatch.undo()
    assert len(side.world.pull()) == 2  # the gateway still has them
    side.restart()
    assert len(side.inbox.offers()) == 2
    assert side.inbox.pull() == []  # nothing new
    assert len(side.inbox.offers()) == 2
    assert side.world.pull() == []


def test_what_the_customer_has_is_never_open(side: Side) -> None:
    side.partner.write([PERSON, 8], ["C7,home,12.5", "C8,motor,3"])
    side.inbox.pull()
    assert side.statuses() == {"C7": "already_held", "C8": "open"}
    side.partner.write([PERSON, 8], ["C8,home,3"])
    assert side.statuses() == {"C7": "open", "C8": "already_held"}


def test_an_ended_consent_and_an_expired_offer_are_not_open(side: Side) -> None:
    side.inbox.pull()
    side.partner.book.withdraw(customer(PERSON), "offer_sharing")
    assert side.statuses() == {"C7": "consent_ended", "C8": "open"}
    side.world.clock.at = NOW + timedelta(days=20)
    assert side.statuses()[customer(8)] == "expired"
    side.world.clock.at = NOW + timedelta(days=100)
    assert side.statuses()[customer(8)] == "consent_ended"


def test_what_the_customer_refused_here_is_not_open(side: Side) -> None:
    side.inbox.pull()
    side.partner.book.withdraw(customer(PERSON), "automated_marketing")
    assert side.statuses() == {"C7": "objected", "C8": "open"}


def test_a_handle_that_is_not_ours_is_kept_apart(side: Side) -> None:
    side.partner.handles.customer_of = lambda _: None  # type: ignore[method-assign]
    side.inbox.pull()
    assert side.statuses() == {None: "unknown_person"}


def test_a_gateway_that_takes_no_acknowledgement_does_not_loop(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side.world.desk, "acknowledge", lambda *_: 0)
    with pytest.raises(OfferError):
        side.inbox.pull()
    assert len(side.inbox.offers()) == 2


def test_only_the_own_inbox(side: Side) -> None:
    side.stub = Stub(side.world, BANK)
    side.restart()
    assert side.inbox.pull() == []
