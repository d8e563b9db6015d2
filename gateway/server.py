"""The gateway as a process: its parts, wired in one place, and two ports.

Each part keeps its state in a database file of its own, so that no part waits for another's write. The audit log and
the ledger are opened first: without them nothing may be released, so without them nothing is served.
"""

import asyncio
import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from federation.core.clock import Clock
from federation.core.database import open_database
from federation.core.files import keep_secret
from federation.core.identity import Identity, load_identity
from federation.core.ids import PartyId
from federation.v1 import (
    audit_pb2_grpc,
    budget_pb2_grpc,
    consent_pb2_grpc,
    enrolment_pb2_grpc,
    models_pb2_grpc,
    offers_pb2_grpc,
    overlap_pb2_grpc,
    policy_pb2_grpc,
    training_pb2_grpc,
)
from gateway.alliance import POLICY_FILE, STATE_FILE
from gateway.audit.log import SqlAuditLog, open_audit_log
from gateway.budget.ledger import SqlLedger
from gateway.config import GatewayConfig
from gateway.consent.sql import SqlConsentStore
from gateway.identity.registry import Registry
from gateway.offers.service import OfferDesk
from gateway.offers.sql import SqlOfferBook
from gateway.offers.turn import FileTurn, Turns
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.answers import SqlAnswerStore
from gateway.overlap.coordinator import Coordinator
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.links import LinkRelease
from gateway.overlap.prices import price_list
from gateway.overlap.switchboard import Switchboard
from gateway.overlap.tables import Tables
from gateway.overlap.withdrawals import Withdrawals
from gateway.policy.active import ActivePolicy
from gateway.policy.proposals import Proposals
from gateway.policy.transfers import SqlTransfers
from gateway.policy.versions import SqlVersions
from gateway.release import ReleasePath
from gateway.rpc.audit import AuditServicer
from gateway.rpc.budget import BudgetServicer
from gateway.rpc.consent import ConsentServicer
from gateway.rpc.enrolment import EnrolmentServicer
from gateway.rpc.interceptor import Gatekeeper
from gateway.rpc.models import ModelServicer
from gateway.rpc.offers import OfferServicer
from gateway.rpc.overlap import OverlapServicer
from gateway.rpc.policy import PolicyServicer
from gateway.rpc.port import Service, open_port
from gateway.rpc.training import TrainingServicer
from gateway.training.evaluation import load_public_set
from gateway.training.hub import Hub
from gateway.training.losses import SqlLossStore
from gateway.training.press import Press
from gateway.training.proposals import TrainingRules
from gateway.training.runner import Patience
from gateway.training.runs_sql import SqlRunStore
from gateway.training.service import TrainingService
from gateway.training.versions import SqlStepStore, Versions

OPEN_METHODS = frozenset({"/federation.v1.EnrolmentService/RequestCertificate"})
MASK_KEY_FILE = "mask.key"
STOP_GRACE_S = 2.0
THREADS = 32
"""What blocks (disks, databases) is done in these; most of the time they wait, whatever the number of cores."""
LOOK_EVERY_S = 1.0
_log = structlog.get_logger()


@dataclass(frozen=True)
class Parts:
    """What the ports serve, and what else has to run."""

    registry: Registry
    policy: ActivePolicy
    desk: OfferDesk
    training: TrainingService
    enrolment: Service
    services: tuple[Service, ...]


@dataclass(frozen=True)
class Gates:
    """The four gates and the way through them, which every part is given."""

    config: GatewayConfig
    identity: Identity
    clock: Clock
    audit: SqlAuditLog
    policy: ActivePolicy
    ledger: SqlLedger
    registry: Registry
    release: ReleasePath


def assemble(config: GatewayConfig, identity: Identity, clock: Clock) -> Parts:
    """Opens the state and wires the parts; nothing is served yet.

    Raises:
        PolicyError: the policy does not load and no version was ever in force.
        ConfigError: a file is missing.
        AuditError: the log cannot be opened.
    """
    state, ca = config.state, identity.ca
    audit = open_audit_log(open_database(state / "audit.db"), state, clock)
    policies = open_database(state / POLICY_FILE)
    proposals = Proposals(policies, audit, ca, clock)
    policy = ActivePolicy(config.policies, clock, SqlVersions(policies), proposals.settle)
    ledger = SqlLedger(open_database(state / "budget.db"), lambda: policy.active.budget, clock)
    alliance = policy.active.alliance
    registry = Registry(open_database(state / STATE_FILE), alliance, ca, clock)
    gates = Gates(config, identity, clock, audit, policy, ledger, registry, ReleasePath(policy, ledger, audit))

    coordinator = Coordinator(state, alliance=alliance, ca=ca, policies=policy, clock=clock)
    overlap, cubes = _overlap(gates, coordinator)
    hub = Hub(reconnect_timeout_s=config.round_timeout_s)
    training, models = _training(gates, hub)
    desk, consents = _offers(gates, coordinator.switchboard)

    def connected() -> list[PartyId]:
        return sorted(set(overlap.connected()) & {PartyId(party) for party in hub.connected()})

    enrolment = Service("Enrolment", enrolment_pb2_grpc, EnrolmentServicer(registry, alliance, connected))
    budget = BudgetServicer(ledger, lambda: price_list(cubes, ledger))
    services = (
        enrolment,
        Service("Overlap", overlap_pb2_grpc, overlap),
        Service("Training", training_pb2_grpc, TrainingServicer(training, hub)),
        Service("Model", models_pb2_grpc, models),
        Service("Consent", consent_pb2_grpc, ConsentServicer(consents, clock)),
        Service("Policy", policy_pb2_grpc, PolicyServicer(policy, proposals)),
        Service("Budget", budget_pb2_grpc, budget),
        Service("Offer", offers_pb2_grpc, OfferServicer(desk, audit)),
        Service("Audit", audit_pb2_grpc, AuditServicer(audit)),
    )
    return Parts(registry, policy, desk, training, enrolment, services)


def _overlap(gates: Gates, coordinator: Coordinator) -> tuple[OverlapServicer, CubeRelease]:
    tables = Tables(
        epochs=coordinator.epochs,
        index=coordinator.index,
        store=SqlAnswerStore(open_database(gates.config.state / "answers.db")),
        path=gates.release,
        clock=gates.clock,
        confirm=Withdrawals(coordinator.deltas),
    )
    cubes = CubeRelease(tables, gates.policy)
    questions = AdHocRelease(tables, gates.policy, gates.ledger)
    stall_timeout_s = gates.config.build_timeout_s
    links = LinkRelease(tables, cubes)
    return OverlapServicer(coordinator, cubes, questions, links, stall_timeout_s=stall_timeout_s), cubes


def _training(gates: Gates, hub: Hub) -> tuple[TrainingService, ModelServicer]:
    config, policy = gates.config, gates.policy
    trained = open_database(config.state / "training.db")
    runs = SqlRunStore(trained)
    versions = Versions(runs=runs, steps=SqlStepStore(trained), audit=gates.audit, clock=gates.clock)
    press = Press(
        identity=gates.identity,
        clock=gates.clock,
        losses=SqlLossStore(trained),
        public=load_public_set(config.evaluation_csv) if config.evaluation_csv else None,
        region_of=lambda: policy.active.region_of,
    )
    service = TrainingService(
        hub=hub,
        runs=runs,
        release=gates.release,
        policy=policy,
        prices=gates.ledger,
        audit=gates.audit,
        rules=lambda: _training_rules(policy),
        clock=gates.clock,
        press=press,
        versions=versions,
        check_standing=gates.registry.check_standing,
        patience=Patience(config.round_timeout_s, config.partners_timeout_s, config.pause_timeout_s),
        approval_s=config.approval_timeout_s,
    )
    return service, ModelServicer(versions, runs, press)


def _offers(gates: Gates, switchboard: Switchboard) -> tuple[OfferDesk, SqlConsentStore]:
    state, clock = gates.config.state, gates.clock
    offers = open_database(state / "offers.db")  # consents too: a withdrawal removes offers in one transaction
    book = SqlOfferBook(offers, clock)
    consents = SqlConsentStore(offers, clock, book.drop_for_consent, gates.config.max_consent_states)
    desk = OfferDesk(
        book=book,
        consents=consents,
        transfers=SqlTransfers(offers),
        switchboard=switchboard,
        terms=lambda: gates.policy.active,
        check_standing=gates.registry.check_standing,
        release=gates.release,
        audit=gates.audit,
        mask_key=keep_secret(state / MASK_KEY_FILE),
        clock=clock,
        turns=Turns(lambda recipient: FileTurn(state / f"offers-{recipient}.lock")),
    )
    return desk, consents


def _training_rules(policy: ActivePolicy) -> TrainingRules:
    active = policy.active
    regions = tuple(sorted(set(active.region_of.values())))
    return TrainingRules(active.training, active.budget.delta, active.partners, regions)


async def serve(config: GatewayConfig, clock: Clock, stop: asyncio.Event) -> None:
    """Serves both ports until told to stop; then lets calls under way end for a moment."""
    identity = load_identity(config.identity)
    parts = await asyncio.to_thread(assemble, config, identity, clock)
    halt = threading.Event()
    decider = threading.Thread(target=parts.desk.serve, args=(halt,), name="offers")
    decider.start()
    try:
        main, port = await open_port(
            config.listen, identity, Gatekeeper(parts.registry), parts.services, client_certificates=True
        )
        door, door_port = await open_port(
            config.listen_enrolment,
            identity,
            Gatekeeper(None, OPEN_METHODS),
            (parts.enrolment,),
            client_certificates=False,
        )
        watch = asyncio.create_task(_keep_current(parts.policy, parts.training))
        _log.info("serving", port=port, enrolment_port=door_port, policy=parts.policy.active.version[:12])
        await stop.wait()
        watch.cancel()
        await asyncio.to_thread(parts.training.stop)
        await asyncio.gather(main.stop(STOP_GRACE_S), door.stop(STOP_GRACE_S))
    finally:
        halt.set()
        await asyncio.to_thread(decider.join)


async def _keep_current(policy: ActivePolicy, training: TrainingService) -> None:
    """Looks for a new version every second, so that a scheduled one comes into force where nobody asks, too; and ends
    proposals of training runs that nobody approved."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await asyncio.to_thread(policy.refresh)
            await asyncio.to_thread(training.expire)
        except Exception as exc:  # decisions meet the same error and are refused; the next look may succeed
            _log.error("not_kept_current", exc_info=exc)


def run(config: GatewayConfig, clock: Clock) -> None:
    """Serves until SIGTERM or SIGINT."""
    logging.getLogger("flwr").setLevel(logging.WARNING)

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="gateway"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(config, clock, stop)

    asyncio.run(main())
