"""Certificates for tests of who is who."""

import pytest

from federation.core.clock import FixedClock
from federation.core.errors import IdentityError, Reason
from federation.core.identity import Identity, Role, Subject, new_key
from federation.core.ids import PartyId
from gateway.identity.authority import Authority

BANK = Subject("skyline", Role.PARTNER, PartyId("bank"))


def make_identity(authority: Authority, clock: FixedClock, subject: Subject = BANK) -> Identity:
    key = new_key()
    pem = authority.issue(key.public_key(), subject, clock.now())
    return Identity(subject, key, pem, authority.certificate)


def refused(call: object, *args: object) -> Reason:
    with pytest.raises(IdentityError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.reason
