"""People with several identifiers: components against a plain union of sets, and the sensitivity that is promised."""

import math
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import OverlapError
from federation.overlap.blind import ZERO
from federation.overlap.matching import l2_sensitivity
from federation.overlap.plan import key_types_of
from gateway.overlap import components
from gateway.overlap.index import StatisticsIndex, TokenBatch

KEYS = 3
NAMES = ("a", "b", "c", "d", "e")
LABELS = ("l=0", "l=1")
Row = tuple[str, int, tuple[int, ...]]
"""Partner, label and one identifier of each key type; -1 is a point of low order, 0 none (a random point)."""


@st.composite
def tables(draw: st.DrawFn, most: int = 14) -> list[Row]:
    names = NAMES[: draw(st.integers(2, 5))]
    row = st.tuples(st.sampled_from(names), st.integers(0, 1), st.tuples(*[st.integers(-1, 5)] * KEYS))
    return draw(st.lists(row, max_size=most))


def people(rows: list[Row]) -> list[list[Row]]:
    """Components, the slow way: join any two groups that share an identifier until no two do."""
    groups = [
        ({(slot, one) for slot, one in enumerate(row[2]) if one > 0}, [row]) for row in rows if set(row[2]) != {-1}
    ]
    joined = True
    while joined:
        joined = False
        for at, (mine, members) in enumerate(groups):
            for other in range(at + 1, len(groups)):
                if mine & groups[other][0]:
                    groups[at] = (mine | groups[other][0], members + groups[other][1])
                    del groups[other]
                    joined = True
                    break
            if joined:
                break
    return [members for _, members in groups]


def cells(rows: list[Row]) -> Counter[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]:
    found = []
    for person in people(rows):
        labels: dict[str, int] = {}
        for party, label, _ in person:
            labels[party] = min(label, labels.get(party, 1))
        found.append((tuple(sorted(labels)), tuple((f"{party}.l", str(labels[party])) for party in sorted(labels))))
    return Counter(found)


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 2))
def test_the_index_counts_components(rows: list[Row], decoys: int) -> None:
    fresh = iter(range(1, 10_000))

    def point(slot: int, one: int) -> bytes:
        if one == -1:
            return ZERO
        return (bytes([slot, one]) if one else b"\xff" + next(fresh).to_bytes(2, "big")).ljust(32, b"\7")

    names = sorted({party for party, *_ in rows} | {"a", "b"})
    batches = []
    for party in names:
        for number, label in enumerate(LABELS):
            mine = [ids for who, at, ids in rows if (who, at) == (party, number)] + [(0,) * KEYS] * decoys
            data = b"".join(point(slot, one) for ids in mine for slot, one in enumerate(ids))
            width = 32 * KEYS
            batches.append(TokenBatch(party, label, decoys, [data[: 2 * width], data[2 * width :]]))
    with tempfile.TemporaryDirectory() as folder:
        index = StatisticsIndex(Path(folder))
        index.build("e", dict.fromkeys(names, LABELS), batches, KEYS)
        assert index.exact("e", names, [f"{party}.l" for party in names]) == dict(cells(rows))


@settings(max_examples=300, deadline=None)
@given(tables(), st.lists(st.integers(0, 13), min_size=1, max_size=4))
def test_one_person_moves_the_counts_no_further_than_promised(rows: list[Row], picked: list[int]) -> None:
    """Any rows may be one person's: take them away, and compare with the bound for the identifiers that they have."""
    mine = {number for number in picked if number < len(rows)}
    tokens = {(slot, one) for number in mine for slot, one in enumerate(rows[number][2]) if one > 0}
    # A row whose identifiers are all random is a person of its own, with as many identifiers as the row has points.
    tokens |= {(number, -1) for number in mine if not any(one > 0 for one in rows[number][2])}
    before, after = cells(rows), cells([row for number, row in enumerate(rows) if number not in mine])
    moved = math.sqrt(sum((before[cell] - after[cell]) ** 2 for cell in before.keys() | after.keys()))
    assert moved <= math.sqrt(2) * len(tokens) + 1e-9
    if len(tokens) <= 8:
        assert moved <= l2_sensitivity("any", max(1, len(tokens))) + 1e-9


def test_the_bound_is_met() -> None:
    """A person with three identifiers, each known to another partner alone and shared there with a stranger."""
    strangers: list[Row] = [("a", 0, (1, 0, 0)), ("a", 0, (0, 1, 0)), ("a", 0, (0, 0, 1))]
    joined = cells([*strangers, ("b", 0, (1, 1, 1))])
    assert joined == {(("a", "b"), (("a.l", "0"), ("b.l", "0"))): 1}
    assert cells(strangers) == {(("a",), (("a.l", "0"),)): 3}  # moved by sqrt(3^2 + 1^2) = 3.17 of 4.24


def test_the_sensitivity_that_is_used() -> None:
    assert l2_sensitivity("email", 1) == 1.0
    assert l2_sensitivity("national_id", 4) == 4.0
    assert l2_sensitivity("email+phone", 1) == pytest.approx(2 * math.sqrt(2))
    assert l2_sensitivity("any", 1) == pytest.approx(3 * math.sqrt(2))
    assert l2_sensitivity("any", 5) == pytest.approx(5 * math.sqrt(2))
    for bad in ("", "passport", "phone+email", "email+email", "any+email"):
        with pytest.raises(OverlapError):
            key_types_of(bad)


@pytest.mark.parametrize("order", ["up", "down", "zigzag"])
def test_a_long_chain_takes_few_rounds(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "MAX_ROUNDS", 12)
    length = 2000
    numbers = list(range(length))
    if order == "down":
        numbers.reverse()
    elif order == "zigzag":
        numbers = [n // 2 if n % 2 else length - 1 - n // 2 for n in numbers]
    links: dict[int, list[int]] = {n: [] for n in numbers}
    for token, (left, right) in enumerate(pairwise(numbers), 1):
        links[left].append(token)
        links[right].append(token)
    points = [[*links[n], *range(10_000 + n * 2, 10_000 + n * 2 + 2 - len(links[n]))] for n in range(length)]
    data = b"".join(token.to_bytes(32, "little") for row in points for token in row)
    with tempfile.TemporaryDirectory() as folder:
        index = StatisticsIndex(Path(folder))
        index.build("e", {"a": [""], "b": [""]}, [TokenBatch("a", "", 0, [data]), TokenBatch("b", "", 0, [])], 2)
        assert index.exact("e", ("a", "b"), ()) == {(("a",), ()): 1}
