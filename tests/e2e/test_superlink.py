"""Our apps on a stock SuperLink with three SuperNodes, as their commands start them: TLS and node keys.

Two partners let Flower start a process for every message; one uses our runner, which never unpacks what is shipped.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federation.client.config import load_partner_config
from federation.client.stock.keys import FILE_NAME
from federation.client.training.workbench import Workbench
from federation.client.workplace import TAP_VARIABLE, open_workplace
from federation.core.clock import SystemClock
from federation.training.accountant import CustomerAccountant
from federation.training.features import MARKETING_V1
from federation.training.flower import from_record, unpack
from federation.training.models import Weights, load_weights, norm
from federation.training.plan import Plan, read_plan
from tests.kits.superlink import PARTNERS, Site, SuperLink, make_site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROUNDS = 2
RUNNER = "bank"


class Played:
    """A SuperLink that ran two proposals and was stopped."""

    def __init__(self, base: Path) -> None:
        self.site: Site = make_site(base / "site")
        self.tap = base / "tap"
        link = SuperLink(self.site, base / "link", {TAP_VARIABLE: str(self.tap)}, own_runners=[RUNNER])
        try:
            link.start()
            self.proposal = self.site.propose("stock-1", rounds=ROUNDS, epsilon=3)
            link.run(self.proposal)
            self.model = link.model("stock-1").read_bytes()
            refused = self.site.propose("stock-2", rounds=ROUNDS)
            refused.epsilon = 0.5  # less than its noise costs
            self.refusal = link.run_refused(refused)
            self.unpacked = {party: link.unpacked(party).exists() for party in PARTNERS}
        finally:
            self.left = link.stop()

    def rows(self, plan: Plan, party: str) -> Any:
        place = open_workplace(load_partner_config(self.site.partner(party)), SystemClock())
        try:
            nothing: Any = None
            bench = Workbench(
                plan,
                data=place.data,
                accountant=nothing,
                memory=nothing,
                identity=place.identity,
                clock=place.clock,
                random_bytes=nothing,
            )
            return bench.rows()
        finally:
            place.close()

    def charged(self, party: str, run_id: str) -> int:
        place = open_workplace(load_partner_config(self.site.partner(party)), SystemClock())
        try:
            return len(CustomerAccountant(place.engine, place.config.limits, place.clock).charged(run_id))
        finally:
            place.close()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("superlink"))


def federate(plan: Plan, rows: list[Any], *, noisy: bool) -> Weights:
    """What the plan makes of these rows without any transport: same sums, same noise or none."""
    learner = plan.learner()
    for number in range(1, plan.rounds + 1):
        noise, told = plan.noise_of(number), learner.told(number)
        parts = [noise.encode(learner.sums(number, told, part)) for part in rows]
        shares = [noise.draw_share() for _ in rows] if noisy else []
        learner.step(number, noise.read(np.sum([*parts, *shares], axis=0)), noise.sum_sigma)
    return learner.model()


def test_the_model_is_the_exact_one_up_to_the_noise_that_was_agreed(played: Played) -> None:
    plan = read_plan(played.proposal)
    model = load_weights(played.model, plan.kind, plan.width)
    rows = [played.rows(plan, party) for party in plan.partners]
    exact = federate(plan, rows, noisy=False)

    def distance(weights: Weights) -> float:
        return norm({name: weights[name] - exact[name] for name in exact})

    usual = [distance(federate(plan, rows, noisy=True)) for _ in range(30)]
    assert 0.2 * min(usual) < distance(model) < 2 * max(usual)
    assert norm(exact) > 0


def test_every_partner_paid_each_round_once_and_kept_no_key(played: Played) -> None:
    for party in PARTNERS:
        assert played.charged(party, "stock-1") == ROUNDS
        assert not (played.site.partner(party) / "state" / FILE_NAME).exists()


def test_a_proposal_whose_epsilon_is_not_true_is_refused_by_name_and_costs_nothing(played: Played) -> None:
    assert any(f"{party}: PROPOSAL_REFUSED: PROPOSAL_REFUSED" in played.refusal for party in PARTNERS)
    assert "epsilon" not in played.refusal  # why is in the partner's own log
    for party in PARTNERS:
        assert played.charged(party, "stock-2") == 0


def test_the_runner_unpacks_no_bundle(played: Played) -> None:
    assert played.unpacked == {party: party != RUNNER for party in PARTNERS}


def test_everything_ended_when_it_was_asked_to(played: Played) -> None:
    assert played.left == []


@pytest.mark.parametrize("party", PARTNERS)
def test_names_keys_and_masked_vectors_left_the_partner_and_nothing_else(played: Played, party: str) -> None:
    files = sorted((played.tap / party).glob("*.bin"))
    kinds = [file.name.partition("-")[2] for file in files]
    run = ["flower.query.proposal.bin", *["flower.query.keys.bin", "flower.train.bin"] * ROUNDS]
    assert kinds == [*run, "flower.query.proposal.bin"]
    sent = b"\0\0".join(file.read_bytes() for file in files)
    customers = pd.read_csv(played.site.data / party / "customers.csv")
    text = b"\n".join(re.findall(rb"[\x20-\x7e]{6,}", sent)).decode().casefold()
    assert not set(re.findall(r"[bia]\d{8}", text)) & {key.casefold() for key in customers["customer_id"]}
    for row in np.unique(MARKETING_V1.encode(customers.head(300), list(read_plan(played.proposal).features)), axis=0):
        assert row.astype(np.float32).tobytes() not in sent
    plan = read_plan(played.proposal)
    for number, file in enumerate(files[2 : len(run) : 2], start=1):
        content = unpack(file.read_bytes(), item="tap").content
        assert list(content) == ["masked"]
        arrays = from_record(content["masked"], item="tap")  # type: ignore[arg-type]
        vector = arrays["sum"]
        assert list(arrays) == ["sum"]
        assert (vector.dtype, vector.shape) == (np.dtype("<u4"), (plan.noise_of(number).width,))
        # Over the whole range: sums and noise alone are far smaller, see the test of the sum in tests/sim.
        assert np.abs(vector.view(np.int32).astype(float)).max() > 2**28
