"""Files of tokens are private, bounded in memory, and what is spilled beside them goes with its process."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pytest

from federation.core.errors import OverlapError, Reason
from federation.overlap.plan import BASE, REMOVE
from gateway.overlap.duck import DuckFiles, halves_of, make_room, transaction
from gateway.overlap.index import StatisticsIndex, TokenBatch

SORT = "CREATE TEMP TABLE sorted AS SELECT hash(range) AS word FROM range({rows}) ORDER BY word"


def spilled(folder: Path) -> list[Path]:
    return sorted(folder.glob("spill-*"))


def test_what_is_spilled_is_private_and_goes_with_the_engine(tmp_path: Path) -> None:
    files = DuckFiles(tmp_path / "it's")
    [own] = spilled(files.folder)
    assert own.stat().st_mode & 0o777 == 0o700
    with files.open(files.folder / "one") as db:
        db.execute(SORT.format(rows=9_000_000))  # twice 72 MB and more
        [[held]] = db.execute("SELECT sum(temporary_storage_bytes) FROM duckdb_memory()").fetchall()
        assert held > 0
        assert list(own.iterdir())
    assert [path for path in own.iterdir() if not path.name.endswith("_owner")] == []  # DuckDB names itself there
    del files, db
    assert spilled(tmp_path / "it's") == []


def test_what_a_killed_process_spilled_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    living = DuckFiles(tmp_path)
    code = "import os, sys, pathlib, gateway.overlap.duck as d; f = d.DuckFiles(pathlib.Path(sys.argv[1])); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert len(spilled(tmp_path)) == 2
    second = DuckFiles(tmp_path)
    assert len(spilled(tmp_path)) == 2  # the dead one's is gone
    with living.open(tmp_path / "one") as db:
        db.execute("CREATE TABLE one AS SELECT 1 AS number")
    with second.open(tmp_path / "one", read_only=True) as db:
        assert db.execute("FROM one").fetchall() == [(1,)]


def test_room_grows_with_what_is_declared_and_is_never_taken_from_what_is_at_work(tmp_path: Path) -> None:
    files = DuckFiles(tmp_path)
    with files.open(tmp_path / "one") as db:
        for points, joins, expected in (
            (0, False, 128),
            (10**6, True, 512),
            (80 * 10**6, False, 640),
            (10, True, 640),
            (200 * 10**6, True, 1600),
        ):
            make_room(db, points, joins=joins)
            [[limit]] = db.execute("SELECT current_setting('memory_limit')").fetchall()
            size, unit = limit.split()
            assert float(size) * {"MiB": 1, "GiB": 1024}[unit] == pytest.approx(
                expected / 1.048576, rel=0.08
            )  # as it is written


def test_a_transaction_is_whole_or_nothing_and_a_file_is_closed_after_an_error(tmp_path: Path) -> None:
    files = DuckFiles(tmp_path)

    def fail() -> None:
        with files.open(tmp_path / "one") as db, transaction(db):
            db.execute("CREATE TABLE one AS SELECT 1 AS number")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with duckdb.connect(str(tmp_path / "one")) as db:  # another engine: nobody holds the file
        assert db.execute("SHOW TABLES").fetchall() == []


def test_points_of_low_order_are_no_tokens() -> None:
    words = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 5], [0, 6, 0, 0]], dtype=np.uint64)
    real, high, low = halves_of(words.tobytes())
    assert real.tolist() == [True, False, True, True]
    assert (high.tolist(), low.tolist()) == ([1, 0, 0], [2, 0, 6])


@pytest.mark.parametrize("key_types", [1, 2])
def test_a_batch_of_a_label_that_the_epoch_does_not_have_leaves_nothing(tmp_path: Path, key_types: int) -> None:
    index = StatisticsIndex(tmp_path)
    row = os.urandom(32 * key_types)
    with pytest.raises(OverlapError) as refused:
        index.build("e", {"a": ["c=x"], "b": ["c=x"]}, [TokenBatch("a", "c=y", 0, [row])], key_types)
    assert refused.value.reason == Reason.BAD_FIELD
    index.build("e", {"a": ["c=x"], "b": ["c=x"]}, [TokenBatch("a", "c=x", 0, [row])], key_types)
    assert index.exact("e", ("a", "b"), ()) == {(("a",), ()): 1}


def test_questions_are_answered_while_other_files_are_built_and_changed(tmp_path: Path) -> None:
    index = StatisticsIndex(tmp_path)
    labels = {"a": ["c=x"], "b": ["c=x"]}

    def batches(count: int, operation: int = BASE) -> list[TokenBatch]:
        points = b"".join(number.to_bytes(32, "little") for number in range(1, count + 1))
        return [TokenBatch("a", "c=x", 0, [points], operation)]

    index.build("e1", labels, batches(5))
    asked, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            asked.append(index.exact("e1", ("a",), ()))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 11):
        index.build("e2", labels, batches(1000))
        index.apply("e2", "a", 1, batches(100, REMOVE))
        assert index.exact("e2", ("a", "b"), ()) == {(("a",), ()): 900}
        assert list(tmp_path.glob("*.wal")) == [], number
    stop.set()
    for thread in threads:
        thread.join()
    assert asked
    assert all(answer == {(("a",), ()): 5} for answer in asked)
