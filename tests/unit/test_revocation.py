"""What was struck off, by serial number or party, is in force for the next call, and takes with it what it must."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import EntenteError, Reason
from federation.core.identity import (
    Role,
    certificate_request,
    new_key,
)
from federation.core.ids import PartyId
from gateway.identity.authority import Authority
from gateway.identity.registry import Registry, Revoked
from tests.conftest import NOW
from tests.kits.identity import BANK, make_identity, refused


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
