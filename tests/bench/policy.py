"""How long a decision takes over the shipped policy set, with full reasons, and against Cedar on the same requests.

Cedar gets the exported policy and its schema, parsed beforehand where cedarpy allows it, and requests made beforehand;
it gives its decision and the ids of the policies that decided. Both are asked one request at a time in this process, in
turns. ``BENCH=short`` keeps it to a few seconds. Prints a table; the last line is one JSON object.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import cedarpy

sys.path.insert(0, str(Path(__file__).parents[2]))

from federation.policy.cedar import cedar_request, export_cedar
from tests.kits.policy import AT, cases, shipped


def percentile(sorted_us, share):
    return sorted_us[min(len(sorted_us) - 1, int(share * len(sorted_us)))]


def measure(ask, requests, rounds):
    """Microseconds of every single decision, clock overhead included, rising."""
    clock, times = time.perf_counter_ns, []
    for _ in range(rounds):
        for request in requests:
            began = clock()
            ask(request)
            times.append((clock() - began) / 1000)
    return sorted(times)


def main():
    policy = shipped()
    requests = [replace(facts, at=AT) for _, _, facts in cases()]
    permitted = [facts for facts in requests if policy.decide(facts).permitted]
    denied = [facts for facts in requests if not policy.decide(facts).permitted]
    short = os.environ.get("BENCH") == "short"
    rounds, cedar_rounds = (200, 3) if short else (2000, 20)

    text, schema = export_cedar(policy)
    parsed, parsed_schema = cedarpy.PolicySet.from_str(text), cedarpy.Schema.from_str(schema)
    nobody = cedarpy.Entities.from_json_str("[]")

    def ask_cedar(request):
        return cedarpy.is_authorized(request, parsed, nobody, schema=parsed_schema)

    pairs = [(facts, cedar_request(facts, policy)) for facts in requests]
    for facts, request in pairs:
        answer = ask_cedar(request)
        if answer.diagnostics.errors or answer.allowed is not policy.decide(facts).permitted:
            sys.exit(f"Cedar disagrees about {facts}: {answer.diagnostics.errors}")

    measure(policy.decide, requests, 50)  # warm up
    print(f"{len(policy.rules)} rules, {len(requests)} requests, {rounds} rounds; Cedar {cedar_rounds} rounds")
    print(f"{'requests':10} {'p50 us':>9} {'p99 us':>9}")
    found = {}
    for name, chosen in (("permitted", permitted), ("denied", denied), ("all", requests)):
        times = measure(policy.decide, chosen, rounds)
        found[name] = percentile(times, 0.5), percentile(times, 0.99)
        print(f"{name:10} {found[name][0]:9.2f} {found[name][1]:9.2f}")
    times = measure(ask_cedar, [request for _, request in pairs], cedar_rounds)
    cedar = percentile(times, 0.5), percentile(times, 0.99)
    print(f"{'cedarpy':10} {cedar[0]:9.2f} {cedar[1]:9.2f}")
    p50, p99 = found["all"]
    result = {
        "decide_us_p50": round(p50, 2),
        "decide_us_p99": round(p99, 2),
        "vs_cedar": round(cedar[0] / p50, 1),
        "cedar_us_p50": round(cedar[0], 1),
        "rules": len(policy.rules),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
