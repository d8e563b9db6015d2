"""How fast consents come in and how soon a withdrawal holds.

Import: generated records in random order, from CSV into the partner's SQLite, durable, in one process. Withdrawal: two
gateway processes on one state, mutual TLS on loopback; time from the withdrawal's call at one until the other has
refused an offer about the person.

``BENCH=short`` stays under a minute. Prints a table; the last line is one JSON object.
"""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from federation.client.consent.importing import ConsentImport
from federation.consent.statements import FIELDS, RECORD_ID
from federation.core.clock import SystemClock
from federation.core.database import open_database
from federation.v1 import consent_pb2, offers_pb2
from tests.kits.two_gateways import handle, offer, two_gateways

SHORT = os.environ.get("BENCH") == "short"
RECORDS = 100_000 if SHORT else 1_000_000
WITHDRAWALS = 100 if SHORT else 1_000


def write_register(path, records):
    """A register in no order: nine of ten agreed, times to the second."""
    draw, people = random.Random(1), list(range(records))
    draw.shuffle(people)
    with path.open("w") as file:
        file.write(",".join((RECORD_ID, *FIELDS)) + "\n")
        for person in people:
            status = "given" if draw.random() < 0.9 else "withdrawn"
            second = f"{draw.randrange(1, 13):02d}-{draw.randrange(1, 28):02d}T10:{draw.randrange(60):02d}:00+00:00"
            times = f"2025-{second},2027-{second}"
            file.write(f"r{person},B{person:08d},offer_sharing,{status},insurer airline,{times},1,0,GDPR\n")


def measure_import(folder):
    path = folder / "register.csv"
    write_register(path, RECORDS)
    importer = ConsentImport(open_database(folder / "partner.db"), SystemClock())
    began = time.perf_counter()
    done = importer.run(path)
    took_s = time.perf_counter() - began
    assert done.stored == RECORDS
    began = time.perf_counter()
    assert importer.run(path).rows == 0
    return RECORDS / took_s, time.perf_counter() - began


def measure_withdrawals(folder):
    """Milliseconds of each, rising, and how many refusals there were."""
    clock, times = SystemClock(), []
    with (
        two_gateways(folder, WITHDRAWALS + 10) as pair,
        pair.connect("bank", 0) as here,
        pair.connect("bank", 1) as there,
    ):
        for person in range(WITHDRAWALS + 10):
            proposal = offers_pb2.ProposeOffersRequest(offers=[offer("bank", person, clock.now())])
            request = consent_pb2.WithdrawConsentRequest(handle=handle("bank", person), purpose="offer_sharing")
            began = time.perf_counter()
            here.consent.WithdrawConsent(request, timeout=30)
            receipt = there.offers.ProposeOffers(proposal, timeout=30).receipts[0]
            times.append((time.perf_counter() - began) * 1000)
            assert not receipt.accepted, "an offer was taken after an acknowledged withdrawal"
            assert "consent_withdrawn" in {reason.code for reason in receipt.reasons}
    return sorted(times[10:])  # the first ones warm up


def percentile(rising, share):
    return rising[min(len(rising) - 1, int(share * len(rising)))]


def main():
    with tempfile.TemporaryDirectory() as folder:
        per_s, again_s = measure_import(Path(folder))
        print(f"{'import of':28} {RECORDS:>12,} records")
        print(f"{'  a second':28} {per_s:>12,.0f}")
        print(f"{'  the same file again, ms':28} {again_s * 1000:>12,.0f}")
        times = measure_withdrawals(Path(folder) / "alliance")
    print(f"{'withdrawals':28} {len(times):>12,} at one gateway, refused at the other")
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    print(f"{'  ms p50':28} {p50:>12.1f}")
    print(f"{'  ms p99':28} {p99:>12.1f}")
    result = {"consent_import_per_s": round(per_s), "withdraw_to_effect_ms_p50": round(p50, 1)}
    print(json.dumps({**result, "withdraw_to_effect_ms_p99": round(p99, 1), "records": RECORDS}))


if __name__ == "__main__":
    main()
