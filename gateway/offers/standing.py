"""Whether whoever proposed an offer may still have it decided and handed out."""

from federation.core.errors import IdentityError
from federation.offers.offer import RULE
from federation.policy.facts import Given
from gateway.identity.caller import Caller, CheckStanding


def revocation(check_standing: CheckStanding, proposer: Caller) -> tuple[Given, ...]:
    """What stands against a proposer's offers by now; empty when nothing does."""
    try:
        check_standing(proposer)
    except IdentityError as exc:
        return (Given(RULE, exc.reason.lower(), exc.public),)
    return ()
