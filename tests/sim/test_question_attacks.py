"""Attacks on the answers: each learns what the ledger says that it may, and no more. That is measured, not assumed.

The measure. The attacker knows everybody but one person and asks whatever it likes about that person's cells, in
worlds with and without that person. Gaussian releases with noise multipliers m_i are together as hard to tell apart as
N(0, 1) and N(mu, 1) with mu^2 = sum of 1 / m_i^2, and the best test there is right by TPR - FPR = 2 Phi(mu / 2) - 1
(Dong, Roth, Su 2022, arXiv:1905.02383). So from how often the attack is right follows an interval for mu, and from mu
the epsilon that was really lost. Its lower end must not be above what the ledger says was paid; its upper end must
reach it, or the attack would be too weak to show anything. The same attack on a gateway with a fault must be found out.

``ENTENTE_LONG=1`` plays ten times as many worlds.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent

from federation.core.errors import BudgetError
from federation.policy.specs import AdHocSpec, CubeSpec, SumSpec
from federation.privacy.composition import epsilon_of
from federation.privacy.noise import calibrate_sigma
from federation.v1 import overlap_pb2 as pb
from tests.kits.questions import Asking, Forgetful, Free, People, Person, counts, person

pytestmark = pytest.mark.sim
WORLDS = 6_000 if os.environ.get("ENTENTE_LONG") == "1" else 600
DELTA, DEVIATIONS = 1e-6, 4.0
EPSILON = 3.0
BOTH = ("bank", "airline")
VENN = CubeSpec(name="venn", partners=BOTH, epsilon=EPSILON, min_count=0)
TIERS = CubeSpec(name="tiers", partners=BOTH, by=("bank.tier",), epsilon=EPSILON, min_count=0)
REVENUE = CubeSpec(
    name="revenue",
    partners=BOTH,
    sum=SumSpec(column="bank.value", values={"low": 100, "high": 900}, cap=900, unit="EUR"),
    epsilon=2 * EPSILON,
    min_count=0,
)
RULES = AdHocSpec(allowed=True, max_epsilon=EPSILON, default_epsilon=EPSILON, min_count=0)
CROWD = [person(bank="basic")] * 50 + [person(bank="high", airline="active")] * 40 + [person(airline="active")] * 40
TARGET = person(bank="high", airline="active")
RICH = {**TARGET, "bank": {**TARGET["bank"], "value": "high"}}


@dataclass(frozen=True)
class Attack:
    """Who is known, who may be there, and what the attacker makes of the answers: a score that one person moves."""

    cubes: Sequence[CubeSpec]
    crowd: Sequence[Person]
    target: Sequence[Person]
    """All of the person's tokens."""
    score: Callable[[Asking, str], float]
    without: Sequence[Person] = ()
    """What stands in the target's place where it is not: nothing, or the same person at fewer partners."""
    factor: float = 1.0
    """By how much the promise is weaker: sqrt(2) where only one partner's row is in question."""


def drawn(answer: pb.QueryCubeResponse, members: tuple[str, ...], **labels: str) -> float:
    """The noisy number of some cells as it is behind its interval, which is nearer to the truth than the estimate."""
    wanted = {column.replace("_", ".", 1): value for column, value in labels.items()}
    found = [c for c in answer.cells if tuple(c.members) == members and wanted.items() <= dict(c.labels).items()]
    assert found
    return sum((cell.low + cell.high) / 2 for cell in found)


def everything_about_one_cell(desk: Asking, epoch: str) -> float:
    """Two cubes and an ad hoc question, each with the target in one cell."""
    high = {"where": {"bank.tier": "high"}, "epoch": epoch}
    return (
        drawn(desk.cube("venn", epoch=epoch), BOTH)
        + drawn(desk.cube("tiers", epoch=epoch), BOTH, bank_tier="high")
        + drawn(desk.ask(*BOTH, by=["bank.holds_gold"], **high), BOTH, bank_holds_gold="yes")
    )


def one_partners_row(desk: Asking, epoch: str) -> float:
    """The attacker is the insurer and has put its target alone in a cell: is that person at the airline?"""
    answer = desk.cube("spy", epoch=epoch)
    return drawn(answer, ("insurer", "airline"), insurer_stage="family") - drawn(
        answer, ("insurer",), insurer_stage="family"
    )


SPY = CubeSpec(name="spy", partners=("insurer", "airline"), by=("insurer.stage",), epsilon=4.0, min_count=0)
FAMILY, FLYING = person(insurer="family"), person(insurer="family", airline="active")
TWICE = VENN.model_copy(update={"max_tokens_per_person": 2, "epsilon": 5.0})
ATTACKS = {
    "differencing over cubes and ad hoc questions": Attack(
        (VENN, TIERS), CROWD, [TARGET], everything_about_one_cell
    ),
    "a sum that the target moves by the whole cap": Attack(
        (REVENUE,), CROWD, [RICH], lambda desk, epoch: drawn(desk.cube("revenue", epoch=epoch), BOTH)
    ),
    "a person with both of two tokens in one cell": Attack(
        (TWICE,), CROWD, [TARGET] * 2, lambda desk, epoch: drawn(desk.cube("venn", epoch=epoch), BOTH)
    ),
    "a chosen set of one, against one partner's row": Attack(
        (SPY,), [FAMILY] * 40 + [FLYING] * 40, [FLYING], one_partners_row, without=[FAMILY], factor=math.sqrt(2)
    ),
}  # fmt: skip


class Worlds(People):
    """Odd epochs have the target in them."""

    def __init__(self, attack: Attack) -> None:
        super().__init__(())
        self._sides = ([*attack.crowd, *attack.without], [*attack.crowd, *attack.target])
        self._known: dict[Any, Any] = {}

    def of(self, epoch: str) -> Sequence[Person]:
        return self._sides[int(epoch[1:]) % 2]

    def exact(self, epoch: str, partners: Sequence[str], by: Sequence[str]) -> Any:
        key = (int(epoch[1:]) % 2, tuple(partners), tuple(by))
        if key not in self._known:
            self._known[key] = super().exact(epoch, partners, by)
        return self._known[key]


def play(attack: Attack, worlds: int, **parts: Any) -> tuple[float, float]:
    """How far the attack could tell the two kinds of worlds apart: an interval for mu, of four deviations."""
    desk = Asking((), *attack.cubes, ad_hoc=RULES, index=Worlds(attack), epochs=2 * worlds, ledger=Free())
    for name, part in parts.items():
        setattr(desk.tables, name, part)
    scores = np.array([attack.score(desk, f"e{number}") for number in range(1, 2 * worlds + 1)])
    inside, outside = scores[0::2], scores[1::2]
    threshold = (inside.mean() + outside.mean()) / 2
    true, false = float(np.mean(inside > threshold)), float(np.mean(outside > threshold))
    # The most for any attack: what these very plays say of it would be small where they went well by chance.
    error = DEVIATIONS * math.sqrt((1 / 4 + 1 / 4) / worlds)
    low, high = (min(max(true - false + side * error, 0.0), 0.9999) for side in (-1, 1))
    return mu_of(low), mu_of(high)


def mu_of(advantage: float) -> float:
    return 2 * NormalDist().inv_cdf((1 + advantage) / 2)


def paid_for(attack: Attack) -> float:
    """What the real ledger says after one such attack."""
    desk = Asking(attack.crowd, *attack.cubes, ad_hoc=RULES)
    limits = {"epsilon": 50.0, "purposes": {"overlap_statistics": 50.0}}
    desk.policy.budget = desk.policy.budget.model_copy(update=limits)
    attack.score(desk, "e1")
    return desk.spent


def epsilon_at(mu: float) -> float:
    return epsilon_of([GaussianDpEvent(1 / mu)], DELTA) if mu > 0 else 0.0


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_learns_what_was_paid_for_and_no_more(name: str) -> None:
    attack = ATTACKS[name]
    low, high = play(attack, WORLDS)
    paid = paid_for(attack)
    assert epsilon_at(low / attack.factor) <= paid
    assert epsilon_at(high / attack.factor) >= paid  # the attack is as good as any: else this shows nothing


@pytest.mark.parametrize("name", ATTACKS)
def test_a_gateway_that_draws_again_is_found_out(name: str) -> None:
    """The same measure on a store that forgets: asking six times and averaging learns more than was paid for."""
    attack = ATTACKS[name]

    def average(desk: Asking, epoch: str) -> float:
        return sum(attack.score(desk, epoch) for _ in range(6)) / 6

    averaging = Attack(attack.cubes, attack.crowd, attack.target, average, attack.without, attack.factor)
    low, _ = play(averaging, WORLDS // 2, store=Forgetful())
    assert epsilon_at(low / attack.factor) > paid_for(attack)


def test_averaging_learns_nothing_because_there_is_one_answer() -> None:
    attack = ATTACKS["differencing over cubes and ad hoc questions"]

    def average(desk: Asking, epoch: str) -> float:
        answers = [attack.score(desk, epoch) for _ in range(4)]
        assert answers == answers[:1] * 4  # to the last digit: nothing is left to average
        return answers[0]

    low, _ = play(Attack(attack.cubes, attack.crowd, attack.target, average), WORLDS // 3)
    assert epsilon_at(low) <= paid_for(attack)


def test_the_difference_of_two_epochs_has_the_noise_of_both() -> None:
    """One person comes between two epochs: what is left of the difference is noise of sqrt(2) sigma."""
    attack = Attack((VENN,), CROWD, [TARGET], lambda desk, epoch: drawn(desk.cube("venn", epoch=epoch), BOTH))
    desk = Asking((), VENN, index=Worlds(attack), epochs=2 * WORLDS, ledger=Free())
    scores = np.array([attack.score(desk, f"e{number}") for number in range(1, 2 * WORLDS + 1)])
    differences = scores[0::2] - scores[1::2] - 1
    sigma = math.sqrt(2) * calibrate_sigma(EPSILON, DELTA, 1.0)
    # The deviation of n normal draws is itself wrong by about sigma / sqrt(2 n); interval ends are whole numbers.
    assert differences.std() > sigma * (1 - DEVIATIONS / math.sqrt(2 * WORLDS))
    assert abs(differences.mean()) < DEVIATIONS * sigma / math.sqrt(WORLDS)


def test_a_thousand_questions_have_one_answer_and_one_price() -> None:
    desk = Asking(CROWD, VENN.model_copy(update={"epsilon": 0.5}), TIERS)
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
    spend_everything(desk, [lambda by=by: desk.ask(*BOTH, by=by) for by in sorted(subsets, key=len)])


def test_averaging_over_epochs_runs_out_of_budget() -> None:
    """A new epoch draws new noise for the same people, and pays for it again."""
    desk = Asking(CROWD, VENN.model_copy(update={"epsilon": 0.5}), epochs=30)
    spend_everything(desk, [lambda n=n: desk.cube("venn", epoch=f"e{n}") for n in range(1, 31)])


def test_averaging_over_changed_declarations_runs_out_of_budget() -> None:
    """A cube that compliance declares again under another name, price or shape is another release, and pays for it."""
    desk = Asking(CROWD, ad_hoc=RULES)

    def declared(number: int) -> pb.QueryCubeResponse:
        changes = {"name": f"c{number % 10}", "epsilon": 0.4 + number / 100}
        cube = VENN.model_copy(update=changes)
        desk.policy.cubes = {cube.name: cube}
        return desk.cube(cube.name)

    spend_everything(desk, [lambda n=n: declared(n) for n in range(30)])


def spend_everything(desk: Asking, questions: Sequence[Callable[[], pb.QueryCubeResponse]]) -> None:
    """Asks until the budget says no; then the best average of all releases is no better than one that spends it all."""
    limit = 1.5
    desk.policy.budget = desk.policy.budget.model_copy(update={"purposes": {"overlap_statistics": limit}})
    sigmas, refused = [], 0
    for ask in questions:
        try:
            answer = ask()
        except BudgetError:
            refused += 1
            continue
        assert answer.spent_now
        sigmas.append(answer.sigma)
    assert refused > 0
    assert desk.spent <= limit
    assert len(sigmas) > 3
    best = 1 / math.sqrt(sum(1 / sigma**2 for sigma in sigmas))
    assert best >= calibrate_sigma(limit, DELTA, 1.0) * 0.999


def test_a_crafted_set_of_one_is_not_shown() -> None:
    """What a partner hands in to learn about one customer is far under every threshold, present or not."""
    spy = CubeSpec(name="spy", partners=("insurer", "airline"), epsilon=0.5, min_count=20)
    shown = {True: 0, False: 0}
    for present in shown:
        target = {**person(insurer="family"), **(person(airline="active") if present else {})}
        desk = Asking([*[person(airline="silent")] * 300, target], spy, epochs=WORLDS, ledger=Free())
        for number in range(1, WORLDS + 1):
            both = next(cell for cell in desk.cube("spy", epoch=f"e{number}").cells if len(cell.members) == 2)
            shown[present] += not both.suppressed
            assert (both.count, both.low, both.high) == (0, 0, 0) or not both.suppressed
    assert max(shown.values()) / WORLDS < 0.05  # 20 is more than two deviations away


def test_cells_and_price_do_not_depend_on_who_is_there() -> None:
    empty, full = Asking([], TIERS), Asking(CROWD * 10, TIERS)
    assert list(counts(empty.cube("tiers").cells)) == list(counts(full.cube("tiers").cells))
    assert empty.spent == full.spent
