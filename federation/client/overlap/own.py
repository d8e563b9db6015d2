"""A partner's own batches of an epoch on its disk: the base once, then one delta after another."""

import json
import operator
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import structlog

from federation.client.config import PartnerConfig
from federation.client.digests import KEY_BYTES, Digests
from federation.client.files.columns import ColumnStore
from federation.client.files.lines import FileMoved
from federation.client.overlap.batches import BatchBuilder
from federation.client.overlap.data import Data, Handles, allowed
from federation.client.overlap.delta import Changes, DeltaBuilder
from federation.client.overlap.labels import columns_read
from federation.client.overlap.memory import Memory, Pool
from federation.client.overlap.people import CustomerReader
from federation.client.overlap.progress import Progress
from federation.client.overlap.shrink import ShrinkLimit
from federation.client.overlap.state import EpochState
from federation.core.clock import Clock, to_text
from federation.core.errors import DataError, OverlapError, Reason
from federation.core.files import write_secret
from federation.core.identity import Identity
from federation.overlap.batch import Random
from federation.overlap.own_key import OwnKey
from federation.overlap.plan import (
    MAX_DELTAS,
    STATISTICS,
    SWITCHBOARD,
    Agreement,
    key_types_of,
    row_bytes,
)
from federation.policy.specs import PartySpec
from federation.v1 import overlap_pb2 as pb

DELTA_FILE = "last-delta.json"
"""How many people came and went, for the partner alone."""
MAX_READERS = 2
"""Of the epoch that answers and of one that is being built."""
_log = structlog.get_logger()


@dataclass(frozen=True)
class _Compared:
    """With which memory of an epoch a partner's answers were compared, and that nothing was to be sent any more."""

    epoch: str
    delta: int
    answers: tuple[object, ...]
    """Held here, so that no other object can have the identity of one."""

    def holds(self, epoch: str, delta: int, answers: tuple[object, ...]) -> bool:
        """Whether memory and answers are still those: what may have changed is another object."""
        same = len(answers) == len(self.answers) and all(map(operator.is_, answers, self.answers))
        return same and (epoch, delta) == (self.epoch, self.delta)


class OwnBatches:
    """Writes them; what is written is in the partner's state.

    Args:
        state: Of the epochs.
        identity: The partner's.
        data: Its rows, under its own policy.
        handles: Its handle book.
        config: Its configuration.
        policy: Its own policy: labels, decoys.
        progress: Called while rows are worked on.
        random: Order and decoys.
        clock: For permissions that end.
    """

    def __init__(
        self,
        state: EpochState,
        *,
        identity: Identity,
        data: Data,
        handles: Handles,
        config: PartnerConfig,
        policy: Agreement,
        progress: Progress,
        random: Random,
        clock: Clock,
    ) -> None:
        self._state, self._identity, self._data, self._handles = state, identity, data, handles
        self._config, self._policy, self._progress, self._random = config, policy, progress, random
        self._limit, self._clock = ShrinkLimit(config.state, config.data.max_shrink_share, clock), clock
        # What was compared last, for withdrawals alone and for everything.
        self._withdrawn = self._everything = _Compared("", 0, ())
        self._store = ColumnStore(config.state)
        self._readers: list[tuple[object, CustomerReader]] = []

    @property
    def _party(self) -> PartySpec:
        return self._policy.parties[self._identity.subject.party]

    def build(self, plan: pb.EpochPlan) -> None:
        """Writes the base and the report of who is in it. Raises DataError where the partner's files are not usable."""
        eligible, keys = self._eligible(), self._keys(plan)
        with closing(Pool(self._state.folder(plan.epoch), row_bytes(plan), 0)) as pool:
            builder = self._builder(plan, pool)
            with self._steady():
                self._state.save_own(plan.epoch, lambda folder: builder.build(keys, folder))
        self._withdrawn = _Compared(plan.epoch, 0, eligible)
        report = json.dumps(builder.report(), indent=1, sort_keys=True).encode()
        write_secret(self._config.state / "reports" / f"overlap-{plan.epoch}.json", report)

    def change(self, plan: pb.EpochPlan, *, withdrawals_only: bool) -> None:
        """Writes what changed as the next delta, or nothing if nothing did.

        Raises:
            DataError: the partner's files are not usable; FILE_SHRANK, and then withdrawals alone are written as far as
                they were recorded here.
            OverlapError: BAD_FIELD for a label that the epoch does not have; TOO_LARGE after ``MAX_DELTAS``.
        """
        # Asked for before they are compared with what was sent: what changes meanwhile is another object next time.
        eligible = self._eligible()
        answers = eligible if withdrawals_only else (*eligible, *self._holdings())
        last = self._withdrawn if withdrawals_only else self._everything
        if last.holds(plan.epoch, self._state.last_delta(plan.epoch), answers):
            return
        with self._steady():
            self._compare(plan, withdrawals_only=withdrawals_only)
        delta = self._state.last_delta(plan.epoch)
        self._withdrawn = _Compared(plan.epoch, delta, eligible)
        if not withdrawals_only:
            self._everything = _Compared(plan.epoch, delta, answers)

    def _eligible(self) -> tuple[object, ...]:
        """Whom files, consents and rules allow in each index now: other objects where it may be others."""
        return tuple(allowed(self._data, self._party, index) for index in (STATISTICS, SWITCHBOARD))

    def _holdings(self) -> tuple[object, ...]:
        """What else labels are made from, where they are."""
        derived = set(columns_read(self._party)) != set(self._party.columns)
        return (self._data.holdings(),) if derived else ()

    def _compare(self, plan: pb.EpochPlan, *, withdrawals_only: bool) -> None:
        memory = Memory.load(self._state.memory(plan.epoch), self._store)
        digests = self._digests(plan)
        with closing(Pool(self._state.folder(plan.epoch), row_bytes(plan), memory.rows)) as pool:
            delta = DeltaBuilder(
                self._builder(plan, pool),
                data=self._data,
                handles=self._handles,
                party=self._party,
                digests=digests,
                pool=pool,
                memory=memory,
                store=self._store,
            )
            changes = delta.withdrawn() if withdrawals_only else delta.current()
            losses = (changes.lost_people, len(memory.people)), (changes.lost_sharers, len(memory.sharing))
            try:
                self._limit.check(*losses)
            except DataError:
                if withdrawals_only:
                    self._write(plan, delta, delta.withdrawn(here=True), len(memory.people))
                raise
            self._write(plan, delta, changes, len(memory.people))

    def _write(self, plan: pb.EpochPlan, delta: DeltaBuilder, changes: Changes, before: int) -> None:
        """Writes changes as the next delta, if there are any; so many people were there before."""
        if changes.empty:
            return
        sequence, keys = self._state.last_delta(plan.epoch) + 1, self._keys(plan)
        if sequence > MAX_DELTAS:
            raise OverlapError(Reason.TOO_LARGE, item=f"delta {sequence}", fix="Build a new epoch.")
        self._state.save_delta(plan.epoch, sequence, lambda folder: delta.write(changes, sequence, keys, folder))
        people = {"before": before, "gone": changes.lost_people, "new": sum(map(len, changes.comes.values()))}
        _log.info("overlap_delta", epoch=plan.epoch, sequence=sequence, **changes.counts())
        said = {"epoch": plan.epoch, "sequence": sequence, "at": to_text(self._clock.now()), "people": people}
        write_secret(self._config.state / DELTA_FILE, json.dumps(said).encode())

    def _keys(self, plan: pb.EpochPlan) -> dict[int, OwnKey]:
        return {index: self._state.own_key(plan, index) for index in (STATISTICS, SWITCHBOARD)}

    def _builder(self, plan: pb.EpochPlan, pool: Pool) -> BatchBuilder:
        return BatchBuilder(
            plan,
            identity=self._identity,
            data=self._data,
            handles=self._handles,
            config=self._config.data,
            agreement=self._policy,
            random=self._random,
            progress=self._progress,
            pool=pool,
            store=self._store,
            read=self._reader(plan).read,
        )

    @contextmanager
    def _steady(self) -> Iterator[None]:
        """Says of a file that changed in the middle that it is not usable now."""
        try:
            yield
        except FileMoved as exc:
            name = self._config.data.customers.name
            raise DataError(Reason.BROKEN_ROW, item=f"{name}: changed while it was read", fix="Ask again.") from exc

    def _digests(self, plan: pb.EpochPlan) -> Digests:
        return Digests(self._state.secret(plan.epoch, KEY_BYTES))

    def _reader(self, plan: pb.EpochPlan) -> CustomerReader:
        """What reads the customers for an epoch, and remembers what it read."""
        kinds, party = key_types_of(plan.key_type), self._party
        about = (plan.epoch, kinds, tuple(party.columns.items()))
        known = next((reader for which, reader in self._readers if which == about), None)
        if known is None:
            known = CustomerReader(self._data.derived, self._config.data, kinds, party, self._digests(plan))
            self._readers = [*self._readers[1 - MAX_READERS :], (about, known)]
        return known
