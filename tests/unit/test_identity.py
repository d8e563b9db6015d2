"""Certificates, signed envelopes, roles."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from federation.core.clock import FixedClock
from federation.core.errors import ConfigError, Reason
from federation.core.files import write_secret
from federation.core.identity import (
    Role,
    certificate_request,
    load_identity,
    new_key,
    parse_uri,
    private_pem,
    verify_signed,
)
from gateway.identity.authority import PARTY_DAYS, Authority
from gateway.identity.registry import Registry
from gateway.identity.roles import ROLES, check_role
from tests.kits.identity import BANK, make_identity, refused
from tests.kits.services import FILES


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
