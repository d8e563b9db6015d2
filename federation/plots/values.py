"""What plots show: noisy numbers, as plain values that can be kept as JSON."""

from dataclasses import dataclass

from pydantic import ConfigDict

FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Count:
    """A noisy number of people with its 95 % interval. ``count``, ``low`` and ``high`` are 0 where suppressed."""

    count: int
    low: int
    high: int
    suppressed: bool = False
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Region:
    """People who are customers of these partners: exactly these (a region), or at least these (a total)."""

    members: tuple[str, ...]
    count: Count
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class Noise:
    """What a release cost and how wide its noise is."""

    epsilon: float
    delta: float
    sigma: float  # standard deviation of one cell, in people
    mechanism: str
    min_count: int  # smallest noisy count that is shown, in people
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class CrossCell:
    """One cell of the cross table."""

    row: str
    column: str
    count: Count
    __pydantic_config__ = FORBID


@dataclass(frozen=True)
class CrossTable:
    """The released table of one partner's segment by another's."""

    row_name: str  # "bank.value_tier"
    column_name: str
    row_values: tuple[str, ...]
    column_values: tuple[str, ...]
    cells: tuple[CrossCell, ...]
    noise: Noise
    __pydantic_config__ = FORBID
