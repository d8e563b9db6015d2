"""The Flower app of a partner. It knows nothing of the transport, and nothing of rows but what its bench gives it.

What it does is fixed by the plan that the partner approved, not by the message: from a message it takes the model's
arrays alone. What it answers is the noisy update alone: no loss, no metric, no count.
"""

from typing import Protocol

from federation.core.errors import Reason, TrainingError
from federation.training.draws import RandomBytes
from federation.training.flower import ArrayRecord, ClientApp, Context, Message, RecordDict, from_record, to_record
from federation.training.learner import Rows
from federation.training.models import check_weights
from federation.training.plan import Plan


class Bench(Protocol):
    """What a partner lays out for one approved run."""

    @property
    def plan(self) -> Plan:
        """What the partner approved."""
        ...

    def pay(self, message_id: str) -> None:
        """Charges one round to the partner's accountant, durably. Raises BudgetError, TrainingError."""
        ...

    def size(self) -> float:
        """The noisy number of rows, above 0; drawn and paid once a run."""
        ...

    def rows(self) -> Rows:
        """Rows of everyone who may be in training now."""
        ...


def build_client_app(bench: Bench, random_bytes: RandomBytes) -> ClientApp:
    """An app that trains on a bench.

    Args:
        bench: Of the approved run.
        random_bytes: A cryptographic source, for sampling and noise.
    """
    # Here, because torch and Opacus take seconds and hundreds of megabytes that a secure sum has no use for.
    from federation.training.dpsgd import train_round  # noqa: PLC0415

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        plan = bench.plan
        record = message.content.get("arrays")
        if not isinstance(record, ArrayRecord):
            raise TrainingError(Reason.BAD_UPDATE, item="gateway: no model in the message")
        weights = check_weights(from_record(record, item="gateway"), plan.kind, plan.width, item="gateway")
        bench.pay(message.metadata.message_id)  # before a row is touched
        size = bench.size()
        update = train_round(
            plan.kind, weights, bench.rows()[:2], settings=plan.settings, size=size, random_bytes=random_bytes
        )
        return Message(RecordDict({"update": to_record(update)}), reply_to=message)

    return app
