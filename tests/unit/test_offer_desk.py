"""The offer desk: what a proposer learns, what is decided, logged and delivered, and what a crash leaves."""

import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.core.database import open_database
from federation.core.errors import AuditError, OfferError, Reason
from federation.core.identity import Role, Subject, new_key
from federation.core.ids import PartyId, PolicyVersion
from federation.v1 import offers_pb2 as pb
from gateway.consent.store import ConsentRecord
from gateway.identity.authority import Authority
from gateway.identity.registry import Registry
from gateway.offers import service
from gateway.offers.book import Receipt
from gateway.offers.decider import WRITES
from gateway.offers.decisions import list_decisions
from gateway.offers.facts import MAX_HANDLES
from tests.conftest import NOW
from tests.kits.offers import (
    AIRLINE,
    BANK,
    INSURER,
    PERSON,
    SPEC,
    World,
    Writes,
    an_offer,
    caller,
    given,
    handle,
    record,
    second_handle,
)

PURPOSE = "offer_sharing"
LOOKS_LIKE_A_NUMBER = "band(1234567,7654321)"
"""What this mask leaves has as many digits as a telephone number."""


@pytest.fixture(params=["memory", "file"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    world = World(open_database(None if request.param == "memory" else tmp_path / "gateway.db"))
    world.agree()
    return world


def test_an_offer_passes_masked_and_the_log_has_intent_and_outcome(world: World) -> None:
    [receipt] = world.propose(an_offer(attributes={"age": "41", "job": "clerk"}))
    assert receipt.accepted
    [delivery] = world.pull()
    assert delivery.handle == handle(INSURER, PERSON)
    assert (delivery.origin, delivery.attributes, delivery.delivered_at) == (BANK, {"age": "30-59"}, NOW)
    [intent], [outcome] = world.log.of_kind("intent"), world.log.of_kind("outcome")
    assert intent["facts"][0]["recipient_consent"]["status"] == "given"
    assert outcome["result"] == {
        "what": "offer",
        "from": "bank",
        "recipient": "insurer",
        "product": "home",
        "channel": "email",
        "score_band": "top5",
        "masked": [{"field": "age", "mask": "band(30,60)"}, {"field": "job", "mask": "drop"}],
        "policy": "v1",
    }


def test_the_log_names_nobody(world: World) -> None:
    world.propose(an_offer(), an_offer(9), an_offer(10, product="none"))
    world.pull()
    text = b"".join(world.log.leaves)
    people = [handle(party, person) for party in (BANK, INSURER) for person in (PERSON, 9, 10)]
    secrets = [*(h.hex().encode() for h in people), *people, b"bank-7", b"bank-9", b"41", b"The first month"]
    assert not [secret for secret in secrets if secret in text]


def test_the_log_finds_nobody_in_a_register_of_consents(world: World) -> None:
    """A partner's consents.csv has the exact times beside the customer: in the log they would be a key to both ends."""
    people = (PERSON, 8)  # at both partners
    for person, age in zip(people, (3, 7), strict=True):
        times = {"given_at": NOW - timedelta(hours=age), "expires_at": NOW + timedelta(hours=24 + age)}
        for party in (BANK, INSURER):
            world.consents.record(party, [record(party, person, given(**times))])
    world.propose(*(an_offer(person) for person in people))
    world.pull()
    for person in people:
        world.consents.withdraw(BANK, handle(BANK, person), PURPOSE)
    world.propose(*(an_offer(person, offer_id=f"late-{person}", product="motor") for person in people))
    for kind in ("intent", "refused"):
        facts = [entry["facts"][0] for entry in world.log.of_kind(kind)]
        assert len(facts) == len(people)
        assert facts[0] == facts[1]
        assert (facts[0]["consent"]["given_by_now"], facts[0]["consent"]["ended_by_now"]) == (True, False)


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


def test_the_same_id_gets_the_same_answer_and_one_delivery(world: World) -> None:
    offers = [an_offer(), an_offer(9), an_offer(8, product="none")]
    first = world.propose(*offers)
    assert world.propose(*offers) == first
    assert len(world.pull()) == 1
    assert world.propose(*offers, offers[0]) == [*first, first[0]]
    assert len(world.pull()) == 1
    assert len(world.log.of_kind("intent")) == 1
    assert len(world.log.of_kind("refused")) == 2
    with pytest.raises(OfferError) as caught:
        world.propose(an_offer(8), an_offer(benefit="Other words."))
    assert caught.value.reason is Reason.IDEMPOTENCY_CONFLICT


def offer_from(party: PartyId, product: str, world: World, recipient: str = "insurer") -> list[str]:
    offer = an_offer(party=party, offer_id=f"{party}-{product}-{world.clock.at}", product=product, recipient=recipient)
    offer = replace(offer, expires_at=world.clock.at + timedelta(days=20))
    before = len(world.log.of_kind("refused"))
    world.propose(offer, party=party)
    world.desk.decide_waiting()
    return [code for codes in world.refusals()[before:] for code in codes]


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


def test_consent_expiry_and_policy_are_asked_again_at_delivery(world: World) -> None:
    world.propose(an_offer(), an_offer(8))
    world.desk.decide_waiting()
    world.consents.record(INSURER, [record(INSURER, 8, given(given_at=NOW, expires_at=NOW + timedelta(days=1)))])
    world.clock.at = NOW + timedelta(days=2)
    assert [delivery.handle for delivery in world.pull()] == [handle(INSURER, PERSON)]
    assert world.refusals() == [["recipient_consent_expired"]]
    world.clock.at = NOW + timedelta(days=20)
    assert world.pull() == []
    assert world.refusals()[1:] == [["offer_expired"]]


def test_a_policy_that_became_stricter_holds_at_delivery(world: World) -> None:
    world.propose(an_offer(), an_offer(8, channel="phone"))
    assert [delivery.attributes for delivery in world.pull()] == [{"age": "30-59"}] * 2
    world.policy.version = PolicyVersion("v2")
    world.policy.masks["age"] = "drop"
    world.policy.closed_channels.add("phone")
    assert [delivery.attributes for delivery in world.pull()] == [{}]
    del world.policy.masks["age"]
    assert world.pull() == []
    assert world.refusals() == [["forbidden"], ["obligation_failed"]]


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


def test_a_receipt_does_not_tell_which_of_the_own_handles_are_one_person(world: World) -> None:
    """A row of another partner can join two of the proposer's."""
    second = second_handle(BANK, PERSON)
    world.switchboard.second[BANK, PERSON] = [second]
    world.consents.withdraw(BANK, second, PURPOSE)
    assert world.propose(an_offer())[0].accepted
    assert world.pull() == []
    assert world.refusals() == [["consent_withdrawn"]]


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


@pytest.mark.parametrize("moment", ["decided", "handed out"])
@pytest.mark.parametrize("by", ["serial", "party"])
def test_offers_of_who_was_struck_off_since_are_neither_decided_nor_handed_out(
    tmp_path: Path, moment: str, by: str
) -> None:
    world = World(open_database(tmp_path / "offers.db"))
    authority = Authority.create("skyline", NOW)
    registry = Registry(open_database(tmp_path / "registry.db"), "skyline", authority.certificate, world.clock)
    world.check_standing = registry.check_standing
    callers = []
    for party in (BANK, AIRLINE):
        pem = authority.issue(new_key().public_key(), Subject("skyline", Role.PARTNER, party), NOW)
        registry.know(pem)
        callers.append(registry.authenticate(pem))
    bank, airline = callers
    world.agree()
    later = NOW + timedelta(days=50)
    world.desk.propose(bank, [an_offer(expires_at=later)])
    world.desk.propose(airline, [an_offer(party=AIRLINE, product="motor", expires_at=later)])
    if moment == "handed out":
        world.desk.decide_waiting()
    registry.revoke(bank.serial if by == "serial" else "", "" if by == "serial" else "bank", "key stolen")
    # One that has only expired since was good when the offer was proposed; partners renew theirs all the time.
    world.clock.at = airline.expires_at + timedelta(seconds=1)
    assert [delivery.origin for delivery in world.pull()] == [AIRLINE]
    assert world.refusals() == [["certificate_revoked"]]


NEW_RULES = [
    ({"products": SPEC.products[1:]}, "unknown_product"),
    ({"products": (SPEC.products[0].model_copy(update={"owner": "airline"}),)}, "not_the_recipients_product"),
    ({"channels": ("phone",)}, "unknown_channel"),
    ({"attributes": ("job",)}, "attribute_not_allowed"),
    ({"max_valid_days": 19}, "valid_too_long"),
]


@pytest.mark.parametrize(("changed", "code"), NEW_RULES)
@pytest.mark.parametrize("moment", ["decided", "handed out", "handed out again"])
def test_the_offer_rules_in_force_hold_for_what_was_proposed_before(
    world: World, changed: dict[str, Any], code: str, moment: str
) -> None:
    assert world.propose(an_offer())[0].accepted
    if moment != "decided":
        world.desk.decide_waiting()
    if moment == "handed out again":
        assert len(world.pull()) == 1
    world.policy.offers = SPEC.model_copy(update=changed)
    world.policy.version = PolicyVersion("v2")
    assert world.pull() == []
    assert world.refusals() == [[code]]
    assert world.log.of_kind("refused")[0]["policy"] == ["v2"]
    world.policy.offers = SPEC
    assert world.pull() == []  # taken out of the inbox for good


def test_neither_time_nor_its_own_masks_make_an_offer_break_the_rules(world: World) -> None:
    """What a mask left may look like a telephone number; and the longest validity counts from the proposal."""
    world.policy.masks |= {"age": LOOKS_LIKE_A_NUMBER, "job": "keep"}
    longest = NOW + timedelta(days=SPEC.max_valid_days)
    attributes = {"age": "2345678", "job": "clerk"}
    world.propose(an_offer(attributes=attributes, expires_at=longest), an_offer(8, expires_at=longest))
    world.desk.decide_waiting()
    for days in (0, 20, 40):
        world.clock.at = NOW + timedelta(days=days)
        assert len(world.pull()) == 2
    assert world.refusals() == []


def test_an_offer_that_waited_is_judged_by_the_time_it_was_proposed(world: World) -> None:
    world.propose(an_offer(expires_at=NOW + timedelta(days=20)), an_offer(8, expires_at=NOW + timedelta(days=1)))
    world.clock.at = NOW + timedelta(days=10)
    world.policy.offers = SPEC.model_copy(update={"max_valid_days": 15})  # ten days are left, twenty were asked for
    assert world.desk.decide_waiting() == 2
    assert world.refusals() == [["valid_too_long"], ["offer_expired"]]


def test_a_mask_that_fails_refuses(world: World) -> None:
    del world.policy.masks["age"]
    assert world.propose(an_offer())[0].accepted
    assert world.pull() == []
    assert world.refusals() == [["obligation_failed"]]


def test_pull_gives_the_same_until_acknowledged_and_respects_the_limit(world: World) -> None:
    world.propose(an_offer(), an_offer(8))
    [first] = world.pull(limit=1)
    world.clock.at = NOW + timedelta(hours=1)
    assert world.pull(limit=1) == [first]
    assert world.pull()[0] == first
    assert world.desk.acknowledge(caller(AIRLINE), [first.delivery_id]) == 0
    assert world.desk.acknowledge(caller(INSURER), [first.delivery_id]) == 1
    assert world.desk.acknowledge(caller(INSURER), [first.delivery_id]) == 1
    assert [delivery.handle for delivery in world.pull()] == [handle(INSURER, 8)]


def test_without_a_log_nothing_is_decided_or_delivered(world: World) -> None:
    world.propose(an_offer())
    world.log.broken = True
    with pytest.raises(AuditError):
        world.propose(an_offer(8, product="none"))
    with pytest.raises(AuditError):
        world.pull()
    world.log.broken = False
    assert len(world.pull()) == 1
    assert world.propose(an_offer(8))[0].accepted  # the failed call left nothing under that id


@pytest.mark.parametrize("moment", ["intent", "outcome"])
def test_a_kill_during_the_decision_loses_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    world = World(open_database(tmp_path / "gateway.db"))
    world.agree()
    world.propose(an_offer(), an_offer(8))
    world.log.crash_after = moment
    with pytest.raises(KeyboardInterrupt):
        world.desk.decide_waiting()
    world.engine.dispose()
    again = World(open_database(tmp_path / "gateway.db"))
    assert again.book.inbox(INSURER, 10, 0) == []  # nothing is visible whose outcome is not known to be in the log
    assert {delivery.handle for delivery in again.pull()} == {handle(INSURER, PERSON), handle(INSURER, 8)}
    assert len(again.log.of_kind("outcome")) == 2
    assert again.propose(an_offer())[0].accepted
    assert len(again.pull()) == 2


def test_what_a_mask_left_is_no_identifier_when_a_kill_has_the_offer_decided_again(tmp_path: Path) -> None:
    world = World(open_database(tmp_path / "gateway.db"))
    world.agree()
    world.policy.masks["age"] = LOOKS_LIKE_A_NUMBER
    world.propose(an_offer(attributes={"age": "2345678"}))
    world.log.crash_after = "outcome"
    with pytest.raises(KeyboardInterrupt):
        world.desk.decide_waiting()
    world.engine.dispose()
    again = World(open_database(tmp_path / "gateway.db"), policy=world.policy)
    assert [delivery.attributes for delivery in again.pull()] == [{"age": "1234567-7654320"}]


def test_a_decision_finishes_under_the_version_it_began_with(world: World) -> None:
    old = replace(world.policy)
    answers = iter([old, old])
    world.desk._terms = lambda: next(answers, world.policy)
    world.policy.version = PolicyVersion("v2")
    world.propose(an_offer())
    assert world.desk.decide_waiting() == 1
    assert world.log.of_kind("intent")[-1]["policy"] == [old.version]
    assert world.log.of_kind("outcome")[-1]["result"]["policy"] == old.version


def test_the_desk_decides_on_its_own(tmp_path: Path) -> None:
    world = World(open_database(tmp_path / "gateway.db"))
    world.agree()
    stop = threading.Event()
    thread = threading.Thread(target=world.desk.serve, args=(stop,))
    thread.start()
    try:
        world.propose(an_offer())
        deadline = time.monotonic() + 60
        while not world.book.inbox(INSURER, 1, 0):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        stop.set()
        world.desk._wake.set()
        thread.join(60)
    assert not thread.is_alive()


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


def test_one_call_for_an_inbox_decides_a_bounded_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CHUNK", 4)
    world.propose(*(an_offer(9, offer_id=f"n{n}") for n in range(30)))  # nobody's customer
    assert world.pull() == []
    assert len(world.log.of_kind("refused")) == 4 * service.CHUNKS_PER_PULL
    world.propose(an_offer(party=AIRLINE, product="motor"), party=AIRLINE)  # does not wait behind the other's
    assert [delivery.origin for delivery in world.pull()] == [AIRLINE]
    assert len(world.log.of_kind("refused")) == 4 * service.CHUNKS_PER_PULL + 3
    assert world.desk.decide_waiting(most=5) == 7
    assert world.desk.decide_waiting() == 0


def test_one_call_for_an_inbox_looks_at_a_bounded_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people = range(100, 130)
    for party in (BANK, INSURER):
        world.switchboard.people[party] |= set(people)
        world.consents.record(party, [record(party, person) for person in people])
    world.propose(*(an_offer(person) for person in people))
    world.desk.decide_waiting()
    monkeypatch.setattr(service, "MAX_REFUSED_PER_PULL", 10)
    world.policy.closed_channels.add("email")
    assert world.pull(limit=5) == []
    assert len(world.refusals()) == 15
    world.policy.closed_channels.clear()
    assert len(world.pull()) == 15


def test_an_inbox_does_not_wait_for_decisions_about_another(tmp_path: Path) -> None:
    world = World(open_database(tmp_path / "gateway.db"))
    world.agree()
    world.propose(an_offer(), an_offer(offer_id="other", product="miles_card", recipient="airline"))
    found: list[Any] = []
    with world.desk._turns.of(INSURER):  # as long as somebody decides for the insurer
        thread = threading.Thread(target=lambda: found.extend(world.pull(AIRLINE)))
        thread.start()
        thread.join(60)
        assert [delivery.product for delivery in found] == ["miles_card"]
    assert len(world.pull()) == 1


def test_compliance_reads_decisions(world: World) -> None:
    world.log.append("intent", {"what": "cube"})
    world.log.append("outcome", {"intent": 0, "result": {"digest": "ab"}})
    world.log.append("refused", {"what": "cube", "subject": {}})
    world.policy.closed_channels.add("phone")
    world.propose(an_offer(), an_offer(9), an_offer(8, channel="phone"))
    world.desk.decide_waiting()
    decisions = list_decisions(world.log, 0, 100)
    assert [(d.permitted, [g.code for g in d.reasons]) for d in decisions] == [
        (False, ["forbidden"]),
        (True, []),
        (False, ["not_at_recipient"]),
    ]
    assert decisions[0].reasons[0].legal_ref == "law 1"
    assert decisions[1].masked == {"age": "band(30,60)"}
    assert {(d.origin, d.recipient, d.product, d.policy_version) for d in decisions} == {
        ("bank", "insurer", "home", "v1")
    }
    assert list_decisions(world.log, decisions[0].audit_index, 1) == decisions[1:2]
    assert list_decisions(world.log, decisions[2].audit_index, 5) == []
