"""The caller of the RPC that is being served, as its certificate says; never from a field of a message."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from federation.core.errors import IdentityError, Reason
from federation.core.identity import Role
from federation.core.ids import PartyId


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated party."""

    party: PartyId
    role: Role
    serial: str
    expires_at: datetime


CheckStanding = Callable[[Caller], None]
"""Raises IdentityError (CERTIFICATE_REVOKED) for somebody who was struck off since a call, but not for a certificate
that has expired since: it was good then, and parties renew theirs all the time. What was struck off could be a thief's.
"""
_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller:
    """The caller of this RPC. Raises IdentityError (NO_CERTIFICATE) outside of one."""
    caller = _CALLER.get()
    if caller is None:
        raise IdentityError(Reason.NO_CERTIFICATE)
    return caller


def set_caller(caller: Caller | None) -> None:
    """For the interceptor, and for tests of servicers."""
    _CALLER.set(caller)
