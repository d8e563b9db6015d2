"""Invitations, certificate requests and renewals."""

from dataclasses import replace
from datetime import timedelta

import pytest

from federation.core.clock import FixedClock
from federation.core.errors import IdentityError, Reason
from federation.core.identity import (
    Role,
    certificate_request,
    new_key,
)
from federation.core.ids import PartyId
from gateway.identity.authority import PARTY_DAYS, Authority
from gateway.identity.registry import MAX_PENDING, PENDING_DAYS, RENEW_BEFORE, Registry
from tests.kits.identity import BANK, make_identity, refused


def test_enrolment_from_invitation_to_certificate(registry: Registry, authority: Authority, clock: FixedClock) -> None:
    code, key = registry.invite(PartyId("bank"), Role.PARTNER), new_key()
    csr = certificate_request(key, BANK).decode()
    request_id, pem = registry.request(csr, code, None)
    assert pem == ""
    assert registry.request(csr, code, None) == (request_id, "")
    assert [p.party for p in registry.pending()] == ["bank"]
    registry.issue(request_id, authority.issue(key.public_key(), BANK, clock.now()).decode())
    assert registry.pending() == []
    _, pem = registry.request(csr, code, None)
    caller = registry.authenticate(pem.encode())
    assert (caller.party, caller.role) == ("bank", Role.PARTNER)


def test_invitation_works_for_one_key_one_party_and_a_while(registry: Registry, clock: FixedClock) -> None:
    code = registry.invite(PartyId("bank"), Role.PARTNER)
    insurer = certificate_request(new_key(), replace(BANK, party=PartyId("insurer"))).decode()
    bank = certificate_request(new_key(), BANK).decode()
    assert refused(registry.request, insurer, code, None) is Reason.BAD_INVITATION
    assert refused(registry.request, bank, "guess", None) is Reason.BAD_INVITATION
    assert refused(registry.request, bank, "", None) is Reason.BAD_INVITATION
    registry.request(bank, code, None)
    second = certificate_request(new_key(), BANK).decode()
    assert refused(registry.request, second, code, None) is Reason.BAD_INVITATION
    late = registry.invite(PartyId("bank"), Role.PARTNER)
    clock.at += timedelta(days=15)
    assert refused(registry.request, second, late, None) is Reason.BAD_INVITATION


def test_a_party_cannot_ask_for_anothers_certificate(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    caller = registry.authenticate(make_identity(authority, clock).certificate_pem)
    csr = certificate_request(new_key(), replace(BANK, party=PartyId("insurer"))).decode()
    assert refused(registry.request, csr, "", caller) is Reason.PARTY_MISMATCH
    operator = certificate_request(new_key(), replace(BANK, role=Role.OPERATOR)).decode()
    assert refused(registry.request, operator, "", caller) is Reason.PARTY_MISMATCH


def test_operator_cannot_hand_in_a_certificate_that_does_not_fit(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    code = registry.invite(PartyId("bank"), Role.PARTNER)
    request_id, _ = registry.request(certificate_request(new_key(), BANK).decode(), code, None)
    other = make_identity(authority, clock).certificate_pem.decode()
    assert refused(registry.issue, request_id, other) is Reason.BAD_CERTIFICATE
    stranger = make_identity(Authority.create("skyline", clock.now()), clock).certificate_pem.decode()
    assert refused(registry.issue, request_id, stranger) is Reason.BAD_SIGNATURE
    assert refused(registry.issue, "nothing", other) is Reason.UNKNOWN_REQUEST


def test_csr_that_is_broken_or_forged_is_refused(registry: Registry) -> None:
    good = certificate_request(new_key(), BANK).decode()
    lines = good.splitlines()
    lines[-2] = lines[-2][:-6] + ("A" * 5 if lines[-2][-6:-1] != "A" * 5 else "B" * 5) + lines[-2][-1]
    for bad in ("", "nonsense", "x" * 10_000, "\n".join(lines)):
        assert refused(registry.request, bad, "code", None) in (Reason.BAD_CSR, Reason.BAD_CERTIFICATE)


def test_a_certificate_is_renewed_for_the_same_key_when_it_comes_to_its_end(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    key, code = new_key(), registry.invite(BANK.party, BANK.role)
    csr = certificate_request(key, BANK).decode()
    request_id, _ = registry.request(csr, code, None)
    first = authority.issue(key.public_key(), BANK, clock.now()).decode()
    registry.issue(request_id, first)
    caller = registry.authenticate(first.encode())
    clock.at += timedelta(days=PARTY_DAYS) - RENEW_BEFORE
    assert registry.request(csr, "", caller) == (request_id, first)  # not yet
    clock.at += timedelta(days=5)
    assert registry.request(csr, code, None) == (request_id, first)  # an old invitation asks for nothing new
    assert registry.request(csr, "", caller) == (request_id, "")
    assert registry.request(csr, "", caller) == (request_id, "")
    assert [p.request_id for p in registry.pending()] == [request_id]
    registry.authenticate(first.encode())  # goes on meanwhile
    second = authority.issue(key.public_key(), BANK, clock.now()).decode()
    registry.issue(request_id, second)
    assert registry.request(csr, "", caller) == (request_id, second)
    clock.at += timedelta(days=PARTY_DAYS - 1)
    assert registry.authenticate(second.encode()).party == "bank"
    clock.at += timedelta(days=2)  # too late: a new invitation, with the same key
    assert registry.request(csr, registry.invite(BANK.party, BANK.role), None) == (request_id, "")


def test_a_party_has_a_few_requests_at_a_time_and_not_for_ever(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    bank = registry.authenticate(make_identity(authority, clock).certificate_pem)
    asked = [certificate_request(new_key(), BANK).decode() for _ in range(MAX_PENDING + 1)]
    for csr in asked[:-1]:
        registry.request(csr, "", bank)
        registry.request(csr, "", bank)  # asking for the result is no request of its own
    with pytest.raises(IdentityError) as caught:
        registry.request(asked[-1], "", bank)
    assert (caught.value.reason, caught.value.item) == (Reason.TOO_MANY_REQUESTS, f"{MAX_PENDING} of bank")
    insurer = certificate_request(new_key(), replace(BANK, party=PartyId("insurer"))).decode()
    registry.request(insurer, registry.invite(PartyId("insurer"), Role.PARTNER), None)  # others have their own
    clock.at += timedelta(days=PENDING_DAYS)
    assert registry.pending() == []
    registry.request(asked[-1], "", bank)
    assert [p.csr_pem for p in registry.pending()] == [asked[-1]]
