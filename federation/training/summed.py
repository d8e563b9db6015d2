"""The Flower strategy of the secure sum: keys, masked vectors, their sum, one step; all partners or nobody.

A round has two phases. First every partner offers a signed key for the attempt; then every partner gets the model and
all keys, and answers with a masked vector. The strategy sees their sum alone. If a vector is missing or late the sum is
lost: the round is tried again with new keys and new noise, after ``before_retry`` has paid for it, as often as the plan
allows. A phase of keys that fails costs nothing, since no partner has touched a row.

What is summed and what a sum teaches is the learner's business, see ``federation.training.learner``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
    from_record,
    to_record,
)
from federation.training.learner import State
from federation.training.models import Weights, save_weights, weights_digest
from federation.training.plan import Plan
from federation.training.secure_sum import MAX_KEY_BYTES, add_masked
from federation.training.strategy import TrainOnly
from federation.training.summed_app import KEYS

SETTLED = "settled"
KEY_TRIES = 3
"""How often a phase of keys is repeated for a partner that answers late."""


class SummedTraining(TrainOnly):
    """One noisy sum over all partners' rows a round, for the learner of the plan.

    Args:
        plan: Of the run, with a secure sum.
        partners: Node id to party, for all partners of the run.
        timeout_s: Of one phase.
        before_retry: Called with the number of attempts made so far before a round is tried again; raises where the
            budget does not allow it.
        before_ask: Called with the number of attempts, this one included, and its name in the keys, before partners are
            asked for vectors; keeps both where ``recall`` needs them after a restart.
    """

    def __init__(
        self,
        plan: Plan,
        partners: Mapping[int, str],
        timeout_s: float,
        before_retry: Callable[[int], None],
        before_ask: Callable[[int, int], None] = lambda _attempts, _number: None,
    ) -> None:
        self._plan, self._partners = plan, dict(partners)
        self._timeout_s, self._before_retry, self._before_ask = timeout_s, before_retry, before_ask
        self.learner = plan.learner()
        """Has the model, and the state to go on from."""
        self._told: Weights = {}
        self._grid: Grid | None = None
        self._number = 0  # of the last attempt, keys phases included; names it in the keys
        self.attempts = 0
        """How often partners were asked for a vector; what has to be paid."""
        self._settled = 0  # attempts when the last round was complete: more since then means that one was lost

    def model(self) -> Weights:
        """See TrainOnly."""
        return self.learner.model()

    def state(self) -> State:
        """See TrainOnly: the learner's, and how many attempts the complete rounds took."""
        return {**self.learner.state(), SETTLED: np.array(self._settled)}

    def restore(self, state: State) -> None:
        """See TrainOnly."""
        self._settled = self.attempts = int(state[SETTLED])
        self.learner.restore({name: array for name, array in state.items() if name != SETTLED})

    def recall(self, attempts: int, number: int) -> None:
        """Takes back what ``before_ask`` was told last, by a process that may have died while partners answered.

        An attempt beyond those of complete rounds counts as made, though nobody has its sum: partners may have
        answered. The round is then tried again as after any other loss, paid for and with new keys.
        """
        self.attempts, self._number = max(self.attempts, attempts), max(self._number, number)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Collects the keys of a round and returns the messages that ask for vectors. Raises TrainingError.

        The arrays are the model as it is shown; what partners are told is the learner's.
        """
        self._told, self._grid = self.learner.told(server_round), grid
        return self._ask(server_round, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after one more sum.

        Raises:
            TrainingError: RUN_FAILED naming who was missing in the last attempt, BAD_UPDATE naming who sent what is no
                masked vector, or "all partners" where the sum itself cannot be.
            BudgetError: no budget for another attempt.
        """
        grid = self._grid
        if grid is None:
            raise TrainingError(Reason.RUN_FAILED, item="a reply before a question")
        vectors = self._read(replies)
        while missing := sorted(set(self._partners.values()) - set(vectors)):
            messages = self._ask(server_round, grid, lost=f"no reply of {', '.join(missing)}")
            vectors = self._read(grid.send_and_receive(messages, timeout=self._timeout_s))
        noise = self._plan.noise_of(server_round)
        total = noise.read(add_masked(vectors, self._plan.partners, noise.width))
        self.learner.step(server_round, total, noise.sum_sigma)
        self._settled = self.attempts
        return to_record(self.learner.model()), None

    def _ask(self, server_round: int, grid: Grid, lost: str = "interrupted") -> list[Message]:
        """Phase of keys; returns the messages of the next phase, which pays for a try that was lost before.

        Raises:
            TrainingError: RUN_FAILED.
            BudgetError: see ``before_retry``.
        """
        if self.attempts > self._settled:
            if self.attempts >= self._plan.max_attempts - (self._plan.rounds - server_round):
                raise TrainingError(Reason.RUN_FAILED, item=f"round {server_round}: {lost}, and no spare attempt")
            self._before_retry(self.attempts)
        missing: list[str] = []
        for _ in range(KEY_TRIES):
            self._number += 1
            about = {"round": server_round, "attempt": self._number}
            model = weights_digest(save_weights(self._told))
            content = {"config": ConfigRecord({**about, "model": model})}
            asked = [self._message(node, content, KEYS, server_round) for node in self._partners]
            offers = self._offers(grid.send_and_receive(asked, timeout=self._timeout_s))
            missing = sorted(set(self._partners.values()) - set(offers))
            if not missing:
                self.attempts += 1
                self._before_ask(self.attempts, self._number)
                config = ConfigRecord({**about, "offers": [offers[party] for party in self._plan.partners]})
                send = {"arrays": to_record(self._told), "config": config}
                return [self._message(node, send, "train", server_round) for node in self._partners]
        raise TrainingError(Reason.RUN_FAILED, item=f"round {server_round}: no key of {', '.join(missing)}")

    def _message(self, node: int, content: Mapping[str, Any], kind: str, number: int) -> Message:
        return Message(RecordDict(dict(content)), dst_node_id=node, message_type=kind, group_id=str(number))

    def _offers(self, replies: Iterable[Message]) -> dict[str, bytes]:
        """Signed keys by party. The partners verify them, not the gateway. Raises TrainingError (BAD_UPDATE)."""
        offers: dict[str, bytes] = {}
        for party, reply in self._answers(replies):
            record = reply.content.get("key")
            offer = record.get("offer") if isinstance(record, ConfigRecord) else None
            if not isinstance(offer, bytes) or len(offer) > MAX_KEY_BYTES or len(reply.content) != 1:
                raise TrainingError(Reason.BAD_UPDATE, item=f"{party}: key")
            offers[party] = offer
        return offers

    def _read(self, replies: Iterable[Message]) -> dict[str, npt.NDArray[np.generic]]:
        """Masked vectors by party; who answers with an error counts as missing. Raises TrainingError (BAD_UPDATE)."""
        vectors: dict[str, npt.NDArray[np.generic]] = {}
        for party, reply in self._answers(replies):
            record = reply.content.get("masked")
            if not isinstance(record, ArrayRecord) or len(reply.content) != 1 or set(record) != {"sum"}:
                raise TrainingError(Reason.BAD_UPDATE, item=f"{party}: content of the reply")
            vectors[party] = from_record(record, item=party)["sum"]
        return vectors

    def _answers(self, replies: Iterable[Message]) -> list[tuple[str, Message]]:
        """The answers that are no error. Raises TrainingError (RUN_FAILED) for a stranger's or a second one."""
        answers: dict[str, Message] = {}
        for reply in replies:
            party = self._partners.get(reply.metadata.src_node_id)
            if party is None or party in answers:
                raise TrainingError(Reason.RUN_FAILED, item=f"reply of {party or 'a stranger'}")
            if not reply.has_error():
                answers[party] = reply
        return list(answers.items())
