"""Benchmark of the transport: ``python tests/bench/superlink.py``.

The same apps, proposal and rows twice, with real processes and TLS, one after the other on the same machine:

- on a stock SuperLink with three SuperNodes and node keys, as Flower's commands start them (``flwr run``);
- on our gateway with three agents (``entente train run``), median of several runs.

``ENTENTE_TEST_DATA`` names an alliance's folder; else it is synthetic. Rounds that judge a model are left out of both.
Wall time is from the command to the model, so both count the start of a command. The last line of output is one JSON
object:

- ``superlink_run_s``, ``gateway_run_s``: wall time; ``vs_superlink``: the one divided by the other;
- ``superlink_auc``, ``gateway_auc``: of the models, on the common test set: equal up to their noise.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import yaml
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from federation.policy.load import load_policy
from federation.training.models import load_weights, predict
from federation.training.plan import Plan, read_plan
from gateway.demo.enrolling import free_ports
from tests.kits.superlink import BIN, MODEL, PARTNERS, START_S, Site, make_site, superlink

ROUNDS = 3
RUNS = 3


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given = os.environ.get("ENTENTE_TEST_DATA")
        if not given:
            print("ENTENTE_TEST_DATA is not set: the alliance is synthetic.")
        site = make_site(folder / "site", people=12_000, data=Path(given) if given else None, port=free_ports())
        leave_out_judging(site)
        proposal = site.propose("bench", rounds=ROUNDS)
        plan = read_plan(proposal)
        with superlink(site, folder / "superlink") as link:
            link_s = link.run(proposal)
            link_auc = auc(site, plan, link.model("bench"))
        gateway_s, model = time_gateway(site, stack, folder)
        spec = load_policy(site.alliance / "policies").training
    result = {
        "superlink_run_s": round(link_s, 2),
        "gateway_run_s": round(statistics.median(gateway_s), 2),
        "vs_superlink": round(link_s / statistics.median(gateway_s), 1),
        "superlink_auc": round(link_auc, 4),
        "gateway_auc": round(model, 4),
        "superlink_rounds": ROUNDS,
        "superlink_epsilon_person": spec.epsilon,
    }
    for name, value in result.items():
        print(f"{name:26} {value}")
    print(json.dumps(result))


def leave_out_judging(site: Site) -> None:
    path = site.alliance / "policies" / "training.yaml"
    settings = yaml.safe_load(path.read_text())
    settings.pop("judging", None)
    path.write_text(yaml.safe_dump(settings))


def time_gateway(site: Site, stack: ExitStack, folder: Path) -> tuple[list[float], float]:
    """Seconds of each run over the gateway, and how good the last one's model is."""
    log = folder / "gateway.log"
    start(stack, log, "gateway", "serve", "--config", str(site.alliance / "gateway"))
    wait_for(log, "serving", 1)
    for party in PARTNERS:
        start(stack, folder / f"{party}.log", "partner", "run", "--config", str(site.partner(party)))
    wait_for(log, "trainer_connected", len(PARTNERS))
    marketing, seconds = ("--config", str(site.alliance / "people" / "marketing")), []
    for _ in range(RUNS):
        began = time.perf_counter()
        entente("train", "run", *marketing, "--model", MODEL, "--rounds", str(ROUNDS), "--json")
        seconds.append(time.perf_counter() - began)
    entente("train", "show", *marketing, "--save", str(folder / "model"), "--json")
    return seconds, auc(site, read_plan(site.propose("any", rounds=ROUNDS)), folder / "model" / "model.safetensors")


def auc(site: Site, plan: Plan, model: Path) -> float:
    test = pd.read_csv(site.data / "test.csv")
    weights = load_weights(model.read_bytes(), plan.kind, plan.width)
    return float(roc_auc_score(test[plan.label], predict(plan.kind, weights, plan.schema.encode(test, plan.features))))


def start(stack: ExitStack, log: Path, *arguments: str) -> None:
    """A process of ours, asked to end when the stack closes."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [str(BIN / "entente"), *arguments], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def entente(*arguments: str) -> None:
    done = subprocess.run([str(BIN / "entente"), *arguments], check=False, capture_output=True, text=True, timeout=300)
    if done.returncode:
        sys.exit(f"entente {' '.join(arguments[:2])}: {done.stdout}{done.stderr}")


def wait_for(log: Path, word: str, times: int) -> None:
    deadline = time.monotonic() + START_S
    while log.read_text(errors="replace").count(word) < times:
        if time.monotonic() > deadline:
            sys.exit(f"no {word!r} in time:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
