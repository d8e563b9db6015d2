"""Attacks on the answers that must gain nothing, or no more than the budget bounds. See the sim tests for crashes."""

import math
from collections import Counter

import pytest

from federation.core.errors import BudgetError
from federation.policy.specs import AdHocSpec, CubeSpec
from federation.privacy.composition import epsilon_of
from federation.privacy.noise import calibrate_sigma, discrete_gaussian, gaussian_event
from tests.question_kit import Asking, counts, person

VENN = CubeSpec(name="venn", partners=("bank", "airline"), epsilon=0.5, min_count=0)
TIERS = CubeSpec(name="tiers", partners=("bank", "airline"), by=("bank.tier",), epsilon=0.5, min_count=0)
CROWD = [person(bank="basic")] * 50 + [person(bank="high", airline="active")] * 30
TARGET = person(bank="high", airline="active")
WORLDS = 100


def guesses(present: bool, worlds: int) -> Counter[bool]:
    """How often the best test says "the target is in", from everything that can be asked about the target's cell.

    The attacker knows everybody else, asks the cube, a second cube and an ad hoc question, each as often as it likes,
    and adds up what it learns against what it knows.
    """
    said: Counter[bool] = Counter()
    known = 30
    for _ in range(worlds):
        desk = Asking([*CROWD, TARGET] if present else CROWD, VENN, TIERS)
        both = ("bank", "airline")
        seen = [counts(desk.cube("venn").cells)[(both, ())]]
        seen.append(counts(desk.cube("tiers").cells)[(both, (("bank.tier", "high"),))])
        answer = desk.ask("bank", "airline", by=["bank.holds_gold"], where={"bank.tier": "high"}, epsilon=0.5)
        seen.append(counts(answer.cells)[(both, (("bank.holds_gold", "yes"),))])
        said[sum(seen) / len(seen) - known > 0.5] += 1
    return said


def test_differencing_over_cubes_and_ad_hoc_questions_stays_within_epsilon() -> None:
    """True against false positives of the attack, with and without the target: at most e^eps FPR + delta."""
    event = gaussian_event(calibrate_sigma(0.5, 1e-6, 1.0), 1.0)
    epsilon = epsilon_of([event] * 3, 1e-6)
    with_target, without = guesses(True, WORLDS), guesses(False, WORLDS)
    true, false = with_target[True] / WORLDS, without[True] / WORLDS
    slack = 4 * math.sqrt(0.25 / WORLDS) * (1 + math.exp(epsilon))
    assert true <= math.exp(epsilon) * false + 1e-6 + slack
    assert (1 - false) <= math.exp(epsilon) * (1 - true) + 1e-6 + slack
    # The normal test of this noise: a shift of sqrt(3) / sigma deviations. Anything more would be a leak.
    shift = math.sqrt(3) / calibrate_sigma(0.5, 1e-6, 1.0)
    assert true - false < math.erf(shift / (2 * math.sqrt(2))) + 4 * math.sqrt(0.5 / WORLDS)


def test_the_difference_of_two_answers_is_never_free_of_noise() -> None:
    """One person more between two epochs of the same question: the difference has noise of both."""
    differences = []
    for _ in range(60):
        before, after = Asking(CROWD, VENN), Asking([*CROWD, TARGET], VENN)
        both = (("bank", "airline"), ())
        differences.append(counts(after.cube("venn").cells)[both] - counts(before.cube("venn").cells)[both])
    sigma = calibrate_sigma(0.5, 1e-6, 1.0) * math.sqrt(2)
    spread = math.sqrt(sum((value - 1) ** 2 for value in differences) / len(differences))
    assert spread > sigma * 0.6


def test_a_thousand_questions_have_one_answer_and_one_price() -> None:
    desk = Asking(CROWD, VENN, TIERS)
    desk.cube("venn")
    seen = set()
    for turn in range(500):
        cube = desk.cube("venn", party=f"user-{turn % 7}")
        asked = ("airline", "bank") if turn % 2 else ("bank", "airline")
        answer = desk.ask(*asked, party=f"user-{turn % 5}", epsilon=0.1 + turn / 1000)
        for cells in (cube.cells, answer.cells):
            seen.add(tuple(sorted((tuple(sorted(c.members)), c.count, c.low, c.high) for c in cells)))
    assert len(seen) == 1
    assert desk.spent == pytest.approx(0.5, rel=1e-6)
    assert desk.index.reads == 1


def test_averaging_over_slightly_different_questions_runs_out_of_budget() -> None:
    """Every new way to ask for the same people costs, and the limit ends it: the average keeps a floor of noise."""
    rules = AdHocSpec(allowed=True, max_epsilon=1.0, default_epsilon=0.5, min_count=0)
    desk = Asking(CROWD, ad_hoc=rules)
    columns = ["bank.tier", "bank.holds_gold", "bank.value", "airline.activity"]
    subsets = [[c for at, c in enumerate(columns) if mask >> at & 1] for mask in range(16)]
    sigmas, refused = [], 0
    for by in sorted(subsets, key=len):  # coarse first, so that none can be read off one before it
        try:
            answer = desk.ask("bank", "airline", by=by)
        except BudgetError:
            refused += 1
            continue
        assert answer.spent_now
        sigmas.append(answer.sigma)
    limit = desk.policy.budget.purposes["overlap_statistics"]
    assert desk.spent <= limit
    # The best average of all releases is no better than one release that spends the whole limit.
    best = 1 / math.sqrt(sum(1 / sigma**2 for sigma in sigmas))
    assert best >= calibrate_sigma(limit, 1e-6, 1.0) * 0.99


def test_a_crafted_set_of_one_learns_no_more_than_epsilon_allows() -> None:
    """A partner hands in a single person, to learn from the overlap whether another partner has that customer.

    The quota of a batch bounds how many it can hand in, the threshold hides so small a number, and what the noise
    leaves is bounded: over many worlds the shown cells are right about the target hardly more often than a coin.
    """
    spy = CubeSpec(name="spy", partners=("insurer", "airline"), epsilon=0.5, min_count=20)
    worlds, shown, right = 300, 0, 0
    for world in range(worlds):
        member = bool(world % 2)
        target = {**person(insurer="family"), **(person(airline="active") if member else {})}
        desk = Asking([*[person(airline="silent")] * 300, target], spy)
        answer = desk.cube("spy")
        both = next(cell for cell in answer.cells if len(cell.members) == 2)
        shown += not both.suppressed
        drawn = desk.store.released("e1")[0].answer
        noisy = dict(zip(drawn.cells, drawn.noisy, strict=True))[(("insurer", "airline"), ())]
        right += (noisy > 0.5) == member  # even with the number that is stored and not shown
    assert shown / worlds < 0.05  # 20 is more than two deviations away
    bound = math.exp(0.5) / (1 + math.exp(0.5))
    assert right / worlds < bound + 4 * math.sqrt(0.25 / worlds)


def test_noise_does_not_depend_on_what_it_hides() -> None:
    """Suppression and cells are functions of noisy numbers: an empty epoch has the same cells as a full one."""
    empty, full = Asking([], TIERS), Asking(CROWD * 10, TIERS)
    assert [list(c.members) for c in empty.cube("tiers").cells] == [list(c.members) for c in full.cube("tiers").cells]
    assert empty.spent == full.spent
    assert len(set(discrete_gaussian([0] * 200, 8.0))) > 10
