"""Answers of the gateway as the values that plots show; without the plotting library, which takes a second to load."""

from federation.plots.values import Count, CrossCell, CrossTable, Noise
from federation.v1 import overlap_pb2 as pb

UNKNOWN = "unknown"
NO_LABEL = "no label"


def by_region(answer: pb.QueryCubeResponse, column: str) -> CrossTable:
    """One label column by exact membership; who is not at the column's partner has no label."""
    cells = tuple(
        CrossCell(" + ".join(cell.members), cell.labels.get(column, NO_LABEL), count_of(cell)) for cell in answer.cells
    )
    return _table("exactly at", column, cells, answer)


def cross_table(answer: pb.QueryCubeResponse, *columns: str) -> CrossTable:
    """The cells of people who have all these labels, the last column across; "unknown" only where there are some.

    Where people in several regions have them all, a row is of one region.
    """
    *down, across = columns
    everyone = [cell for cell in answer.cells if set(columns) <= set(cell.labels)]
    shown = [cell for cell in everyone if UNKNOWN not in cell.labels.values() or not cell.suppressed]
    regions = {tuple(cell.members) for cell in shown}

    def row(cell: pb.Cell) -> str:
        region = f"{' + '.join(cell.members)}: " if len(regions) > 1 else ""
        return region + ", ".join(cell.labels[name] for name in down)

    cells = tuple(CrossCell(row(cell), cell.labels[across], count_of(cell)) for cell in shown)
    return _table(", ".join(down), across, cells, answer)


def _table(row: str, column: str, cells: tuple[CrossCell, ...], answer: pb.QueryCubeResponse) -> CrossTable:
    return CrossTable(
        row_name=row,
        column_name=column,
        row_values=tuple(dict.fromkeys(cell.row for cell in cells)),
        column_values=tuple(dict.fromkeys(cell.column for cell in cells)),
        cells=cells,
        noise=noise_of(answer),
    )


def count_of(cell: pb.Cell) -> Count:
    """One number of an answer."""
    return Count(cell.count, cell.low, cell.high, cell.suppressed)


def noise_of(answer: pb.QueryCubeResponse) -> Noise:
    """What an answer cost, and how wide its noise is."""
    return Noise(answer.epsilon, answer.delta, answer.sigma, answer.mechanism, answer.min_count)
