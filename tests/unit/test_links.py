"""Which products go together: the arithmetic, the intervals, and that chance is not shown as a rule."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from federation.core.errors import EntenteError, Reason
from federation.overlap.links import Link, Noisy, find_links, ratio, rules_of
from federation.overlap.questions import Question, domain, owner
from federation.policy.specs import CubeSpec
from federation.privacy.noise import discrete_gaussian
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.consistency import fit
from tests.kits.luck import holds_as_often
from tests.kits.questions import COLUMNS, Asking, Exact, Person, person

BY = ("bank.holds_gold", "insurer.holds_home")
CUBE = CubeSpec(name="holdings", partners=("bank", "insurer"), by=BY, epsilon=1.0, min_count=20)


def holding(gold: str, home: str) -> Person:
    found = {party: dict(labels) for party, labels in person(bank="basic", insurer="family").items()}
    found["bank"]["holds_gold"], found["insurer"]["holds_home"] = gold, home
    return found


def crowd(both: int, gold: int, home: int, neither: int) -> list[Person]:
    people = [holding("yes", "yes")] * both + [holding("yes", "no")] * gold
    return people + [holding("no", "yes")] * home + [holding("no", "no")] * neither + [person(bank="basic")] * 5000


def request(**rest: float) -> pb.QueryLinksRequest:
    return pb.QueryLinksRequest(cube="holdings", **rest)  # type: ignore[arg-type]


def test_rules_cross_partners_and_have_one_or_two_products_on_the_left() -> None:
    columns = ("a.holds_x", "a.holds_y", "b.holds_z", "b.tier")
    rules = rules_of(columns)
    assert (("a.holds_x",), "b.holds_z") in rules
    assert (("a.holds_x", "a.holds_y"), "b.holds_z") in rules
    assert (("a.holds_x", "b.holds_z"), "a.holds_y") in rules
    assert (("a.holds_x",), "a.holds_y") not in rules
    assert all("b.tier" not in (*left, right) for left, right in rules)


def test_support_confidence_and_lift_are_those_of_shared_customers() -> None:
    desk = Asking(crowd(4000, 2000, 1000, 9000), CUBE, noise=Exact())
    answer = desk.links.query(desk.caller("mkt"), request())
    assert (answer.candidates, len(answer.links)) == (2, 2)
    [link] = [link for link in answer.links if link.left == ["bank.holds_gold"]]
    assert (link.right, link.people) == ("insurer.holds_home", 4000)
    assert link.support.value == pytest.approx(4000 / 16000)
    assert link.confidence.value == pytest.approx(4000 / 6000)
    assert link.lift.value == pytest.approx((4000 / 6000) / (5000 / 16000))
    assert link.lift.low > 1
    assert desk.spent == pytest.approx(1.0, rel=1e-6)
    assert not desk.links.query(desk.caller("other"), request()).spent_now
    assert desk.links.query(desk.caller("mkt"), request(min_lift=2.2)).links == []


def test_independent_products_are_no_rule_although_noise_moves_them() -> None:
    """Family-wise: in 400 noisy tables of independent products at most a twentieth shows a rule, plus chance."""
    tables, shown = 400, 0
    sigma, truth = 30.0, (400, 600, 400, 600)  # both, left only, right only, neither: lift exactly 1
    cells = [
        (("bank", "insurer"), ((BY[0], left), (BY[1], right)))
        for left, right in (("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"))
    ]
    noise = iter(discrete_gaussian([0] * (4 * tables), sigma))
    for _ in range(tables):
        drawn = [value + next(noise) for value in truth]
        found = {cell: Noisy(value, max(0, value), 1) for cell, value in zip(cells, drawn, strict=True)}
        shown += bool(find_links(found, BY, sigma))
    assert holds_as_often(tables - shown, tables, 0.95)


def test_all_intervals_of_all_rules_hold_at_once_as_often_as_they_say() -> None:
    """Nine rules over three partners, pairs and triples, small groups too, on estimates that were made whole."""
    products = ("a.holds_x", "b.holds_y", "c.holds_z")
    labels = {owner(column): {column.partition(".")[2]: ("yes", "no")} for column in products}
    cells = tuple(domain(Question(("a", "b", "c"), products), labels))
    rng = np.random.default_rng(5)
    truth = [int(v) for v in rng.integers(20, 900, len(cells))]
    releases, sigma, whole = 1000, 15.0, 0
    bars = {"min_lift": -1.0, "min_confidence": -1.0}  # every rule is looked at

    def rules(drawn: list[int], published: Sequence[int], spread: float) -> dict[object, Link]:
        numbers = zip(cells, drawn, published, strict=True)
        noisy = {cell: Noisy(one, other, 1) for cell, one, other in numbers}
        return {(link.left, link.right): link for link in find_links(noisy, products, spread, **bars)}

    exact = rules(truth, truth, 1e-9)
    assert len(exact) == len(rules_of(products)) == 9
    noise = iter(discrete_gaussian([0] * (len(cells) * releases), sigma))
    for _ in range(releases):
        drawn = [value + next(noise) for value in truth]
        found = rules(drawn, fit(drawn).estimates, sigma)
        whole += all(
            getattr(found[rule], name).low <= getattr(right, name).value <= getattr(found[rule], name).high
            for rule, right in exact.items()
            for name in ("support", "confidence", "lift")
        )
    assert holds_as_often(whole, releases, 0.95)


@pytest.mark.parametrize(("part", "rest"), [(900, 2100), (60, 90), (5, 400)])
def test_a_fieller_interval_covers_as_often_as_it_says(part: int, rest: int) -> None:
    draws, sigma, covered = 2000, 12.0, 0
    noise = iter(discrete_gaussian([0] * (6 * draws), sigma))
    for _ in range(draws):
        x = part + sum(next(noise) for _ in range(2))
        y = rest + sum(next(noise) for _ in range(4))
        found = ratio(Noisy(x, max(0, x), 2), Noisy(y, max(0, y), 4), 1.959964 * sigma)
        covered += found.low <= part / (part + rest) <= found.high
    assert holds_as_often(covered, draws, 0.95)
    assert holds_as_often(draws - covered, draws, 0.02)  # it is no wider than it must be


def test_a_denominator_that_noise_may_have_made_says_nothing() -> None:
    found = ratio(Noisy(3, 3, 1), Noisy(2, 2, 1), 1.96 * 10.0)
    assert (found.low, found.high) == (0.0, 1.0)
    assert ratio(Noisy(-5, 0, 1), Noisy(-2, 0, 1), 10.0).value == 0.0


def test_a_cube_of_other_things_has_no_links() -> None:
    desk = Asking(crowd(1, 1, 1, 1), CUBE.model_copy(update={"by": ("bank.tier",)}))

    def ask() -> object:
        return desk.links.query(desk.caller("mkt"), request())

    assert refusal(ask) is Reason.QUESTION_MISFIT
    desk.policy.cubes["holdings"] = CUBE
    assert refusal(lambda: desk.links.query(desk.caller("mkt"), request(min_lift=-1.0))) is Reason.BAD_FIELD
    assert (desk.spent, set(COLUMNS)) == (0, {"bank", "insurer", "airline"})


def refusal(act: Callable[[], object]) -> Reason:
    with pytest.raises(EntenteError) as caught:
        act()
    return caught.value.reason
