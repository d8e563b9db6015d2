"""How fast a partner scores its customers, with reasons, and how much memory that takes.

``python tests/bench/scoring.py [rows]`` makes that many invented customers (a million), of whom nine in ten agreed to
offers, scores them under the shipped policy into Parquet and CSV, and prints one JSON object as its last line.
BENCH=short makes a fifth of them.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from federation.client.scoring import score_customers
from federation.core.canonical import canonical_json
from federation.core.clock import FixedClock, to_text
from federation.core.identity import Role
from federation.core.ids import PartyId
from federation.policy.load import load_policy
from federation.training.features import MARKETING_V1
from federation.training.models import LOGISTIC_REGRESSION, PERCEPTRON, save_weights, shapes, weights_digest
from federation.training.saved import SavedModel, verify_model
from tests.kits.offers import Partner
from tests.kits.training import NOW, identity_of

ROOT = Path(__file__).resolve().parents[2]
FEATURES = tuple(feature.name for feature in MARKETING_V1.features)
CHUNK = 50_000


def make_model(kind: str) -> SavedModel:
    """A model with random weights; what it says does not matter here."""
    rng = np.random.default_rng(1)
    made = {
        n: rng.normal(0, 0.5, shape).astype(np.float32)
        for n, shape in shapes(kind, MARKETING_V1.width(FEATURES)).items()
    }
    data = save_weights(made)
    card = {
        "alliance": "skyline",
        "run_id": "run-bench",
        "model": kind,
        "feature_schema": MARKETING_V1.version,
        "features": list(FEATURES),
        "trained_at": to_text(NOW),
        "weights_sha256": weights_digest(data),
    }
    signed = identity_of("gateway", Role.GATEWAY).sign("model-card", canonical_json(card))
    return verify_model(data, signed, identity_of("bank").ca)


def write_files(folder: Path, rows: int) -> None:
    """Customers and consents, some thousands at a time, so that making them takes no memory."""
    rng = np.random.default_rng(2)
    words = {feature.name: feature.places for feature in MARKETING_V1.features}
    with (folder / "customers.csv").open("w") as customers, (folder / "consents.csv").open("w") as consents:
        customers.write(f"customer_id,region,{','.join(FEATURES)}\n")
        consents.write("record_id,customer_id,purpose,status,recipients,given_at,expires_at,separate_consent,")
        consents.write("cross_border_consent,jurisdiction\n")
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            columns = []
            for name in FEATURES:
                numeric = words[name][0].startswith("below")
                columns.append(rng.integers(-5, 9_000, count) if numeric else rng.choice(words[name], count))
            customers.writelines(
                f"C{start + n:09d},PT,{','.join(str(value) for value in row)}\n"
                for n, row in enumerate(zip(*columns, strict=True))
            )
            for n in range(start, start + count):
                status = "given" if n % 10 else "withdrawn"
                said = f"r{n},C{n:09d},offer_sharing,{status},insurer,2026-10-01T00:00:00Z,2027-10-01T00:00:00Z"
                consents.write(f"{said},0,0,GDPR\n")


def main() -> None:
    """Runs and prints."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000 if os.environ.get("BENCH") == "short" else 1_000_000
    found: dict[str, float] = {"score_rows": rows}
    with tempfile.TemporaryDirectory() as scratch:
        partner = Partner(Path(scratch) / "bank", PartyId("bank"), FixedClock(NOW), load_policy(ROOT / "policies"))
        write_files(partner.folder, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name, kind, out in (
            ("parquet", LOGISTIC_REGRESSION, "s.parquet"),
            ("csv", LOGISTIC_REGRESSION, "s.csv"),
            ("perceptron_parquet", PERCEPTRON, "p.parquet"),
        ):
            started = time.perf_counter()
            done = score_customers(partner.data, make_model(kind), Path(scratch) / out)
            seconds = time.perf_counter() - started
            found[f"score_{name}_rows_per_minute"] = round(rows / seconds * 60)
            print(f"{name}: {done.scored:,} of {rows:,} customers scored in {seconds:.1f} s", file=sys.stderr)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["score_peak_mib"], found["score_grown_mib"] = round(after / 1024), round((after - before) / 1024)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
