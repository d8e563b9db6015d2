"""One partner's agent without a gateway: a proposal, messages, and an agent that comes back from its disk."""

import os
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from federation.client.config import Limits, PartnerConfig
from federation.client.training.agent import TrainingAgent
from federation.core.clock import FixedClock
from federation.training.accounting import calibrate_steps
from federation.training.draws import RandomBytes
from federation.training.features import MARKETING_V1
from federation.training.flower import ConfigRecord, Message, RecordDict, become, pack, stamp, to_record
from federation.training.models import initial
from federation.v1 import training_pb2 as pb
from tests.kits.training import NOW, SPEC, FrameData, OwnRules, identity_of

FEATURES = list(SPEC.features)
NOISE = calibrate_steps(2.0, 1e-6, 0.2, 30, 3)


def proposal(**changes: Any) -> pb.TrainingProposal:
    fields = {
        "run_id": "run-1",
        "purpose": "model_training",
        "model": "logistic_regression",
        "feature_schema": "marketing-v1",
        "features": FEATURES,
        "label": "accepted_offer",
        "rounds": 3,
        "steps_per_round": 10,
        "sampling_rate": 0.2,
        "clipping_norm": 1.0,
        "noise_multiplier": NOISE,
        "learning_rate": 1.0,
        "epsilon": 2.0,
        "delta": 1e-6,
        "partners": ["airline", "bank", "insurer"],
        "trust": pb.TRUST_LOCAL,
    }
    return pb.TrainingProposal(**(fields | changes))


def message(message_id: str, run_id: str = "run-1", width: int | None = None) -> pb.ExchangeMessagesResponse:
    become(1)
    weights = initial("logistic_regression", width or MARKETING_V1.width(FEATURES))
    content = RecordDict({"arrays": to_record(weights), "config": ConfigRecord({"round": 1})})
    wire = Message(content, dst_node_id=2, message_type="train", group_id="1")
    stamp(wire, message_id)
    return pb.ExchangeMessagesResponse(message=pb.FlowerMessage(run_id=run_id, message=pack(wire)))


@dataclass
class Setup:
    """One partner; ``restart`` gives the agent that comes after a kill: same disk, nothing in memory."""

    engine: Engine
    data: FrameData
    limits: Limits

    def restart(self, random_bytes: RandomBytes = os.urandom) -> TrainingAgent:
        config = PartnerConfig(party="bank", gateway="127.0.0.1:1", limits=self.limits)
        stub: Any = None
        clock = FixedClock(NOW)
        return TrainingAgent(
            stub,
            data=self.data,
            config=config,
            policy=OwnRules(),
            clock=clock,
            identity=identity_of("bank"),
            engine=self.engine,
            random_bytes=random_bytes,
        )


def propose(agent: TrainingAgent, **changes: Any) -> pb.ExchangeMessagesRequest | None:
    return agent.answer(pb.ExchangeMessagesResponse(proposal=proposal(**changes)))
