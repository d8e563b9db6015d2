"""Whatever is asked in whatever order: answers stay, add up, cost once, and know of people what the noise lets out."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import EntenteError
from federation.overlap.questions import Question, answers, owner, parts, shared
from federation.policy.specs import AdHocSpec, CubeSpec, SumSpec
from federation.privacy import noise as opendp_noise
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.answers import Stored
from gateway.overlap.prices import price_list
from tests.kits.questions import COLUMNS, Asking, Person

PARTIES = ("bank", "insurer", "airline")
COLUMN_NAMES = [f"{party}.{column}" for party, columns in COLUMNS.items() for column in columns]
SUM = SumSpec(column="bank.value", values={"low": 3, "high": 40}, cap=50, unit="EUR")
RULES = AdHocSpec(allowed=True, max_epsilon=4.0, default_epsilon=1.0, min_count=0)
Ask = tuple[str, Any]
"""A kind of request and what it asks: ("cube", number), ("ask", question), ("preview", question), ("links", number)."""


class Tape:
    """Noise that is what a seed says, whatever it is added to: so an answer can tell nothing but the seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        return [self.random.randint(-20, 200) for _ in values]

    calibrate_sigma = staticmethod(opendp_noise.calibrate_sigma)
    gaussian_event = staticmethod(opendp_noise.gaussian_event)


class Seeded(Tape):
    """Normal noise from a seed."""

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        return [value + round(self.random.gauss(0, sigma)) for value in values]


@st.composite
def persons(draw: st.DrawFn) -> Person:
    at = draw(st.lists(st.sampled_from(PARTIES), min_size=1, unique=True))
    return {party: {name: draw(st.sampled_from(values)) for name, values in COLUMNS[party].items()} for party in at}


@st.composite
def questions(draw: st.DrawFn, least: int = 1) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Partners, columns to split by, and fixed labels; the order is that of the asker."""
    partners = draw(st.lists(st.sampled_from(PARTIES), min_size=least, unique=True))
    usable = [column for column in COLUMN_NAMES if owner(column) in partners]
    columns = draw(st.lists(st.sampled_from(usable), max_size=3, unique=True))
    fixed = draw(st.integers(0, min(2, len(columns))))
    where = {c: draw(st.sampled_from(COLUMNS[owner(c)][c.partition(".")[2]])) for c in columns[:fixed]}
    return tuple(partners), tuple(columns[fixed:]), where


@st.composite
def cubes(draw: st.DrawFn, number: int) -> CubeSpec:
    partners, by, where = draw(questions(least=2))
    total = SUM if "bank" in partners and draw(st.booleans()) else None
    epsilon = draw(st.sampled_from([0.3, 1.0, 2.0]))
    minimum = draw(st.sampled_from([0, 30]))
    return CubeSpec(
        name=f"c{number}", partners=partners, by=(*by, *where), sum=total, epsilon=epsilon, min_count=minimum
    )


HOLDINGS = CubeSpec(
    name="c2", partners=("insurer", "bank"), by=("bank.holds_gold", "insurer.holds_home"), epsilon=2.0, min_count=0
)
CUBES = st.tuples(cubes(0), cubes(1), st.just(HOLDINGS))
ASKS: st.SearchStrategy[list[Ask]] = st.lists(
    st.one_of(
        st.tuples(st.just("cube"), st.integers(0, 2)),
        st.tuples(st.just("ask"), questions()),
        st.tuples(st.just("preview"), questions()),
        st.tuples(st.just("links"), st.integers(0, 2)),
    ),
    min_size=1,
    max_size=8,
)
CROWDS = st.lists(persons(), max_size=25)


def put(desk: Asking, ask: Ask, party: str = "mkt") -> Any:
    kind, what = ask
    if kind == "cube":
        return desk.cube(f"c{what}", party)
    if kind == "links":
        return desk.links.query(desk.caller(party), pb.QueryLinksRequest(cube=f"c{what}"))
    partners, by, where = what
    if kind == "preview":
        return desk.preview(*partners, by=by, where=where)
    return desk.ask(*partners, by=by, where=where, party=party)


def seen(people: Sequence[Person], declared: Sequence[CubeSpec], asks: Sequence[Ask], seed: int) -> list[object]:
    """Everything that anybody outside sees of a world: answers, errors, the log, the ledger, prices."""
    desk = Asking(people, *declared, noise=Tape(seed), ad_hoc=RULES, entry_ids=random.Random(seed).randbytes)
    found: list[object] = []
    for ask in asks:
        try:
            found.append(put(desk, ask).SerializeToString(deterministic=True))
        except EntenteError as exc:
            found.append((exc.reason, exc.item))
    return [
        *found,
        desk.log.entries,
        desk.ledger.overview(),
        price_list(desk.cubes, desk.ledger),
        desk.store.released("e1"),
    ]


@settings(max_examples=200, deadline=None)
@given(CROWDS, CROWDS, CUBES, ASKS, st.integers(0, 2**32))
def test_the_noisy_numbers_are_all_that_anything_knows_of_people(
    one: list[Person], other: list[Person], declared: tuple[CubeSpec, ...], asks: list[Ask], seed: int
) -> None:
    """Two worlds with nothing in common but the drawn numbers look the same: answers, links, log, ledger, errors."""
    assert seen(one, declared, asks, seed) == seen(other, declared, asks, seed)


@settings(max_examples=200, deadline=None)
@given(CROWDS, CUBES, ASKS, st.integers(0, 2**32))
def test_answers_stay_add_up_and_cost_once(
    people: list[Person], declared: tuple[CubeSpec, ...], asks: list[Ask], seed: int
) -> None:
    desk = Asking(people, *declared, noise=Seeded(seed), ad_hoc=RULES)
    given_before: dict[object, object] = {}
    for turn, ask in enumerate([*asks, *reversed(asks)]):  # everybody asks twice, in another order
        if ask[0] not in {"cube", "ask"}:
            continue
        spent, released = desk.spent, list(desk.store.released("e1"))
        try:
            answer = put(desk, ask, party=f"user-{turn}")
        except EntenteError:
            assert (desk.spent, list(desk.store.released("e1"))) == (spent, released)
            continue
        assert (desk.spent > spent) is answer.spent_now
        numbers = {shape(cell): (cell.suppressed, cell.count, cell.low, cell.high) for cell in answer.cells}
        assert given_before.setdefault(key_of(desk, ask), numbers) == numbers
        check_whole(answer)
        if ask[0] == "ask":
            partners, by, where = ask[1]
            asked = Question(partners, by, tuple(sorted(where.items())))
            free = any(answers(one.answer.question, asked) for one in released)
            assert answer.spent_now is not free
        if answer.spent_now:
            check_agreement(released, desk.store.released("e1")[-1])


def shape(cell: pb.Cell) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    return frozenset(cell.members), frozenset(cell.labels.items())


def key_of(desk: Asking, ask: Ask) -> object:
    if ask[0] == "cube":
        return desk.policy.cubes[f"c{ask[1]}"].name
    partners, by, where = ask[1]
    return frozenset(partners), frozenset(by), frozenset(where.items())


def check_whole(answer: pb.QueryCubeResponse) -> None:
    """No number is negative or outside of its interval, and where nothing is hidden totals are the cells' sums."""
    for number in (*answer.cells, *answer.totals):
        assert 0 <= number.low <= number.count <= number.high
    if any(cell.suppressed for cell in answer.cells):
        return
    for total in answer.totals:
        inside = [
            cell.count
            for cell in answer.cells
            if set(total.members) <= set(cell.members) and dict(total.labels).items() <= dict(cell.labels).items()
        ]
        if not total.suppressed:
            assert total.count == sum(inside)


def check_agreement(before: Sequence[Stored], new: Stored) -> None:
    """Every sum that the new table shares with a table that it says it agrees with is the same in both."""
    for one in before:
        common = shared(new.answer.question, one.answer.question)
        if one.name in new.answer.agrees_with and common is not None:
            assert sums(new, common) == sums(one, common)


def sums(table: Stored, asked: Question) -> Mapping[object, int]:
    found: Counter[object] = Counter()
    for (members, labels), at in parts(table.answer.question, table.answer.cells, asked).items():
        found[frozenset(members), frozenset(labels)] += sum(table.answer.estimates[place] for place in at)
    return found


@settings(max_examples=100, deadline=None)
@given(CROWDS, questions(least=2), st.data(), st.integers(0, 2**32))
def test_a_part_of_a_table_is_the_sum_of_its_cells(
    people: list[Person], whole: tuple[tuple[str, ...], tuple[str, ...], dict[str, str]], data: st.DataObject, seed: int
) -> None:
    """A sub-total is added up here by hand from what the first asker was shown; another user is given the same."""
    partners, by, where = whole
    desk = Asking(people, noise=Seeded(seed), ad_hoc=RULES)
    shown = desk.ask(*partners, by=by, where=where)
    spent, reads = desk.spent, desk.index.reads
    fewer = tuple(data.draw(st.lists(st.sampled_from(partners), min_size=1, unique=True)))
    if not {owner(column) for column in where} <= set(fewer):
        fewer = partners
    columns = [column for column in by if owner(column) in fewer]
    kept = [column for column in columns if data.draw(st.booleans())]
    narrow = {c: data.draw(st.sampled_from(COLUMNS[owner(c)][c.partition(".")[2]])) for c in kept[:1]}
    answer = desk.ask(*fewer, by=kept[1:], where={**where, **narrow}, party="other")
    expected: Counter[object] = Counter()
    for cell in shown.cells:
        here = frozenset(cell.members) & set(fewer)
        labels = dict(cell.labels)
        if here and {owner(c) for c in narrow} <= here and all(labels.get(c) == v for c, v in narrow.items()):
            expected[here, frozenset((c, v) for c, v in labels.items() if c in kept[1:])] += cell.count
    assert {shape(cell): cell.count for cell in answer.cells} == dict(expected)
    assert (answer.spent_now, desk.spent, desk.index.reads) == (False, spent, reads)
