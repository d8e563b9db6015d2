"""Reads numbers off a released table: cells, totals, their intervals, and what is too small to be shown.

Everything here is post-processing of stored noisy numbers. A number's interval comes from the noise alone: a sum of k
cells has noise of k sigma^2, nearly normal. The published estimate, which is made whole, can leave that interval (a
negative cell is shown as 0 and its neighbours give way); then the interval is stretched to hold it, which can only
raise the coverage.

What is shown. The threshold is on the estimate E of a number, the interval is of its noisy sum X and conditional on E
having reached the threshold (``federation.overlap.answers``). Whatever else E depends on is kept as it was drawn: the
cells of other numbers, the differences between this number's own cells, and margins published before. None of it
depends on X: the noise of cells is independent, and for normal noise a sum is independent of its terms' differences. E
then grows with X, and no faster than X:

- with margins fixed, estimates are the projection of the cells on a convex set, which is firmly nonexpansive: a shift d
  of the cells shifts estimates by some e with |e|^2 <= <e, d>. X grows by h if d is h / k on its k cells; then
  <e, d> = h / k times the growth of E, so that is at least 0, and by Cauchy and Schwarz at most h;
- cells that no margin covers keep their own noisy total. On a simplex whose total grows along with its cells, a cell
  above 0 follows its own noise one to one and the others give way for cells at 0, as follows from its level: with m
  cells above 0, a of them among the k, E grows by h (a / k) (1 + (k - a) / m), which is between 0 and h as well.

So the number is shown from some X on, and that is no more than X - (E - threshold): to take E down to the threshold, X
has to come down by at least as much. A bound that is too high keeps the promise. We add one for the rounding to whole
numbers. Not part of the argument: whether a margin can be kept at all is decided with the cells in hand; margins that
can be kept in theory and are dropped for time or for rounding are rare, and in 2,000 releases nothing of it is seen
(``tests/sim/test_question_consistency.py``). Whoever picks numbers by what they show, say the largest of a table, has
no promise of that kind; ``federation.overlap.links`` has one.

Thresholds are applied to the estimate, when it is read: a threshold on the exact number would be a leak without noise.
They keep small groups out of plans and noise out of tables; privacy is the noise's work, and does not suffer where a
withheld cell can be had by subtracting shown ones, since that gives the noisy number again.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from federation.overlap.answers import COVERAGE, interval
from federation.overlap.questions import Question, owner, parts
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.answers import Answer, Stored
from gateway.overlap.tables import MECHANISM
from gateway.overlap.wanted import Made


@dataclass(frozen=True)
class Figure:
    """One number: what it is of, and the table's cells that it is the sum of."""

    members: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    at: tuple[int, ...]


def cells_of(answer: Answer, asked: Question) -> list[Figure]:
    """The cells of a question that the table answers."""
    return [
        Figure(members, labels, tuple(at))
        for (members, labels), at in parts(answer.question, answer.cells, asked).items()
    ]


def totals_of(cells: Sequence[Figure], asked: Question) -> Iterator[Figure]:
    """People at all of some partners, for every set of partners; then people with each label, anywhere."""
    sizes = range(1, len(asked.partners) + 1)
    for group in itertools.chain.from_iterable(itertools.combinations(asked.partners, size) for size in sizes):
        if asked.owners <= set(group):
            yield Figure(group, (), _joined(cell for cell in cells if set(group) <= set(cell.members)))
    for column in asked.by:
        for label in dict.fromkeys(label for cell in cells for label in cell.labels if label[0] == column):
            needed = asked.owners | {owner(column)}
            group = tuple(party for party in asked.partners if party in needed)
            yield Figure(group, (label,), _joined(cell for cell in cells if label in cell.labels))


def respond(made: Made, asked: Question, *, name: str, epoch: str, min_count: int) -> pb.QueryCubeResponse:
    """The message for a question that the table answers.

    Args:
        made: The table, and the policy's floor.
        asked: The table's own question, or a smaller one.
        name: What the answer is called.
        epoch: Of the table.
        min_count: The declared threshold, in people.
    """
    answer, measure = made.stored.answer, asked.measure
    least = made.threshold(min_count)
    # A person adds at most the cap to a sum, so a sum of k caps is of at least k people.
    floor = least * (measure.cap if measure else 1)
    unit = measure.unit if measure else "people"
    cells = cells_of(answer, asked)
    return pb.QueryCubeResponse(
        cube=name,
        epoch=epoch,
        key_type=answer.key_type,
        cells=[_number(answer, figure, floor, unit) for figure in cells],
        totals=[_number(answer, figure, floor, unit) for figure in totals_of(cells, asked)],
        epsilon=answer.epsilon,
        delta=answer.delta,
        sigma=answer.sigma,
        mechanism=MECHANISM,
        policy_version=answer.policy_version,
        released_at=answer.released_at,
        spent_now=made.drawn,
        min_count=least,
        agrees_with=answer.agrees_with,
        coverage=COVERAGE,
        unit=unit,
        where=dict(asked.where),
        sensitivity=answer.sensitivity,
        read_from=made.stored.name if answer.question.canonical() != asked.canonical() else "",
    )


def summed(values: Sequence[int], figure: Figure) -> int:
    """The sum of the figure's cells."""
    return sum(values[at] for at in figure.at)


def widest(stored: Stored, asked: Question) -> int:
    """The most cells that one number of the answer is the sum of."""
    return max((len(figure.at) for figure in cells_of(stored.answer, asked)), default=1)


def _number(answer: Answer, figure: Figure, floor: int, unit: str) -> pb.Cell:
    estimate = summed(answer.estimates, figure)
    cell = pb.Cell(members=figure.members, labels=dict(figure.labels), suppressed=estimate < floor)
    if cell.suppressed:
        cell.reason = f"the noisy number is under the policy's threshold of {floor:,} {unit}"
    else:
        noisy = summed(answer.noisy, figure)
        shown_from = noisy - max(0, estimate - floor - 1) if floor > 0 else None
        low, high = interval(noisy, answer.sigma, len(figure.at), shown_from=shown_from)
        cell.count, cell.low, cell.high = estimate, min(low, estimate), max(high, estimate)
    return cell


def _joined(cells: Iterable[Figure]) -> tuple[int, ...]:
    return tuple(at for cell in cells for at in cell.at)
