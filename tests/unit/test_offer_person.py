"""All offers to one person: caps over all partners, withdrawals, and the handles that are the same person."""

from datetime import timedelta
from typing import Any

import pytest

from federation.core.ids import PartyId
from gateway.consent.store import ConsentRecord
from gateway.offers.facts import MAX_HANDLES
from tests.conftest import NOW
from tests.kits.offers import (
    AIRLINE,
    BANK,
    INSURER,
    PERSON,
    World,
    an_offer,
    caller,
    given,
    handle,
    offer_from,
    record,
    second_handle,
)

PURPOSE = "offer_sharing"


def test_caps_count_the_person_over_all_partners(world: World) -> None:
    assert offer_from(BANK, "home", world) == []
    assert offer_from(AIRLINE, "home", world) == ["cooling_off"]
    assert offer_from(INSURER, "miles_card", world, "airline") == []
    assert offer_from(AIRLINE, "motor", world) == ["too_many_open_offers"]
    world.clock.at = NOW + timedelta(days=21)  # both have expired
    assert offer_from(BANK, "home", world) == ["cooling_off"]
    assert offer_from(AIRLINE, "motor", world) == []
    world.clock.at = NOW + timedelta(days=31)
    assert offer_from(AIRLINE, "home", world) == []


def test_an_acknowledged_offer_is_still_open_for_the_person(world: World) -> None:
    offer_from(BANK, "home", world)
    offer_from(BANK, "motor", world)
    assert world.desk.acknowledge(caller(INSURER), [delivery.delivery_id for delivery in world.pull()]) == 2
    assert world.pull() == []
    assert offer_from(BANK, "term_life", world) == ["too_many_open_offers"]


@pytest.mark.parametrize("party", [BANK, INSURER])
def test_ending_a_consent_and_giving_it_again_does_not_reset_the_caps(world: World, party: PartyId) -> None:
    """The recipient reads without acknowledging."""
    seen = []
    for product in ("home", "home", "motor", "term_life"):
        offer_from(BANK, product, world)
        seen += [delivery.product for delivery in world.pull()]
        world.clock.at += timedelta(seconds=1)
        world.consents.withdraw(party, handle(party, PERSON), PURPOSE)
        world.clock.at += timedelta(seconds=1)
        world.consents.record(party, [record(party, PERSON, given(given_at=world.clock.at))])
    assert seen == ["home", "motor"]
    assert world.refusals() == [["cooling_off"], ["too_many_open_offers"]]


def test_a_cap_and_a_denial_are_logged_together(world: World) -> None:
    offer_from(BANK, "home", world)
    world.consents.record(INSURER, [record(INSURER, PERSON, given(status="given", expires_at=NOW, given_at=NOW))])
    assert offer_from(BANK, "home", world) == []  # the same id
    offer = an_offer(offer_id="other")
    world.propose(offer)
    world.desk.decide_waiting()
    assert world.refusals()[-1] == ["cooling_off", "recipient_consent_expired"]


@pytest.mark.parametrize("party", [BANK, INSURER])
def test_a_withdrawal_removes_the_queued_offer(world: World, party: PartyId) -> None:
    world.propose(an_offer(), an_offer(8))
    assert len(world.pull()) == 2  # handed out, not acknowledged
    assert world.consents.withdraw(party, handle(party, PERSON), PURPOSE).offers_removed == 1
    assert [delivery.handle for delivery in world.pull()] == [handle(INSURER, 8)]


def test_withdrawal_and_removal_are_one_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.propose(an_offer())
    world.desk.decide_waiting()
    real = world.book.drop_for_consent

    def fail(*args: Any) -> int:
        real(*args)
        raise RuntimeError("power cut")

    monkeypatch.setattr(world.consents, "_on_end", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        world.consents.withdraw(BANK, handle(BANK, PERSON), PURPOSE)
    found = world.consents.get(BANK, handle(BANK, PERSON), PURPOSE)
    assert found is not None
    assert found.fact.status == "given"
    assert len(world.pull()) == 1


@pytest.mark.parametrize("party", [BANK, INSURER])
@pytest.mark.parametrize("moment", ["queued", "handed out"])
def test_who_left_the_switchboard_gets_no_offer_that_waits(world: World, party: PartyId, moment: str) -> None:
    world.propose(an_offer(), an_offer(8))
    world.desk.decide_waiting()
    if moment == "handed out":
        assert len(world.pull()) == 2
    world.switchboard.people[party].discard(PERSON)  # erased there, and the index was updated
    assert [delivery.handle for delivery in world.pull()] == [handle(INSURER, 8)]
    assert world.refusals() == [["not_the_same_person"]]


def test_two_handles_that_turned_out_to_be_two_people_get_no_offer(world: World) -> None:
    world.propose(an_offer())
    world.desk.decide_waiting()
    board = world.switchboard
    real = board.handles
    board.handles = lambda *args: [pair for pair in real(*args) if pair[0] != INSURER]  # type: ignore[method-assign]
    assert world.pull() == []


@pytest.mark.parametrize("party", [BANK, INSURER])
@pytest.mark.parametrize("which", [-1, 1], ids=["the smallest", "not the smallest"])
@pytest.mark.parametrize("moment", ["before", "queued"])
def test_a_withdrawal_under_another_handle_of_the_person_counts(
    world: World, party: PartyId, which: int, moment: str
) -> None:
    second = second_handle(party, PERSON, which)
    assert (second < handle(party, PERSON)) == (which == -1)
    world.switchboard.second[party, PERSON] = [second]
    world.consents.record(party, [ConsentRecord(second, PURPOSE, given(), "PT", NOW)])
    world.propose(an_offer(), an_offer(8))
    if moment == "queued":
        world.desk.decide_waiting()
    world.clock.at = NOW + timedelta(minutes=1)
    world.consents.withdraw(party, second, PURPOSE)
    assert [delivery.handle for delivery in world.pull()] == [handle(INSURER, 8)]


def test_a_person_of_too_many_handles_is_refused(world: World) -> None:
    world.switchboard.second[AIRLINE, PERSON] = [second_handle(AIRLINE, PERSON, n) for n in range(MAX_HANDLES)]
    world.propose(an_offer())
    assert world.pull() == []
    assert world.refusals() == [["too_many_handles"]]
    world.switchboard.second.clear()
    world.propose(an_offer(offer_id="again"))
    world.desk.decide_waiting()
    world.switchboard.second[BANK, PERSON] = [second_handle(BANK, PERSON, n) for n in range(MAX_HANDLES)]
    assert world.pull() == []
