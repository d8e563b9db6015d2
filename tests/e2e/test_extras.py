"""Each kind of installation works without the other's heavy libraries."""

import subprocess
import sys

import pytest

from federation.cli.groups import GROUPS

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
import {modules}
"""
DEMO_ONLY = {"sklearn", "matplotlib", "jinja2", "psutil"}
GATEWAY_ONLY = {"duckdb", "grpc_health", "grpc_reflection"}
PARTNER_ONLY = {"torch", "opacus", "gmpy2", "phonenumbers", "pandas"}
PEOPLE_ONLY = {"dp_accounting", "flwr", "numpy", "safetensors"}
CLI = ", ".join(["gateway.cli", *(group.module for group in GROUPS.values())])
# What people's commands import when they run.
PEOPLE = (
    "federation.client.config, federation.client.connection, federation.client.enrolment, "
    "federation.client.audit.verifier, federation.client.policy_steps, federation.policy.diff, "
    "federation.policy.replay, federation.policy.load, federation.consent.receipt"
)


@pytest.mark.parametrize(
    ("blocked", "modules"),
    [
        (PARTNER_ONLY | DEMO_ONLY, f"gateway.server, {CLI}"),
        (
            GATEWAY_ONLY | DEMO_ONLY,
            f"{CLI}, federation.client.workplace, federation.client.overlap.agent, "
            "federation.client.training.agent, federation.client.offers.proposer, "
            "federation.client.offers.inbox, federation.training.saved",
        ),
        (PARTNER_ONLY | GATEWAY_ONLY | DEMO_ONLY | PEOPLE_ONLY, f"{CLI}, {PEOPLE}"),
    ],
    ids=["gateway", "partner", "people"],
)
def test_installation_imports_without_what_it_leaves_out(blocked: set[str], modules: str) -> None:
    code = BLOCK.format(blocked=blocked, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
