"""A partner's app on Flower's own transport: the same checks, payments and answers as under our gateway.

Flower starts it anew for every message. It opens the partner's workplace, which the SuperNode's own configuration
names (``--node-config 'partner="/path/to/partner.yaml"'``, never the run's, which the SuperLink writes), and lets a
``TrainingAgent`` answer: policy, limits, accountant, the pinned proposal, kept replies and rows are its, on the same
disk. So a run over a SuperLink and one over the gateway are paid from one account.

What a process must remember of the one before is in Flower's ``Context.state``, which stays in the memory of the
partner's SuperNode: the proposal, and half of a round's key (``federation.client.stock.keys``). Both are only believed
as far as they are checked: the proposal is decided anew for every message, and the partner's disk has pinned its
digest.

Every answer is in the partner's egress ledger before Flower gets it. No exception leaves: Flower would send its text
to the SuperLink, and the text of some other library's error may hold data.
"""

import os
from collections.abc import Callable
from pathlib import Path

import structlog

from federation.client.config import load_partner_config
from federation.client.stock.keys import SplitKeys
from federation.client.training.agent import TrainingAgent
from federation.client.training.approvals import MAX_WAIT
from federation.client.workplace import Workplace, open_workplace
from federation.core.clock import Clock, SystemClock, to_text
from federation.core.errors import ConfigError, DataError, EntenteError, Reason, TrainingError
from federation.core.logs import configure_logs
from federation.training.flower import ClientApp, ConfigRecord, Context, Message, RecordDict, pack, refused, unpack
from federation.training.plan import read_plan
from federation.training.stock.nodes import PROPOSAL, sign_node
from federation.training.stock.server_app import read_proposal
from federation.training.summed_app import KEYS
from federation.v1 import training_pb2 as pb

MEMORY = "entente"
"""Our record in ``Context.state``."""
EGRESS_PREFIX = "/flower/"
PROPOSER = "flower-superlink"
_log = structlog.get_logger()


def configured(context: Context) -> Path:
    """The partner's configuration file, from the SuperNode's own configuration. Raises ConfigError (BAD_CONFIG)."""
    path = context.node_config.get("partner")
    if not isinstance(path, str) or not path:
        raise ConfigError(Reason.BAD_CONFIG, item='the node configuration names no "partner"')
    return Path(path)


def build_stock_app(find: Callable[[Context], Path] = configured, clock: Clock | None = None) -> ClientApp:
    """The app of whichever partner a node belongs to.

    Args:
        find: Says where the partner's ``partner.yaml`` is.
        clock: Tells the time; None: the machine's.
    """
    app = ClientApp()
    clock = clock or SystemClock()

    def answer(message: Message, context: Context) -> Message:
        party = "a partner"
        try:
            config = load_partner_config(find(context))
            party = config.party
            place = open_workplace(config, clock)
            try:
                reply = _reply(place, message, context)
                place.egress.record(EGRESS_PREFIX + message.metadata.message_type, pack(reply))
            finally:
                place.close()
        except Exception as exc:
            return _refusal(message, party, exc)
        return reply

    app.query(PROPOSAL.partition(".")[2])(answer)
    app.query(KEYS.partition(".")[2])(answer)
    app.train()(answer)
    return app


def _reply(place: Workplace, message: Message, context: Context) -> Message:
    """What leaves in answer to a message; never raises."""
    try:
        return _Partner(place, context).answer(message)
    except Exception as exc:
        return _refusal(message, place.config.party, exc)


def _refusal(message: Message, party: str, exc: Exception) -> Message:
    """The reply where something was raised: what our own errors say of the run, of others not even that."""
    if not isinstance(exc, EntenteError):
        _log.error("stock_failed", party=party, error=type(exc).__name__)
        return refused(message, f"{party}: {Reason.INTERNAL}")
    _log.warning("stock_refused", party=party, reason=str(exc.reason), item=exc.item, detail=exc.detail)
    # Where this partner keeps its files, and what is wrong in which of them, is for its own log.
    told = f": {exc.item or exc.public}" if isinstance(exc, TrainingError) else ""
    return refused(message, f"{party}: {exc.reason}{told}")


class _Partner:
    """Answers one message at an open workplace."""

    def __init__(self, place: Workplace, context: Context) -> None:
        self._place = place
        record = context.state.get(MEMORY)
        self._remembered = record if isinstance(record, ConfigRecord) else ConfigRecord()
        context.state[MEMORY] = self._remembered
        self._agent = TrainingAgent(
            place.connection.training,  # never called: the transport is Flower's
            data=place.data,
            config=place.config,
            policy=place.policy,
            clock=place.clock,
            identity=place.identity,
            engine=place.engine,
            keys=SplitKeys(place.config.state, self._remembered, place.identity, os.urandom),
        )

    def answer(self, message: Message) -> Message:
        """The reply. Raises EntenteError where this partner's agent refuses."""
        if message.metadata.message_type == PROPOSAL:
            return self._join(message)
        data = self._remembered.get("proposal")
        if not isinstance(data, bytes):
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="a message before the proposal")
        proposal = read_proposal(data)
        self._tell(pb.ExchangeMessagesResponse(proposal=proposal))
        wire = pb.FlowerMessage(run_id=proposal.run_id, message=pack(message))
        answer = self._tell(pb.ExchangeMessagesResponse(message=wire))
        if answer is None:
            raise TrainingError(Reason.INTERNAL)
        return unpack(answer.reply.message, item="own reply")

    def _join(self, message: Message) -> Message:
        """Remembers a proposal that was approved, and says who approved it. Raises EntenteError."""
        data, metadata = _proposal_of(message), message.metadata
        proposal = read_proposal(data)
        self._propose(proposal)
        self._tell(pb.ExchangeMessagesResponse(proposal=proposal))
        self._remembered["proposal"] = data
        signed = sign_node(self._place.identity, read_plan(proposal), metadata.run_id, metadata.dst_node_id)
        return Message(RecordDict({"partner": ConfigRecord({"signed": signed})}), reply_to=message)

    def _propose(self, proposal: pb.TrainingProposal) -> None:
        """Raises TrainingError where this partner says no, or leaves it to a person.

        What waits for a person can be approved by ``entente train approve``; then the same proposal is run again.
        """
        expires_at = to_text(self._place.clock.now() + MAX_WAIT)
        asked = pb.ProposedRun(proposal=proposal, proposed_by=PROPOSER, expires_at=expires_at)
        answer = self._tell(pb.ExchangeMessagesResponse(proposed=asked))
        if answer is None:
            raise TrainingError(Reason.NOT_APPROVED, item="the proposal waits for a person here; run it again then")
        if not answer.decision.approved:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item=answer.decision.reason)

    def _tell(self, told: pb.ExchangeMessagesResponse) -> pb.ExchangeMessagesRequest | None:
        """What the agent says; raises TrainingError (PROPOSAL_REFUSED) with its reason where it refuses."""
        answer = self._agent.answer(told)
        if answer is not None and answer.HasField("refusal"):
            raise TrainingError(Reason.PROPOSAL_REFUSED, item=answer.refusal.reason)
        if answer is not None and answer.HasField("paused"):
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="paused here; Flower's transport cannot wait for it")
        return answer


def _proposal_of(message: Message) -> bytes:
    """The proposal in a message. Raises DataError (BAD_FIELD)."""
    record = message.content.get("proposal")
    data = record.get("bytes") if isinstance(record, ConfigRecord) else None
    if not isinstance(data, bytes):
        raise DataError(Reason.BAD_FIELD, item="gateway: no proposal in the message")
    return data


configure_logs()  # in a process that Flower starts nothing of ours came before
app = build_stock_app()
"""What the bundle names."""
