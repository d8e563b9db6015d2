"""What the offer desk tells a proposer, and what neither its answers nor the time they take tell."""

from datetime import timedelta
from typing import Any

import pytest

from federation.core.database import open_database
from federation.core.errors import OfferError, Reason
from federation.v1 import offers_pb2 as pb
from gateway.offers.book import Receipt
from gateway.offers.decider import WRITES
from tests.conftest import NOW
from tests.kits.offers import (
    AIRLINE,
    BANK,
    INSURER,
    PERSON,
    World,
    Writes,
    an_offer,
    caller,
    given,
    handle,
    offer_from,
    record,
    second_handle,
)

PURPOSE = "offer_sharing"


def receipt_bytes(world: World, person: int) -> bytes:
    stub = world.stub(BANK)
    offer = an_offer(person, offer_id="same")
    message = pb.Offer(
        offer_id=offer.offer_id,
        handle=offer.handle,
        product=offer.product,
        recipient=offer.recipient,
        channel=offer.channel,
        score_band=offer.score_band,
        purpose=offer.purpose,
        benefit=offer.benefit,
        attributes=offer.attributes,
        expires_at=offer.expires_at.isoformat(),
    )
    answer = stub.ProposeOffers(pb.ProposeOffersRequest(offers=[message]), timeout=1)
    return bytes(answer.SerializeToString(deterministic=True))


def test_the_receipt_does_not_tell_whether_the_person_is_the_recipients() -> None:
    """The same bytes for a member, a stranger, one who withdrew there, and one with too many offers."""

    def fresh() -> World:
        world = World(open_database(None))
        world.agree()
        return world

    member, stranger, withdrawn, crowded = fresh(), fresh(), fresh(), fresh()
    withdrawn.consents.withdraw(INSURER, handle(INSURER, PERSON), PURPOSE)
    for number, product in enumerate(("motor", "term_life")):
        crowded.propose(
            an_offer(party=AIRLINE, offer_id=f"a{number}", product=product, handle=handle(AIRLINE, PERSON)),
            party=AIRLINE,
        )
    crowded.desk.decide_waiting()
    answers = [
        receipt_bytes(world, person) for world, person in ((member, 7), (stranger, 9), (withdrawn, 7), (crowded, 7))
    ]
    assert len(set(answers)) == 1
    inboxes = [[delivery.product for delivery in world.pull()] for world in (member, stranger, withdrawn, crowded)]
    assert inboxes == [["home"], [], [], ["motor", "term_life"]]
    # Nor does what a withdrawal reports, nor a second proposal under the same id.
    again = [
        receipt_bytes(world, person) for world, person in ((member, 7), (stranger, 9), (withdrawn, 7), (crowded, 7))
    ]
    assert again == answers
    ended = [
        world.consents.withdraw(BANK, handle(BANK, n), PURPOSE)
        for world, n in ((member, 7), (stranger, 9), (withdrawn, 7))
    ]
    assert [e.offers_removed for e in ended] == [1, 1, 1]


def test_a_proposal_is_decided_after_its_receipt(world: World) -> None:
    world.propose(an_offer(), an_offer(9))
    assert world.log.leaves == []
    assert world.desk.decide_waiting() == 2
    assert world.refusals() == [["not_at_recipient"]]
    assert world.desk.decide_waiting() == 0


def test_every_decision_writes_equally_often_whatever_comes_of_it() -> None:
    """Else its duration would tell, to whoever sees when the next one is made, whose customer the person is."""

    def effort(person: int = PERSON, *, full: bool = False, **change: Any) -> tuple[int, int]:
        world = World(open_database(None))
        world.agree()
        if full:
            offer_from(BANK, "home", world)
        if change.pop("withdrawn", False):
            world.consents.withdraw(INSURER, handle(INSURER, person), PURPOSE)
        world.policy.closed_channels |= change.pop("closed", set())
        if change.pop("unmasked", False):
            del world.policy.masks["age"]
        writes = Writes(world)
        world.book.file(caller(BANK), [(an_offer(person, offer_id="this", **change), Receipt("this"))])
        return writes.during(world.desk.decide_waiting)

    permitted = effort()
    refused = [
        effort(9),
        effort(full=True),
        effort(withdrawn=True),
        effort(closed={"email"}),
        effort(9, closed={"email"}),
    ]
    refused += [effort(handle=handle(BANK, 12)), effort(product="none"), effort(expires_at=NOW)]
    failed = effort(unmasked=True)
    assert permitted == (WRITES - 2 + 1, 2)  # and the transaction that ends the chunk
    assert set(refused) == {(WRITES - 1 + 1, 1)}  # whose customer the person is makes no difference at all
    assert sum(failed) == sum(permitted) == sum(refused[0])


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"product": "unicorn"}, ["unknown_product"]),
        ({"product": "miles_card"}, ["not_the_recipients_product"]),
        ({"recipient": "airline"}, ["not_the_recipients_product"]),
        ({"recipient": "bank"}, ["not_the_recipients_product", "recipient_is_proposer"]),
        ({"channel": "pigeon"}, ["unknown_channel"]),
        ({"score_band": "top50"}, ["unknown_score_band"]),
        ({"purpose": "fun"}, ["wrong_purpose"]),
        ({"attributes": {"shoe_size": "43"}}, ["attribute_not_allowed"]),
        ({"benefit": " "}, ["no_benefit"]),
        ({"benefit": "two\nlines"}, ["bad_benefit"]),
        ({"benefit": "x" * 201}, ["bad_benefit"]),
        ({"expires_at": NOW}, ["offer_expired"]),
        ({"expires_at": NOW + timedelta(days=60, seconds=1)}, ["valid_too_long"]),
        ({"handle": handle(BANK, 12)}, ["unknown_handle"]),
        ({"handle": handle(INSURER, PERSON)}, ["unknown_handle"]),
    ],
)
def test_what_is_wrong_on_the_own_side_is_told_and_logged(
    world: World, change: dict[str, Any], codes: list[str]
) -> None:
    [receipt] = world.propose(an_offer(**change))
    assert [given.code for given in receipt.reasons] == codes
    assert world.refusals() == [codes]
    assert world.pull() == []


@pytest.mark.parametrize("status", ["withdrawn", "refused"])
def test_an_ended_own_consent_is_told(world: World, status: str) -> None:
    world.consents.record(BANK, [record(BANK, PERSON, given(status=status, given_at=NOW))])
    [receipt] = world.propose(an_offer())
    assert [g.code for g in receipt.reasons] == [f"consent_{status}"]


def test_an_expired_own_consent_and_a_closed_channel_are_told(world: World) -> None:
    world.consents.record(BANK, [record(BANK, PERSON, given(expires_at=NOW, given_at=NOW))])
    world.policy.closed_channels.add("phone")
    [receipt] = world.propose(an_offer(channel="phone"))
    assert [g.code for g in receipt.reasons] == ["consent_expired", "forbidden"]


@pytest.mark.parametrize("status", ["withdrawn", "refused"])
def test_the_recipients_consent_decides_but_is_not_told(world: World, status: str) -> None:
    world.consents.record(INSURER, [record(INSURER, PERSON, given(status=status, given_at=NOW))])
    assert world.propose(an_offer())[0].accepted
    assert world.pull() == []
    assert world.refusals() == [[f"recipient_consent_{status}"]]


def test_a_receipt_does_not_tell_which_of_the_own_handles_are_one_person(world: World) -> None:
    """A row of another partner can join two of the proposer's."""
    second = second_handle(BANK, PERSON)
    world.switchboard.second[BANK, PERSON] = [second]
    world.consents.withdraw(BANK, second, PURPOSE)
    assert world.propose(an_offer())[0].accepted
    assert world.pull() == []
    assert world.refusals() == [["consent_withdrawn"]]


def test_over_its_room_a_proposer_is_refused_before_anything_is_logged(world: World) -> None:
    world.book._room = 1
    with pytest.raises(OfferError) as caught:
        world.propose(an_offer(product="none"), an_offer(8, product="none"))
    assert caught.value.reason is Reason.TOO_MANY_OFFERS
    assert world.log.leaves == []


def test_what_was_rejected_is_purged_after_days_whenever_it_says_it_expires(world: World) -> None:
    offers = [an_offer(n, offer_id=f"x{n}", expires_at=NOW.replace(year=9999)) for n in range(5)]
    world.propose(*offers)
    world.clock.at += timedelta(days=7)
    assert world.desk.purge() == 0
    world.clock.at += timedelta(seconds=1)
    assert world.desk.purge() == 5
