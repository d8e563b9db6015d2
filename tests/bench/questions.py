"""How fast questions are on this machine: ``python tests/bench/questions.py [--people N]``.

Builds the statistics index of three partners with N people each (every partner knows two of three people, and every
region has some) from generated tokens, through the real index; then asks over the whole release path with its files:
ledger, audit log with signatures, answers. A query is the first answer of an ad hoc three-way Venn diagram by one
segment (scan, noise, fit, spend, two audit entries, store), measured over fresh ledgers; a cube is a stored answer,
with its two audit entries.

The index is asked as it is: a table of distinct (bitmap, labels) with the number of people, so a question's time
depends on how many combinations of labels there are and not on how many people. Each partner has four labels; the wide
figures are of a tenth of the people with 32 labels at each partner, whose table is a hundred times as long.

Included: everything between the servicer and the disk. Not included: blinding and transport of the points (see the
overlap benchmark), TLS of the question, the command line. The tokens are generated, well spread words.

Prints a table and, as its last line, one JSON object. ``BENCH=short`` keeps it within a minute. Nothing is
extrapolated. The build's time is dominated by sorting tokens in DuckDB; its memory is this process's peak.
"""

import argparse
import json
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from federation.core.clock import SystemClock
from federation.core.database import open_database
from federation.policy.specs import AdHocSpec, CubeSpec
from federation.v1 import overlap_pb2 as pb
from gateway.audit.key import make_log_key
from gateway.audit.log import open_audit_log
from gateway.budget.ledger import SqlLedger
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.answers import SqlAnswerStore
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.index import StatisticsIndex, TokenBatch
from gateway.overlap.tables import Tables
from gateway.release import ReleasePath
from tests.kits.overlap_world import Policy
from tests.kits.questions import Asking, Epochs

PARTNERS = ("bank", "insurer", "airline")
SEGMENTS = tuple(f"segment={value}" for value in "abcd")
WIDE = tuple(
    f"holds_x={x};holds_y={y};segment={value}" for x in ("yes", "no") for y in ("yes", "no") for value in "abcdefgh"
)
SHORT, LONG = 500_000, 10_000_000
ELSEWHERE = ((4, 6, 7), (3, 5, 7), (2, 5, 6))
"""Of nine people, who is not at each partner: three are everywhere, one in each pair, one at each alone."""
COLUMNS = ("holds_x", "holds_y", "segment")
CHUNK = 1 << 16
QUERIES = 30


def mixed(
    numbers: "np.ndarray[tuple[int], np.dtype[np.uint64]]", salt: int
) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """Well spread 64-bit words, one for each number (splitmix64)."""
    with np.errstate(over="ignore"):
        word = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def batches(people: int, labels: Sequence[str]) -> Iterator[TokenBatch]:
    """One batch for each partner and label; labels follow from the person, so every region has all of them."""
    everybody = people * 3 // 2

    def chunks(partner: int, label: int) -> Iterator[bytes]:
        for start in range(0, everybody, CHUNK * 12):
            who = np.arange(start, min(everybody, start + CHUNK * 12), dtype=np.uint64)
            who = who[~np.isin(who % 9, ELSEWHERE[partner]) & (mixed(who, partner + 7) % len(labels) == label)]
            rows = np.stack([mixed(who, salt) for salt in range(1, 5)], axis=1)
            yield rows.astype("<u8").tobytes()

    for partner, name in enumerate(PARTNERS):
        for number, label in enumerate(labels):
            yield TokenBatch(name, label, 0, chunks(partner, number))


class Desk:
    """Fresh files for everything but the index."""

    def __init__(self, folder: Path, index: StatisticsIndex) -> None:
        clock = SystemClock()
        policy = Policy({}, ad_hoc=AdHocSpec(allowed=True, min_count=20))
        today = clock.now().date()
        period = {"period_start": today.replace(month=1, day=1), "period_end": today.replace(year=today.year + 1)}
        policy.budget = policy.budget.model_copy(update=period)
        policy.cubes = {"cross": CubeSpec(name="cross", partners=PARTNERS, by=("bank.segment",), epsilon=0.5)}
        folder.mkdir()
        make_log_key(folder, "bench-audit")
        audit = open_audit_log(open_database(folder / "audit.db"), folder, clock)
        ledger = SqlLedger(open_database(folder / "budget.db"), lambda: policy.budget, clock)
        tables = Tables(
            epochs=Epochs(),  # type: ignore[arg-type]
            index=index,
            store=SqlAnswerStore(open_database(folder / "answers.db")),
            path=ReleasePath(policy, ledger, audit),
            clock=clock,
            confirm=lambda _epoch, _partners: None,
        )
        self.cubes, self.questions = CubeRelease(tables, policy), AdHocRelease(tables, policy, ledger)
        self.caller = Asking.caller("mkt")

    def query(self) -> pb.QueryCubeResponse:
        asked = pb.TableQuestion(partners=PARTNERS, by=["airline.segment"])
        return self.questions.query(self.caller, asked)

    def cube(self) -> pb.QueryCubeResponse:
        return self.cubes.query(self.caller, "cross", "")


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Measures, prints a table and one JSON line."""
    short = os.environ.get("BENCH") == "short"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=SHORT if short else LONG)
    people = parser.parse_args().people
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = StatisticsIndex(folder / "index")
        labels = dict.fromkeys(PARTNERS, SEGMENTS)
        fold_s = timed(lambda: index.build("e1", labels, batches(people, SEGMENTS))) / 1000
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        exact = index.exact("e1", PARTNERS, ())
        if sum(exact.values()) != people * 3 // 2:
            raise SystemExit(f"wrong overlap: {sum(exact.values())} people, expected {people * 3 // 2}")
        rows_in = sum(count * len(members) for (members, _), count in exact.items())
        scan_ms = [timed(lambda: index.exact("e1", PARTNERS, ("airline.segment",))) for _ in range(QUERIES)]
        desks = [Desk(folder / str(number), index) for number in range(QUERIES)]
        first = [timed(desk.query) for desk in desks]
        again = [timed(desks[0].query) for _ in range(QUERIES)]
        desks[0].cube()
        stored = [timed(desks[0].cube) for _ in range(QUERIES)]
        wide = StatisticsIndex(folder / "wide")
        wide.build("e1", dict.fromkeys(PARTNERS, WIDE), batches(people // 10, WIDE))
        rows = len(wide.exact("e1", PARTNERS, [f"{party}.{c}" for party in PARTNERS for c in COLUMNS]))
        wide_desks = [Desk(folder / f"wide-{number}", wide) for number in range(QUERIES)]
        widely = [timed(desk.query) for desk in wide_desks]
    result = {
        "query_rows": rows_in,
        "query_ms_p50": statistics.median(first),
        "query_ms_max": max(first),
        "scan_ms_p50": statistics.median(scan_ms),
        "query_again_ms_p50": statistics.median(again),
        "cube_ms_p50": statistics.median(stored),
        "wide_table_rows": rows,
        "wide_query_ms_p50": statistics.median(widely),
        "fold_s": fold_s,
        "fold_rows_per_s": rows_in / fold_s,
        "fold_peak_mib": peak_mib,
    }
    for key, value in result.items():
        print(f"{key:24} {value:>16,.1f}")
    print(json.dumps({"bench": "questions", **{key: round(value, 3) for key, value in result.items()}}))


if __name__ == "__main__":
    main()
