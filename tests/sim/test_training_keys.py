"""Whatever a gateway sends, and however often, a key of a secure sum hides one vector: over restarts, by any keeper."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.client.config import Limits, PartnerConfig
from federation.client.stock.keys import SplitKeys
from federation.client.training.agent import TrainingAgent
from federation.client.training.workbench import KeyInMemory
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.training.flower import ConfigRecord, Message, RecordDict, become, pack, stamp, to_record, unpack
from federation.training.models import Weights, save_weights, weights_digest
from federation.training.plan import Plan, read_plan
from federation.training.secure_sum import Attempt, Integers, Masks, RoundKey
from federation.v1 import training_pb2 as pb
from gateway.training.proposals import TrainingRules, complete
from tests.kits.training import DELTA, NOW, PARTNERS, SUMMED, FrameData, OwnRules, identity_of, make_rows

STEPS = 60


class Hostile:
    """A gateway that plays any message, old or new, with the keys that two other partners once offered."""

    def __init__(self, plan: Plan, dice: random.Random) -> None:
        self.plan, self.dice = plan, dice
        start = plan.learner().told(1)
        self.models: list[Weights] = [start, {**start, "bias": start["bias"] + np.float32(1)}]
        self.offers: dict[tuple[int, int, int], list[bytes]] = {}  # of the one who is attacked
        self.others: dict[tuple[int, int, int], list[bytes]] = {}  # old ones again: else masks would differ anyhow
        self.last = (1, 1, 0)

    def keys(self) -> tuple[str, Message, tuple[int, int, int]]:
        about = self._about()
        config = ConfigRecord({"round": about[0], "attempt": about[1], "model": self._digest(about)})
        return f"k{self.dice.randrange(4)}", self._message({"config": config}, "query.keys"), about

    def train(self) -> tuple[str, Message]:
        about = self.last if self.dice.random() < 0.6 else self._about()
        attempt = Attempt(self.plan.run_id, self.plan.digest, about[0], about[1], self._digest(about))
        if about not in self.others:
            self.others[about] = [RoundKey(attempt, identity_of(p), os.urandom).offer for p in PARTNERS if p != "bank"]
        known = self.offers.get(about, [b""])
        mine = known[-1] if self.dice.random() < 0.7 else self.dice.choice(known)
        config = ConfigRecord({"round": about[0], "attempt": about[1], "offers": [mine, *self.others[about]]})
        content = {"arrays": to_record(self.models[about[2]]), "config": config}
        return f"t{self.dice.randrange(12)}", self._message(content, "train")

    def _about(self) -> tuple[int, int, int]:
        return self.dice.randint(1, 2), self.dice.randint(1, 2), self.dice.randrange(2)

    def _digest(self, about: tuple[int, int, int]) -> str:
        return weights_digest(save_weights(self.models[about[2]]))

    def _message(self, content: dict[str, Any], kind: str) -> Message:
        become(1)
        return Message(RecordDict(content), dst_node_id=2, message_type=kind, group_id="1")


@pytest.mark.parametrize("keeper", ["memory", "disk"])
@pytest.mark.parametrize("seed", range(8))
def test_no_mask_hides_two_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeper: str, seed: int) -> None:
    hidden: list[tuple[bytes, ...]] = []
    hide = Masks.hide

    def watched(self: Masks, values: Integers) -> Any:
        hidden.append(tuple(key for _, key in self._keys or ()))
        return hide(self, values)

    monkeypatch.setattr(Masks, "hide", watched)
    asked = complete(pb.TrainingProposal(), TrainingRules(SUMMED, DELTA, PARTNERS), frozenset(PARTNERS))
    asked.run_id = "run-1"
    dice = random.Random(seed)
    gateway, engine = Hostile(read_plan(asked), dice), open_database(tmp_path / "agent.db")
    data, locks, bank = FrameData(make_rows(50, 1)), dict[str, Any](), identity_of("bank")
    memory = KeyInMemory()
    stub: Any = None

    def begin() -> TrainingAgent:
        agent = TrainingAgent(
            stub,
            data=data,
            config=PartnerConfig(party="bank", gateway="127.0.0.1:1", limits=Limits()),
            policy=OwnRules(SUMMED),
            clock=FixedClock(NOW),
            identity=bank,
            engine=engine,
            keys=memory if keeper == "memory" else SplitKeys(tmp_path, locks, bank, os.urandom),
        )
        assert agent.answer(pb.ExchangeMessagesResponse(proposal=asked)) is None
        return agent

    agent, answers = begin(), set[bytes]()
    for _ in range(STEPS):
        if dice.random() < 0.2:
            agent = begin()  # the stream broke, or Flower's next process
        about = None
        if dice.random() < 0.5:
            name, message, about = gateway.keys()
        else:
            name, message = gateway.train()
        stamp(message, name)
        told = agent.answer(
            pb.ExchangeMessagesResponse(message=pb.FlowerMessage(run_id="run-1", message=pack(message)))
        )
        assert told is not None
        if not told.HasField("reply"):
            continue
        reply = unpack(told.reply.message, item="test")
        if about is not None:
            record: Any = reply.content["key"]
            gateway.offers.setdefault(about, []).append(record["offer"])
            gateway.last = about
        elif not reply.has_error():
            answers.add(told.reply.message)
    streams = [key for keys in hidden for key in keys]
    assert hidden
    assert len(set(streams)) == len(streams)
    assert len(agent.accountant.charged("run-1")) <= len(hidden) <= gateway.plan.max_attempts
    assert len(answers) <= len(hidden)
