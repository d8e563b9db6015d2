"""What held when an offer was proposed is asked again when it is decided, and each time it is handed out."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.core.database import open_database
from federation.core.identity import Role, Subject, new_key
from federation.core.ids import PolicyVersion
from gateway.identity.authority import Authority
from gateway.identity.registry import Registry
from tests.conftest import NOW
from tests.kits.offers import (
    AIRLINE,
    BANK,
    INSURER,
    PERSON,
    SPEC,
    World,
    an_offer,
    given,
    handle,
    record,
)

LOOKS_LIKE_A_NUMBER = "band(1234567,7654321)"
"""What this mask leaves has as many digits as a telephone number."""


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
