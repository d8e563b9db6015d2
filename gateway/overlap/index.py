"""The statistics index of an epoch: who is where with which label, as a table of counts that holds no token.

Tokens are read into a scratch database, repetitions within a partner collapse, and what is kept is one row per
membership bitmap and labels with the number of people. Every question is a scan of that small table. Tokens are dropped
with the scratch file unless they are to be kept (for comparing an epoch's later additions).

The counts are exact, so they never leave this package but through ``cubes.CubeRelease``, which adds noise.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from federation.core.errors import OverlapError, Reason
from federation.core.ids import POINT_BYTES
from federation.overlap.plan import check_epoch_name, parse_label
from gateway.overlap.components import create_links, find_components, insert_links

MEMORY_LIMIT = "768MB"
PERSON = ("high UBIGINT, low UBIGINT", "row UBIGINT")
"""What makes a person: with one key type its token, with several the row, until components are known."""
Region = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]
"""Members in the order of the partners asked for, and ("partner.column", value) for each label asked for."""


@dataclass(frozen=True)
class TokenBatch:
    """One batch at the end of its way."""

    origin: str
    label: str
    padding: int
    chunks: Iterable[bytes]


class StatisticsIndex:
    """Indexes of epochs, one DuckDB file each.

    Args:
        folder: Where the files are.
        keep_tokens: Whether a file also keeps 128 bits of each token.
    """

    def __init__(self, folder: Path, *, keep_tokens: bool = False) -> None:
        self._folder, self._keep_tokens = folder, keep_tokens
        self._labels: dict[str, dict[str, tuple[str, ...]]] = {}  # of complete epochs, which do not change
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob("*.unfinished*"):
            left.unlink()

    def build(
        self, epoch: str, labels: Mapping[str, Sequence[str]], batches: Iterable[TokenBatch], key_types: int = 1
    ) -> None:
        """Builds the index of an epoch, whole or not at all; building it again replaces it.

        Args:
            epoch: Its name.
            labels: For every partner of the epoch, in the order of the ring, all labels it may use.
            batches: Every statistics batch.
            key_types: Points a row; with several, rows that share any token are one person (``components``).

        Raises:
            OverlapError: BAD_FIELD where a partner declared more padding than its batch can hold.
        """
        path = self._path(epoch)
        scratch, done = path.with_suffix(".tokens.unfinished"), path.with_suffix(".unfinished")
        for file in (scratch, done):
            file.unlink(missing_ok=True)
        with contextlib.closing(duckdb.connect(str(scratch), config={"memory_limit": MEMORY_LIMIT})) as db:
            db.execute(f"CREATE TABLE tokens ({PERSON[key_types > 1]}, partner UTINYINT, label USMALLINT)")
            if key_types > 1:
                create_links(db)
            rows_before = 0
            partners = list(labels)
            paddings = []
            for batch in batches:
                partner = partners.index(batch.origin)
                label = labels[batch.origin].index(batch.label)
                paddings.append((partner, label, batch.padding))
                for chunk in batch.chunks:
                    if key_types == 1:
                        _insert(db, chunk, partner, label)
                        continue
                    db.register("arrived", {"row": insert_links(db, chunk, rows_before, key_types)})
                    db.execute("INSERT INTO tokens SELECT row, ?, ? FROM arrived", [partner, label])
                    db.unregister("arrived")
                    rows_before += len(chunk) // (POINT_BYTES * key_types)
            if key_types > 1:
                find_components(db)
            _fold(db, len(partners), several=key_types > 1)
            _subtract(db, partners, labels, paddings)
            db.execute(f"ATTACH '{done}' AS done")  # our own path, not input
            db.execute("CREATE TABLE done.regions AS FROM regions")
            db.execute("CREATE TABLE done.labels (partner UTINYINT, party VARCHAR, label USMALLINT, value VARCHAR)")
            rows = [(at, party, n, value) for at, party in enumerate(partners) for n, value in enumerate(labels[party])]
            db.executemany("INSERT INTO done.labels VALUES (?, ?, ?, ?)", rows)
            if self._keep_tokens and key_types == 1:
                db.execute("CREATE TABLE done.tokens AS SELECT DISTINCT * FROM tokens")
            db.execute("DETACH done")
        scratch.unlink()
        done.replace(path)
        self._labels.pop(epoch, None)

    def labels(self, epoch: str) -> dict[str, dict[str, tuple[str, ...]]]:
        """Every partner of an epoch in the order of the ring, with its columns by name and each one's values.

        Raises:
            OverlapError: UNKNOWN_EPOCH.
        """
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for party, combinations in self._combinations(epoch).items():
            parsed = [parse_label(label) for label in combinations]
            found[party] = {column: tuple(dict.fromkeys(one[column] for one in parsed)) for column in parsed[0]}
        return found

    def _combinations(self, epoch: str) -> dict[str, tuple[str, ...]]:
        """The labels of each partner as they were sent, by number."""
        known = self._labels.get(epoch)
        if known is None:
            with self._open(epoch) as db:
                rows = db.execute("SELECT party, value FROM labels ORDER BY partner, label").fetchall()
            found: dict[str, list[str]] = {}
            for party, value in rows:
                found.setdefault(party, []).append(value)
            known = self._labels[epoch] = {party: tuple(values) for party, values in found.items()}
        return known

    def exact(self, epoch: str, partners: Sequence[str], by: Sequence[str]) -> dict[Region, int]:
        """Exact numbers of people by region among some partners and labels; for the release and for tests only.

        Args:
            epoch: A complete epoch.
            partners: Partners that count; the others are summed over, and people who are only there are left out.
            by: ``partner.column``, any columns of these partners.

        Returns:
            Regions that hold somebody.

        Raises:
            OverlapError: UNKNOWN_EPOCH.
        """
        combinations, labels = self._combinations(epoch), self.labels(epoch)
        ring = list(labels)
        bits = {party: 1 << ring.index(party) for party in partners}
        owners = [column.partition(".")[0] for column in by]
        values = [labels[owner][column.partition(".")[2]] for owner, column in zip(owners, by, strict=True)]
        picked = ""
        for column, owner, names in zip(by, owners, values, strict=True):
            segment = column.partition(".")[2]
            numbers = [names.index(parse_label(label)[segment]) for label in combinations[owner]]
            picked += f", {numbers}[label_{ring.index(owner)} + 1]"
        mask = sum(bits.values())
        query = (
            f"SELECT (bits & {mask})::INTEGER AS region{picked}, sum(people)::BIGINT FROM regions "  # noqa: S608 - our numbers
            f"WHERE (bits & {mask}) != 0 GROUP BY ALL"
        )
        with self._open(epoch) as db:
            rows = db.execute(query).fetchall()
        counts: dict[Region, int] = {}
        for region, *found, people in rows:
            members = tuple(party for party in partners if region & bits[party])
            cell = tuple(
                (column, names[number])
                for column, owner, names, number in zip(by, owners, values, found, strict=True)
                if owner in members
            )
            counts[members, cell] = counts.get((members, cell), 0) + people
        return counts

    @contextlib.contextmanager
    def _open(self, epoch: str) -> Iterator[duckdb.DuckDBPyConnection]:
        path = self._path(epoch)
        if not path.exists():
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=epoch)
        with contextlib.closing(duckdb.connect(str(path), read_only=True)) as db:
            yield db

    def _path(self, epoch: str) -> Path:
        return self._folder / f"{check_epoch_name(epoch)}.duckdb"


def _insert(db: duckdb.DuckDBPyConnection, chunk: bytes, partner: int, label: int) -> None:
    """Adds a chunk's tokens; rows of zeros were points of low order and are nobody."""
    words = np.frombuffer(chunk, dtype=np.uint64).reshape(-1, POINT_BYTES // 8)
    words = words[words.any(axis=1)]
    rows = {"high": np.ascontiguousarray(words[:, 0]), "low": np.ascontiguousarray(words[:, 1])}
    db.register("rows", rows)
    db.execute("INSERT INTO tokens SELECT high, low, ?, ? FROM rows", [partner, label])
    db.unregister("rows")


def _fold(db: duckdb.DuckDBPyConnection, partners: int, *, several: bool) -> None:
    """Makes ``regions``: a person that a partner sent twice is one person, with the first of its labels."""
    people = "tokens LEFT JOIN components USING (row) GROUP BY coalesce(root, row)"
    labels = ", ".join(f"min(label) FILTER (partner = {at}) AS label_{at}" for at in range(partners))
    columns = ", ".join(f"label_{at}" for at in range(partners))
    db.execute(
        f"CREATE TABLE regions AS SELECT bits, {columns}, count(*)::BIGINT AS people FROM "  # noqa: S608 - our numbers
        f"(SELECT bit_or(1::USMALLINT << partner) AS bits, {labels} FROM "
        f"{people if several else 'tokens GROUP BY high, low'}) GROUP BY ALL"
    )


def _subtract(
    db: duckdb.DuckDBPyConnection,
    partners: list[str],
    labels: Mapping[str, Sequence[str]],
    paddings: list[tuple[int, int, int]],
) -> None:
    """Takes padding out of the cell where it must be: at its partner alone, with its batch's label."""
    for partner, label, padding in paddings:
        if padding == 0:
            continue
        changed = db.execute(
            f"UPDATE regions SET people = people - ? WHERE bits = ? AND label_{partner} = ? AND people >= ?",  # noqa: S608
            [padding, 1 << partner, label, padding],
        ).fetchone()
        if changed is None or changed[0] != 1:
            name = partners[partner]
            raise OverlapError(Reason.BAD_FIELD, item=f"padding of {name}, label {labels[name][label]!r}")
    db.execute("DELETE FROM regions WHERE people = 0")
