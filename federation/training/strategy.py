"""Plain averaging that takes all partners or nobody.

Stock Flower strategies go on with whoever answered. Here a missing reply, an error or an update that is malformed ends
the run with the partner named: who is in a model is part of what was agreed. Weights of partners are equal, because
their numbers of rows are not told. No metrics are asked for or read.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from federation.core.errors import Reason, TrainingError
from federation.training.flower import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MetricRecord,
    RecordDict,
    Strategy,
    from_record,
    to_record,
)
from federation.training.models import Weights, check_weights, norm
from federation.training.plan import Plan


class TrainOnly(Strategy):
    """What every strategy of ours has in common: partners are never asked to evaluate."""

    def summary(self) -> None:
        """Nothing to tell; the gateway's own log has the run."""

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """None: what a partner's own rows say about the model stays there."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """None, see ``configure_evaluate``."""
        return None


class AllOrNothing(TrainOnly):
    """Averages the updates of a round.

    Args:
        plan: Of the run.
        partners: Node id to party, for all partners of the run.
    """

    def __init__(self, plan: Plan, partners: Mapping[int, str]) -> None:
        self._plan, self._partners = plan, dict(partners)
        self._weights: Weights = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same message for every partner: the round and the model so far."""
        self._weights = check_weights(
            from_record(arrays, item="gateway"), self._plan.kind, self._plan.width, item="gateway"
        )
        settings = ConfigRecord({**config, "round": server_round})
        return [
            Message(
                RecordDict({"arrays": arrays, "config": settings}),
                dst_node_id=node,
                message_type="train",
                group_id=str(server_round),
            )
            for node in self._partners
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model plus the mean update.

        Raises:
            TrainingError: RUN_FAILED for a missing, doubled or failed reply, BAD_UPDATE; the partner is named.
        """
        updates: dict[int, Weights] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            party = self._partners.get(node)
            if party is None or node in updates or reply.has_error():
                raise TrainingError(Reason.RUN_FAILED, item=f"round {server_round}: reply of {party or 'a stranger'}")
            updates[node] = self._read(party, reply)
        missing = [party for node, party in self._partners.items() if node not in updates]
        if missing:
            raise TrainingError(Reason.RUN_FAILED, item=f"round {server_round}: no reply of {', '.join(missing)}")
        mean = {name: np.mean([update[name] for update in updates.values()], axis=0) for name in self._weights}
        moved = {name: (array + mean[name]).astype(np.float32) for name, array in self._weights.items()}
        return to_record(moved), None

    def _read(self, party: str, reply: Message) -> Weights:
        """One partner's update, checked. Raises TrainingError (BAD_UPDATE)."""
        record = reply.content.get("update")
        if not isinstance(record, ArrayRecord) or len(reply.content) != 1:
            raise TrainingError(Reason.BAD_UPDATE, item=f"{party}: content of the reply")
        plan = self._plan
        update = check_weights(from_record(record, item=party), plan.kind, plan.width, item=party)
        if norm(update) > plan.max_update_norm:
            raise TrainingError(Reason.BAD_UPDATE, item=f"{party}: norm above {plan.max_update_norm:g}")
        return update
