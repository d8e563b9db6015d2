"""What is learned from few customers: joint and alone, with and without privacy, at partners of different ages.

Three partners with the same number of customers each, drawn from the rows that are not in the common test set, one
young, one old, one in between; a row may be at several. Each seed draws customers and noise anew; a figure is the mean
over seeds, with a 95 % interval of that mean (``_ci``). Joint is the learner of the shipped policy under the shipped
plan's budget (its rounds that only measure, and its spare attempts, are paid and not used), with exact sums, grid and
discrete shares as in a run, but without masks, and all rounds drawn as the one sum that their mean is. Alone is the
same learner with the noise of one partner, that spends all on one sum. Epsilon is for a person who may be a customer of
every partner, ``_customer`` for a customer of one, which is what a partner alone promises.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from federation.core.errors import TrainingError
from federation.policy.specs import TrainingSpec
from federation.training.accounting import calibrate_sums
from federation.training.counts import CountsLearner
from federation.training.features import Floats, find_schema, read_labels
from federation.training.joint_noise import JointNoise, best_scale_bits
from federation.training.learner import Rows
from federation.training.measures import auc_interval
from federation.training.models import LINEAR_DISCRIMINANT, predict

DELTA = 1e-6
EPSILONS = (0.5, 1.0, 2.0, 3.0, 8.0)
AGES = ((0, 38, 3.0), (45, 200, 4.0), (33, 50, 3.0))
"""For each partner: customers from the first age to below the second are so many times as likely as others."""


@dataclass(frozen=True)
class People:
    """Encoded rows that partners are drawn from, and the common test set."""

    x: Floats
    y: Floats
    ages: npt.NDArray[np.float64]
    test_x: Floats
    test_y: npt.NDArray[np.float64]


def read_people(pool: Any, test: Any, spec: TrainingSpec) -> People:
    """Encodes two tables with the policy's features."""
    schema = find_schema(spec.feature_schema)
    (y, labelled), (test_y, _) = read_labels(pool, spec.label), read_labels(test, spec.label)
    ages = np.asarray(pool["age"], dtype=np.float64)[labelled]
    x, test_x = schema.encode(pool, spec.features)[labelled], schema.encode(test, spec.features)
    return People(x, y[labelled], ages, test_x, test_y.astype(np.float64))


def draw_partners(people: People, rows: int, seed: int) -> list[Rows]:
    """Three partners of ``rows`` customers, by age."""
    rng = np.random.default_rng(seed)
    drawn = []
    for low, high, times in AGES:
        weight = np.where((people.ages >= low) & (people.ages < high), times, 1.0)
        places = rng.choice(len(people.y), rows, replace=False, p=weight / weight.sum())
        drawn.append(Rows(people.x[places], people.y[places]))
    return drawn


def learn(partners: list[Rows], spec: TrainingSpec, multiplier: float, collusion: int) -> CountsLearner:
    """The learner after one noisy sum of the partners' rows. Raises TrainingError for too few customers."""
    learner = CountsLearner(find_schema(spec.feature_schema).select(spec.features), rounds=1)
    bits = best_scale_bits(len(partners), spec.max_rows_per_partner)
    noise = JointNoise(len(partners), collusion, learner.width(1), learner.touched(1), bits, multiplier)
    total = sum(noise.encode(learner.sums(1, {}, rows)) + noise.draw_share() for rows in partners)
    learner.step(1, noise.read(np.asarray(total)), noise.sum_sigma)
    return learner


def judge(people: People, partners: list[Rows], spec: TrainingSpec, multiplier: float, collusion: int) -> float:
    """AUC on the common test set; a half where the run ends without a model."""
    try:
        model = learn(partners, spec, multiplier, collusion).model()
    except TrainingError:
        return 0.5
    return auc_interval(predict(LINEAR_DISCRIMINANT, model, people.test_x), people.test_y).value


def judge_plain(people: People, parts: list[Rows], model: Any) -> float:
    """AUC of a model of scikit-learn on all rows together, without privacy."""
    fitted = model.fit(np.vstack([part.x for part in parts]), np.concatenate([part.y for part in parts]))
    return auc_interval(fitted.predict_proba(people.test_x)[:, 1].astype(np.float64), people.test_y).value


def logistic() -> LogisticRegression:
    """The yardstick without privacy."""
    return LogisticRegression(C=3, max_iter=1000)


def boosted(seed: int) -> HistGradientBoostingClassifier:
    """The other yardstick without privacy."""
    return HistGradientBoostingClassifier(max_iter=60, learning_rate=0.06, max_leaf_nodes=8, random_state=seed)


def measure_learned(people: People, spec: TrainingSpec, rows: int, seeds: int, suffix: str) -> dict[str, Any]:
    """All figures for partners of so many customers; names end in ``suffix``."""
    paid = spec.rounds + spec.spare_attempts + (spec.judging.rounds if spec.judging else 0)
    # The mean of the rounds has the noise of one sum with this multiplier.
    joint = {epsilon: calibrate_sums(epsilon, DELTA, paid) / math.sqrt(spec.rounds) for epsilon in EPSILONS}
    alone = calibrate_sums(1.0, DELTA, 1)
    found: dict[str, list[Any]] = {}

    def note(name: str, value: Any) -> None:
        found.setdefault(name, []).append(value)

    for seed in range(seeds):
        partners = draw_partners(people, rows, seed)
        for epsilon, multiplier in joint.items():
            note(f"{epsilon:g}", judge(people, partners, spec, multiplier, spec.collusion))
        # A customer of one partner changes a third of what somebody who is everywhere changes.
        note("customer", judge(people, partners, spec, joint[1.0] / len(partners), spec.collusion))
        note("local_eps1", [judge(people, [part], spec, alone, 0) for part in partners])
        note("pooled_lr", judge_plain(people, partners, logistic()))
        note("pooled_gb", judge_plain(people, partners, boosted(seed)))
        note("local", [judge_plain(people, [part], logistic()) for part in partners])
    named = {
        "auc_joint_eps1": found["1"],
        "auc_joint_eps1_customer": found["customer"],
        "auc_pooled_lr": found["pooled_lr"],
        "auc_pooled_gb": found["pooled_gb"],
        "auc_local": found["local"],
        "auc_local_eps1": found["local_eps1"],
    }
    result: dict[str, Any] = {}
    for name, values in named.items():
        mean, reach = np.mean(values, axis=0), 1.96 * np.std(values, axis=0, ddof=1) / math.sqrt(seeds)
        result[f"{name}{suffix}"] = np.round(mean, 4).tolist()
        result[f"{name}_ci{suffix}"] = np.round([mean - reach, mean + reach], 4).T.tolist()
    result[f"auc_joint_by_epsilon{suffix}"] = {
        f"{epsilon:g}": round(float(np.mean(found[f"{epsilon:g}"])), 4) for epsilon in EPSILONS
    }
    return result
