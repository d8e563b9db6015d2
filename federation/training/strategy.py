"""What our strategies share, and plain averaging that takes all partners or nobody.

Stock Flower strategies go on with whoever answered. Here a missing reply, an error or an update that is malformed ends
the run with the partner named: who is in a model is part of what was agreed. Weights of partners are equal, because
their numbers of rows are not told. No metrics are asked for or read.

A strategy can be put down after any complete round and taken up by another process: ``state`` after a round,
``restore`` before the next, and the rounds that follow give the model that they would have given, bit for bit, from
equal replies.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

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
from federation.training.learner import State
from federation.training.models import Weights, check_weights, initial, norm
from federation.training.plan import Plan


class TrainOnly(Strategy):
    """What every strategy of ours has in common: partners are never asked to evaluate, and it can be resumed."""

    attempts: int
    """How often partners were asked for an answer that costs privacy."""

    @abstractmethod
    def model(self) -> Weights:
        """What is released after the last round."""

    @abstractmethod
    def state(self) -> State:
        """What the rounds so far have left, beside the arrays."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Takes back what ``state`` gave after the last complete round."""

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


def run_rounds(
    strategy: TrainOnly,
    grid: Grid,
    arrays: ArrayRecord,
    numbers: range,
    *,
    timeout_s: float,
    after_round: Callable[[int, ArrayRecord], None],
) -> None:
    """Runs some rounds as Flower's own ``start`` does, which always begins with the first.

    Args:
        strategy: Restored to the state after the round before these.
        grid: Carries the messages.
        arrays: The model after the round before these.
        numbers: Of the rounds.
        timeout_s: Of one round.
        after_round: Gets each round's number and the model after it; may raise.

    Raises:
        TrainingError: see the strategy and ``after_round``.
    """
    for number in numbers:
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(number, grid.send_and_receive(messages, timeout=timeout_s))
        arrays = found if found is not None else arrays
        after_round(number, arrays)


class AllOrNothing(TrainOnly):
    """Averages the updates of a round.

    The model is the mean of the models after the later half of the rounds: post-processing, which costs no privacy, and
    takes out much of the last steps' noise.

    Args:
        plan: Of the run.
        partners: Node id to party, for all partners of the run.
    """

    def __init__(self, plan: Plan, partners: Mapping[int, str]) -> None:
        self._plan, self._partners = plan, dict(partners)
        self._weights: Weights = {}
        self.attempts = 0
        """Rounds so far: none is tried again."""
        self._later: dict[str, npt.NDArray[np.float64]] = {
            name: np.zeros(array.shape) for name, array in initial(plan.kind, plan.width).items()
        }

    def model(self) -> Weights:
        """See TrainOnly; only after the last round."""
        count = self._plan.rounds - self._plan.rounds // 2
        return {name: (total / count).astype(np.float32) for name, total in self._later.items()}

    def state(self) -> State:
        """See TrainOnly: the sum of the models of later rounds."""
        return {**self._later, "attempts": np.array(self.attempts)}

    def restore(self, state: State) -> None:
        """See TrainOnly."""
        self.attempts = int(state["attempts"])
        self._later = {name: np.array(state[name], dtype=np.float64) for name in self._later}

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
        self.attempts = server_round
        if server_round > self._plan.rounds // 2:
            self._later = {name: total + moved[name] for name, total in self._later.items()}
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
