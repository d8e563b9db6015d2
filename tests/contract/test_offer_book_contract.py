"""What every offer book promises."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import OfferError, Reason
from federation.core.ids import Handle, PartyId
from federation.offers.eligibility import PriorOffer
from federation.offers.offer import Offer
from federation.policy.facts import Given
from gateway.offers.book import Receipt
from gateway.offers.sql import SqlOfferBook
from tests.conftest import NOW
from tests.kits.offers import AIRLINE, BANK, INSURER, an_offer, caller, handle

NO = (Given("offer-rules", "unknown_product", "No.", "law 3"),)


class Opened:
    """A book on some driver."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.clock = path, FixedClock(NOW)
        self.reopen()

    def reopen(self, room: int = 1000) -> None:
        self.engine = open_database(self.path)
        self.book = SqlOfferBook(self.engine, self.clock, room=room)

    def file(self, *offers: Offer, party: str = BANK) -> list[int]:
        self.book.file(caller(party), [(offer, Receipt(offer.offer_id)) for offer in offers])  # type: ignore[arg-type]
        return [p.number for p in self.book.waiting(100) if p.offer in offers]

    def queue(self, *people: int) -> list[int]:
        numbers = self.file(*(an_offer(person) for person in people))
        for number, person in zip(numbers, people, strict=True):
            assert self.book.hold(number, handle(INSURER, person), {"age": "30-59"}).done
        self.book.conclude(numbers, [])
        return numbers

    def withdraw(self, party: str, handle_: Handle, purpose: str = "offer_sharing") -> int:
        with self.engine.begin() as connection:
            return self.book.drop_for_consent(connection, PartyId(party), [(handle_, purpose)])

    def prior(self, person: list[tuple[PartyId, Handle]], number: int) -> list[PriorOffer]:
        return self.book.address(number, handle(INSURER, 99), person)

    def inbox(self) -> list[Handle]:
        return [delivery.handle for delivery in self.book.inbox(INSURER, 100, 0)]


@pytest.fixture(params=["memory", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(None if request.param == "memory" else tmp_path / "gateway.db")
    yield opened
    opened.engine.dispose()


def test_the_first_answer_stands(opened: Opened) -> None:
    offer = an_offer()
    assert opened.book.receipts(BANK, [offer]) == {}
    first = opened.book.file(caller(BANK), [(offer, Receipt(offer.offer_id, NO))])
    assert first == [Receipt(offer.offer_id, NO)]
    assert opened.book.file(caller(BANK), [(offer, Receipt(offer.offer_id))]) == first
    assert opened.book.receipts(BANK, [offer]) == {offer.offer_id: first[0]}
    assert opened.book.waiting(10) == []
    # Another party's ids are its own.
    assert opened.book.file(caller(AIRLINE), [(offer, Receipt(offer.offer_id))])[0].accepted


def test_an_id_has_one_content(opened: Opened) -> None:
    opened.file(an_offer())
    changed = an_offer(benefit="Two months are free.")
    for call in (
        lambda: opened.book.receipts(BANK, [changed]),
        lambda: opened.file(an_offer(8), changed),
        lambda: opened.file(an_offer(9), an_offer(9, channel="phone")),
    ):
        with pytest.raises(OfferError) as caught:
            call()
        assert caught.value.reason is Reason.IDEMPOTENCY_CONFLICT
    assert len(opened.book.waiting(10)) == 1


def test_what_waits_is_returned_whole_and_oldest_first(opened: Opened) -> None:
    offers = [an_offer(n, expires_at=NOW + timedelta(days=n, microseconds=1)) for n in (3, 1, 2)]
    opened.file(*offers)
    assert [proposal.offer for proposal in opened.book.waiting(2)] == offers[:2]
    assert opened.book.waiting(1)[0].caller == caller(BANK)
    mine = offers[0].recipient
    assert [proposal.offer for proposal in opened.book.waiting(9, mine)] == [o for o in offers if o.recipient == mine]
    assert opened.book.waiting(9, PartyId("nobody")) == []


def test_proposers_take_turns(opened: Opened) -> None:
    opened.file(*(an_offer(n) for n in range(5)))
    opened.file(*(an_offer(n, AIRLINE) for n in range(2)), party=AIRLINE)
    opened.file(an_offer(9, recipient="airline"))
    turns = [(proposal.caller.party, proposal.offer.offer_id) for proposal in opened.book.waiting(5, INSURER)]
    assert turns == [
        (BANK, "bank-0"),
        (AIRLINE, "airline-0"),
        (BANK, "bank-1"),
        (AIRLINE, "airline-1"),
        (BANK, "bank-2"),
    ]
    assert opened.book.recipients() == [AIRLINE, INSURER]
    opened.book.conclude([], [proposal.number for proposal in opened.book.waiting(10, AIRLINE)])
    assert opened.book.recipients() == [INSURER]


def test_a_proposer_has_room_for_so_many(opened: Opened) -> None:
    opened.engine.dispose()
    opened.reopen(room=3)
    first = opened.file(an_offer(1), an_offer(2))
    for offers in ([an_offer(3), an_offer(4)], [an_offer(3), an_offer(4), an_offer(1)]):
        for call in (lambda: opened.book.receipts(BANK, offers), lambda: opened.file(*offers)):  # noqa: B023
            with pytest.raises(OfferError) as caught:
                call()
            assert caught.value.reason is Reason.TOO_MANY_OFFERS
            assert caught.value.item == "2 more offers of bank: at most 3 wait or were proposed in the last 0:05:00"
    assert len(opened.book.waiting(9)) == 2  # none of a message that is refused
    opened.file(an_offer(3), an_offer(3), an_offer(1))  # what is on file takes no room
    assert set(opened.book.receipts(BANK, [an_offer(1), an_offer(2)])) == {"bank-1", "bank-2"}
    opened.file(an_offer(1, AIRLINE), party=AIRLINE)  # each has its own
    opened.book.conclude([], first)
    with pytest.raises(OfferError):  # decisions give no room back: it would tell when they are made
        opened.file(an_offer(4))
    opened.clock.at += timedelta(minutes=5)
    with pytest.raises(OfferError):  # one of three waits still
        opened.file(an_offer(4), an_offer(5), an_offer(6))
    opened.file(an_offer(4), an_offer(5))
    assert len(opened.book.waiting(9, INSURER)) == 4


def test_what_was_rejected_takes_room_for_a_while(opened: Opened) -> None:
    opened.engine.dispose()
    opened.reopen(room=1)
    opened.book.file(caller(BANK), [(an_offer(), Receipt("bank-7", NO))])
    with pytest.raises(OfferError):
        opened.file(an_offer(8))
    opened.clock.at += timedelta(minutes=5)
    opened.file(an_offer(8))


def test_held_is_not_visible_and_waits_again(opened: Opened) -> None:
    [number] = opened.file(an_offer())
    assert opened.book.hold(number, handle(INSURER, 7), {"age": "30-59"}).done
    assert opened.inbox() == []
    assert [proposal.number for proposal in opened.book.waiting(10)] == [number]
    assert opened.book.hold(number, handle(INSURER, 7), {"age": "30-59"}).done
    opened.book.conclude([number], [])
    [delivery] = opened.book.inbox(INSURER, 10, 0)
    assert (delivery.handle, delivery.attributes, delivery.origin) == (handle(INSURER, 7), {"age": "30-59"}, BANK)
    assert opened.book.waiting(10) == []
    assert not opened.book.hold(number, handle(INSURER, 7), {}).done


def test_an_inbox_is_its_owners(opened: Opened) -> None:
    numbers = opened.queue(1, 2, 3)
    assert opened.book.inbox(AIRLINE, 10, 0) == []
    assert [d.number for d in opened.book.inbox(INSURER, 2, 0)] == numbers[:2]
    assert [d.number for d in opened.book.inbox(INSURER, 2, numbers[1])] == numbers[2:]
    ids = [d.delivery_id for d in opened.book.inbox(INSURER, 10, 0)]
    assert len(set(ids)) == 3
    assert opened.book.acknowledge(AIRLINE, ids) == 0
    assert opened.book.acknowledge(INSURER, [*ids[:2], ids[0], "unknown"]) == 2
    assert opened.book.acknowledge(INSURER, ids[:2]) == 2
    assert opened.inbox() == [handle(INSURER, 3)]


def test_the_time_of_the_first_hand_out_stays(opened: Opened) -> None:
    [number] = opened.queue(1)
    assert opened.book.hand_out([number, 999], NOW) == {number}
    assert opened.book.hand_out([number], NOW + timedelta(days=1)) == {number}
    assert opened.book.inbox(INSURER, 1, 0)[0].delivered_at == NOW
    opened.book.remove([number])
    assert opened.book.hand_out([number], NOW) == set()


def test_prior_offers_are_found_from_either_end(opened: Opened) -> None:
    numbers = opened.queue(1, 2)
    expected = [PriorOffer("home", NOW, NOW + timedelta(days=20))]
    for pair in ((BANK, handle(BANK, 1)), (INSURER, handle(INSURER, 1))):
        assert opened.prior([pair], 0) == expected
        assert opened.prior([pair], numbers[0]) == []
    assert opened.prior([(AIRLINE, handle(BANK, 1)), (INSURER, handle(BANK, 1))], 0) == []
    assert len(opened.prior([(BANK, handle(BANK, 1)), (INSURER, handle(INSURER, 2))], 0)) == 2
    opened.book.acknowledge(INSURER, [opened.book.inbox(INSURER, 1, 0)[0].delivery_id])
    assert opened.prior([(INSURER, handle(INSURER, 1))], 0) == expected
    opened.book.remove(numbers)
    assert opened.prior([(INSURER, handle(INSURER, 2))], 0) == []


@pytest.mark.parametrize("how", ["removed", "withdrawn at the proposer", "withdrawn at the recipient"])
def test_what_was_handed_out_counts_whatever_became_of_it(opened: Opened, how: str) -> None:
    handed_out, _ = opened.queue(1, 2)
    opened.book.hand_out([handed_out], NOW)
    for number, person in ((handed_out, 1), (handed_out + 1, 2)):
        if how == "removed":
            opened.book.remove([number])
        else:
            party = BANK if how == "withdrawn at the proposer" else INSURER
            opened.withdraw(party, handle(party, person))
    assert opened.inbox() == []
    expected = [PriorOffer("home", NOW, NOW + timedelta(days=20))]
    assert opened.prior([(BANK, handle(BANK, 1)), (INSURER, handle(INSURER, 1))], 0) == expected
    assert opened.prior([(BANK, handle(BANK, 2)), (INSURER, handle(INSURER, 2))], 0) == []
    with opened.engine.begin() as connection:
        assert {tuple(row) for row in connection.exec_driver_sql("select benefit, attributes from offers")} == {
            ("", "{}")
        }


@pytest.mark.parametrize("party", [BANK, INSURER])
def test_a_withdrawal_at_either_end_empties_the_queue(opened: Opened, party: str) -> None:
    opened.queue(1, 2)
    assert opened.withdraw(party, handle(party, 1), "model_training") == 0  # type: ignore[arg-type]
    assert opened.withdraw(AIRLINE, handle(party, 1)) == 0  # type: ignore[arg-type]
    assert opened.withdraw(party, handle(party, 1)) == 1  # type: ignore[arg-type]
    assert opened.inbox() == [handle(INSURER, 2)]
    assert opened.withdraw(party, handle(party, 1)) == 0  # type: ignore[arg-type]


def test_consents_that_end_together_hold_up_the_others_for_a_few_statements(opened: Opened) -> None:
    """Every decision and withdrawal waits for the transaction, and a partner may end ten thousand in one message."""
    opened.queue(*range(1, 4))
    said = list[str]()
    event.listen(opened.engine, "before_cursor_execute", lambda _connection, _cursor, text, *_: said.append(text))
    ended = [(handle(INSURER, person), f"purpose-{person}") for person in range(2_000)]
    ended += [(handle(INSURER, person), "offer_sharing") for person in range(2, 1_002)]
    with opened.engine.begin() as connection:
        assert opened.book.drop_for_consent(connection, INSURER, ended) == 2
    assert len(said) < 20
    assert opened.inbox() == [handle(INSURER, 1)]


def test_a_withdrawal_stops_what_is_still_being_decided(opened: Opened) -> None:
    waiting, held = opened.file(an_offer(1), an_offer(2))
    opened.book.hold(held, handle(INSURER, 2), {})
    assert opened.withdraw(BANK, handle(BANK, 1)) == 1
    assert opened.withdraw(INSURER, handle(INSURER, 2)) == 0
    opened.book.conclude([held], [])
    assert opened.inbox() == []
    assert not opened.book.hold(waiting, handle(INSURER, 1), {}).done


def test_what_a_withdrawal_reports_to_the_proposer_does_not_tell_what_became_of_its_offers(opened: Opened) -> None:
    people = list(range(1, 7))
    numbers = opened.file(*(an_offer(person) for person in people))
    opened.book.conclude([], [numbers[0]])  # refused: not the recipient's customer
    for number, person in list(zip(numbers, people, strict=True))[1:5]:
        opened.book.hold(number, handle(INSURER, person), {})
    opened.book.conclude(numbers[1:5], [])
    ids = [delivery.delivery_id for delivery in opened.book.inbox(INSURER, 10, 0)]
    opened.book.acknowledge(INSURER, ids[:1])
    opened.book.remove([numbers[2]])
    opened.withdraw(INSURER, handle(INSURER, 4))
    assert [opened.withdraw(BANK, handle(BANK, person)) for person in people] == [1] * 6
    assert [opened.withdraw(BANK, handle(BANK, person)) for person in people] == [0] * 6
    # Acknowledged offers go on counting for the person, found at the recipient's end.
    assert len(opened.prior([(INSURER, handle(INSURER, 2))], 0)) == 1


def test_what_is_over_keeps_no_content(opened: Opened) -> None:
    one, _, three = opened.queue(1, 2, 3)
    [four] = opened.file(an_offer(4, attributes={"age": "SECRET"}, benefit="SECRET"))
    rejected = an_offer(5, attributes={"age": "SECRET"}, benefit="SECRET")
    opened.book.file(caller(BANK), [(rejected, Receipt(rejected.offer_id, NO))])
    opened.book.remove([one])
    opened.book.conclude([], [four])
    opened.book.acknowledge(INSURER, [opened.book.inbox(INSURER, 1, 0)[0].delivery_id])
    with opened.engine.begin() as connection:
        rows = connection.exec_driver_sql("select number, benefit, attributes from offers").all()
    assert [row for row in rows if row[1:] != ("", "{}")] == [(three, "The first month is free.", '{"age": "30-59"}')]


def test_survives_reopening(opened: Opened) -> None:
    if opened.path is None:
        pytest.skip("memory does not outlive the process")
    opened.queue(1)
    opened.file(an_offer(2))
    before = opened.book.inbox(INSURER, 10, 0)
    opened.engine.dispose()
    opened.reopen()
    assert opened.book.inbox(INSURER, 10, 0) == before
    assert [proposal.offer for proposal in opened.book.waiting(10)] == [an_offer(2)]


def test_an_addressed_offer_falls_with_the_consent_at_either_end(opened: Opened) -> None:
    one, two = opened.file(an_offer(1), an_offer(2))
    assert opened.book.address(one, handle(INSURER, 1), []) == []
    assert opened.book.address(two, handle(INSURER, 2), []) == []
    assert opened.withdraw(INSURER, handle(INSURER, 1)) == 0  # the recipient is not told what was on its way
    assert opened.withdraw(BANK, handle(BANK, 2)) == 1
    assert opened.book.waiting(10) == []
    for number, person in ((one, 1), (two, 2)):
        held = opened.book.hold(number, handle(INSURER, person), {})
        assert (held.done, held.barriers) == (False, ())


def test_what_stands_against_an_offer_is_asked_where_it_is_held(opened: Opened) -> None:
    first, second = opened.file(an_offer(1), an_offer(1, offer_id="again", product="motor"))
    person = [(INSURER, handle(INSURER, 1))]
    seen: list[list[PriorOffer]] = []

    def one_at_a_time(prior: Sequence[PriorOffer]) -> tuple[Given, ...]:
        seen.append(list(prior))
        return NO if prior else ()

    assert opened.book.hold(first, handle(INSURER, 1), {}, person, one_at_a_time).done
    assert opened.book.hold(first, handle(INSURER, 1), {}, person, one_at_a_time).done  # itself does not count
    refused = opened.book.hold(second, handle(INSURER, 1), {}, person, one_at_a_time)
    assert (refused.done, refused.barriers) == (False, NO)
    assert [len(prior) for prior in seen] == [0, 0, 1]


def test_closed_offers_are_purged_when_they_have_long_expired(opened: Opened) -> None:
    queued, refused, late = (
        opened.queue(1)[0],
        *opened.file(an_offer(2), an_offer(3, expires_at=NOW + timedelta(days=99))),
    )
    opened.book.conclude([], [refused, late])
    waiting = an_offer(4)
    opened.file(waiting)
    assert opened.book.purge(NOW + timedelta(days=20), NOW) == 0  # not yet expired before that
    assert opened.book.purge(NOW + timedelta(days=21), NOW) == 1
    assert opened.book.purge(NOW + timedelta(days=21), NOW) == 0
    assert opened.book.receipts(BANK, [an_offer(2)]) == {}
    assert [delivery.number for delivery in opened.book.inbox(INSURER, 9, 0)] == [queued]
    assert [proposal.offer for proposal in opened.book.waiting(9)] == [waiting]
    opened.book.remove([queued])
    assert opened.book.purge(NOW + timedelta(days=100), NOW) == 2


def test_a_rejected_offer_is_purged_by_the_time_it_was_proposed(opened: Opened) -> None:
    far = an_offer(expires_at=NOW.replace(year=9999))
    opened.book.file(caller(BANK), [(far, Receipt(far.offer_id, NO))])
    opened.file(an_offer(8))
    assert opened.book.purge(NOW, NOW) == 0
    assert opened.book.purge(NOW, NOW + timedelta(seconds=1)) == 1
    assert len(opened.book.waiting(9)) == 1
