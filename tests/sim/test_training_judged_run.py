"""A run that ends with judging rounds: what the card says of the partners' own rows, who signed it, what it cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from structlog.testing import capture_logs

from federation.core.errors import DataError, IdentityError
from federation.core.identity import Role
from federation.policy.specs import JudgingSpec, TrainingSpec
from federation.privacy.composition import epsilon_of
from federation.training.models import predict
from federation.training.plan import read_plan
from federation.training.saved import SavedModel, load_model, verify_model
from federation.training.signed_card import CARD_FILE, WEIGHTS_FILE, save_model
from federation.v1 import training_pb2 as pb
from federation.v1.common_pb2 import Signed
from gateway.training.proposals import TrainingRules, complete
from tests.kits.training import (
    DELTA,
    PARTNERS,
    SUMMED,
    Gateway,
    Partner,
    alliance,
    follow,
    identity_of,
    make_rows,
)

JUDGED = SUMMED.model_copy(
    update={"judging": JudgingSpec(rounds=4, bands={"age": (30.0, 50.0)}), "max_rounds": 8, "epsilon": 3.0}
)
REGIONS = ("CN", "EEA", "SG")
ROWS = 6_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run: gateway, partners, and the answer to a request for its model."""
    folder = tmp_path_factory.mktemp("judging")
    make_rows(4_000, 99).to_csv(folder / "test.csv", index=False)
    with alliance(JUDGED, rows=ROWS, evaluation_csv=folder / "test.csv") as (gateway, partners):
        gateway.rules = TrainingRules(JUDGED, DELTA, PARTNERS, REGIONS)
        for place, partner in enumerate(partners.values()):
            frame = partner.data.frame
            frame["region"] = np.random.default_rng(place).choice(
                ["DE", "PT", "SG", "US"], len(frame), p=[0.6, 0.2, 0.19, 0.01]
            )
        assert follow(gateway)[-1].state == pb.RUN_STATE_FINISHED
        yield gateway, partners, gateway.stub().GetModel(pb.GetModelRequest())


Run = tuple[Gateway, dict[str, Partner], pb.GetModelResponse]


def card_of(run: Run) -> dict[str, Any]:
    return dict(json.loads(run[2].card_json))


def model_of(run: Run) -> SavedModel:
    return verify_model(run[2].weights, run[2].signed_card, identity_of("bank").ca)


def test_judging_is_paid_for_by_the_epsilon_that_was_promised(run: Run) -> None:
    gateway, partners, _ = run
    card = card_of(run)
    assert card["rounds"] == JUDGED.rounds + 4
    assert epsilon_of(gateway.gates.events, DELTA) == pytest.approx(card["epsilon_per_person"], abs=1e-4)
    assert 0 < card["epsilon_per_customer"] < card["epsilon_per_person"] <= JUDGED.epsilon
    for partner in partners.values():
        assert partner.agent.accountant.spent() == pytest.approx(card["epsilon_per_customer"], abs=1e-4)
        assert len(partner.agent.accountant.charged(card["run_id"])) == JUDGED.rounds + 4
    plan = read_plan(gateway.runs.all()[0].proposal)
    assert {fields for facts in gateway.gates.asked for fields in [facts.fields]} == {plan.fields}
    assert "region" in plan.fields


def test_what_is_measured_is_near_what_the_partners_alone_could_know(run: Run) -> None:
    card, model = card_of(run), model_of(run)
    judged = card["judged"]
    frames = [partner.data.frame for partner in run[1].values()]
    labels = np.concatenate([frame["accepted_offer"].to_numpy() for frame in frames])
    low, high = judged["everyone"]["rows"][1:]
    reach = (high - low) * 2  # 8 standard deviations
    assert abs(judged["everyone"]["rows"][0] - 3 * ROWS) < reach
    rate = judged["everyone"]["positive_rate"]
    assert abs(rate[0] - labels.mean()) < 4 * (rate[2] - rate[1])
    scores = np.concatenate(
        [predict(model.kind, model.weights, model.schema.encode(f, model.features)) for f in frames]
    )
    auc = judged["everyone"]["auc"]
    assert abs(auc[0] - roc_auc_score(labels, scores)) < 0.02 + 4 * (auc[2] - auc[1])
    assert [group["group"] for group in judged["by"]["region"]] == [*REGIONS, "unknown"]
    assert [group["group"] for group in judged["by"]["age"]] == ["below 30", "30 to 50", "from 50", "unknown"]
    by = {group["group"]: group for group in judged["by"]["region"]}
    assert by["CN"]["too_few"]
    share = by["EEA"]["rows"][0] / judged["everyone"]["rows"][0]
    assert 0.6 < share < 1.0
    assert card["rows"] == judged["everyone"]["rows"]


def test_public_measures_are_by_group_and_the_curve_has_every_learning_round(run: Run) -> None:
    card = card_of(run)
    assert [group["group"] for group in card["metrics"]["by"]["age"]] == ["below 30", "30 to 50", "from 50"]
    assert "region" not in card["metrics"]["by"]  # the set does not say
    assert [number for number, _ in card["loss_by_round"]] == list(range(1, JUDGED.rounds + 1))
    assert card["loss_by_round"][-1][1] < 0.69  # a model that knows nothing has the logarithm of 2
    assert len(card["reference"]) == len(card["columns"])
    assert sum(card["reference"]) == pytest.approx(len(card["features"]), abs=1e-3)


def test_card_holds_nobody(run: Run) -> None:
    text = run[2].card_json
    assert not any(name in text for partner in run[1].values() for name in partner.data.frame.index[:200])


def test_saved_model_verifies_with_nothing_but_the_ca(run: Run, tmp_path: Path) -> None:
    save_model(model_of(run), tmp_path)
    again = load_model(tmp_path, identity_of("airline").ca)
    assert again.card == card_of(run)
    assert str(again.signer.role) == "gateway"
    assert again.digest == again.card["weights_sha256"]

    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(DataError, match="DIGEST_MISMATCH"):
        load_model(tmp_path, identity_of("airline").ca)
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)

    whole = json.loads((tmp_path / CARD_FILE).read_text())
    whole["card"]["epsilon_per_person"] = 0.1
    (tmp_path / CARD_FILE).write_text(json.dumps(whole))
    with pytest.raises(IdentityError, match="BAD_SIGNATURE"):
        load_model(tmp_path, identity_of("airline").ca)


def test_card_of_a_partner_or_another_alliance_is_no_card(run: Run) -> None:
    answer = run[2]
    forged = identity_of("bank").sign("model-card", answer.card_json.encode())
    with pytest.raises(IdentityError, match="ROLE_NOT_ALLOWED"):
        verify_model(answer.weights, forged, identity_of("bank").ca)
    other = identity_of("gateway", Role.GATEWAY).sign("training-key", answer.card_json.encode())
    with pytest.raises(IdentityError):
        verify_model(answer.weights, other, identity_of("bank").ca)
    with pytest.raises(DataError):
        verify_model(answer.weights, Signed(kind="model-card", payload=b"[]"), identity_of("bank").ca)


@pytest.mark.parametrize(
    ("own", "grouping"),
    [
        (SUMMED, None),
        (JUDGED, pb.Grouping(column="email", groups=["jane@example.com"])),
        (JUDGED, pb.Grouping(column="age", groups=["41", "42"])),
        (JUDGED, pb.Grouping(column="balance", edges=[0.0, 1e6])),
    ],
)
def test_a_partner_judges_by_what_its_own_policy_names(
    run: Run, own: TrainingSpec, grouping: pb.Grouping | None
) -> None:
    _, partners, _ = run
    asked = complete(pb.TrainingProposal(), TrainingRules(JUDGED, DELTA, PARTNERS, REGIONS), frozenset(PARTNERS))
    asked.run_id = "run-other"
    if grouping is not None:
        del asked.judging.groupings[:]
        asked.judging.groupings.append(grouping)
    agent = partners["bank"].agent
    agent._policy.training = own  # type: ignore[misc]
    with capture_logs() as logged:
        answer = agent.answer(pb.ExchangeMessagesResponse(proposal=asked))
    assert answer is not None
    assert answer.refusal.reason == "PROPOSAL_REFUSED"
    assert "judging" in logged[-1]["item"]


def test_a_proposal_brings_no_judging_of_its_own(run: Run) -> None:
    asked = pb.TrainingProposal(judging=pb.Judging(rounds=1, bins=2))
    with pytest.raises(DataError, match="judging"):
        complete(asked, TrainingRules(JUDGED, DELTA, PARTNERS, REGIONS), frozenset(PARTNERS))
