"""Questions to a small epoch of three partners with labels: how long the index and a released cube take."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from federation.core.clock import SystemClock
from federation.core.identity import Role
from federation.policy.specs import CubeSpec
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_gateway import Gateway
from tests.kits.overlap_world import SEGMENTS, Data, World, make_policy

PARTNERS = ("airline", "bank", "insurer")
QUERIES = 50


def measure_queries(people: int) -> dict[str, float | None]:
    """Milliseconds of a scan of the index, of a first release and of asking again."""
    by = ("bank.value_tier", "airline.activity")
    with tempfile.TemporaryDirectory() as folder:
        data = {party: _data(party, people) for party in PARTNERS}
        world = World(Path(folder), SystemClock(), make_policy(PARTNERS, pad_to=512), data)
        world.policy.cubes = {"cross": CubeSpec(name="cross", partners=PARTNERS, by=by, epsilon=1.0, min_count=0)}
        epoch = world.build()
        counts = world.coordinator.index.exact(epoch, PARTNERS, ())
        if sum(counts.values()) != people:
            raise SystemExit(f"wrong overlap: {sum(counts.values())} people, expected {people}")
        with Gateway(world) as gateway, gateway.connect("mkt", Role.MARKETING) as marketing:
            for party in PARTNERS:  # who confirm, before noise is drawn, that no withdrawal is outstanding
                gateway.attach(party)

            def ask() -> None:
                marketing.overlap.QueryCube(pb.QueryCubeRequest(cube="cross"))

            return {
                "query_people": people,
                "exact_scan_ms_p50": _median_ms(lambda: world.coordinator.index.exact(epoch, PARTNERS, by)),
                "first_release_ms": _once_ms(ask),
                "cube_ms_p50": _median_ms(ask),
            }


def _data(party: str, people: int) -> Data:
    """Every partner knows two of three people; half of its customers agreed to offers."""
    who = [number for number in range(people) if number % 3 != PARTNERS.index(party)]
    [(column, values)] = SEGMENTS[party].items()
    ids = [f"{party[:1].upper()}{number:08d}" for number in who]
    table = pd.DataFrame({"email": [f"person{number}@example.com" for number in who], "phone": ""}, index=ids)
    table[column] = [values[number % len(values)] for number in who]
    return Data(table, {"overlap_statistics": ids, "offer_sharing": ids[::2]})


def _once_ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _median_ms(work: Callable[[], object]) -> float:
    return statistics.median(_once_ms(work) for _ in range(QUERIES))
