"""Privacy loss as values: what a release is made of, written down and added up.

Unit protected: one person across the alliance; neighbouring data sets differ by adding or removing everything that all
partners hold about one person. Sensitivity: inside the event, as noise deviation over sensitivity. Mechanisms: the
(discrete) Gaussian, alone or on a Poisson sample, and whatever is stated as zero-concentrated DP. Composition: Renyi
DP, adaptive, at fixed orders, turned into epsilon at a given delta. Not covered: whether a release really used the
noise that its event states; that is the releasing code's duty.

Sources: Mironov 2017 (RDP), arXiv:1702.07476; Mironov, Talwar, Zhang 2019 (sampled Gaussian), arXiv:1908.10530;
Canonne, Kamath, Steinke 2020 (discrete Gaussian; conversion to epsilon, Proposition 12), arXiv:2004.00010.
"""

import json
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from numpy.typing import NDArray

from federation.core.canonical import canonical_json
from federation.core.errors import BudgetError, Reason

ORDERS: tuple[float, ...] = (
    *(1 + step / 10 for step in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    # One release of epsilon below 0.3 has its optimum up here; every order costs time only for sampled Gaussians.
    *(64.0, 72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 384.0, 512.0, 768.0, 1024.0, 2048.0),
)
"""The Renyi orders at which losses are added; every epsilon we state comes from these."""
MAX_DEPTH = 8
MAX_PARTS = 10_000
MAX_COUNT = 10**9
NOISE_MULTIPLIERS = (1e-3, 1e7)
"""Outside, the sampled Gaussian's series overflows or loses its digits in floating point."""
_STATED = 10_000
"""Parts of an epsilon that are told apart where it is stated."""

_FIELDS = {
    "gaussian": {"noise_multiplier"},
    "zcdp": {"rho", "xi"},
    "poisson_sampled": {"sampling_probability", "event"},
    "self_composed": {"count", "event"},
    "composed": {"events"},
}


class _Curve(RdpAccountant):  # type: ignore[misc]
    """The library's accountant, showing its loss at each of ``ORDERS``."""

    @property
    def values(self) -> NDArray[np.float64]:
        return cast(NDArray[np.float64], self._rdp)


def event_to_json(event: DpEvent) -> dict[str, Any]:
    """An event as JSON, such that ``event_from_json`` gives an equal one.

    Raises:
        BudgetError: BAD_COST for a type that we do not use, or a value out of range.
    """
    try:
        plain = _plain(event)
    except (TypeError, ValueError, RecursionError) as exc:
        raise BudgetError(Reason.BAD_COST, item="value in an event", detail=str(exc)) from exc
    event_from_json(plain)  # one place knows what is allowed
    return plain


def event_from_json(value: object) -> DpEvent:
    """Reads what ``event_to_json`` wrote; anything else is refused.

    Raises:
        BudgetError: BAD_COST.
    """
    return _event(value, 0)


def describe(event: DpEvent) -> str:
    """A mechanism in a few plain words, for people."""
    match event:
        case GaussianDpEvent():
            return f"Gaussian, noise multiplier {event.noise_multiplier:.4g}"
        case ZCDpEvent():
            return f"zCDP, rho {event.rho:.4g}" + (f", xi {event.xi:.4g}" if event.xi else "")
        case PoissonSampledDpEvent():
            return f"{describe(event.event)}, on a Poisson sample of rate {event.sampling_probability:.4g}"
        case SelfComposedDpEvent():
            return f"{event.count} times ({describe(event.event)})"
        case ComposedDpEvent():
            return f"{len(event.events)} parts, the first: {describe(event.events[0])}"
    raise _bad(f"event type {type(event).__name__}")


def epsilon_of(events: Iterable[DpEvent], delta: float) -> float:
    """Epsilon of all events together, whatever their order and however each depended on those before it.

    Args:
        events: What was released about the same people; none gives 0.
        delta: Between 0 and 1, both exclusive.

    Returns:
        An upper bound; infinite if the events are too large for any order.

    Raises:
        BudgetError: BAD_COST for an event or delta that has no defined loss.
    """
    if not 0 < delta < 1:
        raise _bad("delta")
    total = np.zeros(len(ORDERS))
    for event in events:
        total = total + _curve(canonical_json(event_to_json(event)))
    epsilon, _order = compute_epsilon(ORDERS, total, delta)
    return float(epsilon) if math.isfinite(epsilon) else math.inf


@dataclass(frozen=True)
class Shares:
    """Where an epsilon went: ``epsilon`` is the sum of ``parts`` and ``conversion``."""

    epsilon: float
    parts: tuple[float, ...]  # for each event, its Renyi loss at ``order``
    conversion: float
    order: float  # the Renyi order that gives the smallest epsilon for all events together


def as_stated(epsilon: float) -> float:
    """An epsilon as it is stated to people: four places, rounded up, so that a card never understates a loss."""
    return math.ceil(round(epsilon * _STATED, 6)) / _STATED  # round: 1.8 is 18000.000000000004 of them


def shares_of(events: Sequence[DpEvent], delta: float) -> Shares:
    """Explains ``epsilon_of`` exactly.

    Renyi losses add at each order, and the epsilon comes from the one order that makes it smallest: so the parts at
    that order, and the conversion to epsilon at delta, add up. An event alone costs more than its part, because alone
    it pays for a conversion of its own.

    Args:
        events: As for ``epsilon_of``.
        delta: As for ``epsilon_of``.

    Raises:
        BudgetError: BAD_COST.
    """
    curves = [_curve(canonical_json(event_to_json(event))) for event in events]
    total = epsilon_of(events, delta)
    if not curves or not math.isfinite(total):
        return Shares(total, (0.0,) * len(curves), total, 0.0)
    _, order = compute_epsilon(ORDERS, np.sum(curves, axis=0), delta)
    at = ORDERS.index(float(order))
    parts = tuple(float(curve[at]) for curve in curves)
    return Shares(total, parts, total - sum(parts), float(order))


@lru_cache(maxsize=4096)
def _curve(written: bytes) -> NDArray[np.float64]:
    """Renyi loss of one event at each order. A sampled Gaussian takes tens of milliseconds, so curves are kept."""
    accountant = _Curve(ORDERS)
    accountant.compose(event_from_json(json.loads(written)))
    # A rounding error below zero must never give budget back; what has no value counts as unbounded.
    curve = np.maximum(np.nan_to_num(accountant.values, nan=np.inf, posinf=np.inf), 0.0)
    curve.setflags(write=False)
    return curve


def _plain(event: DpEvent) -> dict[str, Any]:
    match event:
        case GaussianDpEvent():
            return {"type": "gaussian", "noise_multiplier": float(event.noise_multiplier)}
        case ZCDpEvent():
            return {"type": "zcdp", "rho": float(event.rho), "xi": float(event.xi)}
        case PoissonSampledDpEvent():
            rate = float(event.sampling_probability)
            return {"type": "poisson_sampled", "sampling_probability": rate, "event": _plain(event.event)}
        case SelfComposedDpEvent():
            return {"type": "self_composed", "count": operator.index(event.count), "event": _plain(event.event)}
        case ComposedDpEvent():
            return {"type": "composed", "events": [_plain(part) for part in event.events]}
    raise _bad(f"event type {type(event).__name__}")


def _event(value: object, depth: int) -> DpEvent:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or set(value) - {"type"} != _FIELDS.get(kind):
        raise _bad("shape of an event")
    if depth >= MAX_DEPTH:
        raise _bad("depth of an event")
    match kind:
        case "gaussian":
            return GaussianDpEvent(_number(value["noise_multiplier"], *NOISE_MULTIPLIERS, "noise_multiplier"))
        case "zcdp":
            return ZCDpEvent(_number(value["rho"], 0, 1e6, "rho"), _number(value["xi"], 0, 1e6, "xi"))
        case "poisson_sampled":
            rate = _number(value["sampling_probability"], 1e-12, 1, "sampling_probability")
            inner = _event(value["event"], depth + 1)
            if not isinstance(inner, GaussianDpEvent):
                raise _bad("event under a Poisson sample")
            return PoissonSampledDpEvent(rate, inner)
        case "self_composed":
            count = value["count"]
            if type(count) is not int or not 1 <= count <= MAX_COUNT:
                raise _bad("count")
            return SelfComposedDpEvent(_event(value["event"], depth + 1), count)
        case _:
            parts = value["events"]
            if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
                raise _bad("number of events")
            return ComposedDpEvent([_event(part, depth + 1) for part in parts])


def _number(value: object, low: float, high: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _bad(name)
    return float(value)


def _bad(item: str) -> BudgetError:
    return BudgetError(Reason.BAD_COST, item=item)
