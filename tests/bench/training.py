"""Benchmark of joint training on real input: ``python tests/bench/training.py``.

Three agents and the gateway in one process, over gRPC on loopback, under the shipped policy: the run that
``entente train run`` makes when nothing is asked for. ``ENTENTE_TEST_DATA`` names an alliance's folder; without it
``ENTENTE_DATA`` or ``ENTENTE_SHARED_DATA`` names a folder with ``make_alliance.py``, which then makes one; else it is
synthetic. ``BENCH=short`` takes one run and few seeds. The last line of output is one JSON object:

- ``auc_alliance``: on the common test set, mean over runs, at the shipped ``epsilon_person``, for a customer of all
  three; ``epsilon``: the same runs for a customer at one partner; ``auc_alliance_eps1``: at ``epsilon_person`` 1;
  ``auc_alliance_gradient``: as ``auc_alliance``, by logistic regression; ``auc_alliance_local_noise`` and
  ``auc_alliance_perceptron``: all noise added by each partner alone, at the same epsilon for a person; with ``_sd``
  the standard deviation over runs; ``auc_alliance_pooled_lr``: all rows pooled, same features, no privacy;
- ``auc_joint_eps1``, ``auc_pooled_lr``, ``auc_pooled_gb`` (no privacy), ``auc_local``, ``auc_local_eps1`` (each partner
  alone) and more for partners of 4,000 customers, with ``_1k`` for 1,000: see ``tests/bench/learned.py``;
- ``run_s``: wall time of a run; ``round_overhead_s``: of a round, beyond the slowest partner's own work;
- ``secure_sum_s_1m``: keys, masks and sum of three vectors of a million places, one core;
  ``joint_noise_s_1m``: one partner's share of the noise for as many;
- ``dpsgd_rows_per_s`` and ``torch_rows_per_s``: rows through private and plain gradient steps of 4,096 rows, one core;
  with ``_perceptron`` for that.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# One core each: figures are of the work, not of how many neighbours a machine has.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from federation.client.config import DataConfig
from federation.client.consent.book import ConsentBook
from federation.client.data import PartnerData
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.policy.load import load_policy
from federation.policy.specs import TrainingSpec
from federation.training.dpsgd import train_round
from federation.training.features import find_schema, read_labels
from federation.training.joint_noise import JointNoise
from federation.training.measures import auc_interval
from federation.training.models import LOGISTIC_REGRESSION, PERCEPTRON, initial
from federation.training.networks import build_network
from federation.training.plan import Settings
from federation.training.secure_sum import Attempt, RoundKey, add_masked
from federation.v1 import training_pb2 as pb
from gateway.demo.synthetic import make_alliance
from gateway.training.evaluation import load_public_set
from tests.bench.learned import People, measure_learned, read_people
from tests.kits.training import NOW, Gateway, Partner, identity_of, make_caller, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
SHORT = os.environ.get("BENCH") == "short"
RUNS = 1 if SHORT else 3
SEEDS = 3 if SHORT else 10
MILLION = 1_000_000
LOCAL: dict[str, Any] = {
    "trust": "local",
    "models": (LOGISTIC_REGRESSION,),
    "judging": None,
    "rounds": 10,
    "steps_per_round": 40,
    "sampling_rate": 0.1,
    "clipping_norm": 1.0,
    "learning_rate": 32.0,
}
"""A run under local noise."""
DEEP: dict[str, Any] = {**LOCAL, "models": (PERCEPTRON,), "learning_rate": 2.0}
"""The same with a perceptron."""
BATCH = 4096
PARTNERS = ("bank", "insurer", "airline")


def raw_folder() -> str:
    """Where ``make_alliance.py`` is; empty if nobody says."""
    return os.environ.get("ENTENTE_DATA") or os.environ.get("ENTENTE_SHARED_DATA", "")


def find_people(alliance: Path, spec: TrainingSpec) -> People:
    """Rows to draw partners from, and the common test set: the real ones, else those of the alliance."""
    if raw := raw_folder():
        about = importlib.util.spec_from_file_location("make_alliance", Path(raw) / "make_alliance.py")
        if about is None or about.loader is None:
            sys.exit(f"{raw} has no make_alliance.py")
        maker = importlib.util.module_from_spec(about)
        about.loader.exec_module(maker)
        return read_people(*maker.people(33_211, np.random.default_rng(7)), spec)
    pool = pd.concat([pd.read_csv(alliance / party / "customers.csv") for party in PARTNERS])
    return read_people(pool, pd.read_csv(alliance / "test.csv"), spec)


def find_alliance(scratch: Path) -> Path:
    """The alliance's folder, made if need be."""
    if folder := os.environ.get("ENTENTE_TEST_DATA"):
        return Path(folder)
    if raw := raw_folder():
        subprocess.run([sys.executable, Path(raw) / "make_alliance.py", "--out", scratch], check=True)
        return scratch
    print("Neither ENTENTE_TEST_DATA nor ENTENTE_DATA is set: the alliance is synthetic.")
    make_alliance(scratch / "synthetic", today=NOW)
    return scratch / "synthetic"


def rows_per_second(step: Any, steps: int) -> float:
    """Rows of ``BATCH`` that a function of a number of steps handles in a second."""
    step(2)  # warm up
    start = time.perf_counter()
    step(steps)
    return BATCH * steps / (time.perf_counter() - start)


def measure_steps(kind: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Rows a second of private and of plain steps, over the same rows, each a Poisson sample of 4,096 on average."""
    rate = BATCH / len(x)
    start = initial(kind, x.shape[1])

    def private(steps: int) -> None:
        train_round(
            kind,
            start,
            (x, y),
            settings=Settings(steps, rate, 1.0, 1.0, 1.0),
            size=len(x),
            random_bytes=os.urandom,
        )

    def plain(steps: int) -> None:
        module = build_network(kind, start)
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        rng = np.random.default_rng(1)
        for _ in range(steps):
            chosen = np.flatnonzero(rng.random(len(x)) < rate)
            optimizer.zero_grad()
            logits = module(torch.from_numpy(x[chosen]))[:, 0]
            torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y[chosen])).backward()
            optimizer.step()

    steps = 50 if SHORT else 200
    return rows_per_second(private, steps), rows_per_second(plain, steps)


def time_answers(partner: Partner) -> list[float]:
    """Seconds that a partner's agent takes for each message of a round, filled in as they come."""
    spent: list[float] = []
    answer = partner.agent.answer

    def timed(response: pb.ExchangeMessagesResponse) -> pb.ExchangeMessagesRequest | None:
        start = time.perf_counter()
        found = answer(response)
        if response.WhichOneof("part") == "message":
            spent.append(time.perf_counter() - start)
        return found

    partner.agent.answer = timed  # type: ignore[method-assign]
    return spent


def time_secure_sum(width: int) -> float:
    """Seconds for one secure sum of three vectors, all parties' work together, from keys to the sum."""
    identities = {party: identity_of(party) for party in PARTNERS}
    values = np.arange(width) - width // 2
    start = time.perf_counter()
    attempt = Attempt("run", "proposal", 1, 1, "model")
    keys = {party: RoundKey(attempt, identity, os.urandom) for party, identity in identities.items()}
    offers = [key.offer for key in keys.values()]
    hidden = {party: key.agree(offers, PARTNERS, NOW).hide(values) for party, key in keys.items()}
    total = add_masked(hidden, PARTNERS, width)
    spent = time.perf_counter() - start
    if not np.array_equal(total, 3 * values):
        sys.exit("The secure sum is wrong.")
    return spent


def time_noise(width: int) -> float:
    """Seconds for one partner's share of the noise."""
    noise = JointNoise(3, 1, width, width, 10, 20.0)
    start = time.perf_counter()
    noise.draw_share()
    return time.perf_counter() - start


Run = tuple[dict[str, Any], float, float]


def mean_auc(runs: list[Run]) -> float:
    """Mean over runs."""
    return round(statistics.mean(card["metrics"]["auc"] for card, _, _ in runs), 4)


def spread_auc(runs: list[Run]) -> float | None:
    """Standard deviation over runs; None for one."""
    return round(statistics.stdev(card["metrics"]["auc"] for card, _, _ in runs), 4) if len(runs) > 1 else None


def main() -> None:
    with ExitStack() as stack:
        folder = find_alliance(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        policy, clock = load_policy(ROOT / "policies"), FixedClock(NOW)
        spec = policy.training
        schema = find_schema(spec.feature_schema)
        files = {
            party: PartnerData(
                DataConfig(**{name: folder / party / f"{name}.csv" for name in ("customers", "consents", "holdings")}),
                party,
                policy,
                ConsentBook(folder / party / "consents.csv", open_database(None), clock),
                clock,
            )
            for party in PARTNERS
        }
        encoded = []
        for data in files.values():
            frame = data.customers().loc[
                data.eligible(
                    "model_training", "model_update", "gateway", fields=frozenset({*spec.features, spec.label})
                ).ids
            ]
            encoded.append((schema.encode(frame, spec.features), read_labels(frame, spec.label)[0]))
        x, y = np.vstack([rows for rows, _ in encoded]), np.concatenate([labels for _, labels in encoded])
        test = load_public_set(folder / "test.csv").columns
        test_x, (test_y, _) = schema.encode(test, spec.features), read_labels(test, spec.label)
        pooled = LogisticRegression(C=10, max_iter=1000).fit(x, y).decision_function(test_x)

        def run_once(rules: TrainingSpec, epsilon: float, model: str = "") -> Run:
            """The card of one run, its seconds, and the seconds of a round beyond the slowest partner's work."""
            state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateway = Gateway(open_database(state / "gateway.db"), rules, evaluation_csv=folder / "test.csv")
            partners = [Partner(gateway, party, files[party], state / party, spec=rules) for party in PARTNERS]
            spent = [time_answers(partner) for partner in partners]
            wait_for(lambda: gateway.hub.connected() == set(PARTNERS))
            start = time.perf_counter()
            asked = pb.StartRunRequest(proposal=pb.TrainingProposal(epsilon=epsilon, model=model))
            last = list(gateway.stub().StartRun(asked))[-1]
            seconds = time.perf_counter() - start
            if last.state != pb.RUN_STATE_FINISHED:
                sys.exit(f"The run failed: {last.reason}")
            slowest = sum(max(of_message) for of_message in zip(*spent, strict=True))
            card = json.loads(gateway.service.get_model(make_caller()).card_json)
            gateway.close()
            return card, seconds, (seconds - slowest) / card["rounds"]

        shipped = [run_once(spec, spec.epsilon) for _ in range(RUNS)]
        others = {"gradient": (spec, spec.epsilon, LOGISTIC_REGRESSION)}
        if not SHORT:
            others["eps1"] = (spec, 1.0, "")
            others["local_noise"] = (spec.model_copy(update=LOCAL), spec.epsilon, "")
            others["perceptron"] = (spec.model_copy(update=DEEP), spec.epsilon, "")
        found = {name: [run_once(*asked) for _ in range(RUNS)] for name, asked in others.items()}
        steps = {kind: measure_steps(kind, x, y) for kind in (LOGISTIC_REGRESSION, PERCEPTRON)}
        people = find_people(folder, spec)
        learned = {
            **measure_learned(people, spec, 4000, SEEDS, ""),
            **measure_learned(people, spec, 1000, SEEDS, "_1k"),
        }

    card = shipped[0][0]
    result = {
        "auc_alliance": mean_auc(shipped),
        "auc_alliance_sd": spread_auc(shipped),
        **{f"auc_alliance_{name}": mean_auc(runs) for name, runs in found.items()},
        **{f"auc_alliance_{name}_sd": spread_auc(runs) for name, runs in found.items()},
        "auc_alliance_pooled_lr": round(auc_interval(pooled, test_y.astype(np.float64)).value, 4),
        **learned,
        "epsilon": card["epsilon_per_customer"],
        "epsilon_person": card["epsilon_per_person"],
        "delta": card["delta"],
        "run_s": round(statistics.mean(seconds for _, seconds, _ in shipped), 2),
        "round_overhead_s": round(statistics.mean(overhead for _, _, overhead in shipped), 4),
        "secure_sum_s_1m": round(statistics.median(time_secure_sum(MILLION) for _ in range(5)), 4),
        "joint_noise_s_1m": round(time_noise(MILLION // 10) * 10, 2),
        "dpsgd_rows_per_s": round(steps[LOGISTIC_REGRESSION][0]),
        "torch_rows_per_s": round(steps[LOGISTIC_REGRESSION][1]),
        "dpsgd_rows_per_s_perceptron": round(steps[PERCEPTRON][0]),
        "torch_rows_per_s_perceptron": round(steps[PERCEPTRON][1]),
        "rows": len(x),
        "rounds": spec.rounds,
        "runs": RUNS,
        "seeds": SEEDS,
    }
    for name, value in result.items():
        print(f"{name:30} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
