"""Whether whoever proposed an offer may still have it decided and handed out.

A certificate, or a party, that was struck off since the proposal may not: its offers could be a thief's. One that has
expired since may: it was good when the offer was proposed, partners renew theirs all the time, and an offer may be
valid for longer than a certificate.
"""

from collections.abc import Callable

from federation.core.errors import IdentityError, Reason
from federation.offers.offer import RULE
from federation.policy.facts import Given
from gateway.identity.caller import Caller

CheckLive = Callable[[Caller], None]
"""Raises IdentityError for a caller that would not be served now: CERTIFICATE_REVOKED before CERTIFICATE_EXPIRED."""


def revocation(check_live: CheckLive, proposer: Caller) -> tuple[Given, ...]:
    """What stands against a proposer's offers by now; empty when nothing does."""
    try:
        check_live(proposer)
    except IdentityError as exc:
        if exc.reason is not Reason.CERTIFICATE_EXPIRED:
            return (Given(RULE, exc.reason.lower(), exc.public),)
    return ()
