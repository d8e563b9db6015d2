"""The numbers of a partner's account: those of two libraries, and never below the tight one."""

import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant as OpacusAccountant

from federation.core.errors import BudgetError, Reason
from federation.privacy.composition import epsilon_of
from federation.training.accounting import SIZE_NOISE, Steps, calibrate_steps, person_event, run_events

DELTA = 1e-6


@pytest.mark.parametrize(("noise", "rate", "count"), [(1.1, 0.01, 500), (2.0, 0.1, 100), (5.0, 0.2, 300)])
def test_epsilon_agrees_with_dp_accounting_and_with_opacus(noise: float, rate: float, count: int) -> None:
    steps = Steps(noise, rate, count)
    ours = epsilon_of(run_events(steps), DELTA)
    library = RdpAccountant()
    library.compose(ComposedDpEvent(list(run_events(steps))))
    assert ours == pytest.approx(library.get_epsilon(DELTA), rel=0.02)
    opacus = OpacusAccountant()
    for _ in range(count):
        opacus.step(noise_multiplier=noise, sample_rate=rate)
    opacus.step(noise_multiplier=SIZE_NOISE, sample_rate=1.0)
    theirs = opacus.get_epsilon(DELTA, alphas=[1 + x / 10 for x in range(1, 100)] + list(range(11, 64)))
    assert ours == pytest.approx(theirs, rel=0.02)


def test_epsilon_is_an_upper_bound_of_the_tight_one() -> None:
    steps = Steps(4.0, 0.1, 200)
    tight = PLDAccountant()
    tight.compose(ComposedDpEvent(list(run_events(steps))))
    assert tight.get_epsilon(DELTA) <= epsilon_of(run_events(steps), DELTA) <= 1.2 * tight.get_epsilon(DELTA)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_calibrated_noise_keeps_the_promise_and_is_not_wasteful(epsilon: float) -> None:
    noise = calibrate_steps(epsilon, DELTA, 0.1, 400, partners=3)
    assert epsilon_of([person_event(Steps(noise, 0.1, 400), 3)], DELTA) <= epsilon
    assert epsilon_of([person_event(Steps(noise * 0.98, 0.1, 400), 3)], DELTA) > epsilon


def test_epsilon_that_no_noise_can_give_is_refused() -> None:
    with pytest.raises(BudgetError) as caught:
        calibrate_steps(1e-4, DELTA, 0.1, 400, partners=3)  # the noisy size alone costs more
    assert caught.value.reason == Reason.BAD_COST


def test_person_at_every_partner_pays_for_each() -> None:
    steps = Steps(4.0, 0.1, 200)
    one, three = epsilon_of(run_events(steps), DELTA), epsilon_of([person_event(steps, 3)], DELTA)
    assert one < three < 3 * one
    assert epsilon_of([person_event(steps, 1)], DELTA) == pytest.approx(one)
    assert GaussianDpEvent(SIZE_NOISE) in run_events(steps)
