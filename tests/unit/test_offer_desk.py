"""The offer desk: what is decided, logged and delivered, how much in one call, and what a crash leaves."""

import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.cli.policy_tools import decision_at
from federation.core.database import open_database
from federation.core.errors import AuditError, OfferError, Reason
from federation.core.ids import PolicyVersion
from federation.v1 import audit_pb2
from gateway.offers import service
from gateway.offers.book import Held
from gateway.offers.decisions import list_decisions
from gateway.offers.sql import SqlOfferBook
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
    record,
)

PURPOSE = "offer_sharing"

LOOKS_LIKE_A_NUMBER = "band(1234567,7654321)"
"""What this mask leaves has as many digits as a telephone number."""


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


def test_compliance_reads_of_a_withdrawal_that_came_during_the_decision(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = SqlOfferBook.hold

    def withdrawn_first(*args: Any, **kwargs: Any) -> Held:
        world.consents.withdraw(BANK, handle(BANK, PERSON), PURPOSE)
        return hold(*args, **kwargs)

    monkeypatch.setattr(SqlOfferBook, "hold", withdrawn_first)
    world.propose(an_offer())
    world.desk.decide_waiting()
    [decision] = list_decisions(world.log, 0, 100)
    assert not decision.permitted
    assert [given.code for given in decision.reasons] == ["consent_withdrawn"]
    assert (decision.origin, decision.recipient, decision.product) == ("bank", "insurer", "home")
    # What `policy explain --index` is given by `offers decisions`:
    log = SimpleNamespace(
        audit=SimpleNamespace(
            ListEntries=lambda request, timeout: [
                audit_pb2.ListEntriesResponse(entries=world.log.entries(request.start, request.end))
            ]
        )
    )
    found = decision_at(log, decision.audit_index)  # type: ignore[arg-type]
    assert not found.permitted
    assert found.other == decision.reasons
