"""The Flower app of a partner in a secure sum: offers a key for a round, then answers with one masked vector.

It knows nothing of the transport, and does what the approved plan says: from messages it takes the model, the number of
round and attempt, and the other partners' signed keys. The vector is what the plan's learner sums over all rows, plus
this partner's share of the noise; nothing else is in the answer. Everything that can be refused is refused before the
attempt is paid, and it is paid before a row is touched.
"""

from datetime import datetime
from typing import Protocol

import numpy as np

from federation.core.errors import Reason, TrainingError
from federation.training.flower import (
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Message,
    RecordDict,
    from_record,
)
from federation.training.learner import Rows
from federation.training.models import save_weights, weights_digest
from federation.training.plan import Plan
from federation.training.secure_sum import Attempt, RoundKey

KEYS = "query.keys"
"""Message type of the keys phase."""


class SummedBench(Protocol):
    """What a partner lays out for one approved run with a secure sum."""

    @property
    def plan(self) -> Plan:
        """What the partner approved."""
        ...

    def offer_key(self, message_id: str, attempt: Attempt) -> bytes:
        """A fresh signed key for an attempt; the same again for the same message. Drops any earlier one."""
        ...

    def take_key(self, attempt: Attempt) -> RoundKey:
        """The key that was offered for an attempt, once. Raises TrainingError (ATTEMPT_LOST)."""
        ...

    def pay(self, message_id: str) -> None:
        """Charges one attempt to the partner's accountant, durably. Raises BudgetError, TrainingError."""
        ...

    def rows(self) -> Rows:
        """Rows of everyone who may be in training now."""
        ...

    def now(self) -> datetime:
        """When certificates must be valid."""
        ...


def build_summed_app(bench: SummedBench) -> ClientApp:
    """An app that takes part in the secure sums of a bench's run."""
    app = ClientApp()

    @app.query("keys")
    def keys(message: Message, context: Context) -> Message:
        config = _config(message)
        offer = bench.offer_key(message.metadata.message_id, _attempt(bench.plan, config, _text(config, "model")))
        return Message(RecordDict({"key": ConfigRecord({"offer": offer})}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        plan, config = bench.plan, _config(message)
        record = message.content.get("arrays")
        if not isinstance(record, ArrayRecord):
            raise TrainingError(Reason.BAD_UPDATE, item="gateway: no model in the message")
        learner, number = plan.learner(), _round(plan, config)
        noise = plan.noise_of(number)
        told = learner.check_told(number, from_record(record, item="gateway"), item="gateway")
        # The digest is computed here: a gateway that shows another model than the keys were made for finds no key.
        attempt = _attempt(plan, config, weights_digest(save_weights(told)))
        masks = bench.take_key(attempt).agree(_offers(config), plan.partners, bench.now())
        bench.pay(message.metadata.message_id)  # before a row is touched
        exact = learner.sums(number, told, bench.rows())
        hidden = masks.hide(noise.encode(exact) + noise.draw_share())
        return Message(
            RecordDict({"masked": ArrayRecord({"sum": Array(np.ascontiguousarray(hidden))})}), reply_to=message
        )

    return app


def _config(message: Message) -> ConfigRecord:
    """A message's settings. Raises TrainingError (BAD_UPDATE)."""
    config = message.content.get("config")
    if not isinstance(config, ConfigRecord):
        raise TrainingError(Reason.BAD_UPDATE, item="gateway: no settings in the message")
    return config


def _round(plan: Plan, config: ConfigRecord) -> int:
    """Which round a message is about. Raises TrainingError (BAD_UPDATE, PROPOSAL_REFUSED)."""
    number = config.get("round")
    if type(number) is not int:
        raise TrainingError(Reason.BAD_UPDATE, item="gateway: round")
    if not 0 < number <= plan.rounds:
        raise TrainingError(Reason.PROPOSAL_REFUSED, item="more rounds than approved")
    return number


def _attempt(plan: Plan, config: ConfigRecord, model: str) -> Attempt:
    """Which attempt a message is about. Raises TrainingError (BAD_UPDATE, PROPOSAL_REFUSED)."""
    attempt = config.get("attempt")
    if type(attempt) is not int or not 0 < attempt < 2**31:
        raise TrainingError(Reason.BAD_UPDATE, item="gateway: attempt")
    return Attempt(plan.run_id, plan.digest, _round(plan, config), attempt, model)


def _text(config: ConfigRecord, name: str) -> str:
    value = config.get(name)
    if not isinstance(value, str) or len(value) > 64:
        raise TrainingError(Reason.BAD_UPDATE, item=f"gateway: {name}")
    return value


def _offers(config: ConfigRecord) -> list[bytes]:
    value = config.get("offers")
    if not isinstance(value, list) or not all(isinstance(offer, bytes) for offer in value):
        raise TrainingError(Reason.BAD_UPDATE, item="gateway: offers")
    return [bytes(offer) for offer in value if isinstance(offer, bytes)]
