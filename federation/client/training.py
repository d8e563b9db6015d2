"""The agent's part in joint training: hears proposals, decides for itself, trains, answers with noisy updates.

Guarantees, whatever the gateway sends: a run is trained only after this partner's own policy, feature list and limits
permit it, with epsilon recomputed from the proposed noise; the approved plan is pinned by its digest and nothing in a
later message changes it; every attempt is paid on disk before a row is touched; the same message is never trained twice
for the price of one: an answer that was kept is sent again, one that was lost in a crash is paid and drawn anew.
In a secure sum nothing of this partner alone can be read from its answers, see ``federation.training.secure_sum``.
Who may be in training is asked again in every round, so a withdrawal holds from the next round on.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import structlog
from sqlalchemy import Engine

from federation.client.config import PartnerConfig
from federation.client.workbench import CATEGORY, RECIPIENT, SIZE, KeyKeeper, TrainingData, Workbench
from federation.core.clock import Clock
from federation.core.errors import EntenteError, PolicyError, Reason, TrainingError
from federation.core.identity import Identity
from federation.policy.specs import TrainingSpec
from federation.privacy.composition import epsilon_of
from federation.training.accountant import CustomerAccountant
from federation.training.client_app import build_client_app
from federation.training.draws import RandomBytes
from federation.training.flower import Context, RecordDict, lost, pack, unpack
from federation.training.memory import RunMemory
from federation.training.models import KINDS
from federation.training.plan import PURPOSE, Plan, read_plan
from federation.training.summed_app import KEYS, build_summed_app
from federation.v1 import training_pb2 as pb
from federation.v1.training_pb2_grpc import TrainingServiceStub

CLAIM_SLACK = 1.02
"""Recomputed epsilon may be this much above the claimed one: calibrations stop at a tolerance."""
_log = structlog.get_logger()


class OwnRules(Protocol):
    """The partner's own compiled policy."""

    @property
    def training(self) -> TrainingSpec:
        """What its policy says of training; rows are decided through ``TrainingData.eligible``."""
        ...

    @property
    def region_of(self) -> Mapping[str, str]:
        """Which region a country of residence belongs to."""
        ...


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
        on_progress: Called with the run's id, rounds done and rounds in all.
        keys: Where the key of a round waits for its second phase; None: in memory.
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
        on_progress: Callable[[str, int, int], None] | None = None,
        keys: KeyKeeper | None = None,
    ) -> None:
        self._stub, self._data, self._config, self._policy = stub, data, config, policy
        self._identity, self._clock = identity, clock
        self._random_bytes, self._on_progress = random_bytes, on_progress
        self.accountant = CustomerAccountant(engine, config.limits, clock)
        self._memory = RunMemory(engine)
        self._bench: Workbench | None = None
        self._keys = keys

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

    def answer(self, response: pb.ExchangeMessagesResponse) -> pb.ExchangeMessagesRequest | None:
        """What to say to one message of the gateway; never raises for what the gateway sent or a file holds."""
        kind = response.WhichOneof("part")
        run_id = str(getattr(response, kind).run_id) if kind else ""
        try:
            match kind:
                case "proposal":
                    self._bench = None
                    self._bench = self._approve(response.proposal)
                    _log.info("training_approved", run=run_id)
                case "message":
                    return pb.ExchangeMessagesRequest(reply=self._train(response.message))
                case "ended":
                    self._memory.end(run_id)
                    self._bench = None
        except EntenteError as exc:
            _log.warning("training_refused", run=run_id, reason=str(exc.reason), item=exc.item, detail=exc.detail)
            return _refusal(run_id, exc)
        except Exception as exc:  # an agent must outlive any one run; the text may hold data, so only the type is told
            _log.error("training_failed", run=run_id, error=type(exc).__name__)
            return _refusal(run_id, TrainingError(Reason.INTERNAL))
        return None

    def _approve(self, proposal: pb.TrainingProposal) -> Workbench:
        """Decides a proposal by this partner's own rules alone.

        Raises:
            DataError: the proposal makes no sense.
            TrainingError: PROPOSAL_REFUSED.
            PolicyError: POLICY_DENIED or OBLIGATION_FAILED.
            BudgetError: BUDGET_EXHAUSTED.
        """
        plan = read_plan(proposal)
        limits, spec = self._config.limits, self._policy.training
        allowed = set(spec.features if limits.features is None else limits.features)
        checks = {
            "run has ended": not self._memory.ended(plan.run_id),
            "this partner is not in it": self._config.party in plan.partners,
            "too few partners": len(plan.partners) >= spec.min_partners,
            f"features {', '.join(sorted(set(plan.features) - allowed))}": set(plan.features) <= allowed,
            f"label {plan.label[:48]}": plan.label == spec.label,
            "rounds": plan.learning_rounds <= spec.max_rounds,
            "judging: this partner's policy has none": plan.judging is None or spec.judging is not None,
            "epsilon": plan.epsilon <= spec.max_epsilon,
            f"trust: this partner wants {spec.trust}": (plan.noise is not None) == (spec.trust == "secure_sum"),
            "noise for fewer colluding partners": plan.noise is None or plan.noise.collusion >= spec.collusion,
            # The gateway's claim is not trusted: the noise says what the run costs.
            "claimed epsilon is not true": _person_epsilon(plan) <= plan.epsilon * CLAIM_SLACK,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="; ".join(wrong)[:300])
        paid = self.accountant.charged(plan.run_id)
        left = plan.max_attempts - len(paid - {SIZE})
        if left > 0:
            events = plan.customer_events(left)
            self.accountant.check(plan.run_id, events[-1:] if paid else events)
        self._ask_policy(plan)  # the first to look at rows
        self._memory.pin(plan.run_id, plan.digest)
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
        if not found.ids:
            raise PolicyError(Reason.POLICY_DENIED, item=", ".join(sorted(found.refused)) or "no customers")

    def _train(self, wire: pb.FlowerMessage) -> pb.FlowerMessage:
        """The reply to one message of the approved run: the kept one, or a new one that was kept first.

        Keys are not kept: after a restart the key they belong to is gone, and so is the attempt.
        """
        bench = self._bench
        if bench is None or bench.plan.run_id != wire.run_id:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="no approved proposal for this message")
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
        if self._on_progress is not None:
            self._on_progress(wire.run_id, self._memory.replies(wire.run_id), bench.plan.rounds)
        return pb.FlowerMessage(run_id=wire.run_id, message=reply)


def _person_epsilon(plan: Plan) -> float:
    """What the run costs a person who is a customer of every partner, spare attempts included."""
    return epsilon_of([plan.person_event(plan.max_attempts)], plan.delta)


def _refusal(run_id: str, exc: EntenteError) -> pb.ExchangeMessagesRequest:
    refusal = pb.TrainerRefusal(run_id=run_id, reason=str(exc.reason), text=(exc.item or exc.public)[:300])
    return pb.ExchangeMessagesRequest(refusal=refusal)
