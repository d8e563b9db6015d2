"""The registry of runs: what was proposed, who approved, how far it came, and what it needs to go on from there.

Durable when a call returns. A run that was under way when the gateway stopped, or was killed, goes on from its last
complete round: its checkpoint has the model, what the strategy has learned besides, and how often partners were asked
for an answer, written *before* they were asked. So an attempt that was lost in a crash is never forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.v1 import training_pb2 as pb
from gateway.identity.caller import Caller

PROPOSED, APPROVED, RUNNING, PAUSED = "proposed", "approved", "running", "paused"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
OVER = frozenset({FINISHED, FAILED, STOPPED})


@dataclass(frozen=True)
class RunKey:
    """What makes a call to start a run the same call again: digests of who with which key, and of what was asked."""

    name: str
    request: str


@dataclass(frozen=True)
class Decision:
    """A partner's word on a proposal."""

    party: str
    approved: bool
    by_rule: bool
    reason: str
    at: str


@dataclass(frozen=True)
class Hold:
    """Somebody's pause of a run."""

    party: str
    reason: str
    since: str


@dataclass(frozen=True)
class RunRecord:
    """One run."""

    run_id: str
    key: RunKey
    stored_state: str
    """Without what follows from decisions and holds, see ``state``."""
    started_at: str
    ended_at: str
    rounds_done: int
    proposal: pb.TrainingProposal
    reason: str
    caller: Caller | None
    """Who asked; None for a run of before proposals were kept, which cannot go on."""
    autostart: bool
    """Starts as soon as every partner has approved."""
    proposed_at: str
    expires_at: str
    decisions: Sequence[Decision] = ()
    holds: Sequence[Hold] = ()

    @property
    def state(self) -> str:
        """One of the states above."""
        if self.stored_state == PROPOSED and not self.undecided:
            return APPROVED
        return PAUSED if self.stored_state == RUNNING and self.holds else self.stored_state

    @property
    def undecided(self) -> list[str]:
        """Partners that have not approved yet."""
        approved = {decision.party for decision in self.decisions if decision.approved}
        return [party for party in self.proposal.partners if party not in approved]


@dataclass(frozen=True)
class Checkpoint:
    """Where a run goes on."""

    rounds_done: int
    weights: bytes
    """The model after the last complete round, safetensors; empty before the first."""
    state: bytes
    """What the strategy has learned besides, safetensors; empty before the first."""
    attempts: int
    """How often partners were asked for an answer of a secure sum, one that may be under way included."""
    number: int
    """Of the last attempt in its keys."""


@dataclass(frozen=True)
class Model:
    """What a finished run gave."""

    run_id: str
    weights: bytes
    """safetensors."""
    card_json: str
    signed_card: bytes
    """The same bytes, signed by the gateway (federation.v1.Signed)."""
    version: int = 0
    """Counts finished models; 0 until it is kept."""


@dataclass(frozen=True)
class Finished:
    """A finished model, without its weights."""

    version: int
    run_id: str
    finished_at: str
    card_json: str


class RunStore(Protocol):
    """Keeps runs."""

    def need(self, run_id: str) -> RunRecord:
        """A run by its id. Raises TrainingError (UNKNOWN_RUN)."""
        ...

    def propose(
        self,
        run_id: str,
        key: RunKey,
        proposal: pb.TrainingProposal,
        caller: Caller,
        *,
        autostart: bool,
        at: str,
        expires_at: str,
    ) -> None:
        """Registers a proposal. Raises TrainingError (RUN_FAILED) if there is a run of that id or key."""
        ...

    def decide(self, run_id: str, decision: Decision) -> None:
        """Keeps a partner's word; its last one counts."""
        ...

    def arm(self, run_id: str) -> None:
        """The run starts as soon as every partner has approved."""
        ...

    def begin(self, run_id: str, at: str) -> bool:
        """The run is under way; again is fine, and keeps the first time. False for one that is over."""
        ...

    def keep_attempt(self, run_id: str, attempts: int, number: int) -> None:
        """Partners are about to be asked for an answer."""
        ...

    def keep_round(self, run_id: str, rounds_done: int, weights: bytes, state: bytes) -> None:
        """A round is complete."""
        ...

    def checkpoint(self, run_id: str) -> Checkpoint:
        """Where a run goes on. Raises TrainingError (UNKNOWN_RUN)."""
        ...

    def hold(self, run_id: str, hold: Hold) -> None:
        """Pauses a run for a party; an earlier pause of the same party stays as it is."""
        ...

    def release_hold(self, run_id: str, parties: Sequence[str]) -> None:
        """Ends the pauses of some parties."""
        ...

    def finish(self, model: Model, at: str) -> int:
        """The run gave a model; returns its version, one above the last. 0 for one that is over, which stays so."""
        ...

    def end(self, run_id: str, state: str, reason: str, at: str) -> bool:
        """The run ended without a model, as FAILED or STOPPED. False, and nothing changes, for one that is over."""
        ...

    def find(self, run_id: str) -> RunRecord | None:
        """A run by its id."""
        ...

    def find_key(self, name: str) -> RunRecord | None:
        """A run by the name in its key."""
        ...

    def all(self) -> list[RunRecord]:
        """Every run, newest first."""
        ...

    def model(self, run_id: str = "", version: int = 0) -> Model:
        """A finished model by its run or version; without either the newest. Raises TrainingError (UNKNOWN_RUN)."""
        ...

    def models(self) -> list[Finished]:
        """Every finished model without its weights, newest first."""
        ...
