"""Who is in the customers' file, and where they live: what decisions about all of them need."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from federation.client.config import DataConfig
from federation.client.digests import IN_PROCESS, Sorted, Table
from federation.client.files.columns import Column, ColumnStore
from federation.client.files.derived import Derive, Derived, Different
from federation.client.files.tables import check_key


@dataclass(frozen=True)
class Everybody:
    """Everybody in the file, in its order: id, its digest in this process, and the number of the region."""

    ids: pa.Array
    digests: Table
    region: NDArray[np.int32]
    names: list[str]
    store: ColumnStore

    @functools.cached_property
    def by_digest(self) -> Sorted:
        """To look some up; made when it is asked for."""
        return Sorted(self.digests, self.store)

    def region_of(self, row: int) -> str | None:
        """Where a customer lives, None where that is unknown."""
        return self.names[self.region[row]] or None


class EverybodyReader:
    """Reads them. Not for several threads.

    Args:
        config: Where the file is and what its columns are called.
        derived: Makes a reader of some columns that follows the file, as ``PartnerData.derived``.
        store: Where columns are kept.
    """

    def __init__(
        self,
        config: DataConfig,
        derived: Callable[[Sequence[str], Sequence[str], Derive], Derived],
        store: ColumnStore,
    ) -> None:
        self._config, self._names, self._store = config, dict[str, int](), store
        self._derived, self._different = derived((config.columns.region,), (), self._derive), Different()

    def read(self) -> Everybody:
        """Who is there now.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW, also for an id that is empty or not unique.
        """
        look = self._derived.read()
        ids, digests, blank, region = look.columns
        different = self._different(digests, look.was)
        if blank.any() or not different:
            check_key(self._config.customers, ids.to_pandas().rename(self._config.columns.id))
        return Everybody(ids, digests, region, list(self._names), self._store)

    def _derive(self, batch: pa.RecordBatch) -> tuple[list[Column], list[Column]]:
        names = self._config.columns
        ids, regions = batch[names.id], batch[names.region].dictionary_encode()
        numbers = [self._names.setdefault(name, len(self._names)) for name in regions.dictionary.to_pylist()]
        region = np.array(numbers, np.int32)[np.asarray(regions.indices)]
        blank = np.asarray(pc.equal(pc.utf8_trim_whitespace(ids), ""))
        return [ids, IN_PROCESS.of(ids), blank, region], []
