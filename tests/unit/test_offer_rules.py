"""Score bands and the identity of an offer."""

import pytest

from federation.offers.offer import Offer, score_band, violations
from federation.policy.mask import apply
from tests.conftest import NOW
from tests.kits.offers import BANK, SPEC, an_offer


@pytest.mark.parametrize(
    ("rank", "scored", "band"),
    [
        (0, 1000, "top1"),
        (9, 1000, "top1"),
        (10, 1000, "top5"),
        (49, 1000, "top5"),
        (50, 1000, "top10"),
        (100, 1000, "top25"),
        (249, 1000, "top25"),
        (250, 1000, None),
        (0, 1, "top1"),
        (1, 3, None),
    ],
)
def test_bands_by_rank(rank: int, scored: int, band: str | None) -> None:
    assert score_band(rank, scored) == band


def test_a_digest_covers_every_field() -> None:
    offer = an_offer()
    changes = [
        {"handle": bytes(16)},
        {"product": "motor"},
        {"recipient": "airline"},
        {"channel": "phone"},
        {"score_band": "top1"},
        {"purpose": "other"},
        {"benefit": "Other."},
        {"attributes": {}},
        {"expires_at": offer.expires_at.replace(microsecond=1)},
        {"offer_id": "other"},
    ]
    digests = {an_offer(**change).digest() for change in changes}
    assert len(digests) == len(changes)
    assert offer.digest() not in digests
    assert an_offer().digest() == offer.digest()


def codes(offer: Offer, **changed: object) -> list[str]:
    return [given.code for given in violations(offer, BANK, SPEC, NOW, NOW, **changed)]  # type: ignore[arg-type]


def test_a_pseudonym_passes_where_the_policy_makes_it_one_and_nowhere_else() -> None:
    made = apply("pseudonym", "C0001", b"k" * 32)
    assert made is not None
    offer = an_offer(attributes={"job": made})
    assert codes(offer, masks={"job": "pseudonym"}) == []
    assert codes(offer, masks={"job": "keep"}) == codes(offer) == ["identifier_in_text"]
    assert codes(an_offer(benefit=made), masks={"job": "pseudonym"}) == ["identifier_in_text"]
    assert codes(an_offer(attributes={"job": "91234567"}), masks={"job": "pseudonym"}) == ["identifier_in_text"]
    assert codes(an_offer(attributes={"job": made}), masked=True) == []
