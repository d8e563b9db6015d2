"""The agent's part in joint training: hears proposals, decides for itself, trains, answers with noisy updates.

Guarantees, whatever the gateway sends: a run is trained only after this partner's own policy, feature list and limits
permit it, with epsilon recomputed from the proposed noise, and after a person here or the standing rule approved it
(``approvals``); the approved plan is pinned by its digest and nothing in a later message changes it;
every attempt is paid on disk before a row is touched; the same message is never trained twice for the price of one: an
answer that was kept is sent again, one that was lost in a crash is paid and drawn anew.
In a secure sum nothing of this partner alone can be read from its answers, see ``federation.training.secure_sum``.
Who may be in training is asked again in every round, so a withdrawal holds from the next round on. A run that this
partner has paused gets no answer from here but that, and one that a person here has refused is refused from the next
message on, however far it is.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

import structlog
from sqlalchemy import Engine

from federation.client.config import PartnerConfig
from federation.client.training import approvals
from federation.client.training.approvals import Approvals, OwnRules, ProposalRules
from federation.client.training.workbench import (
    CATEGORY,
    RECIPIENT,
    SIZE,
    KeyInMemory,
    KeyKeeper,
    TrainingData,
    Workbench,
)
from federation.core.clock import Clock
from federation.core.errors import EntenteError, PolicyError, Reason, TrainingError
from federation.core.identity import Identity
from federation.training.accountant import CustomerAccountant
from federation.training.client_app import build_client_app
from federation.training.draws import RandomBytes
from federation.training.flower import Context, RecordDict, lost, pack, unpack
from federation.training.memory import RunMemory
from federation.training.models import KINDS
from federation.training.plan import PURPOSE, Plan, proposal_digest
from federation.training.summed_app import KEYS, build_summed_app
from federation.v1 import training_pb2 as pb
from federation.v1.training_pb2_grpc import TrainingServiceStub

BY_PERSON = "refused by a person at this partner"
_log = structlog.get_logger()


class Pace:
    """How fast answers come in this process.

    Args:
        monotonic: Measures time.
        before: Answers that were given before.
    """

    def __init__(self, monotonic: Callable[[], float], before: int) -> None:
        self._monotonic, self._before, self._began = monotonic, before, monotonic()

    def left_s(self, done: int, rounds: int) -> float:
        """About how long the rounds that are left take, in seconds; 0 where nothing is known."""
        new = done - self._before
        return max(0, rounds - done) * (self._monotonic() - self._began) / new if new > 0 else 0.0


class TrainingAgent:
    """Serves training over one stream after another.

    Args:
        stub: Of the gateway.
        data: The partner's own rows.
        config: Its limits.
        policy: Its own rules.
        clock: Tells the time.
        identity: Signs the keys of secure sums, and says whose CA counts.
        engine: From ``open_database``; holds the accountant, which must never be lost.
        random_bytes: A cryptographic source.
        on_progress: Called with the run's id, answers given, rounds in all, and about how many seconds are left.
        keys: Where the key of a round waits for its second phase; None: in memory.
        monotonic: Measures the pace.
    """

    def __init__(
        self,
        stub: TrainingServiceStub,
        *,
        data: TrainingData,
        config: PartnerConfig,
        policy: OwnRules,
        clock: Clock,
        identity: Identity,
        engine: Engine,
        random_bytes: RandomBytes = os.urandom,
        on_progress: Callable[[str, int, int, float], None] | None = None,
        keys: KeyKeeper | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stub, self._data, self._config, self._policy = stub, data, config, policy
        self._identity, self._clock = identity, clock
        self._random_bytes, self._on_progress = random_bytes, on_progress
        self.accountant = CustomerAccountant(engine, config.limits, clock)
        self._memory = RunMemory(engine)
        self._bench: Workbench | None = None
        self._keys: KeyKeeper = keys or KeyInMemory()  # outlives a stream that broke: the gateway asks again
        self._approvals = Approvals(engine, clock)
        self._rules = ProposalRules(config.party, config.limits, policy, self._memory)
        self._monotonic, self._pace = monotonic, Pace(monotonic, 0)

    def serve(self, stop: threading.Event) -> None:
        """Takes part in runs until the stream ends or ``stop`` is set. Raises grpc.RpcError when the stream breaks."""
        outbox: queue.Queue[pb.ExchangeMessagesRequest | None] = queue.Queue()
        outbox.put(pb.ExchangeMessagesRequest(ready=pb.TrainerReady(models=KINDS)))
        requests: Iterator[pb.ExchangeMessagesRequest] = iter(outbox.get, None)
        responses = self._stub.ExchangeMessages(requests)
        try:
            for response in responses:
                if stop.is_set():
                    return
                answer = self.answer(response)
                if answer is not None:
                    outbox.put(answer)
        finally:
            outbox.put(None)
            responses.cancel()  # else the gateway takes an agent that failed for one that works

    def answer(self, response: pb.ExchangeMessagesResponse) -> pb.ExchangeMessagesRequest | None:
        """What to say to one message of the gateway; never raises for what the gateway sent or a file holds."""
        kind = response.WhichOneof("part")
        part = getattr(response, kind) if kind else None
        run_id = str(getattr(part, "proposal", part).run_id) if part is not None else ""
        try:
            match kind:
                case "proposed":
                    return self._consider(response.proposed)
                case "proposal" | "message" if self._approvals.paused(run_id):
                    _log.info("training_paused_here", run=run_id)
                    return pb.ExchangeMessagesRequest(paused=pb.TrainerPaused(run_id=run_id))
                case "proposal":
                    self._bench = None
                    self._bench = self._approve(response.proposal)
                    _log.info("training_approved", run=run_id)
                case "message":
                    return pb.ExchangeMessagesRequest(reply=self._train(response.message))
                case "ended":
                    self._memory.end(run_id)
                    self._approvals.drop(run_id)
                    self._bench = None
        except EntenteError as exc:
            _log.warning("training_refused", run=run_id, reason=str(exc.reason), item=exc.item, detail=exc.detail)
            return _refusal(run_id, exc)
        except Exception as exc:  # an agent must outlive any one run; the text may hold data, so only the type is told
            _log.error("training_failed", run=run_id, error=type(exc).__name__)
            return _refusal(run_id, TrainingError(Reason.INTERNAL))
        return None

    def _consider(self, asked: pb.ProposedRun) -> pb.ExchangeMessagesRequest | None:
        """This partner's word on a proposal; None while it waits for a person. Raises TrainingError."""
        word = pb.TrainerDecision(run_id=asked.proposal.run_id, proposal_sha256=proposal_digest(asked.proposal))
        try:
            plan = self._rules.check(asked.proposal)
            self.accountant.check(plan.run_id, plan.customer_events(plan.max_attempts))
        except EntenteError as exc:
            word.by_rule, word.reason = True, str(exc.reason)  # every party may read it: see _refusal
            _log.warning("proposal_refused", run=word.run_id, reason=str(exc.reason), item=exc.item, detail=exc.detail)
            return pb.ExchangeMessagesRequest(decision=word)
        state = self._approvals.state(plan.run_id, plan.digest)
        if state == approvals.PENDING and (why := self._rules.needs_person(plan)):
            self._approvals.receive(asked, plan.digest)
            _log.warning("proposal_waits_for_a_person", run=plan.run_id, why=why, expires_at=asked.expires_at[:48])
            return None
        word.approved, word.by_rule = state != approvals.NO, state == approvals.PENDING
        word.reason = "" if word.approved else "refused by a person"
        return pb.ExchangeMessagesRequest(decision=word)

    def _approve(self, proposal: pb.TrainingProposal) -> Workbench:
        """Decides a run that starts, or goes on, by this partner's own rules alone.

        Raises:
            DataError: the proposal makes no sense.
            TrainingError: PROPOSAL_REFUSED, NOT_APPROVED.
            PolicyError: POLICY_DENIED or OBLIGATION_FAILED.
            BudgetError: BUDGET_EXHAUSTED.
        """
        plan = self._rules.check(proposal)
        match self._approvals.state(plan.run_id, plan.digest):
            case approvals.NO:
                raise TrainingError(Reason.PROPOSAL_REFUSED, item=BY_PERSON)
            case approvals.PENDING if why := self._rules.needs_person(plan):
                raise TrainingError(Reason.NOT_APPROVED, item=why)
        paid = self.accountant.charged(plan.run_id)
        left = plan.max_attempts - len(paid - {SIZE})
        if left > 0:
            events = plan.customer_events(left)
            self.accountant.check(plan.run_id, events[-1:] if paid else events)
        self._ask_policy(plan)  # the first to look at rows
        self._memory.pin(plan.run_id, plan.digest)
        self._pace = Pace(self._monotonic, self._memory.replies(plan.run_id))
        return Workbench(
            plan,
            data=self._data,
            accountant=self.accountant,
            memory=self._memory,
            identity=self._identity,
            clock=self._clock,
            random_bytes=self._random_bytes,
            keys=self._keys,
            region_of=self._policy.region_of,
            region_column=self._config.data.columns.region,
        )

    def _ask_policy(self, plan: Plan) -> None:
        """Raises PolicyError unless the partner's own policy lets at least one customer be in the training.

        The same question decides each round's rows; consent and region are facts of a person, so it has no answer
        without one.
        """
        found = self._data.eligible(PURPOSE, CATEGORY, RECIPIENT, fields=plan.fields)
        if not len(found.rows):
            raise PolicyError(Reason.POLICY_DENIED, item=", ".join(sorted(found.refused)) or "no customers")

    def _train(self, wire: pb.FlowerMessage) -> pb.FlowerMessage:
        """The reply to one message of the approved run: the kept one, or a new one that was kept first.

        Keys are not kept: after a restart the key they belong to is gone, and so is the attempt.
        """
        bench = self._bench
        if bench is None or bench.plan.run_id != wire.run_id:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="no approved proposal for this message")
        if self._approvals.state(wire.run_id, bench.plan.digest) == approvals.NO:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item=BY_PERSON)
        message = unpack(wire.message, item="gateway")
        message_id = message.metadata.message_id
        if not 0 < len(message_id) <= 128:
            raise TrainingError(Reason.BAD_UPDATE, item="gateway: message id")
        reply = self._memory.reply(wire.run_id, message_id)
        if reply is None:
            context = Context(
                run_id=message.metadata.run_id,
                node_id=message.metadata.dst_node_id,
                node_config={},
                state=RecordDict(),
                run_config={},
            )
            try:
                app = (
                    build_client_app(bench, self._random_bytes) if bench.plan.noise is None else build_summed_app(bench)
                )
                reply = pack(app(message, context))
            except TrainingError as exc:
                if exc.reason is not Reason.ATTEMPT_LOST:
                    raise
                _log.warning("training_attempt_lost", run=wire.run_id, item=exc.item)
                return pb.FlowerMessage(run_id=wire.run_id, message=pack(lost(message)))
            if message.metadata.message_type == KEYS:
                return pb.FlowerMessage(run_id=wire.run_id, message=reply)
            self._memory.keep_reply(wire.run_id, message_id, reply)
        done, rounds = self._memory.replies(wire.run_id), bench.plan.rounds
        left_s = round(self._pace.left_s(done, rounds), 1)
        _log.info("training_answered", run=wire.run_id, answers=done, rounds=rounds, seconds_left=left_s)
        if self._on_progress is not None:
            self._on_progress(wire.run_id, done, rounds, left_s)
        return pb.FlowerMessage(run_id=wire.run_id, message=reply)


def _refusal(run_id: str, exc: EntenteError) -> pb.ExchangeMessagesRequest:
    """The reason's code alone, because the gateway tells it to every party. The item has the partner's private limits,
    what is left in its account, or where in its file a row is broken: that is in the partner's own log.

    But of a key that does not verify it has whose it is, and nothing of this partner, which else would be blamed."""
    text = exc.item if exc.reason is Reason.BAD_KEY else ""
    return pb.ExchangeMessagesRequest(refusal=pb.TrainerRefusal(run_id=run_id, reason=str(exc.reason), text=text))
