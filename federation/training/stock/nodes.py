"""Who is who on Flower's own transport: nodes there are numbers with keys of their own, partners have certificates."""

import time
from collections.abc import Callable, Iterable, Mapping

import structlog
from cryptography import x509
from google.protobuf.message import DecodeError

from federation.core.canonical import canonical_json
from federation.core.clock import Clock
from federation.core.errors import IdentityError, Reason, TrainingError
from federation.core.identity import Identity, Role, verify_signed
from federation.training.flower import ConfigRecord, Grid, Message, RecordDict, Run, refusal_of
from federation.training.plan import Plan, read_plan
from federation.v1 import common_pb2
from federation.v1 import training_pb2 as pb

PROPOSAL = "query.proposal"
"""Message type of the proposal, before the first round."""
NODE = "training-node"
MAX_SIGNED_BYTES = 16_384
NODE_POLL_S = 1.0
_log = structlog.get_logger()


def sign_node(identity: Identity, plan: Plan, run: int, node: int) -> bytes:
    """A partner's approval: its name, for one proposal, run and node (federation.v1.Signed)."""
    return identity.sign(NODE, _node_payload(plan, run, node)).SerializeToString()


def _node_payload(plan: Plan, run: int, node: int) -> bytes:
    return canonical_json({"proposal": plan.digest, "run": run, "node": node})


class PartnerGrid(Grid):
    """Flower's grid as our strategies expect one: a refusal ends the run, what the transport itself says is silence.

    Args:
        grid: Flower's.
        nodes: Node id to party.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, str]) -> None:
        self._grid, self._nodes = grid, dict(nodes)

    @property
    def run(self) -> Run:
        """See Grid."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """See Grid."""
        self._grid.set_run(run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See Grid."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The partners' nodes."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See Grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The partners' replies. Raises TrainingError (PROPOSAL_REFUSED), the partner named."""
        return self._heard(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The partners' replies that came in time. Raises TrainingError (PROPOSAL_REFUSED), the partner named."""
        asked = list(messages)
        return self._heard(self._grid.send_and_receive(asked, timeout=timeout)) if asked else []

    def _heard(self, replies: Iterable[Message]) -> list[Message]:
        heard = []
        for reply in replies:
            party, refusal = self._nodes.get(reply.metadata.src_node_id), refusal_of(reply)
            if party is not None and refusal is not None:
                raise TrainingError(Reason.PROPOSAL_REFUSED, item=refusal)
            if reply.has_error():
                _log.warning("flower_error", party=party, code=reply.error.code)
            if party is not None or not reply.has_error():
                heard.append(reply)
        return heard


def introduce(
    grid: Grid,
    proposal: pb.TrainingProposal,
    ca: x509.Certificate,
    clock: Clock,
    *,
    timeout_s: float,
    pause: Callable[[float], None] = time.sleep,
) -> dict[int, str]:
    """Sends the proposal to every node and says which partner is where.

    Args:
        grid: Flower's.
        proposal: Complete.
        ca: The alliance's.
        clock: Says when certificates must be valid.
        timeout_s: For nodes to be there, and again for their answers.
        pause: Waits.

    Returns:
        Node id to party, every partner of the proposal once.

    Raises:
        TrainingError: PARTNER_UNAVAILABLE, PROPOSAL_REFUSED with what was said, BAD_KEY for a name that is not signed.
    """
    plan = read_plan(proposal)
    for _ in range(max(1, int(timeout_s / NODE_POLL_S))):
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= len(plan.partners):
            break
        pause(NODE_POLL_S)
    else:
        raise TrainingError(Reason.PARTNER_UNAVAILABLE, item=f"{len(nodes)} nodes, {len(plan.partners)} partners")
    content = ConfigRecord({"bytes": proposal.SerializeToString(deterministic=True)})
    messages = [
        Message(RecordDict({"proposal": content}), dst_node_id=node, message_type=PROPOSAL, group_id="0")
        for node in nodes
    ]
    found: dict[int, str] = {}
    said: list[str] = []
    for reply in grid.send_and_receive(messages, timeout=timeout_s):
        if reply.has_error():
            said.append(refusal_of(reply) or f"a node failed with Flower's code {reply.error.code}")
            continue
        node = reply.metadata.src_node_id
        found[node] = _read_name(reply, plan, node, ca, clock)
    there = {node: party for node, party in found.items() if party in plan.partners}
    if sorted(there.values()) != sorted(plan.partners):
        reason = Reason.PROPOSAL_REFUSED if said else Reason.PARTNER_UNAVAILABLE
        missing = sorted(set(plan.partners) - set(there.values()))
        raise TrainingError(reason, item="; ".join(said or missing or ["a partner at two nodes"])[:300])
    return there


def _read_name(reply: Message, plan: Plan, node: int, ca: x509.Certificate, clock: Clock) -> str:
    """Which partner answers at a node. Raises TrainingError (BAD_KEY)."""
    record = reply.content.get("partner")
    data = record.get("signed") if isinstance(record, ConfigRecord) else None
    try:
        if not isinstance(data, bytes) or len(data) > MAX_SIGNED_BYTES:
            raise TrainingError(Reason.BAD_KEY, item=f"node {node}: answer to the proposal")
        signed = common_pb2.Signed.FromString(data)
        subject = verify_signed(signed, NODE, ca, clock.now())
    except (DecodeError, IdentityError) as exc:
        raise TrainingError(Reason.BAD_KEY, item=f"node {node}: signature") from exc
    if subject.role is not Role.PARTNER or signed.payload != _node_payload(plan, reply.metadata.run_id, node):
        raise TrainingError(Reason.BAD_KEY, item=f"node {node}: signed for another proposal, run or node")
    return str(subject.party)
