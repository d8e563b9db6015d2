"""Whatever partners propose and whenever, no person gets more than the rules allow."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from federation.offers.eligibility import PriorOffer, barriers
from federation.policy.specs import OfferSpec
from tests.conftest import NOW
from tests.kits.offers import SPEC

HOUR = timedelta(hours=1)
attempts = st.lists(
    st.tuples(st.sampled_from(["home", "motor", "term_life"]), st.integers(0, 400), st.integers(1, 1500)), max_size=40
)
specs = st.builds(
    lambda cap, days: SPEC.model_copy(update={"max_open_per_person": cap, "cooling_off_days": days}),
    st.integers(1, 3),
    st.integers(0, 40),
)


@given(attempts, specs)
def test_never_too_many_open_and_never_too_soon_again(tries: list[tuple[str, int, int]], spec: OfferSpec) -> None:
    accepted: list[PriorOffer] = []
    now = NOW
    for product, wait, valid in tries:
        now += wait * HOUR
        if not barriers(product, accepted, spec, now):
            accepted.append(PriorOffer(product, now, now + valid * HOUR))
    pause = timedelta(days=spec.cooling_off_days)
    for offer in accepted:
        assert sum(other.queued_at <= offer.queued_at < other.expires_at for other in accepted) <= (
            spec.max_open_per_person
        )
        others = [other for other in accepted if other.product == offer.product and other is not offer]
        assert all(abs(other.queued_at - offer.queued_at) >= pause for other in others)


@given(attempts, specs, st.sampled_from(["home", "motor"]), st.randoms())
def test_the_reasons_are_exact_and_order_does_not_matter(
    tries: list[tuple[str, int, int]], spec: OfferSpec, product: str, random: object
) -> None:
    prior = [PriorOffer(name, NOW - age * HOUR, NOW + (valid - 700) * HOUR) for name, age, valid in tries]
    codes = {given.code for given in barriers(product, prior, spec, NOW)}
    open_now = [offer for offer in prior if offer.expires_at > NOW]
    recent = [o for o in prior if o.product == product and NOW - o.queued_at < timedelta(days=spec.cooling_off_days)]
    assert ("too_many_open_offers" in codes) == (len(open_now) >= spec.max_open_per_person)
    assert ("cooling_off" in codes) == bool(recent)
    random.shuffle(prior)  # type: ignore[attr-defined]
    assert {given.code for given in barriers(product, prior, spec, NOW)} == codes


def test_an_offer_is_open_until_it_expires() -> None:
    offer = PriorOffer("home", NOW, NOW + HOUR)
    moments: list[tuple[datetime, bool]] = [(NOW, True), (NOW + HOUR, False)]
    assert [offer.is_open(at) for at, _ in moments] == [expected for _, expected in moments]
