"""The agent's part in joint training: hears proposals, decides for itself, trains, answers with noisy updates.

Guarantees, whatever the gateway sends: a run is trained only after this partner's own policy, feature list and limits
permit it, with epsilon recomputed from the proposed noise; the approved plan is pinned by its digest and nothing in a
later message changes it; every round is paid on disk before a row is touched; the same message is never trained twice
for the price of one: an answer that was kept is sent again, one that was lost in a crash is paid and drawn anew.
Who may be in training is asked again in every round, so a withdrawal holds from the next round on.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pandas as pd
import structlog
import torch
from sqlalchemy import Engine

from federation.client.config import PartnerConfig
from federation.client.data import Eligible
from federation.core.clock import Clock
from federation.core.errors import DataError, EntenteError, PolicyError, Reason, TrainingError
from federation.policy.specs import TrainingSpec
from federation.training.accountant import CustomerAccountant
from federation.training.accounting import SIZE_NOISE, run_epsilon, run_events, size_event
from federation.training.client_app import build_client_app
from federation.training.dpsgd import RandomBytes, standard_gaussians
from federation.training.features import Floats, read_labels
from federation.training.flower import Context, RecordDict, pack, unpack
from federation.training.memory import RunMemory
from federation.training.models import KINDS
from federation.training.plan import PURPOSE, Plan, read_plan
from federation.v1 import training_pb2 as pb
from federation.v1.training_pb2_grpc import TrainingServiceStub

CATEGORY, RECIPIENT = "model_update", "gateway"
CLAIM_SLACK = 1.02
"""Recomputed epsilon may be this much above the claimed one: calibrations stop at a tolerance."""
MIN_SIZE = 200.0
"""Fewer rows (by the noisy size) than this drown in the noise; and the divisor must be above zero."""
_SIZE = "size"
_log = structlog.get_logger()


class TrainingData(Protocol):
    """What training needs of the partner's data."""

    def customers(self) -> pd.DataFrame:
        """All customers, one row each, indexed by customer id; the same object while the file is unchanged."""
        ...

    def eligible(
        self, purpose: str, data_category: str, recipient: str, *, fields: frozenset[str] = frozenset()
    ) -> Eligible:
        """Who may be in a use now."""
        ...


class OwnRules(Protocol):
    """The partner's own compiled policy."""

    @property
    def training(self) -> TrainingSpec:
        """What its policy says of training; rows are decided through ``TrainingData.eligible``."""
        ...


class Workbench:
    """One approved run at this partner; what the Flower app works on."""

    def __init__(
        self,
        plan: Plan,
        data: TrainingData,
        accountant: CustomerAccountant,
        memory: RunMemory,
        random_bytes: RandomBytes,
    ) -> None:
        self._plan, self._data, self._accountant, self._memory = plan, data, accountant, memory
        self._random_bytes = random_bytes
        self._encoded: tuple[pd.DataFrame, Floats, Floats, Any] | None = None

    @property
    def plan(self) -> Plan:
        """What was approved."""
        return self._plan

    def pay(self, message_id: str) -> None:
        """Charges a round. Raises BudgetError, or TrainingError (PROPOSAL_REFUSED) for more rounds than approved."""
        run_id = self._plan.run_id
        rounds = self._accountant.charged(run_id) - {_SIZE}
        if len(rounds | {message_id}) > self._plan.rounds or message_id == _SIZE:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="more rounds than approved")
        epsilon = self._accountant.charge(run_id, message_id, self._plan.steps_of(1).event())
        _log.info("training_paid", run=run_id, epsilon_so_far=round(epsilon, 4))

    def size(self) -> float:
        """The noisy number of rows of this run. Raises BudgetError, TrainingError (PROPOSAL_REFUSED)."""
        run_id = self._plan.run_id
        size = self._memory.size(run_id)
        if size is None:
            self._accountant.charge(run_id, _SIZE, size_event())
            noise = float(standard_gaussians(1, self._random_bytes)[0]) * SIZE_NOISE
            size = len(self.rows()[1]) + noise
            self._memory.keep_size(run_id, size)
        if size < MIN_SIZE:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="too few customers for this noise")
        return size

    def rows(self) -> tuple[Floats, Floats]:
        """Encoded rows and labels of everyone who may be in training now and has a label. Raises DataError."""
        frame = self._data.customers()
        if self._encoded is None or self._encoded[0] is not frame:
            x = self._plan.schema.encode(frame, self._plan.features)
            self._encoded = (frame, x, *read_labels(frame, self._plan.label))
        _, x, y, labelled = self._encoded
        if not frame.index.is_unique:
            raise DataError(Reason.BROKEN_ROW, item="customer id not unique")
        ids = self._data.eligible(PURPOSE, CATEGORY, RECIPIENT, fields=self._plan.fields).ids
        places = frame.index.get_indexer(pd.Index(ids, dtype=frame.index.dtype))
        places = places[places >= 0]
        places = places[labelled[places]]
        return x[places], y[places]


class TrainingAgent:
    """Serves training over one stream after another.

    Args:
        stub: Of the gateway.
        data: The partner's own rows.
        config: Its limits.
        policy: Its own rules.
        clock: Tells the time.
        engine: From ``open_database``; holds the accountant, which must never be lost.
        random_bytes: A cryptographic source.
        on_progress: Called with the run's id, rounds done and rounds in all.
    """

    def __init__(
        self,
        stub: TrainingServiceStub,
        *,
        data: TrainingData,
        config: PartnerConfig,
        policy: OwnRules,
        clock: Clock,
        engine: Engine,
        random_bytes: RandomBytes = os.urandom,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._stub, self._data, self._config, self._policy = stub, data, config, policy
        self._random_bytes, self._on_progress = random_bytes, on_progress
        self.accountant = CustomerAccountant(engine, config.limits, clock)
        self._memory = RunMemory(engine)
        self._bench: Workbench | None = None
        torch.set_num_threads(1)  # small matrices: more threads only fight with the neighbours

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
            "rounds": plan.rounds <= spec.max_rounds,
            "epsilon": plan.epsilon <= spec.max_epsilon,
            # The gateway's claim is not trusted: the noise says what the run costs.
            "claimed epsilon is not true": run_epsilon(plan.steps, plan.delta) <= plan.epsilon * CLAIM_SLACK,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="; ".join(wrong)[:300])
        paid = self.accountant.charged(plan.run_id)
        rounds_left = plan.rounds - len(paid - {_SIZE})
        if not paid:
            self.accountant.check(plan.run_id, run_events(plan.steps))
        elif rounds_left > 0:
            self.accountant.check(plan.run_id, (plan.steps_of(rounds_left).event(),))
        self._ask_policy(plan)  # the first to look at rows
        self._memory.pin(plan.run_id, proposal)
        return Workbench(plan, self._data, self.accountant, self._memory, self._random_bytes)

    def _ask_policy(self, plan: Plan) -> None:
        """Raises PolicyError unless the partner's own policy lets at least one customer be in the training.

        The same question decides each round's rows; consent and region are facts of a person, so it has no answer
        without one.
        """
        found = self._data.eligible(PURPOSE, CATEGORY, RECIPIENT, fields=plan.fields)
        if not found.ids:
            raise PolicyError(Reason.POLICY_DENIED, item=", ".join(sorted(found.refused)) or "no customers")

    def _train(self, wire: pb.FlowerMessage) -> pb.FlowerMessage:
        """The reply to one message of the approved run: the kept one, or a new one that was kept first."""
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
            reply = pack(build_client_app(bench, self._random_bytes)(message, context))
            self._memory.keep_reply(wire.run_id, message_id, reply)
        if self._on_progress is not None:
            self._on_progress(wire.run_id, self._memory.replies(wire.run_id), bench.plan.rounds)
        return pb.FlowerMessage(run_id=wire.run_id, message=reply)


def _refusal(run_id: str, exc: EntenteError) -> pb.ExchangeMessagesRequest:
    refusal = pb.TrainerRefusal(run_id=run_id, reason=str(exc.reason), text=(exc.item or exc.public)[:300])
    return pb.ExchangeMessagesRequest(refusal=refusal)
