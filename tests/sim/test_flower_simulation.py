"""The apps of a stock SuperLink in Flower's simulation: three virtual partners, each with its own workplace."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pandas as pd
import pytest
import yaml
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.simulation import run_simulation
from sklearn.metrics import roc_auc_score

from federation.client.stock.app import build_stock_app
from federation.client.stock.keys import FILE_NAME
from federation.client.training.approvals import Approvals
from federation.client.workplace import STATE_FILE
from federation.core.clock import FixedClock, SystemClock
from federation.core.database import open_database
from federation.core.errors import Reason, TrainingError
from federation.training.accountant import CustomerAccountant
from federation.training.flower import ClientApp, Context, Message
from federation.training.models import load_weights, norm, predict
from federation.training.plan import read_plan
from federation.training.stock.server_app import build_server_app
from federation.v1 import training_pb2 as pb
from tests.kits.superlink import MODEL, PARTNERS, Site, make_site

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]
RAY = importlib.util.find_spec("ray") is not None


class InProcess(Backend):
    """Stands in for Flower's one backend (ray), whose name is fixed in it: the same work in this process."""

    restarted: ClassVar[set[int]] = set()
    """Partners whose SuperNode loses its half of a key once, as one that answers late after a restart."""

    def __init__(self, backend_config: Any) -> None:
        super().__init__(backend_config)
        self._app: Callable[[], ClientApp] | None = None

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        self._app = app_fn

    @property
    def num_workers(self) -> int:
        return len(PARTNERS)

    def is_worker_idle(self) -> bool:
        return True

    def terminate(self) -> None:
        pass

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        assert self._app is not None
        if message.metadata.message_type == "train" and int(context.node_config["partition-id"]) in self.restarted:
            self.restarted.remove(int(context.node_config["partition-id"]))
            context.state["entente"].pop("lock")  # type: ignore[union-attr]
        return self._app()(message, context), context


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("simulation"))


@pytest.fixture(params=["inprocess", pytest.param("ray", marks=pytest.mark.skipif(not RAY, reason="no ray"))])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "inprocess":
        stand_in(monkeypatch)
    return str(request.param)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("raybackend")
    module.RayBackend = InProcess  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flwr.server.superlink.fleet.vce.backend.raybackend", module)


def play(site: Site, proposal: pb.TrainingProposal, backend: str, home: Path) -> None:
    """A run of virtual partners; the number that Flower gives a virtual node names its folder."""
    home.mkdir(exist_ok=True)
    (home / "ca.pem").write_bytes((site.partner("bank") / "identity" / "ca.pem").read_bytes())
    folders = [site.partner(party) for party in PARTNERS]
    run_simulation(
        build_server_app(lambda: home, lambda _: proposal),
        build_stock_app(lambda context: folders[int(context.node_config["partition-id"])]),
        num_supernodes=len(PARTNERS),
        backend_name=backend,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}},
    )


def charges(site: Site, party: str, run_id: str) -> int:
    config_limits: Any = None
    engine = open_database(site.partner(party) / "state" / STATE_FILE)
    try:
        return len(CustomerAccountant(engine, config_limits, SystemClock()).charged(run_id))
    finally:
        engine.dispose()


def test_virtual_partners_train_a_model_and_each_pays_for_it(site: Site, backend: str, tmp_path: Path) -> None:
    proposal = site.propose(f"sim-{backend}", rounds=6, epsilon=3)
    play(site, proposal, backend, tmp_path / "home")
    plan = read_plan(proposal)
    data = (tmp_path / "home" / "models" / f"sim-{backend}.safetensors").read_bytes()
    weights = load_weights(data, plan.kind, plan.width)
    test = pd.read_csv(site.data / "test.csv")
    scores = predict(plan.kind, weights, plan.schema.encode(test, plan.features))
    assert roc_auc_score(test[plan.label], scores) > 0.6
    facts = json.loads((tmp_path / "home" / "models" / f"sim-{backend}.json").read_text())
    assert facts["attempts"] == plan.rounds
    assert facts["epsilon_per_person"] <= plan.epsilon
    assert facts["alliance_ledger"] is False
    for party in PARTNERS:
        assert charges(site, party, plan.run_id) == plan.rounds
        assert not (site.partner(party) / "state" / FILE_NAME).exists()


def test_partner_that_refuses_ends_the_run_by_name_and_nobody_pays(site: Site, backend: str, tmp_path: Path) -> None:
    proposal = site.propose(f"sim-refused-{backend}", rounds=3)
    proposal.noise_multiplier /= 2  # the epsilon it claims is not true
    with pytest.raises(TrainingError, match=": PROPOSAL_REFUSED") as caught:
        play(site, proposal, backend, tmp_path / "home")
    assert caught.value.reason is Reason.PROPOSAL_REFUSED
    assert any(party in caught.value.item for party in PARTNERS)
    assert "epsilon" not in caught.value.item  # why is in the partner's own log
    assert not (tmp_path / "home" / "models").exists()
    for party in PARTNERS:
        assert charges(site, party, proposal.run_id) == 0


def test_a_round_whose_key_was_lost_is_tried_again_with_new_keys_and_paid(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch)
    proposal = site.propose("sim-lost", rounds=2, epsilon=3)
    monkeypatch.setattr(InProcess, "restarted", {PARTNERS.index("airline")})
    play(site, proposal, "inprocess", tmp_path / "home")
    facts = json.loads((tmp_path / "home" / "models" / "sim-lost.json").read_text())
    assert facts["attempts"] == 3
    assert facts["epsilon_per_person"] <= proposal.epsilon
    # the partner without a key saw no row, so it alone paid for one attempt less
    assert {party: charges(site, party, "sim-lost") for party in PARTNERS} == {"bank": 3, "insurer": 3, "airline": 2}


def test_under_local_noise_partners_answer_with_noisy_updates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch)
    site = make_site(tmp_path / "site")
    path = site.alliance / "policies" / "training.yaml"
    settings = {name: value for name, value in yaml.safe_load(path.read_text()).items() if name != "judging"}
    local = {"trust": "local", "steps_per_round": 5, "sampling_rate": 0.1, "clipping_norm": 1.0, "momentum": 0.0}
    local |= {"models": [MODEL], "rounds": 2}
    path.write_text(yaml.safe_dump({**settings, **local}))
    proposal = site.propose("sim-local", rounds=2, epsilon=3)
    play(site, proposal, "inprocess", tmp_path / "home")
    plan = read_plan(proposal)
    data = (tmp_path / "home" / "models" / "sim-local.safetensors").read_bytes()
    assert norm(load_weights(data, plan.kind, plan.width)) > 0
    assert [charges(site, party, "sim-local") for party in PARTNERS] == [3, 3, 3]  # the noisy size, and two rounds


def test_a_partner_that_approves_by_hand_is_asked_again_after_its_person_said_yes(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch)
    path = site.partner("insurer") / "partner.yaml"
    before = path.read_text()
    path.write_text(yaml.safe_dump({**yaml.safe_load(before), "limits": {"training_approval": "manual"}}))
    proposal = site.propose("sim-by-hand", rounds=1, epsilon=3)
    try:
        with pytest.raises(TrainingError, match="insurer: NOT_APPROVED: the proposal waits for a person"):
            play(site, proposal, "inprocess", tmp_path / "home")
        engine = open_database(site.partner("insurer") / "state" / STATE_FILE)
        approvals = Approvals(engine, SystemClock())
        assert [waiting.run_id for waiting in approvals.waiting()] == ["sim-by-hand"]
        approvals.decide(proposal, read_plan(proposal).digest, approved=True)
        engine.dispose()
        play(site, proposal, "inprocess", tmp_path / "home")
    finally:
        path.write_text(before)
    assert (tmp_path / "home" / "models" / "sim-by-hand.safetensors").exists()
    assert [charges(site, party, "sim-by-hand") for party in PARTNERS] == [1, 1, 1]


def test_message_before_the_proposal_is_refused_and_no_exception_leaves(site: Site, tmp_path: Path) -> None:
    from federation.training.flower import RecordDict, become, refusal_of, stamp

    become(5)
    message = Message(RecordDict({}), dst_node_id=9, message_type="train", group_id="1")
    stamp(message, "m-1")

    def context(**node: Any) -> Context:
        return Context(run_id=5, node_id=9, node_config=node, state=RecordDict(), run_config={})

    clock = FixedClock(SystemClock().now())
    app = build_stock_app(clock=clock)
    said = refusal_of(app(message, context(partner=str(site.partner("bank")))))
    assert said == "bank: PROPOSAL_REFUSED: a message before the proposal"
    nowhere = refusal_of(app(message, context()))
    assert nowhere == "a partner: BAD_CONFIG"

    elsewhere = refusal_of(app(message, context(partner=str(site.partner("bank") / "moved" / "partner.yaml"))))
    assert elsewhere == "a partner: MISSING_FILE"  # and not where
    (tmp_path / "partner.yaml").write_text("party: bank\ngateway: 127.0.0.1:1\nlimits: {epsilon_per_customer: -1}\n")
    wrong = refusal_of(app(message, context(partner=str(tmp_path / "partner.yaml"))))
    assert wrong == "a partner: BAD_CONFIG"  # and neither which file nor what in it

    def broken(_context: Context) -> Path:
        raise ValueError("customer B00000017")

    assert refusal_of(build_stock_app(broken, clock)(message, context())) == "a partner: INTERNAL"
