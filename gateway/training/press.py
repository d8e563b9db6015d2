"""Makes of a finished run what people get: the model with its measures and its signed card.

Everything here is post-processing of what the run paid for, or is about public rows; it costs no privacy.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from federation.core.clock import Clock
from federation.core.errors import ConfigError, Reason
from federation.core.identity import Identity
from federation.training.features import find_schema
from federation.training.judged import read_judged
from federation.training.judging import Doubles, Grouping, judge_of, quantile_edges
from federation.training.learner import Learner
from federation.training.models import Weights, load_weights, save_weights
from federation.training.plan import Plan
from federation.training.signed_card import sign_card
from gateway.training.card import Measures, write_card
from gateway.training.evaluation import Comparison, Judge, PublicSet
from gateway.training.losses import LossStore
from gateway.training.runs import Model

DEFAULT_GROUPINGS = (Grouping.banded("age", (30.0, 45.0, 60.0)),)
"""By which a model is judged on public rows where the run says nothing."""
EDGE_MARGIN = 1e-6
COMPARE_FIX = "Name labelled rows that are nobody's customers there, or compare at a partner on its own rows."


def judge_for(plan: Plan) -> Judge:
    """How the model of a run reads rows."""
    return Judge(plan.kind, plan.schema, plan.features, plan.label)


class Press:
    """Safe to call from any thread.

    Args:
        identity: The gateway's; signs cards.
        clock: Dates them.
        losses: Keeps the curve of a run.
        public: Labelled rows that are nobody's customers; None for cards without public measures.
        region_of: Country of residence to region, for public rows that say where people live.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        clock: Clock,
        losses: LossStore,
        public: PublicSet | None,
        region_of: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._identity, self._clock, self._losses = identity, clock, losses
        self._region_of = region_of
        self.public = public

    def check(self, plan: Plan) -> None:
        """Whether the public rows can judge the model of a run. Raises DataError (MISSING_COLUMN, BAD_FIELD)."""
        if self.public is not None:
            self.public.check(judge_for(plan))

    def prepare(self, plan: Plan, learner: Learner) -> None:
        """Before the rounds: the bins of scores of judging rounds become those of public rows."""
        judge, public = judge_of(learner), self.public
        if judge is None or public is None:
            return

        def edges(model: Weights, bins: int) -> Doubles:
            chosen = quantile_edges(public.score(judge_for(plan), model), bins)
            return np.clip(chosen, EDGE_MARGIN, 1 - EDGE_MARGIN)

        judge.choose_edges = edges

    def watch(self, plan: Plan, number: int, weights: Weights) -> None:
        """After a round: keeps the model's loss on public rows."""
        if self.public is not None and 0 < number <= plan.learning_rounds:
            self._losses.keep(plan.run_id, number, self.public.loss(judge_for(plan), weights))

    def compare(self, first: Model, second: Model) -> Comparison:
        """Two models on the public rows.

        Raises:
            ConfigError: MISSING_FILE without a public set.
            DataError: BAD_FIELD where the models were trained for different labels.
        """
        public = self.public
        if public is None:
            raise ConfigError(Reason.MISSING_FILE, item="evaluation_csv in gateway.yaml", fix=COMPARE_FIX)
        judges = []
        for model in (first, second):
            card = json.loads(model.card_json)
            schema, features = find_schema(card["feature_schema"]), tuple(card["features"])
            judge = Judge(card["model"], schema, features, card["label"])
            judges.append((judge, load_weights(model.weights, judge.kind, schema.width(features))))
        return public.compare(*judges)

    def finish(
        self, plan: Plan, weights: Weights, *, attempts: int, learner: Learner | None, policy_version: str
    ) -> Model:
        """The model as files.

        Args:
            plan: Of the run.
            weights: What it learned.
            attempts: How often partners were asked.
            learner: What drove a secure sum, after its last round; None under local noise.
            policy_version: Under which the model is released.
        """
        data = save_weights(weights)
        card = write_card(
            plan,
            data,
            alliance=self._identity.subject.alliance,
            attempts=attempts,
            policy_version=policy_version,
            trained_at=self._clock.now(),
            measures=self._measure(plan, weights, learner),
        )
        return Model(plan.run_id, data, card, sign_card(card, self._identity).SerializeToString())

    def _measure(self, plan: Plan, weights: Weights, learner: Learner | None) -> Measures:
        judge, public = judge_for(plan), self.public
        return Measures(
            public=None if public is None else public.measure(judge, weights, self._groupings(plan), self._region_of()),
            judged=self._judged(judge, weights, learner),
            losses=self._losses.read(plan.run_id),
            reference=None if public is None else public.shares(judge),
        )

    def _judged(self, judge: Judge, weights: Weights, learner: Learner | None) -> dict[str, Any] | None:
        found = None if learner is None else judge_of(learner)
        if found is None:
            return None
        scores = None if self.public is None else self.public.score(judge, weights)
        return read_judged(found.judging, *found.counts(), public_scores=scores)

    def _groupings(self, plan: Plan) -> tuple[Grouping, ...]:
        return plan.judging.groupings if plan.judging is not None else DEFAULT_GROUPINGS
