"""Runs with a secure sum over real gRPC: what the gateway sees, partners that are lost, and what it all costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from structlog.testing import capture_logs

from federation.client.training.workbench import Workbench
from federation.core.errors import Reason, TrainingError
from federation.privacy.composition import epsilon_of
from federation.training.flower import unpack
from federation.training.learner import Rows
from federation.training.models import initial
from federation.training.plan import read_plan
from federation.training.secure_sum import KEY, Attempt, RoundKey
from federation.v1 import common_pb2
from federation.v1 import training_pb2 as pb
from gateway.training.hub import Hub
from tests.kits.training import DELTA, PARTNERS, SUMMED, Gateway, Partner, alliance, follow, make_caller, make_rows


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Everything that partners sent to the gateway, as (party, Flower message)."""
    found: list[tuple[str, Any]] = []
    deliver = Hub.deliver

    def tap(self: Hub, party: str, wire: pb.FlowerMessage) -> None:
        found.append((party, unpack(wire.message, item="tap")))
        deliver(self, party, wire)

    monkeypatch.setattr(Hub, "deliver", tap)
    return found


def card_of(gateway: Gateway) -> dict[str, Any]:
    return dict(json.loads(gateway.service.get_model(make_caller()).card_json))


def check_books(gateway: Gateway, partners: dict[str, Partner], attempts: int) -> None:
    """The card, the alliance's ledger and every partner's accountant tell the same."""
    card = card_of(gateway)
    assert card["attempts"] == attempts
    assert epsilon_of(gateway.gates.events, DELTA) == pytest.approx(card["epsilon_per_person"], abs=1e-4)
    assert card["epsilon_per_customer"] < card["epsilon_per_person"] <= SUMMED.epsilon
    for whom in ("customer", "person"):
        assert 0.85 < card[f"tight_epsilon_per_{whom}"] / card[f"epsilon_per_{whom}"] <= 1
    for partner in partners.values():
        assert partner.agent.accountant.spent() == pytest.approx(card["epsilon_per_customer"], abs=1e-4)


def test_gateway_learns_the_sum_and_parts_look_uniform(tmp_path: Path, taken: list[tuple[str, Any]]) -> None:
    evaluation_csv = tmp_path / "test.csv"
    make_rows(3000, 99).to_csv(evaluation_csv, index=False)
    with alliance(SUMMED, evaluation_csv=evaluation_csv) as (gateway, partners):
        assert follow(gateway)[-1].state == pb.RUN_STATE_FINISHED
        check_books(gateway, partners, attempts=SUMMED.rounds)
        assert card_of(gateway)["metrics"]["auc"] > 0.68
        plan = read_plan(gateway.runs.all()[0].proposal)
        assert plan.noise is not None
        exact = [
            plan.noise.encode(plan.learner().sums(1, initial(plan.kind, plan.width), Rows(*rows)))
            for rows in (_rows(partner, plan) for partner in partners.values())
        ]
    kinds = [list(message.content) for _, message in taken]
    assert sorted(map(tuple, kinds)) == sorted([("key",), ("masked",)] * SUMMED.rounds * len(PARTNERS))
    vectors: dict[str, list[np.ndarray]] = {party: [] for party in PARTNERS}
    for party, message in taken:
        if "masked" in message.content:
            assert list(message.content["masked"]) == ["sum"]
            vectors[party].append(message.content["masked"]["sum"].numpy())
    for words in (*vectors.values(), np.add(vectors["bank"], vectors["airline"])):
        bytes_seen = np.frombuffer(np.concatenate(list(words)).astype("<u4").tobytes(), dtype=np.uint8)
        assert stats.chisquare(np.bincount(bytes_seen // 16, minlength=16)).pvalue > 1e-6
    # round 1 together: the exact sum plus noise of the stated size, and nothing like it from fewer than all
    first = [vectors[party][0] for party in PARTNERS]
    noise = np.sum(first, axis=0, dtype=np.uint32).view(np.int32) - np.sum(exact, axis=0)
    assert np.abs(noise).max() < 8 * np.sqrt(3) * plan.noise.share_sigma
    for part in (first[0], first[1], first[2], first[0] + first[1]):
        assert np.abs(part.view(np.int32).astype(float)).max() > 2**28


def _rows(partner: Partner, plan: Any) -> Any:
    bench = Workbench(
        plan, data=partner.data, accountant=None, memory=None, identity=None, clock=None, random_bytes=None,  # type: ignore[arg-type]
    )  # fmt: skip
    return bench.rows()


def test_lost_attempt_is_tried_again_with_new_keys_and_noise_and_paid(
    monkeypatch: pytest.MonkeyPatch, taken: list[tuple[str, Any]]
) -> None:
    take, calls = Workbench.take_key, iter(range(100))

    def forgetful(self: Workbench, attempt: Any) -> RoundKey:
        if next(calls) == 4:  # one partner, in the second round: it was restarted between key and vector
            self._keys.take()
        return take(self, attempt)

    monkeypatch.setattr(Workbench, "take_key", forgetful)
    with alliance(SUMMED) as (gateway, partners):
        assert follow(gateway)[-1].state == pb.RUN_STATE_FINISHED
        # the partner without a key saw no row, so it alone paid for one attempt less
        card = card_of(gateway)
        assert card["attempts"] == SUMMED.rounds + 1
        assert epsilon_of(gateway.gates.events, DELTA) == pytest.approx(card["epsilon_per_person"], abs=1e-4)
        assert card["epsilon_per_person"] <= SUMMED.epsilon
        charged = sorted(len(p.agent.accountant.charged(card["run_id"])) for p in partners.values())
        assert charged == [SUMMED.rounds, SUMMED.rounds + 1, SUMMED.rounds + 1]
        about = [body["subject"] for kind, body in gateway.gates.log if kind == "intent"]
        assert {
            "run": card["run_id"],
            "attempt": SUMMED.rounds + 1,
        } not in about  # it was the third attempt, not the last
        assert {"run": card["run_id"], "attempt": 3} in about
    offers = [
        message.content["key"]["offer"] for _, message in taken if not message.has_error() and "key" in message.content
    ]
    keys = [json.loads(common_pb2.Signed.FromString(offer).payload)["key"] for offer in offers]
    assert len(set(keys)) == len(keys) == (SUMMED.rounds + 1) * len(PARTNERS)
    sums = [
        m.content["masked"]["sum"].numpy().tobytes() for _, m in taken if not m.has_error() and "masked" in m.content
    ]
    assert len(set(sums)) == len(sums)


def test_attempts_without_end_are_refused_and_budget_is_never_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Workbench, attempt: Any) -> RoundKey:
        if self._identity.subject.party == "bank":
            raise TrainingError(Reason.ATTEMPT_LOST)
        return take(self, attempt)

    take = Workbench.take_key
    monkeypatch.setattr(Workbench, "take_key", forgetful)
    with alliance(SUMMED) as (gateway, partners):
        last = follow(gateway)[-1]
        assert last.state == pb.RUN_STATE_FAILED
        assert "round 1: no reply of bank" in last.reason
        assert epsilon_of(gateway.gates.events, DELTA) <= SUMMED.epsilon
        assert partners["bank"].agent.accountant.spent() == 0
        paid = partners["insurer"].agent.accountant.charged(gateway.runs.all()[0].run_id)
        assert len(paid) == 1 + SUMMED.spare_attempts


def test_retry_without_budget_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def poor(self: Workbench, attempt: Any) -> RoundKey:
        gateway.gates.budget_left = False
        raise TrainingError(Reason.ATTEMPT_LOST)

    monkeypatch.setattr(Workbench, "take_key", poor)
    with alliance(SUMMED) as (gateway, partners):
        assert "BUDGET_EXHAUSTED" in follow(gateway)[-1].reason
        assert all(partner.agent.accountant.spent() == 0 for partner in partners.values())


def test_partner_that_crashes_in_mid_run_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with alliance(SUMMED.model_copy(update={"rounds": 10, "spare_attempts": 4})) as (gateway, partners):
        call = gateway.stub().StartRun(pb.StartRunRequest(idempotency_key="k1"))
        for told in call:
            if told.progress.done >= 2:
                break
        partners["bank"].crash()
        partners["bank"].begin()
        assert follow(gateway, key="k1")[-1].state == pb.RUN_STATE_FINISHED
        card = card_of(gateway)
        assert card["attempts"] >= 10
        assert epsilon_of(gateway.gates.events, DELTA) == pytest.approx(card["epsilon_per_person"], abs=1e-4)
        # nobody trained more often than the alliance paid for
        assert all(p.agent.accountant.spent() <= card["epsilon_per_customer"] + 1e-4 for p in partners.values())


def test_key_that_the_gateway_made_itself_ends_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from federation.training import summed

    read = summed.SummedTraining._offers

    def meddle(self: Any, replies: Any) -> dict[str, bytes]:
        offers = read(self, replies)
        signed = common_pb2.Signed.FromString(offers["airline"])
        said = json.loads(signed.payload)
        signed.payload = signed.payload.replace(said["key"].encode(), b"ab" * 32)
        return {**offers, "airline": signed.SerializeToString()}

    monkeypatch.setattr(summed.SummedTraining, "_offers", meddle)
    with alliance(SUMMED) as (gateway, partners), capture_logs() as logged:
        last = follow(gateway)[-1]
        assert last.state == pb.RUN_STATE_FAILED
        assert "BAD_KEY" in last.reason
        assert any("airline" in entry["item"] for entry in logged if entry["event"] == "training_refused")
        assert all(partner.agent.accountant.spent() == 0 for partner in partners.values())


def test_partner_whose_key_is_no_good_is_named_and_not_only_who_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    offer_key = Workbench.offer_key

    def cheat(self: Workbench, message_id: str, attempt: Attempt) -> bytes:
        offer = offer_key(self, message_id, attempt)
        if self._identity.subject.party != "bank":
            return offer
        return self._identity.sign(KEY, attempt.signed_payload("bank", bytes(32))).SerializeToString()  # of low order

    monkeypatch.setattr(Workbench, "offer_key", cheat)
    with alliance(SUMMED) as (gateway, partners):
        assert follow(gateway)[-1].reason.endswith("BAD_KEY: bank: low order")
        assert all(partner.agent.accountant.spent() == 0 for partner in partners.values())


def test_gateway_that_shows_partners_different_models_gets_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    from federation.training import summed

    ask = summed.SummedTraining._message

    def meddle(self: Any, node: int, content: Any, kind: str, number: int) -> Any:
        if kind == "train" and node == 3:
            other = {name: array + 1 for name, array in self._told.items()}
            content = {**content, "arrays": summed.to_record(other)}
        return ask(self, node, content, kind, number)

    monkeypatch.setattr(summed.SummedTraining, "_message", meddle)
    with alliance(SUMMED) as (gateway, partners):
        assert "no reply of bank" in follow(gateway)[-1].reason
        assert partners["bank"].agent.accountant.spent() == 0


def test_partner_that_wants_sums_takes_no_local_run_and_the_other_way_round() -> None:
    with alliance(SUMMED) as (gateway, partners):
        partners["bank"].rules.training = SUMMED.model_copy(update={"trust": "local"})
        last = follow(gateway)[-1]
        assert last.reason.endswith("bank: PROPOSAL_REFUSED")
        partners["bank"].rules.training = SUMMED.model_copy(update={"collusion": 2})
        assert follow(gateway)[-1].reason.endswith("bank: PROPOSAL_REFUSED")
        assert all(partner.agent.accountant.spent() == 0 for partner in partners.values())
