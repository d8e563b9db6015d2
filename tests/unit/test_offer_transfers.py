"""Offers out of China: counted before they are queued, and refused where the mechanism is too weak for the number."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from federation.core.database import open_database
from federation.core.errors import OfferError
from federation.policy.facts import ConsentFact, Decision, Facts, TransferCounts, facts_from_json
from federation.policy.load import parse_policy
from federation.policy.policy_set import PolicySet
from federation.policy.transfers import Export
from gateway.consent.store import ConsentRecord
from gateway.offers.decider import TRIES
from gateway.policy.transfers import SqlTransfers
from tests.kits.offers import AIRLINE, BANK, INSURER, PERSON, World, Writes, an_offer, given, handle, second_handle
from tests.kits.policy import AT, files

COUNT = Export("CN", 2026, sensitive=False)
SMALL = {
    "localization": ("people_below: 100000\n", "people_below: 2\n"),
    "agreement": ("mechanism: cn-pipl:standard_contract", "mechanism: exempt"),
}
"""From two people on, an exemption is not enough."""


@dataclass
class Loaded:
    """A loaded policy in the place of the kit's."""

    policy: PolicySet

    @property
    def active(self) -> "Loaded":
        return self

    def decide(self, facts: Facts) -> Decision:
        return self.policy.decide(facts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)


def consent(**changed: Any) -> ConsentFact:
    times = {"given_at": AT - timedelta(days=9), "expires_at": AT + timedelta(days=99)}
    return given(**{**times, "jurisdiction": "PIPL", **changed})


def world(**changed: tuple[str, str]) -> World:
    policy: Any = Loaded(parse_policy(files(**changed)))
    found = World(open_database(None), policy=policy)
    found.clock.at = AT
    for party in (BANK, INSURER):
        for person in sorted(found.switchboard.people[party]):
            found.consents.record(party, [ConsentRecord(handle(party, person), "offer_sharing", consent(), "CN", AT)])
    return found


def propose(found: World, person: int, **changed: Any) -> Any:
    content = {"attributes": {"age": "41"}, "expires_at": AT + timedelta(days=20), "channel": "email", **changed}
    return found.propose(an_offer(person, **content))[0]


def people(found: World) -> int:
    """How many people of the bank are counted."""
    counts = SqlTransfers(found.engine).counts(BANK, handle(BANK, 99), COUNT)
    assert counts.people is not None
    return counts.people - 1


def test_an_offer_is_counted_once_and_its_log_entry_decides_the_same_again() -> None:
    found = world()
    assert propose(found, PERSON).accepted
    assert len(found.pull()) == len(found.pull()) == 1
    assert people(found) == 1
    (intent,) = found.log.of_kind("intent")
    (facts,) = map(facts_from_json, intent["facts"])
    assert facts.transfer_counts == TransferCounts(2026, 1, 0)
    assert found.policy.decide(facts).permitted


def test_the_person_over_the_threshold_is_refused_with_number_and_threshold_and_the_proposer_learns_nothing() -> None:
    found = world(**SMALL)
    first, second = propose(found, PERSON), propose(found, 8)
    assert first.accepted
    assert second.accepted  # its own side is in order; how many were delivered is not the proposer's to know
    assert len(found.pull()) == 1
    assert people(found) == 1
    (refused,) = found.log.of_kind("refused")
    (reason,) = refused["reasons"]
    assert (reason["code"], reason["legal_ref"]) == ("transfer_mechanism_too_weak", "cn-pipl:38")
    assert "data of 2 residents of CN abroad in 2026" in reason["text"]
    assert "from 2 people on" in reason["text"]
    assert "In force: cn-pipl:exempt." in reason["text"]


def test_a_second_offer_to_a_counted_person_is_no_second_person() -> None:
    found = world(**SMALL)
    assert propose(found, PERSON).accepted
    assert propose(found, PERSON, offer_id="again", product="motor").accepted
    assert len(found.pull()) == 2
    assert people(found) == 1


def test_a_sensitive_field_needs_its_own_consent_and_counts_as_sensitive() -> None:
    found = world()
    fields = {"attributes": {"balance": "6127"}}
    assert [g.code for g in propose(found, PERSON, **fields).reasons] == ["sensitive_consent_missing"]
    record = ConsentRecord(handle(BANK, PERSON), "offer_sharing_sensitive", consent(), "CN", AT)
    found.consents.record(BANK, [record])
    assert propose(found, PERSON, offer_id="now", **fields).accepted
    assert [delivery.attributes for delivery in found.pull()] == [{"balance": "5000-19999"}]
    counts = SqlTransfers(found.engine).counts(BANK, handle(BANK, 99), COUNT)
    assert (counts.people, counts.sensitive) == (2, 1)


def test_a_refused_offer_counts_nobody() -> None:
    found = world()
    found.consents.withdraw(INSURER, handle(INSURER, PERSON), "offer_sharing")
    assert propose(found, PERSON).accepted
    assert found.pull() == []
    assert people(found) == 0


@pytest.mark.parametrize("party", [BANK, INSURER])
def test_who_refuses_marketing_at_either_end_gets_no_offer_and_loses_those_that_wait(party: Any) -> None:
    found = world()
    assert propose(found, PERSON).accepted
    found.desk.decide_waiting()
    ended = found.consents.withdraw(party, handle(party, PERSON), "automated_marketing")
    assert ended.offers_removed == 1
    assert found.pull() == []
    receipt = propose(found, PERSON, offer_id="later", product="motor")
    assert receipt.accepted is (party == INSURER)  # the proposer is told of its own side only
    assert found.pull() == []
    assert "objected" in {g["code"] for body in found.log.of_kind("refused") for g in body["reasons"]}


@pytest.mark.parametrize(
    ("party", "under"),
    [
        (AIRLINE, handle(AIRLINE, PERSON)),
        (INSURER, second_handle(INSURER, PERSON)),
        (BANK, second_handle(BANK, PERSON)),
    ],
    ids=["a third partner", "another handle at the recipient", "another handle at the proposer"],
)
@pytest.mark.parametrize("moment", ["before", "queued"])
def test_a_refusal_of_marketing_counts_at_any_partner_and_under_any_handle(party: Any, under: Any, moment: str) -> None:
    found = world()
    found.switchboard.second[party, PERSON] = [under] if under != handle(party, PERSON) else []
    assert propose(found, PERSON).accepted
    assert propose(found, 8).accepted
    if moment == "queued":
        found.desk.decide_waiting()
    found.consents.withdraw(party, under, "automated_marketing")
    assert [delivery.handle for delivery in found.pull()] == [handle(INSURER, 8)]
    assert found.refusals() == [["objected"]]


def others_first(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Before the next counts, somebody else is counted."""
    real, others = SqlTransfers.count, iter(range(40, 40 + times))

    def count(store: SqlTransfers, party: Any, who: Any, export: Export, decided_on: TransferCounts) -> bool:
        if (number := next(others, None)) is not None:
            other = handle(BANK, number)
            assert real(store, BANK, other, export, store.counts(BANK, other, export))
        return real(store, party, who, export, decided_on)

    monkeypatch.setattr(SqlTransfers, "count", count)


def test_a_count_that_changed_during_the_decision_is_decided_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    found = world(**SMALL)
    assert propose(found, PERSON).accepted
    others_first(monkeypatch, 1)
    assert found.desk.decide_waiting() == 1
    assert found.pull() == []  # decided on the new number: two people, one too many
    assert people(found) == 1
    assert found.refusals() == [["transfer_mechanism_too_weak"]]


def test_a_count_that_goes_on_changing_leaves_the_offer_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    found = world()
    assert propose(found, PERSON).accepted
    others_first(monkeypatch, TRIES)
    with pytest.raises(OfferError):
        found.desk.decide_waiting()
    assert people(found) == TRIES
    assert len(found.pull()) == 1
    assert people(found) == TRIES + 1


def world_at_new_year(**changed: tuple[str, str]) -> World:
    """Two offers, decided in December, that may be handed out in January."""
    found = world(**changed)
    found.clock.at = datetime(2026, 12, 30, tzinfo=UTC)
    for person in (PERSON, 8):
        assert propose(found, person, expires_at=datetime(2027, 2, 1, tzinfo=UTC)).accepted
    found.desk.decide_waiting()
    return found


def people_of_2027(found: World) -> int:
    counts = SqlTransfers(found.engine).counts(BANK, handle(BANK, 99), Export("CN", 2027, sensitive=False))
    assert counts.people is not None
    return counts.people - 1


def test_what_is_handed_out_in_a_new_year_counts_in_it_too() -> None:
    found = world_at_new_year()
    assert people(found) == 2
    found.clock.at = datetime(2027, 1, 5, tzinfo=UTC)
    assert len(found.pull()) == len(found.pull()) == 2
    assert (people(found), people_of_2027(found)) == (2, 2)


def test_the_number_of_the_new_year_decides_when_it_is_handed_out() -> None:
    found = world_at_new_year()
    new = {**SMALL, "localization": ("people_below: 100000\n", "people_below: 2\n")}
    found.policy.policy = parse_policy(files(**new))  # type: ignore[attr-defined]
    found.clock.at = datetime(2027, 1, 5, tzinfo=UTC)
    assert len(found.pull()) == 1
    assert found.refusals() == [["transfer_mechanism_too_weak"]]
    assert people_of_2027(found) == 1


def test_a_count_that_goes_on_changing_leaves_the_offer_in_the_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    found = world_at_new_year()
    found.clock.at = datetime(2027, 1, 5, tzinfo=UTC)
    with monkeypatch.context() as patched:
        patched.setattr(SqlTransfers, "count", lambda *_: False)
        assert found.pull() == []
    assert found.refusals() == []
    assert len(found.pull()) == 2


def test_who_was_counted_before_takes_as_many_writes_as_who_was_not() -> None:
    found = world()
    written = Writes(found)
    effort = []
    for offer_id, product in (("first", "home"), ("second", "motor")):
        assert propose(found, PERSON, offer_id=offer_id, product=product).accepted
        effort.append(written.during(found.desk.decide_waiting))
    assert effort[0] == effort[1]
    assert len(found.pull()) == 2
