"""The statistics index of an epoch: who is where with which label, as a table of counts that holds no token.

What is asked is a file with one row per membership bitmap and labels, and the number of people; every question is a
scan of that small table. Beside it, tokens (128 bits each) stay in a file of their own until a later epoch replaces
this one, because a delta must find whom it takes away.

A delta is one transaction of the file of tokens, which also holds the regions. Then they are copied to a small file of
a new name, and only that is read from then on. A process that dies in between copies again when the delta is applied
again, and until that returned nobody is told that the delta is in.

The counts are exact, so they never leave this package but through ``tables.Tables``, which adds noise.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from federation.core.errors import OverlapError, Reason
from federation.core.files import sync_folder
from federation.overlap.plan import check_epoch_name, parse_label
from gateway.overlap.duck import DuckFiles, transaction
from gateway.overlap.people import People, TokenBatch

Region = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]
"""Members in the order of the partners asked for, and ("partner.column", value) for each label asked for."""
_APART = "@"  # no name of an epoch holds it


class StatisticsIndex:
    """Indexes of epochs in DuckDB files.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.files, self._folder = DuckFiles(folder), folder
        self._labels: dict[str, dict[str, tuple[str, ...]]] = {}  # of complete epochs, which do not change
        self._changing = threading.Lock()

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
            OverlapError: BAD_FIELD for a label that was not announced.
        """
        tokens = self._tokens(epoch)
        scratch = tokens.with_name(f"{tokens.name}.unfinished")
        self.remove(epoch)
        with self.files.open(scratch) as db:
            with transaction(db):
                People(db, labels, key_types).build(batches)
                _insert_labels(db, labels)
                db.execute("CREATE TABLE applied (party VARCHAR, sequence UINTEGER)")
            self._publish(db, self._folder / f"{epoch}.duckdb")
        scratch.replace(tokens)
        sync_folder(self._folder)

    def apply(self, epoch: str, origin: str, sequence: int, batches: Iterable[TokenBatch], key_types: int = 1) -> None:
        """Applies a delta, whole or not at all; one that was applied is not applied again.

        Raises:
            OverlapError: UNKNOWN_EPOCH where there are no tokens; OUT_OF_SEQUENCE; BAD_FIELD for a delta that does not
                fit what is there.
        """
        path = self._tokens(epoch)
        if not path.exists():
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{epoch} holds no tokens")
        labels = self.combinations(epoch)
        with self._changing, self.files.open(path) as db:
            known = dict(db.execute("SELECT party, max(sequence) FROM applied GROUP BY party").fetchall())
            if known.get(origin, 0) < sequence:
                if known.get(origin, 0) != sequence - 1:
                    raise OverlapError(Reason.OUT_OF_SEQUENCE, item=f"delta {sequence} of {origin}")
                with transaction(db):
                    People(db, labels, key_types).change(origin, batches)
                    db.execute("DELETE FROM applied WHERE party = ?", [origin])
                    db.execute("INSERT INTO applied VALUES (?, ?)", [origin, sequence])
            [[generation]] = db.execute("SELECT sum(sequence) FROM applied").fetchall()
            # A new name: who has the old file open reads on in it, and nobody opens it again.
            self._publish(db, self._folder / f"{epoch}{_APART}{generation}.duckdb")
            for old in self._generations(epoch)[:-2]:  # the last but one may be about to be opened
                old.unlink(missing_ok=True)

    def generation(self, epoch: str) -> int:
        """How many deltas are in the counts of an epoch. Raises OverlapError (UNKNOWN_EPOCH)."""
        found = self._generations(check_epoch_name(epoch))
        if not found:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=epoch)
        return int(found[-1].stem.partition(_APART)[2] or 0)

    def retire(self, epoch: str) -> None:
        """Removes the tokens and counts of an epoch; its labels stay, for answers that are stored."""
        if not self._tokens(epoch).exists():  # they go last: it was done
            return
        first, combinations = self._folder / f"{epoch}.duckdb", self.combinations(epoch)
        labels = first.with_name(f"{first.name}.unfinished")
        labels.unlink(missing_ok=True)
        with self.files.open(labels) as db:
            _insert_labels(db, combinations)
        labels.replace(first)  # there is a file to read the labels from at every moment
        sync_folder(self._folder)
        self.remove(epoch, keep=first)

    def remove(self, epoch: str, keep: Path | None = None) -> None:
        """Removes every file of an epoch but one: those that can be asked, the newest last of them, then the tokens.

        Also what a process that was killed left unfinished: not before, because another may be at work on it.
        """
        first, others, tokens = f"{check_epoch_name(epoch)}.duckdb", f"{epoch}{_APART}", self._tokens(epoch)
        self._labels.pop(epoch, None)
        names = {first, f"{first}.unfinished", f"{first}.unfinished.wal"}
        there = [path for path in self._folder.iterdir() if path.name in names or path.name.startswith(others)]
        for path in dict.fromkeys([*self._generations(epoch), *(path for path in there if path != tokens), tokens]):
            if path != keep:
                path.unlink(missing_ok=True)

    def labels(self, epoch: str) -> dict[str, dict[str, tuple[str, ...]]]:
        """Every partner of an epoch in the order of the ring, with its columns by name and each one's values.

        Raises:
            OverlapError: UNKNOWN_EPOCH.
        """
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for party, combinations in self.combinations(epoch).items():
            parsed = [parse_label(label) for label in combinations]
            found[party] = {column: tuple(dict.fromkeys(one[column] for one in parsed)) for column in parsed[0]}
        return found

    def combinations(self, epoch: str) -> dict[str, tuple[str, ...]]:
        """The labels of each partner as they were sent, by number. Raises OverlapError (UNKNOWN_EPOCH)."""
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
            Regions whose number is not zero. It is below zero where a partner declared more decoys than it sent.

        Raises:
            OverlapError: UNKNOWN_EPOCH; EPOCH_REPLACED.
        """
        combinations, labels = self.combinations(epoch), self.labels(epoch)
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
        with self._open(epoch) as db:  # once: opening a file takes longer than the scan
            if not _has_regions(db):
                raise OverlapError(Reason.EPOCH_REPLACED, item=epoch)
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
        found = self._generations(check_epoch_name(epoch))
        if not found:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=epoch)
        with self.files.open(found[-1], read_only=True) as db:
            yield db

    def _publish(self, db: duckdb.DuckDBPyConnection, path: Path) -> None:
        """Copies what is asked to a file of its own, whole or not at all."""
        done = path.with_name(f"{path.name}.unfinished")
        done.unlink(missing_ok=True)
        with self.files.attached(db, done) as name, transaction(db):
            for table in ("regions", "labels"):
                db.execute(f"CREATE TABLE {name}.{table} AS FROM {table}")
        done.replace(path)
        sync_folder(self._folder)  # before anybody is told that it is there, or the files before it go

    def _generations(self, epoch: str) -> list[Path]:
        """The files that can be asked, the newest last; each delta makes one."""
        later = self._folder.glob(f"{epoch}{_APART}*.duckdb")
        first = self._folder / f"{epoch}.duckdb"
        numbered = sorted(later, key=lambda path: int(path.stem.rpartition(_APART)[2]))
        return [*([first] if first.exists() else ()), *numbered]

    def _tokens(self, epoch: str) -> Path:
        return self._folder / f"{check_epoch_name(epoch)}{_APART}tokens"


def _has_regions(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether there are counts: of an epoch that was replaced only labels are left."""
    # Not a look into the catalogue: that would take hold of every file that the engine has open.
    try:
        db.execute("SELECT 1 FROM regions LIMIT 0")
    except duckdb.CatalogException:
        return False
    return True


def _insert_labels(db: duckdb.DuckDBPyConnection, labels: Mapping[str, Sequence[str]]) -> None:
    db.execute("CREATE TABLE labels (partner UTINYINT, party VARCHAR, label USMALLINT, value VARCHAR)")
    rows = [(at, party, n, value) for at, (party, some) in enumerate(labels.items()) for n, value in enumerate(some)]
    db.executemany("INSERT INTO labels VALUES (?, ?, ?, ?)", rows)
