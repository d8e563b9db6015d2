"""Which products go together, from noisy counts: support, confidence and lift with intervals that hold together.

A rule says: whoever has all products on the left has the one on the right more often than others do. It is judged among
the customers of every partner that it names, as a 2 x 2 table of noisy counts: left and right, left only, right only,
neither. Each of the four is a sum of released cells, with independent noise of known variance.

Intervals. A ratio x / y of noisy sums is theta exactly when x - theta y is 0, and x - theta y is normal with a variance
that theta and the released sigma give: so the thetas that a two-sided test does not refuse are an interval with exactly
its coverage (Fieller 1954), also where the denominator is small; where the denominator is not clearly above zero
nothing is refused, and the interval is all of 0 to 1. Support is left-and-right over all four, confidence is
left-and-right over left. Lift is confidence over the share of everybody who has the right side; its interval divides
the ends of these two.

Together. Three ratios are estimated for each rule (support, confidence, share of the right side), and every interval is
at the level 1 - (1 - coverage) / (3 rules), so all of them hold at once with the stated coverage, whatever depends on
what (Bonferroni). So picking the rules whose interval lies above a bar keeps the promise: the chance that any shown
rule owes its place to the noise is at most 1 - coverage. It costs wider intervals, by about the square root of the
logarithm of the number of rules.

All of it is post-processing of released numbers. It describes these customers; it does not say why.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from federation.overlap.questions import Cell, owner

HOLDS, YES = "holds_", "yes"
MAX_RULES = 10_000
_RATIOS = 3


@dataclass(frozen=True)
class Ratio:
    """An estimate and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Link:
    """One rule: everything on the left together, then the right."""

    left: tuple[str, ...]  # "partner.holds_product"
    right: str
    people: int  # estimated, who have all of it
    support: Ratio
    confidence: Ratio
    lift: Ratio


@dataclass(frozen=True)
class Noisy:
    """A sum of cells: as drawn, as published, and how many cells it is of."""

    drawn: int = 0
    published: int = 0
    cells: int = 0

    def __add__(self, other: "Noisy") -> "Noisy":
        return Noisy(self.drawn + other.drawn, self.published + other.published, self.cells + other.cells)


def rules_of(columns: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """Every rule with one or two products on the left, across at least two partners."""
    held = [column for column in columns if column.partition(".")[2].startswith(HOLDS)]
    found = [
        (left, right)
        for size in (1, 2)
        for left in itertools.combinations(held, size)
        for right in held
        if right not in left and len({owner(column) for column in (*left, right)}) > 1
    ]
    return found[:MAX_RULES]


def find_links(
    cells: Mapping[Cell, Noisy],
    columns: Sequence[str],
    sigma: float,
    *,
    coverage: float = 0.95,
    min_people: int = 0,
    min_lift: float = 1.0,
    min_confidence: float = 0.0,
) -> list[Link]:
    """Rules whose intervals lie above the bars, the highest certain lift first.

    Args:
        cells: Every cell of a released table.
        columns: The table's label columns.
        sigma: Of one cell.
        coverage: That all intervals of all rules hold at once.
        min_people: Smallest noisy number of people with the whole rule.
        min_lift: The lift's interval must lie above this.
        min_confidence: The confidence's interval must lie above this.
    """
    rules = rules_of(columns)
    if not rules:
        return []
    z = NormalDist().inv_cdf(1 - (1 - coverage) / (2 * _RATIOS * len(rules)))
    links = (_link(cells, left, right, z * sigma) for left, right in rules)
    kept = [
        link
        for link in links
        if link.people >= min_people and link.lift.low > min_lift and link.confidence.low > min_confidence
    ]
    return sorted(kept, key=lambda link: (-link.lift.low, link.left, link.right))


def ratio(part: Noisy, rest: Noisy, reach: float) -> Ratio:
    """``part / (part + rest)`` with its Fieller interval; the two share no cell.

    Args:
        part: The numerator.
        rest: What the denominator has besides.
        reach: Quantile times sigma of one cell: how far a single cell's noise is taken to reach.
    """
    whole = part.drawn + rest.drawn
    published = part.published + rest.published
    value = part.published / published if published else 0.0
    part_spread, whole_spread = reach**2 * part.cells, reach**2 * (part.cells + rest.cells)
    # (x - theta y)^2 <= reach^2 Var(x - theta y), with Cov(x, y) = Var(x): a quadratic a theta^2 - 2 b theta + c <= 0.
    a, b, c = whole**2 - whole_spread, part.drawn * whole - part_spread, part.drawn**2 - part_spread
    inner = b * b - a * c
    if whole <= 0 or a <= 0 or inner < 0:
        return Ratio(value, 0.0, 1.0)
    root = math.sqrt(inner)
    low, high = (min(1.0, max(0.0, end / a)) for end in (b - root, b + root))
    return Ratio(value, min(low, value), max(high, value))


def _link(cells: Mapping[Cell, Noisy], left: tuple[str, ...], right: str, reach: float) -> Link:
    both, only_left, only_right, neither = (sum(found, Noisy()) for found in _square(cells, left, right))
    support = ratio(both, only_left + only_right + neither, reach)
    confidence = ratio(both, only_left, reach)
    share = ratio(both + only_right, only_left + neither, reach)
    lift = Ratio(
        confidence.value / share.value if share.value else 0.0,
        confidence.low / share.high if share.high else 0.0,
        confidence.high / share.low if share.low else math.inf,
    )
    return Link(left, right, both.published, support, confidence, lift)


def _square(cells: Mapping[Cell, Noisy], left: tuple[str, ...], right: str) -> Iterator[list[Noisy]]:
    """The four groups among customers of every partner that the rule names."""
    partners = {owner(column) for column in (*left, right)}
    groups: dict[tuple[bool, bool], list[Noisy]] = {}
    for (members, labels), noisy in cells.items():
        if partners <= set(members):
            has = dict(labels)
            key = (all(has[column] == YES for column in left), has[right] == YES)
            groups.setdefault(key, []).append(noisy)
    for key in ((True, True), (True, False), (False, True), (False, False)):
        yield groups.get(key, [])
