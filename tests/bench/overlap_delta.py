"""What a delta costs beside a full build, on this machine: ``python tests/bench/overlap_delta.py [--people N]``.

Prints a table and, as its last line, one JSON object. ``BENCH=short`` uses a smaller set. Three partners with agents,
the gateway, mutual TLS, CSV files, consents and policy decisions, as processes.

- ``build_s``: the operator's build of an epoch over N customers a partner, half of them at all three.
- ``delta_s_1pct``: the operator's update after 1 % of each partner's customers changed (half of that went, as many
  came, all over the file): the agents look at their files again and ask their policy about everybody, find what
  changed, blind and send it, and the gateway applies it. ``delta_share``: divided by ``build_s`` of the same run.
- ``no_change_s``: the same when nothing changed: what reading, deciding and comparing cost.
- ``labels_build_s``: a build over few customers (``labels_people`` a partner), each partner with ``labels`` labels:
  what batches cost whatever their size. Not in the short run.
- ``confirmed_answer_s``: a fresh noisy answer, for which the agents confirm that no withdrawal is outstanding.

Agents look for withdrawals by themselves every five seconds, so some may have sent who went before the operator asks.
The answer after the delta must be that of the new files, or the benchmark fails.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from federation.cli.console import connect
from federation.core.clock import SystemClock, to_text
from federation.v1 import overlap_pb2 as pb
from gateway.alliance import create_alliance
from gateway.demo.enrolling import free_ports
from gateway.demo.processes import Processes
from tests.bench.overlap_alliance import CUBE, _restrict, _running, _write_files, build_once
from tests.bench.overlap_people import email_of

SHORT, LONG = 20_000, 1_000_000
PARTNERS = ("bank", "insurer", "airline")
CHANGED = 0.01
LABELS, FEW = 65, 4_000
NEWCOMER = 500_000_000  # persons from here on were nobody's customer
TOLERANCE = 200  # people: far outside of the noise of the benchmark's cube


def measure(folder: Path, people: int) -> dict[str, float]:
    """Seconds of a build and of what comes after it."""
    alliance, clock = folder / "alliance", SystemClock()
    create_alliance(alliance, clock, port=free_ports())
    _restrict(alliance / "policies", PARTNERS)
    for place, party in enumerate(PARTNERS):
        _write_files(folder / "data" / party, place, people, clock)
    processes = Processes(folder)
    operator, half = alliance / "people" / "operator", int(people * CHANGED / 2)
    try:
        with _running(processes, folder, PARTNERS):
            build_s = timed(lambda: call(operator, "BuildIndex"))
            lost = [change(folder / "data" / party, half, clock) for party in PARTNERS]
            delta_s = timed(lambda: call(operator, "UpdateIndex"))
            no_change_s = timed(lambda: call(operator, "UpdateIndex"))
            started = time.perf_counter()
            with connect(alliance / "people" / "marketing") as marketing:
                answer = marketing.overlap.QueryCube(pb.QueryCubeRequest(cube=CUBE))
            answer_s = time.perf_counter() - started
    finally:
        processes.stop()
    # Half of the people are at all of them, and whoever came came to all of them.
    gone = set[str]().union(*lost)
    expected = len(shared(people) - gone) + half
    [noisy] = [cell.count for cell in answer.cells if len(cell.members) == len(PARTNERS)]
    if abs(noisy - expected) > TOLERANCE:
        raise SystemExit(f"wrong overlap: {noisy} people, expected about {expected}")
    return {
        "delta_people": people,
        "build_s": build_s,
        "delta_s_1pct": delta_s,
        "delta_share": delta_s / build_s,
        "no_change_s": no_change_s,
        "confirmed_answer_s": answer_s,
    }


def measure_labels(folder: Path) -> dict[str, float]:
    """Seconds of a build that is all batches and few people."""
    built = build_once(folder, PARTNERS, FEW, LABELS)
    if abs(built.noisy - FEW // 2) > TOLERANCE:
        raise SystemExit(f"wrong overlap: {built.noisy} people, expected about {FEW // 2}")
    return {"labels": LABELS, "labels_people": FEW, "labels_build_s": built.index_s}


def shared(people: int) -> set[str]:
    """E-mail addresses that all partners start with."""
    return {email_of(person) for person in range(people // 2, people)}


def change(folder: Path, half: int, clock: SystemClock) -> set[str]:
    """Takes customers out all over a file and puts others elsewhere; returns the addresses of who went."""
    header, *rows = (folder / "customers.csv").read_text().splitlines()
    apart = len(rows) // half
    gone, stay = rows[: apart * half : apart], [row for at, row in enumerate(rows) if at % apart or at >= apart * half]
    for number in range(half):
        stay.insert(number * apart + apart // 2, f"N{number:08d},{email_of(NEWCOMER + number)},,PT")
    (folder / "customers.csv").write_text("\n".join([header, *stay]) + "\n")
    given, expires = to_text(clock.now() - timedelta(days=1)), to_text(clock.now() + timedelta(days=700))
    with (folder / "consents.csv").open("a") as consents:
        for number in range(half):
            agreed = f"overlap_statistics,given,bank insurer airline gateway,{given},{expires},1,1,GDPR"
            consents.write(f"n{number},N{number:08d},{agreed}\r\n")
    return {row.split(",")[1] for row in gone}


def call(operator: Path, method: str) -> None:
    """Follows a stream of the operator's to its end."""
    request = {"BuildIndex": pb.BuildIndexRequest, "UpdateIndex": pb.UpdateIndexRequest}[method]()
    complete = False
    with connect(operator) as connection:
        for message in getattr(connection.overlap, method)(request):
            complete = message.complete
    if not complete:
        raise SystemExit(f"{method} did not complete")


def timed(work: Callable[[], None]) -> float:
    """Wall time in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measures, prints a table and one JSON line."""
    short = os.environ.get("BENCH") == "short"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=SHORT if short else LONG, help="customers of each partner")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.people - options.people % 4)
    if not short:
        with tempfile.TemporaryDirectory() as folder:
            result |= measure_labels(Path(folder))
    for name, value in result.items():
        print(f"{name:32} {value:14,.2f}")
    print(json.dumps({"bench": "overlap_delta", **{name: round(value, 3) for name, value in result.items()}}))


if __name__ == "__main__":
    main()
