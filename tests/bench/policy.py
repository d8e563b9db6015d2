"""How long a decision takes over the shipped policy set, with full reasons.

``BENCH=short`` keeps it to a few seconds. Prints a table; the last line is one JSON object.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.policy_kit import AT, cases, shipped


def percentile(sorted_us, share):
    return sorted_us[min(len(sorted_us) - 1, int(share * len(sorted_us)))]


def measure(policy, requests, rounds):
    """Microseconds of every single decision, clock overhead included, rising."""
    clock, times = time.perf_counter_ns, []
    for _ in range(rounds):
        for facts in requests:
            began = clock()
            policy.decide(facts)
            times.append((clock() - began) / 1000)
    return sorted(times)


def main():
    policy = shipped()
    requests = [replace(facts, at=AT) for _, _, facts in cases()]
    permitted = [facts for facts in requests if policy.decide(facts).permitted]
    denied = [facts for facts in requests if not policy.decide(facts).permitted]
    rounds = 400 if os.environ.get("BENCH") == "short" else 4000
    measure(policy, requests, 50)  # warm up
    print(f"{len(policy.rules)} rules, {len(requests)} requests, {rounds} rounds")
    print(f"{'requests':10} {'p50 us':>8} {'p99 us':>8}")
    found = {}
    for name, chosen in (("permitted", permitted), ("denied", denied), ("all", requests)):
        times = measure(policy, chosen, rounds)
        found[name] = percentile(times, 0.5), percentile(times, 0.99)
        print(f"{name:10} {found[name][0]:8.2f} {found[name][1]:8.2f}")
    p50, p99 = found["all"]
    result = {"decide_us_p50": round(p50, 2), "decide_us_p99": round(p99, 2), "rules": len(policy.rules)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
