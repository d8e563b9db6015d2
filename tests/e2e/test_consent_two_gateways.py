"""Two gateway processes on one state: what one has acknowledged holds at the other."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from federation.client.connection import Connection, translated
from federation.core.clock import SystemClock
from federation.core.errors import EntenteError, Reason
from federation.v1 import audit_pb2, consent_pb2, enrolment_pb2, offers_pb2
from tests.kits.two_gateways import Pair, handle, offer, two_gateways

PEOPLE = 60
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with two_gateways(tmp_path_factory.mktemp("pair") / "alliance", PEOPLE) as pair:
        yield pair


class Ends:
    """Connections of a party at both gateways."""

    def __init__(self, pair: Pair, stack: ExitStack) -> None:
        self.pair, self.stack = pair, stack

    def at(self, party: str, which: int) -> Connection:
        return self.stack.enter_context(self.pair.connect(party, which))


@pytest.fixture
def ends(pair: Pair) -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(pair, stack)


def propose(connection: Connection, *offers: offers_pb2.Offer) -> list[offers_pb2.OfferReceipt]:
    return list(connection.offers.ProposeOffers(offers_pb2.ProposeOffersRequest(offers=offers), timeout=60).receipts)


def pull(connection: Connection) -> list[offers_pb2.DeliveredOffer]:
    return list(connection.offers.PullInbox(offers_pb2.PullInboxRequest(max_offers=1000), timeout=60).offers)


def acknowledge(connection: Connection, delivered: list[offers_pb2.DeliveredOffer]) -> None:
    ids = [one.delivery_id for one in delivered]
    connection.offers.AcknowledgeOffers(offers_pb2.AcknowledgeOffersRequest(delivery_ids=ids), timeout=60)


def withdraw(connection: Connection, party: str, person: int) -> None:
    request = consent_pb2.WithdrawConsentRequest(handle=handle(party, person), purpose="offer_sharing")
    connection.consent.WithdrawConsent(request, timeout=60)


def test_a_withdrawal_at_one_holds_at_the_other_and_empties_its_queue(ends: Ends) -> None:
    now = SystemClock().now()
    bank, insurer = [ends.at("bank", n) for n in (0, 1)], [ends.at("insurer", n) for n in (0, 1)]
    assert all(receipt.accepted for receipt in propose(bank[0], offer("bank", 1, now), offer("bank", 2, now)))
    assert {one.handle for one in pull(insurer[1])} == {handle("insurer", 1), handle("insurer", 2)}
    withdraw(bank[0], "bank", 1)
    assert {one.handle for one in pull(insurer[1])} == {handle("insurer", 2)}
    withdraw(insurer[1], "insurer", 2)
    assert pull(insurer[0]) == []
    [receipt] = propose(bank[1], offer("bank", 1, now, "again"))
    assert "consent_withdrawn" in {reason.code for reason in receipt.reasons}
    assert propose(bank[0], offer("bank", 2, now, "again-2"))[0].accepted  # its own side has not changed
    assert pull(insurer[0]) == pull(insurer[1]) == []


def test_both_decide_at_once_and_each_offer_is_there_once(ends: Ends) -> None:
    now = SystemClock().now()
    people = range(10, 40)
    bank, insurer = [ends.at("bank", n) for n in (0, 1)], [ends.at("insurer", n) for n in (0, 1)]
    compliance = ends.at("compliance", 0)
    before = len(compliance.offers.ListDecisions(offers_pb2.ListDecisionsRequest(), timeout=60).decisions)
    # Three offers a person, of which two may be open, sent to both gateways and half of them twice.
    names = [(n, product) for n in people for product in ("home", "motor", "term_life")]
    batches = [[offer("bank", n, now, f"{n}-{p}", p) for n, p in names[start::6]] for start in range(6)]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(propose, bank[turn % 2], *batch) for turn, batch in enumerate(batches + batches[:3])]
        pulls = [pool.submit(pull, insurer[turn % 2]) for turn in range(4)]
        answers = [receipt for job in jobs for receipt in job.result(120)]
        assert all(job.result(120) is not None for job in pulls)
    taken = {receipt.offer_id for receipt in answers if receipt.accepted}
    delivered = pull(insurer[0])
    assert sorted(one.delivery_id for one in delivered) == sorted(one.delivery_id for one in pull(insurer[1]))
    per_person = [sum(one.handle == handle("insurer", n) for one in delivered) for n in people]
    assert all(0 < count <= 2 for count in per_person)
    decisions = compliance.offers.ListDecisions(offers_pb2.ListDecisionsRequest(), timeout=60).decisions[before:]
    refused_at_once = len({receipt.offer_id for receipt in answers}) - len(taken)
    assert len(decisions) == len(taken) + refused_at_once  # each was decided, and logged, once
    acknowledge(insurer[0], delivered[::2])
    acknowledge(insurer[1], delivered[1::2])
    assert pull(insurer[0]) == pull(insurer[1]) == []


def test_a_gateway_that_is_killed_leaves_its_turn(ends: Ends) -> None:
    now = SystemClock().now()
    offers = [offer("bank", n, now, f"killed-{n}", "motor") for n in range(40, 60)]
    assert all(receipt.accepted for receipt in propose(ends.at("bank", 0), *offers))
    ends.pair.kill(0)
    try:
        insurer = ends.at("insurer", 1)
        delivered = pull(insurer)
        assert {one.handle for one in delivered} == {handle("insurer", n) for n in range(40, 60)}
        acknowledge(insurer, delivered)
    finally:
        ends.pair.restart(0)
    assert pull(ends.at("insurer", 0)) == []


def test_the_log_of_both_is_one(ends: Ends) -> None:
    auditors = [ends.at("compliance", n) for n in (0, 1)]
    heads = [one.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=30) for one in auditors]
    assert heads[0] == heads[1]


def test_a_revocation_at_one_holds_at_the_other(ends: Ends) -> None:
    airline = ends.at("airline", 1)
    airline.enrolment.WhoAmI(enrolment_pb2.WhoAmIRequest(), timeout=30)
    request = enrolment_pb2.RevokeCertificateRequest(party="airline", reason=f"test {os.getpid()}")
    ends.at("operator", 0).enrolment.RevokeCertificate(request, timeout=30)
    with pytest.raises(EntenteError) as caught, translated():
        airline.enrolment.WhoAmI(enrolment_pb2.WhoAmIRequest(), timeout=30)
    assert caught.value.reason is Reason.CERTIFICATE_REVOKED
