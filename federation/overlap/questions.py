"""Questions as values: which table is asked for, which cells it has, and which released table answers it already.

A question names partners, label columns (``by``), fixed labels (``where``) and a measure. Its cells are the exclusive
regions: every non-empty set of its partners that holds the owner of each fixed label (and of a summed column), times
the labels of those members. Cells follow from the question and the declared labels alone, never from who is in them.

A question can be read off a released table when each of its cells is a sum of that table's cells. Such a reading is
post-processing: it costs nothing and learns nothing that the table did not say.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from federation.core.canonical import digest_hex
from federation.core.nearest import unknown

Labels = tuple[tuple[str, str], ...]
Cell = tuple[tuple[str, ...], Labels]
"""Members in the order of the question's partners, and ("partner.column", value) for each column of theirs."""
Columns = Mapping[str, Mapping[str, Sequence[str]]]
"""Party, to each of its columns, to that column's values."""


@dataclass(frozen=True)
class Sum:
    """A bounded value per person, carried as bands: each label of ``column`` counts as its stated whole number."""

    column: str  # "partner.column"
    values: tuple[tuple[str, int], ...]  # label to value, each 0 to cap
    cap: int
    unit: str


@dataclass(frozen=True)
class Question:
    """What is asked. The order of partners, columns and conditions changes how it is shown, not what it is."""

    partners: tuple[str, ...]
    by: tuple[str, ...] = ()
    where: Labels = ()
    measure: Sum | None = None  # None counts people

    @property
    def columns(self) -> frozenset[str]:
        """Every column it needs, except the one that is summed."""
        return frozenset(self.by) | {column for column, _ in self.where}

    @property
    def owners(self) -> frozenset[str]:
        """Partners that somebody must be at to count."""
        needed = [column for column, _ in self.where] + ([self.measure.column] if self.measure else [])
        return frozenset(owner(column) for column in needed)

    def canonical(self) -> dict[str, object]:
        """The same for two questions that ask the same; a column that is fixed is not split by."""
        fixed = {column for column, _ in self.where}
        measure = self.measure
        return {
            "partners": sorted(self.partners),
            "by": sorted(set(self.by) - fixed),
            "where": sorted(map(list, set(self.where))),
            "sum": [measure.column, sorted(map(list, measure.values)), measure.cap] if measure else [],
        }

    def digest(self) -> str:
        """Names the question, whoever asks it and however it is written."""
        return digest_hex(self.canonical())


def owner(column: str) -> str:
    """The partner of ``partner.column``."""
    return column.partition(".")[0]


def domain(question: Question, columns: Columns) -> Iterator[Cell]:
    """Every cell of a question, whether anybody is in it or not.

    Args:
        question: Its columns exist, see ``misfits``.
        columns: Of the epoch.
    """
    fixed = {column for column, _ in question.where}
    split = [column for column in question.by if column not in fixed]
    for size in range(1, len(question.partners) + 1):
        for members in itertools.combinations(question.partners, size):
            if not question.owners <= set(members):
                continue
            mine = [column for column in split if owner(column) in members]
            values = [[(column, value) for value in _values(columns, column)] for column in mine]
            for labels in itertools.product(*values):
                yield members, tuple(labels)


def misfits(question: Question, columns: Columns) -> list[str]:
    """What in a question does not exist in an epoch, with what there is instead, or stands twice; empty if it fits."""
    wrong = [unknown("partner", party, columns) for party in question.partners if party not in columns]
    needed = [*question.by, *(column for column, _ in question.where)]
    if question.measure:
        needed.append(question.measure.column)
    wrong += [_misfit(question, columns, column) for column in needed if not _fits(question, columns, column)]
    wrong += [
        unknown(f"value of {column}", value, _values(columns, column))
        for column, value in question.where
        if _fits(question, columns, column) and value not in _values(columns, column)
    ]
    if question.measure:
        known = {label for label, _ in question.measure.values}
        wrong += [f"{question.measure.column}={v}" for v in _values(columns, question.measure.column) if v not in known]
    for names in (question.partners, question.by, [column for column, _ in question.where]):
        wrong += sorted({f"{name} twice" for name in names if list(names).count(name) > 1})
    return list(dict.fromkeys(wrong))


def _fits(question: Question, columns: Columns, column: str) -> bool:
    return owner(column) in question.partners and bool(_values(columns, column))


def _misfit(question: Question, columns: Columns, column: str) -> str:
    """What is wrong with a column that does not fit, and what might have been meant."""
    party = owner(column)
    if party in columns and party not in question.partners:
        return f"{column}, whose partner {party} is not asked for"
    there = [f"{name}.{found}" for name in question.partners for found in columns.get(name, ())]
    mine = [found for found in there if owner(found) == party]
    return unknown("column", column, mine or there)


def answers(table: Question, asked: Question) -> bool:
    """Whether every cell of ``asked`` is a sum of cells of ``table``."""
    return (
        set(asked.partners) <= set(table.partners)
        and set(table.where) <= set(asked.where)
        and asked.columns <= table.columns
        and asked.measure == table.measure
    )


def parts(table: Question, cells: Sequence[Cell], asked: Question) -> dict[Cell, list[int]]:
    """For each cell of ``asked``, the numbers of the table's cells that it is the sum of.

    Args:
        table: Answers ``asked``.
        cells: Of the table.
        asked: The smaller question.
    """
    fixed = {column for column, _ in asked.where}
    split = [column for column in asked.by if column not in fixed]
    found: dict[Cell, list[int]] = {}
    for at, (members, labels) in enumerate(cells):
        known = dict(labels) | dict(table.where)
        if any(known.get(column) != value for column, value in asked.where):
            continue
        here = tuple(party for party in asked.partners if party in members)
        if here:
            kept = tuple((column, known[column]) for column in split if owner(column) in here)
            found.setdefault((here, kept), []).append(at)
    return found


def shared(one: Question, other: Question) -> Question | None:
    """The finest question that both tables answer, or None where they have nothing in common."""
    partners = tuple(party for party in one.partners if party in other.partners)
    where = dict(one.where) | dict(other.where)
    columns = sorted(one.columns & other.columns - set(where))
    asked = Question(partners, tuple(columns), tuple(sorted(where.items())), one.measure)
    return asked if partners and answers(one, asked) and answers(other, asked) else None


def _values(columns: Columns, column: str) -> Sequence[str]:
    party, _, name = column.partition(".")
    return columns.get(party, {}).get(name, ())
