"""What the agent lays out for one approved run: rows that may be used now, the accountant, and keys of secure sums."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import structlog

from federation.client.eligible import Eligible
from federation.core.clock import Clock
from federation.core.errors import DataError, Reason, TrainingError
from federation.core.identity import Identity
from federation.training.accountant import CustomerAccountant
from federation.training.accounting import SIZE_NOISE, size_event
from federation.training.draws import RandomBytes, standard_gaussians
from federation.training.features import Floats, read_labels
from federation.training.judging import REGION
from federation.training.learner import Rows
from federation.training.memory import RunMemory
from federation.training.plan import PURPOSE, Plan
from federation.training.secure_sum import Attempt, RoundKey

CATEGORY, RECIPIENT = "model_update", "gateway"
MIN_SIZE = 200.0
"""Fewer rows (by the noisy size) than this drown in the noise; and the divisor must be above zero."""
SIZE = "size"
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


class KeyKeeper(Protocol):
    """Keeps the key of the attempt under way between the two phases of a round; one key at a time."""

    def put(self, message_id: str, key: RoundKey) -> None:
        """Keeps a key with the id of the message that it answers. Any earlier key is dropped."""
        ...

    def find(self, message_id: str) -> RoundKey | None:
        """The key that answered a message, if it is the one that is kept."""
        ...

    def take(self) -> RoundKey | None:
        """The key, which is kept no longer."""
        ...


class KeyInMemory:
    """Gone with the process: what a partner's agent uses."""

    def __init__(self) -> None:
        self._kept: tuple[str, RoundKey] | None = None

    def put(self, message_id: str, key: RoundKey) -> None:
        """See KeyKeeper."""
        self._kept = (message_id, key)

    def find(self, message_id: str) -> RoundKey | None:
        """See KeyKeeper."""
        return self._kept[1] if self._kept is not None and self._kept[0] == message_id else None

    def take(self) -> RoundKey | None:
        """See KeyKeeper."""
        kept, self._kept = self._kept, None
        return None if kept is None else kept[1]


class Workbench:
    """One approved run at this partner; what the Flower apps work on.

    Args:
        plan: What was approved.
        data: The partner's own rows.
        accountant: Of its customers.
        memory: Of its runs.
        identity: Signs keys.
        clock: Says when certificates must be valid.
        random_bytes: A cryptographic source.
        keys: Where the key of a round waits for its second phase; None: in memory.
        region_of: Country of residence to the region that a model is judged by.
        region_column: Where the country stands.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        data: TrainingData,
        accountant: CustomerAccountant,
        memory: RunMemory,
        identity: Identity,
        clock: Clock,
        random_bytes: RandomBytes,
        keys: KeyKeeper | None = None,
        region_of: Mapping[str, str] = MappingProxyType({}),
        region_column: str = REGION,
    ) -> None:
        self._region_of, self._region_column = region_of, region_column
        self._plan, self._data, self._accountant, self._memory = plan, data, accountant, memory
        self._identity, self._clock, self._random_bytes = identity, clock, random_bytes
        self._encoded: tuple[pd.DataFrame, Floats, Floats, Any] | None = None
        self._keys: KeyKeeper = keys or KeyInMemory()

    @property
    def plan(self) -> Plan:
        """What was approved."""
        return self._plan

    def now(self) -> datetime:
        """The time."""
        return self._clock.now()

    def offer_key(self, message_id: str, attempt: Attempt) -> bytes:
        """A fresh signed key for an attempt; the same again for the same message. Any earlier key is dropped."""
        key = self._keys.find(message_id)
        if key is None or key.attempt != attempt:
            key = RoundKey(attempt, self._identity, self._random_bytes)
            self._keys.put(message_id, key)
        return key.offer

    def take_key(self, attempt: Attempt) -> RoundKey:
        """The key that was offered for an attempt, once. Raises TrainingError (ATTEMPT_LOST)."""
        key = self._keys.take()
        if key is None or key.attempt != attempt:
            raise TrainingError(Reason.ATTEMPT_LOST, item="no key for this attempt and model")
        return key

    def pay(self, message_id: str) -> None:
        """Charges an attempt. Raises BudgetError, or TrainingError (PROPOSAL_REFUSED) for more than approved."""

        def allow(paid: frozenset[str]) -> None:
            if len((paid - {SIZE}) | {message_id}) > self._plan.max_attempts or message_id == SIZE:
                raise TrainingError(Reason.PROPOSAL_REFUSED, item="more rounds than approved")

        run_id = self._plan.run_id
        # Counted where it is written: under Flower's own transport several processes may be at it.
        epsilon = self._accountant.charge(run_id, message_id, self._plan.round_event(), allow)
        _log.info("training_paid", run=run_id, epsilon_so_far=round(epsilon, 4))

    def size(self) -> float:
        """The noisy number of rows of this run. Raises BudgetError, TrainingError (PROPOSAL_REFUSED)."""
        run_id = self._plan.run_id
        size = self._memory.size(run_id)
        if size is None:
            self._accountant.charge(run_id, SIZE, size_event())
            noise = float(standard_gaussians(1, self._random_bytes)[0]) * SIZE_NOISE
            size = len(self.rows()[1]) + noise
            self._memory.keep_size(run_id, size)
        if size < MIN_SIZE:
            raise TrainingError(Reason.PROPOSAL_REFUSED, item="too few customers for this noise")
        return size

    def rows(self) -> Rows:
        """Rows of everyone who may be in training now and has a label. Raises DataError."""
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
        return Rows(x[places], y[places], self._groups(frame.iloc[places]))

    def _groups(self, frame: pd.DataFrame) -> npt.NDArray[np.int64] | None:
        """The group of each row in every grouping that the model is judged by. Raises DataError (MISSING_COLUMN)."""
        if self._plan.judging is None:
            return None
        placed = []
        for grouping in self._plan.judging.groupings:
            column = self._region_column if grouping.column == REGION else grouping.column
            if column not in frame:
                raise DataError(Reason.MISSING_COLUMN, item=f"column {column}")
            values = frame[column]
            placed.append(grouping.place(values.map(self._region_of) if grouping.column == REGION else values))
        return np.stack(placed, axis=1)
