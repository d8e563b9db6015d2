"""Certificates, signed envelopes, invitations, revocation, roles."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import ConfigError, EntenteError, IdentityError, Reason
from federation.core.files import write_secret
from federation.core.identity import (
    Identity,
    Role,
    Subject,
    certificate_request,
    load_identity,
    new_key,
    parse_uri,
    private_pem,
    verify_signed,
)
from federation.core.ids import PartyId
from gateway.identity.authority import PARTY_DAYS, Authority
from gateway.identity.registry import MAX_PENDING, PENDING_DAYS, RENEW_BEFORE, Registry, Revoked
from gateway.identity.roles import ROLES, check_role
from tests.conftest import NOW
from tests.kits.services import FILES

BANK = Subject("skyline", Role.PARTNER, PartyId("bank"))


@pytest.fixture
def authority(clock: FixedClock) -> Authority:
    return Authority.create("skyline", clock.now())


@pytest.fixture
def registry(authority: Authority, clock: FixedClock) -> Registry:
    return Registry(open_database(None), "skyline", authority.certificate, clock)


def make_identity(authority: Authority, clock: FixedClock, subject: Subject = BANK) -> Identity:
    key = new_key()
    pem = authority.issue(key.public_key(), subject, clock.now())
    return Identity(subject, key, pem, authority.certificate)


def refused(call: object, *args: object) -> Reason:
    with pytest.raises(IdentityError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.reason


@pytest.mark.parametrize(
    "uri",
    ["", "http://skyline/partner/bank", "entente://skyline/partner/bank/x", "entente://skyline/king/bank",
     "entente://skyline/partner/Bank", "entente://skyline/partner/../bank", "entente://skyline/partner/" + "b" * 33],
)  # fmt: skip
def test_a_uri_that_is_not_ours_is_refused(uri: str) -> None:
    assert refused(parse_uri, uri) is Reason.BAD_CERTIFICATE


def test_signed_envelope_says_who_signed(authority: Authority, clock: FixedClock) -> None:
    identity = make_identity(authority, clock)
    signed = identity.sign("manifest", b"payload")
    assert verify_signed(signed, "manifest", authority.certificate, clock.now()) == BANK


def test_envelope_of_another_kind_payload_key_or_ca_is_refused(authority: Authority, clock: FixedClock) -> None:
    identity = make_identity(authority, clock)
    signed = identity.sign("manifest", b"payload")
    now, ca = clock.now(), authority.certificate
    assert refused(verify_signed, signed, "hop-receipt", ca, now) is Reason.BAD_SIGNATURE
    other = identity.sign("manifest", b"payload")
    other.payload = b"payloae"
    assert refused(verify_signed, other, "manifest", ca, now) is Reason.BAD_SIGNATURE
    stranger = Authority.create("skyline", now)
    assert refused(verify_signed, signed, "manifest", stranger.certificate, now) is Reason.BAD_SIGNATURE
    later = now + timedelta(days=PARTY_DAYS, seconds=1)
    assert refused(verify_signed, signed, "manifest", ca, later) is Reason.CERTIFICATE_EXPIRED
    renamed = identity.sign("hop-receipt", b"payload")
    renamed.kind = "manifest"
    assert refused(verify_signed, renamed, "manifest", ca, now) is Reason.BAD_SIGNATURE


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


def test_revocation_is_in_force_at_once_and_survives_a_restart(
    tmp_path: Path, authority: Authority, clock: FixedClock
) -> None:
    registry = Registry(open_database(tmp_path / "g.db"), "skyline", authority.certificate, clock)
    first, second = make_identity(authority, clock), make_identity(authority, clock)
    caller = registry.authenticate(first.certificate_pem)
    registry.revoke(caller.serial, "", "lost key")
    assert refused(registry.authenticate, first.certificate_pem) is Reason.CERTIFICATE_REVOKED
    assert refused(registry.check_live, caller) is Reason.CERTIFICATE_REVOKED
    registry.authenticate(second.certificate_pem)
    registry.revoke("", "bank", "left the alliance")
    reopened = Registry(open_database(tmp_path / "g.db"), "skyline", authority.certificate, clock)
    for identity in (first, second):
        assert refused(reopened.authenticate, identity.certificate_pem) is Reason.CERTIFICATE_REVOKED
    assert refused(reopened.authenticate, make_identity(authority, clock).certificate_pem) is Reason.CERTIFICATE_REVOKED
    assert reopened.authenticate(enrolled(reopened, authority, clock)).party == "bank"


def enrolled(registry: Registry, authority: Authority, clock: FixedClock) -> bytes:
    """A new certificate of the bank that came about as it should: invited, asked for, handed in."""
    key = new_key()
    code = registry.invite(BANK.party, BANK.role)
    request_id, _ = registry.request(certificate_request(key, BANK).decode(), code, None)
    pem = authority.issue(key.public_key(), BANK, clock.now())
    registry.issue(request_id, pem.decode())
    return pem


@pytest.mark.parametrize("ahead", [timedelta(minutes=-9), timedelta(0), timedelta(minutes=4)])
@pytest.mark.parametrize("met", [True, False])
def test_the_cas_clock_has_no_say_in_a_revocation(
    registry: Registry, authority: Authority, clock: FixedClock, *, ahead: timedelta, met: bool
) -> None:
    key = new_key()
    registry.invite(BANK.party, BANK.role)
    before = authority.issue(key.public_key(), BANK, clock.now() + ahead)
    if met:
        registry.authenticate(before)
    clock.at += timedelta(minutes=3)
    registry.revoke("", "bank", "key stolen")
    after = enrolled(registry, authority, FixedClock(clock.now() + ahead))
    clock.at += timedelta(minutes=20)
    assert refused(registry.authenticate, before) is Reason.CERTIFICATE_REVOKED
    assert registry.authenticate(after).party == "bank"
    registry.revoke("", "bank", "stolen again")
    assert refused(registry.authenticate, after) is Reason.CERTIFICATE_REVOKED


@pytest.mark.parametrize("struck", ["certificate", "party"])
def test_a_request_made_with_a_stolen_key_goes_with_the_revocation(
    registry: Registry, authority: Authority, clock: FixedClock, struck: str
) -> None:
    """`operator approve --all` would sign it: it is the thief's own key, under the name of the bank."""
    thief = registry.authenticate(make_identity(authority, clock).certificate_pem)
    key = new_key()
    request_id, _ = registry.request(certificate_request(key, BANK).decode(), "", thief)
    insurer = registry.invite(PartyId("insurer"), Role.PARTNER)
    registry.request(certificate_request(new_key(), replace(BANK, party=PartyId("insurer"))).decode(), insurer, None)
    gone = registry.revoke(*((thief.serial, "") if struck == "certificate" else ("", "bank")), "key stolen")
    assert (gone.serials, gone.requests) == ((thief.serial,), 1)
    assert [p.party for p in registry.pending()] == ["insurer"]
    pem = authority.issue(key.public_key(), BANK, clock.now()).decode()  # the operator was about to
    assert refused(registry.issue, request_id, pem) is Reason.UNKNOWN_REQUEST
    again = certificate_request(new_key(), BANK).decode()
    assert refused(registry.request, again, "", thief) is Reason.CERTIFICATE_REVOKED  # its call was under way


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


def test_invitations_go_with_their_party_and_a_struck_key_gets_no_other_certificate(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    key, old = new_key(), registry.invite(BANK.party, BANK.role)
    csr = certificate_request(key, BANK).decode()
    request_id, _ = registry.request(csr, old, None)
    registry.issue(request_id, authority.issue(key.public_key(), BANK, clock.now()).decode())
    gone = registry.revoke("", "bank", "left")
    assert (len(gone.serials), gone.requests, gone.invitations) == (1, 0, 1)
    assert refused(registry.request, csr, old, None) is Reason.BAD_INVITATION
    assert refused(registry.request, csr, registry.invite(BANK.party, BANK.role), None) is Reason.CERTIFICATE_REVOKED
    assert registry.authenticate(enrolled(registry, authority, clock)).party == "bank"


def colons(serial: str) -> str:
    """As ``openssl x509 -text`` has it."""
    digits = serial.zfill(len(serial) + len(serial) % 2)
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


@pytest.mark.parametrize(
    "write", [str.upper, "0x{}".format, "0{}".format, " {} ".format, colons, "serial={}".format, "0X00{}".format]
)
def test_a_serial_is_a_number_however_it_is_written(
    write: Callable[[str], str], registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    stolen = make_identity(authority, clock)
    serial = registry.authenticate(stolen.certificate_pem).serial
    assert registry.revoke(write(serial), "", "key stolen") == Revoked(BANK.party, (serial,))
    clock.at += timedelta(seconds=1)
    assert refused(registry.authenticate, stolen.certificate_pem) is Reason.CERTIFICATE_REVOKED
    assert registry.revoke(serial, "", "again").serials == ()  # it did not work any more


@pytest.mark.parametrize(
    ("named", "reason", "item"),
    [
        (("abc", ""), Reason.UNKNOWN_CERTIFICATE, "serial abc"),
        (("", "bnak"), Reason.UNKNOWN_CERTIFICATE, "party 'bnak'"),
        (("", "Bank"), Reason.UNKNOWN_CERTIFICATE, "party 'Bank'"),
        (("", "bank "), Reason.UNKNOWN_CERTIFICATE, "party 'bank '"),
        (("stolen!", ""), Reason.BAD_FIELD, "serial 'stolen!', expected a hexadecimal number"),
        (("-1", ""), Reason.BAD_FIELD, "serial '-1', expected a hexadecimal number"),
        ((" ", ""), Reason.BAD_FIELD, "serial or party: name one"),
    ],
)
def test_a_revocation_of_nothing_is_refused_by_name(
    registry: Registry, authority: Authority, named: tuple[str, str], reason: Reason, item: str
) -> None:
    clock = FixedClock(NOW)
    bank = make_identity(authority, clock)
    registry.authenticate(bank.certificate_pem)
    with pytest.raises(EntenteError) as caught:
        registry.revoke(*named, "key stolen")
    assert (caught.value.reason, caught.value.item) == (reason, item)
    registry.authenticate(bank.certificate_pem)


def test_a_serial_of_another_party_than_is_named_is_refused(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    bank = make_identity(authority, clock)
    serial = registry.authenticate(bank.certificate_pem).serial
    assert refused(registry.revoke, serial, "insurer", "x") is Reason.PARTY_MISMATCH
    registry.authenticate(bank.certificate_pem)
    assert registry.revoke(serial, "bank", "x").serials == (serial,)


def test_a_certificate_is_struck_off_with_the_others_of_its_key(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    bank, other = make_identity(authority, clock), make_identity(authority, clock)
    again = authority.issue(bank.key.public_key(), BANK, clock.now())
    serials = {registry.authenticate(pem).serial for pem in (bank.certificate_pem, again)}
    gone = registry.revoke(registry.authenticate(bank.certificate_pem).serial, "", "key stolen")
    assert set(gone.serials) == serials
    assert refused(registry.authenticate, again) is Reason.CERTIFICATE_REVOKED
    registry.authenticate(other.certificate_pem)


def test_a_party_that_was_only_invited_can_be_struck_off(registry: Registry) -> None:
    registry.invite(PartyId("bank"), Role.PARTNER)
    assert registry.revoke("", "bank", "left") == Revoked(BANK.party, (), invitations=1)
    assert registry.revoke("", "bank", "left") == Revoked(BANK.party, ())


@pytest.mark.parametrize("struck", ["certificate", "party"])
def test_a_revocation_by_another_process_is_in_force_for_the_next_message(
    tmp_path: Path, authority: Authority, clock: FixedClock, struck: str
) -> None:
    here, there = (
        Registry(open_database(tmp_path / "g.db"), "skyline", authority.certificate, clock) for _ in range(2)
    )
    caller = here.authenticate(make_identity(authority, clock).certificate_pem)
    there.invite(PartyId("bank"), Role.PARTNER)  # another change of the same database
    for _ in range(3):
        here.check_live(caller)
    there.revoke(*((caller.serial, "") if struck == "certificate" else ("", "bank")), "lost key")
    assert refused(here.check_live, caller) is Reason.CERTIFICATE_REVOKED


def test_another_alliance_or_an_expired_certificate_is_refused(
    registry: Registry, authority: Authority, clock: FixedClock
) -> None:
    foreign = make_identity(authority, clock, replace(BANK, alliance="other"))
    assert refused(registry.authenticate, foreign.certificate_pem) is Reason.BAD_CERTIFICATE
    gateway = make_identity(authority, clock, replace(BANK, role=Role.GATEWAY))
    assert refused(registry.authenticate, gateway.certificate_pem) is Reason.BAD_CERTIFICATE
    as_gateway = certificate_request(new_key(), replace(BANK, role=Role.GATEWAY)).decode()
    assert refused(registry.request, as_gateway, "code", None) is Reason.BAD_CSR
    bank = make_identity(authority, clock)
    clock.at += timedelta(days=PARTY_DAYS + 1)
    assert refused(registry.authenticate, bank.certificate_pem) is Reason.CERTIFICATE_EXPIRED


def test_role_table_names_every_method_and_nothing_else() -> None:
    methods = {
        f"{service.name}/{method.name}"
        for module in FILES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == set(ROLES)


def test_a_role_or_method_that_is_not_in_the_table_is_refused() -> None:
    assert refused(check_role, "/federation.v1.OverlapService/QueryCube", Role.PARTNER) is Reason.ROLE_NOT_ALLOWED
    assert refused(check_role, "/federation.v1.OverlapService/Nothing", Role.OPERATOR) is Reason.ROLE_NOT_ALLOWED
    check_role("/federation.v1.OverlapService/QueryCube", Role.MARKETING)


def test_identity_folder_with_a_foreign_key_or_a_missing_file_is_refused(
    tmp_path: Path, authority: Authority, clock: FixedClock
) -> None:
    identity = make_identity(authority, clock)
    write_secret(tmp_path / "key.pem", private_pem(new_key()))
    write_secret(tmp_path / "certificate.pem", identity.certificate_pem)
    with pytest.raises(ConfigError) as caught:
        load_identity(tmp_path)
    assert (caught.value.reason, caught.value.item) == (Reason.MISSING_FILE, str(tmp_path / "ca.pem"))
    write_secret(tmp_path / "ca.pem", identity.ca_pem)
    with pytest.raises(ConfigError):
        load_identity(tmp_path)
    write_secret(tmp_path / "key.pem", identity.key_pem)
    assert load_identity(tmp_path).subject == BANK
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
