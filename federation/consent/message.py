"""What somebody said, as the message that both sides send."""

from federation.consent.statements import LAW, MAX_RECIPIENTS
from federation.core.clock import to_text
from federation.core.identity import PARTY_PATTERN
from federation.policy.facts import ConsentFact
from federation.v1 import consent_pb2 as pb


def to_message(fact: ConsentFact) -> pb.ConsentState:
    """The state without handle, purpose and region. What is no name of a party or law is left out, and so denies."""
    names = [name for name in sorted(fact.recipients or ()) if PARTY_PATTERN.fullmatch(name)]
    law = fact.jurisdiction or ""
    return pb.ConsentState(
        status=fact.status or "",
        recipients=names if len(names) <= MAX_RECIPIENTS else (),
        given_at=to_text(fact.given_at) if fact.given_at else "",
        expires_at=to_text(fact.expires_at) if fact.expires_at else "",
        separate_consent=bool(fact.separate),
        cross_border_consent=bool(fact.cross_border),
        jurisdiction=law if LAW.fullmatch(law) else "",
    )
