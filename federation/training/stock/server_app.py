"""Our runs on Flower's own transport: the ServerApp for a stock SuperLink or Flower's simulation.

Strategies, proposals and what partners check are those of our gateway; only the transport is Flower's. The app asks
every node first: the proposal goes to all, and a partner that approves answers with its name, signed for this
proposal, node and run. Then the strategy runs over Flower's ``Grid``. The model and the facts about it go to a folder
of the operator's.

**What is the same.** Each partner decides the proposal by its own policy, limits and accountant, recomputes the
epsilon, and pays on disk before it touches a row (``federation.client.stock.app``). In a secure sum it hides its
vector under keys that the partners sign for each other, so the SuperLink, like our gateway, learns sums only, and can
put nobody in between: it sees signed public keys, masked vectors, and the sum with its noise.

**What is not.**

- There is no alliance ledger, no policy decision and no audit log at a SuperLink. The epsilon for a person holds for
  each run, spare attempts included, because every partner checks it; over several runs the partners' own accountants
  are all there is. A run is in the alliance's books only through the gateway.
- The model goes to whoever runs the SuperLink, not through the release path: no purpose is asked when it is handed
  out.
- Partners' policies permit model updates to the gateway. Who connects a SuperNode says by that act that this SuperLink
  stands in the gateway's place, run by the same party; its TLS certificate is all that is checked of it.
- Flower knows nodes by their keys, not parties by certificates. The signed answer ties one to the other; the operator
  need not be believed about it, and a SuperLink without node authentication gains nothing but a chance to spoil a run.
- Whoever reaches the SuperLink's control interface may start runs there: the community edition does not ask who it is.
  A partner trains for nobody's proposal but one that its own rules permit.
- Flower ships an app's code in a bundle (FAB). Ours holds no code, only the names of two modules of this package,
  which every party has installed (``federation.training.stock.bundle``). A stock SuperNode would also run the code of
  any other bundle that its SuperLink sends, with the rights of its user: Flower checks signatures of bundles with a
  licensed SuperLink alone. So whoever cannot trust its SuperLink with that starts the SuperNode with ``--isolation
  process`` and ``entente partner supernode`` beside it, which never unpacks a bundle
  (``federation.client.stock.runner``).
"""

import base64
import binascii
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from google.protobuf.message import DecodeError

from federation.core.clock import Clock, SystemClock, to_text
from federation.core.errors import ConfigError, DataError, Reason, TrainingError
from federation.core.files import write_secret
from federation.core.logs import configure_logs
from federation.privacy.composition import as_stated, epsilon_of
from federation.training.flower import ArrayRecord, Context, Grid, ServerApp, to_record
from federation.training.models import Weights, initial, save_weights, weights_digest
from federation.training.plan import RUN_ID, Plan, read_plan
from federation.training.stock.nodes import PartnerGrid, introduce
from federation.training.strategy import AllOrNothing, TrainOnly, run_rounds
from federation.training.summed import SummedTraining
from federation.v1 import training_pb2 as pb

HOME_VARIABLE = "ENTENTE_SUPERLINK_HOME"
"""Names the operator's folder: ``ca.pem`` of the alliance is in it, models go to it."""
MAX_PROPOSAL_BYTES = 65_536
ROUND_TIMEOUT_S = 300.0
_log = structlog.get_logger()


@dataclass(frozen=True)
class StockRun:
    """A finished run."""

    plan: Plan
    weights: Weights
    attempts: int


def proposal_text(proposal: pb.TrainingProposal) -> str:
    """A proposal for an app's configuration."""
    return base64.b64encode(proposal.SerializeToString(deterministic=True)).decode()


def read_proposal(data: bytes) -> pb.TrainingProposal:
    """A proposal from its bytes. Raises DataError (TOO_LARGE, BAD_FIELD)."""
    if len(data) > MAX_PROPOSAL_BYTES:
        raise DataError(Reason.TOO_LARGE, item="proposal")
    try:
        return pb.TrainingProposal.FromString(data)
    except DecodeError as exc:
        raise DataError(Reason.BAD_FIELD, item="proposal") from exc


def _configured(config: Mapping[str, Any]) -> pb.TrainingProposal:
    """The proposal of a run's configuration. Raises DataError (BAD_FIELD, TOO_LARGE)."""
    try:
        return read_proposal(base64.b64decode(str(config["proposal"]), validate=True))
    except (KeyError, binascii.Error) as exc:
        raise DataError(Reason.BAD_FIELD, item="proposal in the run's configuration") from exc


def train_over(
    grid: Grid,
    proposal: pb.TrainingProposal,
    ca: x509.Certificate,
    clock: Clock,
    *,
    timeout_s: float = ROUND_TIMEOUT_S,
) -> StockRun:
    """A whole run over Flower's grid.

    Args:
        grid: Flower's, for one run.
        proposal: Complete, noise included.
        ca: The alliance's.
        clock: Tells the time.
        timeout_s: Of one phase of a round.

    Raises:
        DataError: the proposal makes no sense.
        TrainingError: see ``introduce`` and the strategies.
    """
    plan = read_plan(proposal)
    nodes = introduce(grid, proposal, ca, clock, timeout_s=timeout_s)
    _log.info("stock_run_begins", run=plan.run_id, nodes=len(nodes))

    def before_retry(attempts: int) -> None:
        """Spare attempts are in the epsilon that every partner approved; the strategy allows no more."""
        _log.warning("stock_round_lost", run=plan.run_id, attempts=attempts)

    def after_round(number: int, arrays: ArrayRecord) -> None:
        _log.info("stock_round_done", run=plan.run_id, round=number, rounds=plan.rounds)

    strategy: TrainOnly = AllOrNothing(plan, nodes)
    if plan.noise is not None:
        strategy = SummedTraining(plan, nodes, timeout_s, before_retry)
    start, numbers = to_record(initial(plan.kind, plan.width)), range(1, plan.rounds + 1)
    run_rounds(strategy, PartnerGrid(grid, nodes), start, numbers, timeout_s=timeout_s, after_round=after_round)
    return StockRun(plan, strategy.model(), strategy.attempts)


def keep_run(run: StockRun, home: Path, clock: Clock) -> Path:
    """Writes the model and the facts about it; returns the model's path. Raises TrainingError (RUN_FAILED)."""
    plan, data = run.plan, save_weights(run.weights)
    path = home / "models" / f"{plan.run_id}.safetensors"
    if not RUN_ID.fullmatch(plan.run_id) or path.exists():
        raise TrainingError(Reason.RUN_FAILED, item=f"run {plan.run_id[:64]!r} was there before, or is no file name")
    facts = {
        "run_id": plan.run_id,
        "proposal_sha256": plan.digest,
        "model": plan.kind,
        "partners": list(plan.partners),
        "rounds": plan.rounds,
        "attempts": run.attempts,
        "epsilon_per_person": as_stated(epsilon_of([plan.person_event(run.attempts)], plan.delta)),
        "delta": plan.delta,
        "weights_sha256": weights_digest(data),
        "trained_at": to_text(clock.now()),
        "alliance_ledger": False,
    }
    write_secret(path.with_suffix(".json"), json.dumps(facts, indent=2).encode())
    write_secret(path, data)
    return path


def build_server_app(
    home: Callable[[], Path],
    proposal: Callable[[Mapping[str, Any]], pb.TrainingProposal] = _configured,
    clock: Clock | None = None,
) -> ServerApp:
    """The app that runs at a SuperLink.

    Args:
        home: The operator's folder, with ``ca.pem``; asked when a run begins.
        proposal: Finds the proposal in the run's configuration.
        clock: Tells the time; None: the machine's.
    """
    app = ServerApp()
    clock = clock or SystemClock()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        folder, asked = home(), proposal(context.run_config)
        timeout_s = float(context.run_config.get("round-timeout-s", ROUND_TIMEOUT_S))
        try:
            ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        except OSError as exc:
            raise ConfigError(Reason.MISSING_FILE, item=str(folder / "ca.pem")) from exc
        path = keep_run(train_over(grid, asked, ca, clock, timeout_s=timeout_s), folder, clock)
        _log.info("stock_run_finished", run=asked.run_id, model=str(path))

    return app


def _named_home() -> Path:
    """The folder in the environment of the SuperLink. Raises ConfigError (MISSING_FILE)."""
    if not (name := os.environ.get(HOME_VARIABLE)):
        raise ConfigError(Reason.MISSING_FILE, item=HOME_VARIABLE)
    return Path(name)


configure_logs()  # in a process that Flower starts nothing of ours came before
app = build_server_app(_named_home)
"""What the bundle names."""
