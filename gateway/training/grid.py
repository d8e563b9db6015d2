"""Flower's ``Grid`` over the hub: strategies run unchanged, messages go over the gateway's own connections.

A message's id is the digest of what it asks, so that the same question has the same id in any process. A partner keeps
its answers by these ids: asked again after the gateway was killed, it gives the very answer it gave, for no further
cost.
"""

from collections.abc import Iterable, Mapping

from federation.core.errors import Reason, TrainingError
from federation.training.flower import SERVER_NODE, Grid, Message, RecordDict, Run, become, pack, question_id, stamp
from gateway.training.hub import Hub


class HubGrid(Grid):
    """The partners of one run. Partners are numbered in the order of the proposal.

    Args:
        hub: Where the partners are.
        run: The run's number in messages.
        partners: Parties of the run.
        timeout_s: For one round.
    """

    def __init__(self, hub: Hub, run: int, partners: Iterable[str], timeout_s: float) -> None:
        self._hub, self._timeout_s = hub, timeout_s
        self._nodes = {SERVER_NODE + 1 + index: party for index, party in enumerate(partners)}
        self._asked: dict[str, str] = {}
        self._run = Run.create_empty(run)
        become(run)

    @property
    def nodes(self) -> Mapping[int, str]:
        """Node id to party."""
        return self._nodes

    @property
    def run(self) -> Run:
        """The run, for Flower."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Flower's own transports call this; a grid of ours is made for one run."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message of this run."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes of the run, connected or not."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages and returns their ids. Raises TrainingError for a node that is not in the run."""
        ids = []
        for message in messages:
            party = self._nodes.get(message.metadata.dst_node_id)
            if party is None:
                raise TrainingError(Reason.RUN_FAILED, item=f"node {message.metadata.dst_node_id}")
            message_id = question_id(message)
            stamp(message, message_id)
            self._asked[message_id] = party
            self._hub.ask(party, message_id, pack(message))
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to messages that came in time; waits for them. Raises TrainingError, see ``Hub.wait``."""
        return self._wait(message_ids, self._timeout_s)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Sends messages, returns the replies that came in time. Raises TrainingError, see ``Hub.wait``."""
        ids = list(self.push_messages(messages))
        return self._wait(ids, min(self._timeout_s, timeout or self._timeout_s)) if ids else []

    def _wait(self, message_ids: Iterable[str], timeout_s: float) -> list[Message]:
        """The replies; a reply that names another node than its partner's is refused."""
        wanted = {message_id: self._asked[message_id] for message_id in message_ids}
        numbers = {party: node for node, party in self._nodes.items()}
        replies = self._hub.wait(wanted, timeout_s)
        for message_id, reply in replies.items():
            if reply.metadata.src_node_id != numbers[wanted[message_id]]:
                raise TrainingError(Reason.BAD_UPDATE, item=f"{wanted[message_id]}: reply names another node")
        return list(replies.values())
