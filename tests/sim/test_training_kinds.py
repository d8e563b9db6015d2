"""Every kind of model is trained over real gRPC, within what policy and partners allow, and told apart on its card."""

import json
from pathlib import Path
from typing import Any

import pytest

from federation.policy.specs import TrainingSpec
from federation.training.models import LINEAR_DISCRIMINANT, LOGISTIC_REGRESSION, PERCEPTRON, load_weights
from federation.training.plan import read_plan
from federation.v1 import training_pb2 as pb
from tests.kits.training import SPEC, SUMMED, alliance, follow, make_caller, make_rows

BOTH = SUMMED.model_copy(update={"models": (LINEAR_DISCRIMINANT, LOGISTIC_REGRESSION)})
DEEP = SPEC.model_copy(update={"models": (PERCEPTRON,), "learning_rate": 2.0, "rounds": 8})


@pytest.mark.parametrize(
    ("spec", "asked", "kind"),
    [
        (BOTH, "", LINEAR_DISCRIMINANT),
        (BOTH, LOGISTIC_REGRESSION, LOGISTIC_REGRESSION),
        (DEEP, "", PERCEPTRON),
    ],
)
def test_each_kind_learns_and_its_card_names_it(tmp_path: Path, spec: TrainingSpec, asked: str, kind: str) -> None:
    evaluation_csv = tmp_path / "test.csv"
    make_rows(3000, 99).to_csv(evaluation_csv, index=False)
    with alliance(spec, evaluation_csv=evaluation_csv) as (gateway, partners):
        assert follow(gateway, model=asked)[-1].state == pb.RUN_STATE_FINISHED
        model = gateway.service.get_model(make_caller())
        card: dict[str, Any] = json.loads(model.card_json)
        plan = read_plan(gateway.runs.all()[0].proposal)
        assert card["model"] == plan.kind == kind
        assert card["metrics"]["auc"] > 0.65  # a model that knows nothing has a half
        assert load_weights(model.weights, kind, plan.width).keys() == names_of(kind)
        for partner in partners.values():
            assert partner.agent.accountant.spent() == pytest.approx(card["epsilon_per_customer"], abs=1e-4)


def names_of(kind: str) -> set[str]:
    """Names of a kind's arrays."""
    deep = {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}
    return deep if kind == PERCEPTRON else {"weight", "bias"}


def test_kind_outside_the_policy_is_refused_at_the_gateway_and_by_each_partner_for_itself() -> None:
    with alliance(BOTH) as (gateway, partners):
        partners["bank"].rules.training = SUMMED  # knows logistic regression only
        last = follow(gateway)[-1]
        assert last.state == pb.RUN_STATE_FAILED
        assert last.reason.endswith("bank: PROPOSAL_REFUSED")
        assert all(partner.agent.accountant.spent() == 0 for partner in partners.values())
        assert follow(gateway, model=LOGISTIC_REGRESSION)[-1].state == pb.RUN_STATE_FINISHED
