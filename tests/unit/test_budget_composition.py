"""Losses add up as the judge says, and an event that is not understood costs nobody anything: it is refused."""

import json
import math
from typing import Any

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import BudgetError, Reason
from federation.privacy.composition import (
    MAX_DEPTH,
    ORDERS,
    as_stated,
    describe,
    epsilon_of,
    event_from_json,
    event_to_json,
    shares_of,
)

DELTA = 1e-6
TRAINING = SelfComposedDpEvent(PoissonSampledDpEvent(0.02, GaussianDpEvent(1.1)), 300)

gaussians = st.builds(GaussianDpEvent, st.floats(0.01, 1e6))
leaves = st.one_of(
    gaussians,
    st.builds(ZCDpEvent, st.floats(0, 100), st.floats(0, 10)),
    st.builds(PoissonSampledDpEvent, st.floats(1e-6, 1), gaussians),
)
events = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(SelfComposedDpEvent, inner, st.integers(1, 1000)),
        st.builds(ComposedDpEvent, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)


@given(events)
def test_an_event_survives_being_written_down(event: DpEvent) -> None:
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event
    assert describe(event)


def test_numbers_of_other_libraries_become_plain() -> None:
    event = SelfComposedDpEvent(GaussianDpEvent(np.float64(2.5)), np.int64(3))
    assert event_to_json(event) == {
        "type": "self_composed",
        "count": 3,
        "event": {"type": "gaussian", "noise_multiplier": 2.5},
    }


@pytest.mark.parametrize(
    "event",
    [
        NoOpDpEvent(),
        NonPrivateDpEvent(),
        LaplaceDpEvent(1.0),
        PoissonSampledDpEvent(0.1, LaplaceDpEvent(1.0)),
        PoissonSampledDpEvent(0.1, SelfComposedDpEvent(GaussianDpEvent(1.0), 2)),
        PoissonSampledDpEvent(0.0, GaussianDpEvent(1.0)),
        PoissonSampledDpEvent(1.1, GaussianDpEvent(1.0)),
        GaussianDpEvent(0.0),
        GaussianDpEvent(-1.0),
        GaussianDpEvent(math.inf),
        GaussianDpEvent(math.nan),
        GaussianDpEvent("much"),
        SelfComposedDpEvent(GaussianDpEvent(1.0), 0),
        SelfComposedDpEvent(GaussianDpEvent(1.0), -3),
        SelfComposedDpEvent(GaussianDpEvent(1.0), 2.5),
        ComposedDpEvent([]),
        ComposedDpEvent([GaussianDpEvent(1.0), NoOpDpEvent()]),
        ZCDpEvent(-0.1),
        ZCDpEvent(0.1, -0.1),
        ZCDpEvent(math.inf),
    ],
    ids=str,
)
def test_an_event_without_a_defined_loss_is_refused(event: DpEvent) -> None:
    for refused in (lambda: event_to_json(event), lambda: epsilon_of([event], DELTA)):
        with pytest.raises(BudgetError) as caught:
            refused()
        assert caught.value.reason == Reason.BAD_COST


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "gaussian",
        {},
        {"type": "laplace", "noise_multiplier": 1.0},
        {"type": ["gaussian"], "noise_multiplier": 1.0},
        {"type": "gaussian"},
        {"type": "gaussian", "noise_multiplier": True},
        {"type": "gaussian", "noise_multiplier": "1"},
        {"type": "gaussian", "noise_multiplier": 1.0, "more": 1},
        {"type": "self_composed", "count": True, "event": {"type": "gaussian", "noise_multiplier": 1.0}},
        {"type": "self_composed", "count": 2.0, "event": {"type": "gaussian", "noise_multiplier": 1.0}},
        {"type": "composed", "events": {}},
    ],
    ids=str,
)
def test_a_written_event_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(BudgetError):
        event_from_json(value)


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [(1.8, 1.8), (0.1, 0.1), (0.30000000000000004, 0.3), (1.99990001, 2.0), (1e-9, 0.0001), (0.0, 0.0)],
)
def test_a_stated_epsilon_is_no_smaller_than_it_is(epsilon: float, said: float) -> None:
    assert as_stated(epsilon) == said


def test_depth_is_bounded_however_deep_the_event() -> None:
    event: DpEvent = GaussianDpEvent(1.0)
    for _ in range(MAX_DEPTH - 1):
        event = SelfComposedDpEvent(event, 1)
    assert event_from_json(event_to_json(event)) == event
    for _ in range(5000):
        event = SelfComposedDpEvent(event, 1)
    with pytest.raises(BudgetError):
        event_to_json(event)


def test_nothing_costs_nothing() -> None:
    assert epsilon_of([], DELTA) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_a_delta_without_meaning_is_refused(delta: float) -> None:
    with pytest.raises(BudgetError):
        epsilon_of([TRAINING], delta)


def test_queries_and_training_compose_as_the_judge_says() -> None:
    parts = [GaussianDpEvent(8.0), TRAINING, ZCDpEvent(0.01)]
    judge = RdpAccountant(ORDERS)
    for part in parts:
        judge.compose(part)
    together = epsilon_of(parts, DELTA)
    assert together == pytest.approx(judge.get_epsilon(DELTA), rel=1e-12)
    assert epsilon_of(parts[::-1], DELTA) == pytest.approx(together, rel=1e-12)
    assert epsilon_of([ComposedDpEvent(parts)], DELTA) == pytest.approx(together, rel=1e-12)
    assert max(epsilon_of([part], DELTA) for part in parts) < together


def test_the_bound_is_above_the_tight_one_and_not_far() -> None:
    tight = PLDAccountant()
    tight.compose(TRAINING)
    ours = epsilon_of([TRAINING], DELTA)
    assert tight.get_epsilon(DELTA) <= ours < 1.25 * tight.get_epsilon(DELTA)


def test_ten_releases_equal_one_with_that_much_less_noise() -> None:
    ten = epsilon_of([GaussianDpEvent(10.0)] * 10, DELTA)
    assert ten == pytest.approx(epsilon_of([GaussianDpEvent(math.sqrt(10))], DELTA), rel=1e-9)
    assert ten < 10 * epsilon_of([GaussianDpEvent(10.0)], DELTA) / 2


def test_a_cost_beyond_every_order_is_unbounded_and_not_a_number_that_fits() -> None:
    assert epsilon_of([SelfComposedDpEvent(GaussianDpEvent(0.001), 10**9)], DELTA) > 1e12


def test_shares_and_conversion_add_up_to_the_whole_epsilon() -> None:
    events = [GaussianDpEvent(9.0), GaussianDpEvent(40.0), PoissonSampledDpEvent(0.05, GaussianDpEvent(1.5))]
    shares = shares_of(events, 1e-6)
    assert shares.epsilon == epsilon_of(events, 1e-6)
    assert sum(shares.parts) + shares.conversion == pytest.approx(shares.epsilon)
    assert all(0 < part < epsilon_of([event], 1e-6) for part, event in zip(shares.parts, events, strict=True))
    nothing = shares_of([], 1e-6)
    assert (nothing.epsilon, nothing.parts, nothing.conversion) == (0.0, (), 0.0)
