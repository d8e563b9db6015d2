"""Proposals at the gateway: what may be asked, what is filled in, and which policy holds when a run begins."""

from dataclasses import replace
from typing import Any

import pytest

from federation.core.errors import EntenteError, PolicyError, Reason, TrainingError
from federation.policy.specs import JudgingSpec
from federation.privacy.composition import epsilon_of
from federation.training.accounting import Steps, person_event
from federation.training.plan import read_plan
from federation.v1 import training_pb2 as pb
from gateway.training.proposals import TrainingRules, check_plan, complete
from tests.kits.training import DELTA, PARTNERS, SPEC, SUMMED

RULES = TrainingRules(SPEC, DELTA, PARTNERS)
ALL = frozenset(PARTNERS)


def test_silent_proposal_takes_the_defaults_and_the_noise_that_keeps_them_true() -> None:
    filled = complete(pb.TrainingProposal(), RULES, ALL)
    assert (filled.rounds, filled.label, tuple(filled.partners)) == (SPEC.rounds, SPEC.label, PARTNERS)
    steps = Steps(filled.noise_multiplier, filled.sampling_rate, filled.rounds * filled.steps_per_round)
    assert 0.98 * SPEC.epsilon < epsilon_of([person_event(steps, 3)], DELTA) <= SPEC.epsilon


@pytest.mark.parametrize(
    ("asked", "reason", "item"),
    [
        ({"run_id": "mine"}, Reason.BAD_FIELD, "run_id"),
        ({"noise_multiplier": 0.1}, Reason.BAD_FIELD, "noise_multiplier"),
        ({"features": ["job"]}, Reason.BAD_FIELD, 'features "job"; allowed: age'),
        ({"label": "age"}, Reason.BAD_FIELD, "label"),
        ({"rounds": 11}, Reason.BAD_FIELD, "rounds"),
        ({"epsilon": 3.1}, Reason.BAD_FIELD, "epsilon"),
        ({"model": "perceptron"}, Reason.BAD_FIELD, 'model "perceptron"; allowed: '),
        ({"epsilon": float("nan")}, Reason.BAD_FIELD, "epsilon"),
        ({"delta": 1e-5}, Reason.BAD_FIELD, "delta"),
        ({"partners": ["bank", "stranger"]}, Reason.BAD_FIELD, 'unknown partner "stranger"; known: airline, bank'),
        ({"partners": ["bank", "bank"]}, Reason.BAD_FIELD, "a partner twice"),
        ({"partners": ["bank"]}, Reason.TOO_FEW_PARTNERS, "at least 2"),
    ],
)
def test_proposal_outside_the_policy_is_refused(asked: dict[str, Any], reason: Reason, item: str) -> None:
    with pytest.raises(EntenteError, match=item) as caught:
        complete(pb.TrainingProposal(**asked), RULES, ALL)
    assert caught.value.reason == reason


JUDGED = SUMMED.model_copy(update={"judging": JudgingSpec(rounds=1), "rounds": 4})


@pytest.mark.parametrize(
    ("changes", "item"),
    [
        ({"max_epsilon": 1.0}, "epsilon"),
        ({"max_rounds": 3}, "rounds"),
        ({"models": ("linear_discriminant",)}, "model"),
        ({"features": ("age",)}, "features"),
        ({"label": "churned"}, "label"),
        ({"trust": "local"}, "trust"),
        ({"collusion": 2}, "collusion"),
        ({"judging": None}, "judging"),
        ({"judging": JudgingSpec(by_region=False)}, "judging"),
        ({"min_partners": 4}, "partners"),
    ],
)
def test_run_that_waited_is_held_to_the_policy_that_came_meanwhile(changes: dict[str, Any], item: str) -> None:
    rules = TrainingRules(JUDGED, DELTA, PARTNERS, ("CN", "EEA"))
    filled = complete(pb.TrainingProposal(), rules, ALL)
    filled.run_id = "run-1"
    plan = read_plan(filled)
    check_plan(plan, rules)
    with pytest.raises(PolicyError, match=item):
        check_plan(plan, replace(rules, spec=JUDGED.model_copy(update=changes)))
    with pytest.raises(PolicyError, match="delta"):
        check_plan(plan, replace(rules, delta=DELTA / 10))


def test_unnamed_partners_are_those_who_are_there() -> None:
    assert list(complete(pb.TrainingProposal(), RULES, ALL - {"bank"}).partners) == ["airline", "insurer"]
    with pytest.raises(TrainingError, match="bank, insurer") as caught:
        complete(pb.TrainingProposal(), RULES, frozenset({"airline"}))
    assert caught.value.reason == Reason.PARTNER_UNAVAILABLE
