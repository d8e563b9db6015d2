"""Limits and fields at the door of the consent and offer services; a refused message leaves nothing behind."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from federation.core.database import open_database
from federation.core.errors import DataError, IdentityError, OfferError, Reason
from federation.v1 import consent_pb2, enrolment_pb2, offers_pb2
from gateway.identity.authority import Authority
from gateway.identity.caller import set_caller
from gateway.identity.registry import Registry
from gateway.rpc.consent import ConsentServicer
from gateway.rpc.enrolment import EnrolmentServicer
from gateway.rpc.offers import OfferServicer
from tests.conftest import NOW
from tests.kits.offers import AIRLINE, BANK, INSURER, PERSON, World, an_offer, caller, handle

LATER = (NOW + timedelta(days=20)).isoformat()


@pytest.fixture
def world() -> World:
    world = World(open_database(None))
    world.agree()
    return world


def call(servicer: Any, method: str, request: Any, party: Any = BANK) -> Any:
    async def run() -> Any:
        set_caller(caller(party) if party else None)
        return await getattr(servicer, method)(request, None)

    return asyncio.run(run())


def state(**changed: Any) -> consent_pb2.ConsentState:
    content = {
        "handle": handle(BANK, 50),
        "purpose": "offer_sharing",
        "status": "given",
        "recipients": ["insurer"],
        "given_at": "2026-10-01T00:00:00Z",
        "expires_at": "2027-10-01T00:00:00Z",
        "jurisdiction": "GDPR",
        "region": "PT",
    }
    return consent_pb2.ConsentState(**(content | changed))


def message(**changed: Any) -> offers_pb2.Offer:
    offer = an_offer()
    content = offer.to_json() | {"handle": offer.handle, "expires_at": LATER} | changed
    return offers_pb2.Offer(**content)


@pytest.mark.parametrize(
    ("changed", "item"),
    [
        ({"handle": bytes(15)}, "states[1].handle: 15 bytes, expected 16"),
        ({"purpose": "Offers!"}, "states[1].purpose"),
        ({"status": "maybe"}, "states[1].status"),
        ({"recipients": ["someone@example.org"]}, "states[1].recipients"),
        ({"recipients": ["insurer"] * 33}, "states[1].recipients"),
        ({"jurisdiction": "gdpr"}, "states[1].jurisdiction"),
        ({"region": "PRT"}, "states[1].region"),
        ({"given_at": "yesterday"}, "states[1].given_at"),
        ({"expires_at": "2027-10-01"}, "states[1].expires_at"),
    ],
)
def test_one_bad_consent_state_refuses_the_message(world: World, changed: dict[str, Any], item: str) -> None:
    request = consent_pb2.RecordConsentsRequest(states=[state(), state(**changed)])
    with pytest.raises((OfferError, DataError)) as caught:
        call(ConsentServicer(world.consents, world.clock), "RecordConsents", request)
    assert caught.value.item == item
    assert world.consents.all_of(BANK, handle(BANK, 50)) == []


def test_too_many_states_are_refused(world: World) -> None:
    request = consent_pb2.RecordConsentsRequest(states=[state()] * 10_001)
    with pytest.raises(OfferError) as caught:
        call(ConsentServicer(world.consents, world.clock), "RecordConsents", request)
    assert caught.value.reason is Reason.TOO_LARGE


def test_consents_are_the_callers_own(world: World) -> None:
    servicer = ConsentServicer(world.consents, world.clock)
    assert call(servicer, "RecordConsents", consent_pb2.RecordConsentsRequest(states=[state()])).recorded == 1
    asked = consent_pb2.GetConsentsRequest(handle=handle(BANK, 50))
    [found] = call(servicer, "GetConsents", asked).states
    assert found == state(given_at="2026-10-01T00:00:00+00:00", expires_at="2027-10-01T00:00:00+00:00")
    assert not call(servicer, "GetConsents", asked, INSURER).states
    request = consent_pb2.WithdrawConsentRequest(handle=handle(BANK, 50), purpose="offer_sharing")
    call(servicer, "WithdrawConsent", request, INSURER)
    assert call(servicer, "GetConsents", asked).states[0].status == "given"
    assert call(servicer, "WithdrawConsent", request).effective_at == "2026-11-01T00:00:00+00:00"
    assert call(servicer, "GetConsents", asked).states[0].status == "withdrawn"


@pytest.mark.parametrize(
    ("changed", "item"),
    [
        ({"offer_id": ""}, "offers[1].offer_id"),
        ({"offer_id": "x" * 65}, "offers[1].offer_id"),
        ({"handle": bytes(17)}, "offers[1].handle: 17 bytes, expected 16"),
        ({"product": "someone@example.org"}, "offers[1].product"),
        ({"recipient": "X"}, "offers[1].recipient"),
        ({"channel": ""}, "offers[1].channel"),
        ({"attributes": {"+351 911": "x"}}, "offers[1].attributes: a name"),
        ({"attributes": {"age": "4" * 257}}, "offers[1].attributes[age]: 257, at most 256"),
        ({"attributes": {f"a{n}": "" for n in range(21)}}, "offers[1].attributes: 21, at most 20"),
        ({"benefit": "x" * 501}, "offers[1].benefit: 501, at most 500"),
        ({"expires_at": ""}, "offers[1].expires_at"),
    ],
)
def test_one_malformed_offer_refuses_the_message(world: World, changed: dict[str, Any], item: str) -> None:
    request = offers_pb2.ProposeOffersRequest(offers=[message(offer_id="good"), message(**changed)])
    with pytest.raises((OfferError, DataError)) as caught:
        call(OfferServicer(world.desk, world.log), "ProposeOffers", request)
    assert caught.value.item == item
    assert (world.book.waiting(10), world.log.leaves) == ([], [])


def test_too_many_offers_and_acknowledgements_are_refused(world: World) -> None:
    servicer = OfferServicer(world.desk, world.log)
    many = offers_pb2.ProposeOffersRequest(offers=[message()] * 1001)
    ids = offers_pb2.AcknowledgeOffersRequest(delivery_ids=["a"] * 1001)
    for method, request in (("ProposeOffers", many), ("AcknowledgeOffers", ids)):
        with pytest.raises(OfferError) as caught:
            call(servicer, method, request)
        assert caught.value.reason is Reason.TOO_LARGE


def test_the_way_of_an_offer_on_the_wire(world: World) -> None:
    servicer = OfferServicer(world.desk, world.log)
    [receipt] = call(servicer, "ProposeOffers", offers_pb2.ProposeOffersRequest(offers=[message()])).receipts
    assert (receipt.offer_id, receipt.accepted, list(receipt.reasons)) == ("bank-7", True, [])
    [decision] = call(servicer, "ListDecisions", offers_pb2.ListDecisionsRequest()).decisions
    assert (decision.permitted, dict(decision.masked), getattr(decision, "from")) == (
        True,
        {"age": "band(30,60)"},
        "bank",
    )
    [delivered] = call(servicer, "PullInbox", offers_pb2.PullInboxRequest(max_offers=5000), INSURER).offers
    assert (delivered.handle, getattr(delivered, "from")) == (handle(INSURER, PERSON), "bank")
    assert dict(delivered.attributes) == {"age": "30-59"}
    request = offers_pb2.AcknowledgeOffersRequest(delivery_ids=[delivered.delivery_id])
    assert call(servicer, "AcknowledgeOffers", request, INSURER).acknowledged == 1
    assert not call(servicer, "PullInbox", offers_pb2.PullInboxRequest(), INSURER).offers


def test_without_a_certificate_nothing_is_served(world: World) -> None:
    with pytest.raises(IdentityError):
        call(OfferServicer(world.desk, world.log), "PullInbox", offers_pb2.PullInboxRequest(), None)
    with pytest.raises(IdentityError):
        call(ConsentServicer(world.consents, world.clock), "GetConsents", consent_pb2.GetConsentsRequest(), None)


@pytest.mark.parametrize("flooder", [BANK, None])
def test_long_calls_of_one_partner_or_of_strangers_hold_up_nobody_else(
    world: World, monkeypatch: pytest.MonkeyPatch, flooder: Any
) -> None:
    gate, begun, real = threading.Event(), list[Any](), world.consents.record
    authority = Authority.create("skyline", NOW)
    registry = Registry(open_database(None), "skyline", authority.certificate, world.clock)
    consents, enrolment = ConsentServicer(world.consents, world.clock), EnrolmentServicer(registry, "skyline", list)

    def blocked(of: Any, work: Any) -> Any:
        begun.append(of)
        assert of != flooder or gate.wait(60)
        return work()

    def ask_for_one(_pem: str, _invitation: str, who: Any) -> Any:
        return blocked(who and who.party, lambda: ("id", ""))

    monkeypatch.setattr(world.consents, "record", lambda party, states: blocked(party, lambda: real(party, states)))
    monkeypatch.setattr(registry, "request", ask_for_one)
    states = consent_pb2.RecordConsentsRequest(states=[state()])
    request = enrolment_pb2.RequestCertificateRequest()
    withdrawal = consent_pb2.WithdrawConsentRequest(handle=handle(INSURER, PERSON), purpose="offer_sharing")

    async def ask(party: Any, method: Any, what: Any) -> Any:
        set_caller(caller(party) if party else None)
        return await method(what, None)

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        long = (consents.RecordConsents, states) if flooder else (enrolment.RequestCertificate, request)
        flood = [asyncio.create_task(ask(flooder, *long)) for _ in range(40)]
        while not begun:
            await asyncio.sleep(0.001)
        for party, method, what in (
            (INSURER, consents.WithdrawConsent, withdrawal),
            (INSURER, consents.RecordConsents, states),
            (INSURER, enrolment.RequestCertificate, request),
            (INSURER, enrolment.ListCertificateRequests, enrolment_pb2.ListCertificateRequestsRequest()),
        ):
            await asyncio.wait_for(ask(party, method, what), 30)
        gate.set()
        await asyncio.gather(*flood)

    asyncio.run(run())


def test_the_inbox_calls_of_one_partner_hold_up_nobody_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that were cancelled before their turn are never worked on."""
    gate, begun, real = threading.Event(), list[str](), world.desk.pull

    def pull(who: Any, limit: int) -> Any:
        begun.append(who.party)
        if who.party == AIRLINE:
            assert gate.wait(60)
        return real(who, limit)

    monkeypatch.setattr(world.desk, "pull", pull)
    servicer, consents = OfferServicer(world.desk, world.log), ConsentServicer(world.consents, world.clock)

    async def ask(party: Any, method: Any, request: Any) -> Any:
        set_caller(caller(party))
        return await method(request, None)

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        request = offers_pb2.PullInboxRequest()
        pulls = [asyncio.create_task(ask(AIRLINE, servicer.PullInbox, request)) for _ in range(40)]
        while not begun:
            await asyncio.sleep(0.001)
        asked = consent_pb2.GetConsentsRequest(handle=handle(INSURER, PERSON))
        proposal = offers_pb2.ProposeOffersRequest(offers=[message()])
        for party, method, what in (
            (INSURER, servicer.PullInbox, request),
            (INSURER, consents.GetConsents, asked),
            (BANK, servicer.ProposeOffers, proposal),
            (AIRLINE, servicer.AcknowledgeOffers, offers_pb2.AcknowledgeOffersRequest()),
        ):
            await asyncio.wait_for(ask(party, method, what), 30)
        for call in pulls:
            call.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
        gate.set()
        await asyncio.wait_for(ask(AIRLINE, servicer.PullInbox, request), 30)

    asyncio.run(run())
    assert sorted(begun) == [AIRLINE, AIRLINE, INSURER]
