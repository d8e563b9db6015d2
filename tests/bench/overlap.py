"""How fast the overlap is on this machine, and how fast others are: ``python tests/bench/overlap.py [--people N]``.

Prints a table and, as its last line, one JSON object. ``BENCH=short`` takes a tenth of the customers: our own part then
takes less than a minute, the peers, once they are installed, some more. Nothing is extrapolated; every ratio is
measured in this run.

- ``points_per_core_s``: X25519 by one scalar on one thread, ours; ``points_ratio``: divided by ``cryptography``'s, one
  point after another in Python, the same points.
- ``two_party_s``: a complete count of two sets of N e-mail addresses, half shared: from the operator's call to
  marketing's noisy answer, with two agents and the gateway as processes, mutual TLS, CSV files, consents, policy
  decisions, budget and audit log. ``vs_openmined``, ``vs_spu_ecdh``, ``vs_spu_rr22``: a peer's wall time for the same
  sets divided by that. Peers read lists or one-column files and do none of the rest; they count (OpenMined) or show the
  intersection itself (SPU) once, where our index then answers all questions. A peer that cannot run here is null.
- ``three_party_people_per_s``: distinct people (1.5 N) divided by the time of the same with three partners.
- ``peak_mib_...``: the largest resident memory of an agent and of the gateway in the three-party run, with its size,
  and in one of a quarter of the size; ``private_mib_...``: the same without pages of its files, which the kernel takes
  back where memory is short; ``..._bytes_per_customer``: how the latter grow between the two.
- ``three_party_offers_s``: the time, and ``private_mib_..._offers`` the memory, of the same where every second customer
  agreed to offers, and so is on the switchboard too. Not in the short run.
- ``query_...``: questions to a released cube of a small epoch.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from federation.overlap import native
from federation.overlap.blind import blind
from federation.overlap.hash_to_curve import hash_to_curve
from federation.overlap.normalise import normalise, normalise_column
from tests.bench.overlap_alliance import Build, build_once
from tests.bench.overlap_peers import Peers
from tests.bench.overlap_queries import measure_queries

SHORT, LONG = 100_000, 1_000_000
PARTNERS = ("bank", "insurer", "airline")
TOLERANCE = 200  # people: far outside of the noise of the benchmark's cube
Figures = dict[str, float | None]


def rate(count: int, work: Callable[[], object]) -> float:
    """Items a second of processor time of this thread: the best of three, because the machine is shared."""
    best = float("inf")
    for _ in range(3):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
    return count / best


def measure_points(count: int) -> Figures:
    """What one core does. ``blind`` uses all cores, so the machine is said to have one."""
    raw = [f"  Person{number}@Example.com" for number in range(count)]
    column = pa.array(raw)
    messages = [text.strip().lower().encode() for text in raw]
    phones = [f"+1 ({200 + number % 800}) 555-{number % 10_000:04d}" for number in range(count // 20)]
    key = X25519PrivateKey.generate()
    points = hash_to_curve(messages, b"bench")
    few = [points[at : at + 32] for at in range(0, 32 * (count // 10), 32)]
    cores, native.os.cpu_count = native.os.cpu_count, lambda: 1
    try:
        ours = rate(count, lambda: blind(points, key))
        hashed = rate(count, lambda: hash_to_curve(messages, b"bench"))
    finally:
        native.os.cpu_count = cores
    library = rate(len(few), lambda: [key.exchange(X25519PublicKey.from_public_bytes(point)) for point in few])
    return {
        "normalise_email_per_core_s": rate(count, lambda: normalise_column(column, "email", region="US")),
        "normalise_phone_per_core_s": rate(
            len(phones), lambda: [normalise(text, "phone", region="US", mode="possible") for text in phones]
        ),
        "hash_to_curve_per_core_s": hashed,
        "points_per_core_s": ours,
        "points_ratio": ours / library,
    }


def measure_chain(partners: tuple[str, ...], people: int, *, offers: bool = False) -> Build:
    """One epoch of processes."""
    said(f"{len(partners)} partners, {people:,} customers each{', half of them for offers too' if offers else ''}")
    with tempfile.TemporaryDirectory() as folder:
        built = build_once(Path(folder), partners, people, offers=offers)
    if abs(built.noisy - people // 2) > TOLERANCE:
        raise SystemExit(f"wrong overlap: {built.noisy} people, expected about {people // 2}")
    return built


def measure_three(people: int) -> Figures:
    """The chain of three partners at full size and at a quarter of it."""
    few = people // 4 - people // 4 % 4
    small, large = measure_chain(PARTNERS, few), measure_chain(PARTNERS, people)
    figures: Figures = {"three_party_s": large.wall_s, "three_party_people_per_s": 1.5 * people / large.wall_s}
    for who in ("agent", "gateway"):
        less, more = getattr(small, who), getattr(large, who)
        figures |= {f"peak_mib_{who}_{size_of(few)}": less.resident, f"peak_mib_{who}_{size_of(people)}": more.resident}
        figures |= {f"private_mib_{who}_{size_of(few)}": less.private}
        figures |= {f"private_mib_{who}_{size_of(people)}": more.private}
        figures[f"{who}_bytes_per_customer"] = (more.private - less.private) * 2**20 / (people - few)
    return figures


def measure_offers(people: int) -> Figures:
    """The same with a switchboard."""
    built = measure_chain(PARTNERS, people, offers=True)
    return {
        "three_party_offers_s": built.wall_s,
        "private_mib_agent_offers": built.agent.private,
        "private_mib_gateway_offers": built.gateway.private,
    }


def size_of(people: int) -> str:
    """A number of people in a name."""
    return f"{people // 1_000_000}m" if people % 1_000_000 == 0 else f"{people // 1000}k"


def said(what: str) -> None:
    """Tells whoever waits what comes next, with the load of the machine, which decides what the figures are worth."""
    print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}: {what}", file=sys.stderr, flush=True)


def measure_peers(people: int, ours_s: float) -> Figures:
    """Wall times of the peers for the same sets, and divided by ours."""
    figures: Figures = {}
    peers = Peers()
    said("peers, one after another")
    for name, found in peers.run_all(people):
        said(f"{name}: {'not measured' if found is None else f'{found:.1f} s'}")
        figures[f"{name}_s"] = found
        figures[f"vs_{name}"] = found / ours_s if found is not None else None
    for name, why in peers.missing.items():
        print(f"{name}: not measured: {why}", file=sys.stderr)
    return figures


def main() -> None:
    """Measures, prints a table and one JSON line."""
    short = os.environ.get("BENCH") == "short"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=SHORT if short else LONG, help="customers of each partner")
    parser.add_argument("--no-peers", action="store_true", help="only ourselves")
    options = parser.parse_args()
    people: int = options.people - options.people % 4
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    result: Figures = {"people": people, "native": float(native.load_kernel() is not None)}
    said("points")
    result |= measure_points(20_000 if short else 200_000)
    result["two_party_s"] = two_party_s = measure_chain(PARTNERS[:2], people).wall_s
    if not options.no_peers:
        result |= measure_peers(people, two_party_s)
    result |= measure_three(people)
    if not short:
        result |= measure_offers(people)
    said("questions")
    result |= measure_queries(2_000 if short else 50_000)
    for name, value in result.items():
        print(f"{name:32} {'not measured' if value is None else f'{value:,.1f}':>14}")
    rounded = {name: None if value is None else round(value, 3) for name, value in result.items()}
    print(json.dumps({"bench": "overlap", **rounded}))


if __name__ == "__main__":
    main()
