"""What a run may do, read from a proposal of the contract and checked; the same for the gateway and every partner."""

import hashlib
import math
import re
from dataclasses import dataclass, replace

from dp_accounting import DpEvent

from federation.core.errors import DataError, Reason, TrainingError
from federation.training.accounting import Steps, person_event, run_events
from federation.training.features import Feature, FeatureSchema, find_schema
from federation.training.joint_noise import MAX_SCALE_BITS, MIN_SHARE_SIGMA, JointNoise
from federation.training.judging import Judging, JudgingLearner, read_judging
from federation.training.learner import Course, Learner
from federation.training.learners import build_learner
from federation.training.models import LINEAR, STEPPED, shapes
from federation.training.secure_sum import MIN_PARTIES
from federation.v1 import training_pb2 as pb

PURPOSE = "model_training"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A file name, and on every terminal what it looks like: people approve a run by it."""
MAX_ROUNDS, MAX_STEPS, MAX_PARTNERS = 1_000, 1_000, 64
MAX_ROW_NORM = 1.5
"""Of the gradient of one row of a linear model before clipping: an encoded row has norm 1, so has the constant term."""
UPDATE_NORM_FACTOR = 10.0
"""A round's update may be this many times what its clipped gradients alone can make; the rest is room for noise."""


@dataclass(frozen=True)
class Settings:
    """Of one round at one partner."""

    steps: int
    sampling_rate: float
    clipping_norm: float
    noise_multiplier: float
    learning_rate: float


@dataclass(frozen=True)
class Plan:
    """A proposal that makes sense."""

    run_id: str
    kind: str
    schema: FeatureSchema
    features: tuple[str, ...]
    label: str
    rounds: int
    settings: Settings
    epsilon: float
    """Of the run, for a person who is a customer of every partner, spare attempts included."""
    delta: float
    partners: tuple[str, ...]
    digest: str
    """SHA-256 of the proposal, hexadecimal."""
    noise: JointNoise | None = None
    """Of the first round's sum, see ``noise_of``; None where each partner adds all of its noise alone."""
    spare_attempts: int = 0
    momentum: float = 0.0
    judging: Judging | None = None
    """What the last rounds measure instead of learning; None: nothing."""

    @property
    def max_attempts(self) -> int:
        """How often a partner may train in the run."""
        return self.rounds + self.spare_attempts

    @property
    def learning_rounds(self) -> int:
        """Without those that only measure."""
        return self.rounds - (self.judging.rounds if self.judging else 0)

    def learner(self) -> Learner:
        """What learns from the sums, at its beginning. Raises DataError (BAD_FIELD), see ``build_learner``."""
        return _learner(
            self.kind,
            self.schema.select(self.features),
            self.settings,
            rounds=self.rounds,
            momentum=self.momentum,
            judging=self.judging,
        )

    def noise_of(self, number: int) -> JointNoise:
        """The noise of a round's sum. Raises TrainingError (PROPOSAL_REFUSED) where there are no sums."""
        if self.noise is None:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="the approved proposal has no secure sum")
        learner = self.learner()
        return replace(self.noise, width=learner.width(number), touched=learner.touched(number))

    def round_event(self) -> DpEvent:
        """What one attempt of a round costs a customer of one partner."""
        return self.steps_of(1).event() if self.noise is None else self.noise.customer_event(1)

    def customer_events(self, attempts: int) -> tuple[DpEvent, ...]:
        """What so many attempts, and what goes with them, cost a customer of one partner."""
        if self.noise is None:
            return run_events(self.steps_of(attempts))
        return (self.noise.customer_event(attempts),)

    def person_event(self, attempts: int) -> DpEvent:
        """What so many attempts cost a person who is a customer of every partner."""
        if self.noise is None:
            return person_event(self.steps_of(attempts), len(self.partners))
        return self.noise.person_event(attempts)

    @property
    def width(self) -> int:
        """Encoded columns."""
        return self.schema.width(self.features)

    @property
    def fields(self) -> frozenset[str]:
        """Columns that the model learns from or is judged by, and the label; what policies permit by name."""
        return frozenset({*self.features, self.label}) | (self.judging.columns if self.judging else frozenset())

    @property
    def steps(self) -> Steps:
        """All gradient steps of the run at one partner, for the accountants."""
        return self.steps_of(self.rounds)

    def steps_of(self, rounds: int) -> Steps:
        """The gradient steps of some rounds."""
        return Steps(self.settings.noise_multiplier, self.settings.sampling_rate, self.settings.steps * rounds)

    @property
    def max_update_norm(self) -> float:
        """Largest L2 norm of one partner's update in a round."""
        longest = MAX_ROW_NORM if self.kind in LINEAR else math.inf
        reach = self.settings.steps * self.settings.learning_rate * min(self.settings.clipping_norm, longest)
        return UPDATE_NORM_FACTOR * reach


def proposal_digest(proposal: pb.TrainingProposal) -> str:
    """SHA-256 of a proposal, hexadecimal: what partners approve."""
    return hashlib.sha256(proposal.SerializeToString(deterministic=True)).hexdigest()


def read_plan(proposal: pb.TrainingProposal) -> Plan:
    """Checks every field of a complete proposal.

    Raises:
        DataError: BAD_FIELD, naming the field.
    """
    schema = find_schema(proposal.feature_schema)
    features = tuple(feature.name for feature in schema.select(proposal.features))
    shapes(proposal.model, schema.width(features))
    in_range = {
        "purpose": proposal.purpose == PURPOSE,
        "model": proposal.trust != pb.TRUST_LOCAL or proposal.model in STEPPED,
        "run_id": RUN_ID.fullmatch(proposal.run_id) is not None,
        "label": 0 < len(proposal.label) <= 48 and proposal.label not in features,
        "rounds": 1 <= proposal.rounds <= MAX_ROUNDS,
        "steps_per_round": 1 <= proposal.steps_per_round <= MAX_STEPS,
        # Comparisons with NaN are false, so a NaN is refused too.
        "sampling_rate": 1e-6 <= proposal.sampling_rate <= 1,
        "clipping_norm": 0 < proposal.clipping_norm <= 1e3,
        "noise_multiplier": 0.1 <= proposal.noise_multiplier <= 1e4,
        "learning_rate": 0 < proposal.learning_rate <= 1e4,
        "epsilon": 0 < proposal.epsilon <= 100,
        "delta": 0 < proposal.delta <= 1e-4,
        "partners": 2 <= len(set(proposal.partners)) == len(proposal.partners) <= MAX_PARTNERS,
        "trust": proposal.trust in {pb.TRUST_SECURE_SUM, pb.TRUST_LOCAL},
        "spare_attempts": proposal.spare_attempts <= MAX_ROUNDS,
        "momentum": 0 <= proposal.momentum < 1,
        "judging": proposal.trust == pb.TRUST_SECURE_SUM or not proposal.HasField("judging"),
    }
    wrong = [name for name, fine in in_range.items() if not fine]
    if wrong:
        raise DataError(Reason.BAD_FIELD, item=f"proposal: {', '.join(wrong)}")
    settings = Settings(
        steps=proposal.steps_per_round,
        sampling_rate=proposal.sampling_rate,
        clipping_norm=proposal.clipping_norm,
        noise_multiplier=proposal.noise_multiplier,
        learning_rate=proposal.learning_rate,
    )
    noise = None
    judging = read_judging(proposal.judging, proposal.rounds) if proposal.HasField("judging") else None
    if proposal.trust == pb.TRUST_SECURE_SUM:
        chosen = schema.select(features)
        learner = _learner(
            proposal.model,
            chosen,
            settings,
            rounds=proposal.rounds,
            momentum=proposal.momentum,
            judging=judging,
        )
        noise = _read_noise(proposal, learner)
    return Plan(
        run_id=proposal.run_id,
        kind=proposal.model,
        schema=schema,
        features=features,
        label=proposal.label,
        rounds=proposal.rounds,
        settings=settings,
        epsilon=proposal.epsilon,
        delta=proposal.delta,
        partners=tuple(proposal.partners),
        digest=proposal_digest(proposal),
        noise=noise,
        spare_attempts=proposal.spare_attempts if noise is not None else 0,
        momentum=proposal.momentum,
        judging=judging,
    )


def _learner(
    kind: str,
    features: tuple[Feature, ...],
    settings: Settings,
    *,
    rounds: int,
    momentum: float,
    judging: Judging | None,
) -> Learner:
    learner = build_learner(
        kind,
        features,
        rounds=rounds - (judging.rounds if judging else 0),
        clipping_norm=settings.clipping_norm,
        learning_rate=settings.learning_rate,
        momentum=momentum,
    )
    columns = sum(len(feature.places) + 2 for feature in features)
    return learner if judging is None else Course(learner, JudgingLearner(kind, columns, judging))


def _read_noise(proposal: pb.TrainingProposal, learner: Learner) -> JointNoise:
    """The noise of the first sum, if that of all is fine. Raises DataError (BAD_FIELD), TrainingError."""
    if len(proposal.partners) < MIN_PARTIES:
        raise TrainingError(Reason.TOO_FEW_PARTNERS, item=f"a secure sum needs {MIN_PARTIES}")
    if proposal.collusion >= len(proposal.partners) or proposal.scale_bits > MAX_SCALE_BITS:
        raise DataError(Reason.BAD_FIELD, item="proposal: collusion or scale_bits")
    if proposal.steps_per_round != 1 or proposal.sampling_rate != 1:
        raise DataError(Reason.BAD_FIELD, item="proposal: a secure sum takes one step of all rows a round")
    if learner.rounds != proposal.rounds:
        raise DataError(Reason.BAD_FIELD, item=f"proposal: rounds, this model needs {learner.rounds}")
    noise = JointNoise(
        parties=len(proposal.partners),
        collusion=proposal.collusion,
        width=learner.width(1),
        touched=learner.touched(1),
        scale_bits=proposal.scale_bits,
        noise_multiplier=proposal.noise_multiplier,
    )
    for number in range(1, proposal.rounds + 1):
        of_round = replace(noise, width=learner.width(number), touched=learner.touched(number))
        if of_round.share_sigma < MIN_SHARE_SIGMA or of_round.box < 1:
            raise DataError(Reason.BAD_FIELD, item="proposal: noise does not fit the grid")
    return noise
