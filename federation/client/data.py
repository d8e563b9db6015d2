"""The partner's own data: who its customers are, what they hold, and whom its own policy lets into a use.

Nothing here leaves the partner. Files are read strictly (see ``files``) and again whenever they change on disk. Who
may be in a use is decided by the partner's *own* policy with each row's own consent, whatever is asked.

An answer is kept until a file or a consent changes, time alone changes a consent, or the day ends; a withdrawal is such
a change.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TypeVar, cast

import pandas as pd
import pyarrow as pa

from federation.client.config import DataConfig
from federation.client.consent.book import ConsentBook
from federation.client.digests import IN_PROCESS
from federation.client.eligible import Decisions, Eligible, OwnPolicy, refuses
from federation.client.everybody import Everybody, EverybodyReader
from federation.client.files.columns import ColumnStore, Places, parts
from federation.client.files.derived import Derive, Derived
from federation.client.files.lines import Reading, scan_lines
from federation.client.files.tables import FileStamp, read_columns, read_header, read_table, stamp
from federation.core.clock import Clock
from federation.core.ids import CustomerId
from federation.policy.facts import Facts
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX

_MAX_ANSWERS = 16
T = TypeVar("T")


@dataclass(frozen=True)
class _Answer:
    """What was found about a use, what it was found from, and as of when it holds."""

    revision: tuple[object, ...]
    since: datetime
    until: datetime
    eligible: Eligible


class PartnerData:
    """One partner's files under its own policy. Safe to share between threads.

    Args:
        config: Where the files are and what the columns are called.
        party: The partner, as in its certificate.
        policy: Its own rules.
        consents: Its consent book.
        clock: Tells the time of decisions.
        store: Where columns of the files are kept.
    """

    def __init__(  # noqa: PLR0917 - the parts of a partner's data, each of its own type
        self,
        config: DataConfig,
        party: str,
        policy: OwnPolicy,
        consents: ConsentBook,
        clock: Clock,
        store: ColumnStore | None = None,
    ) -> None:
        self.config, self.party, self.policy, self.consents, self.clock = config, party, policy, consents, clock
        self._store = store or ColumnStore()
        self._lock = threading.RLock()  # what is kept may be made of what is kept
        self._customers = EverybodyReader(config, self.derived, self._store)
        self._tables: dict[tuple[Path, str], tuple[FileStamp, object]] = {}
        self._answers: dict[tuple[object, ...], _Answer] = {}

    def customers(self) -> pd.DataFrame:
        """All customers, indexed by customer id (str, unique, sorted as in the file). Do not change it: it is shared.

        Identifier and region columns are text, "" where empty; other columns are numbers where every value is one.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN (id, region) or BROKEN_ROW.
        """
        names = self.config.columns
        text = {names.id, names.email, names.phone, names.national_id, names.region}

        def read() -> pd.DataFrame:
            table = read_table(self.config.customers, required=(names.id, names.region), text=text, key=names.id)
            return table.set_index(names.id)

        return self._cached(self.config.customers, "frame", read)

    def holdings(self) -> pd.DataFrame:
        """Which products each customer has: at least the columns ``customer_id`` and ``product``, as text.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
        """
        needed = ("customer_id", "product")
        path = self.config.holdings
        return self._cached(path, "frame", lambda: read_table(path, required=needed, text=needed))

    def columns(self, names: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
        """Columns of the customers' file as text, "" where empty, the id first; rows as in the file. They are not kept.

        Args:
            names: Columns that must be there.
            optional: Columns that are left out where they are not.

        Raises:
            DataError: MISSING_FILE, MISSING_COLUMN or BROKEN_ROW.
        """
        path, key = self.config.customers, self.config.columns.id
        there = read_header(path) if optional else ()
        wanted = (key, *names, *(name for name in optional if name in there))
        return read_columns(path, required=tuple(dict.fromkeys(wanted)), key=key)

    def derived(
        self,
        names: Sequence[str],
        optional: Sequence[str],
        derive: Derive,
    ) -> Derived:
        """Columns that follow from each line of the customers' file alone.

        Args:
            names: Columns of the file that are needed beside the id.
            optional: Columns that ``derive`` gets where they are there.
            derive: See ``derived.Derived``.
        """
        path, key = self.config.customers, self.config.columns.id

        def look(before: Reading | None, whole: bool) -> Reading:
            earlier = before.lines if before is not None else None
            lines = None if whole else self._cached(path, "lines", lambda: scan_lines(path, self._store, earlier))
            there = () if not optional else lines.names if lines is not None else read_header(path)
            wanted = (key, *names, *(name for name in optional if name in there))
            return Reading(path, tuple(dict.fromkeys(wanted)), lines, before)

        return Derived(look, derive, self._store, again=True)

    def eligible(
        self,
        purpose: str,
        data_category: str,
        recipient: str,
        *,
        channel: str | None = None,
        fields: frozenset[str] = frozenset(),
    ) -> Eligible:
        """Asks the partner's own policy about every customer.

        Args:
            purpose: For example "overlap_statistics".
            data_category: For example "blinded_identifier".
            recipient: "gateway" or a party.
            channel: For offers.
            fields: Names of further attributes that would go along.

        Raises:
            DataError: as ``customers``, and for the consent file.
        """
        request = (purpose, data_category, recipient, channel, fields)
        # Before anything is read: what changes from here on is seen at the next call.
        revision = (stamp(self.config.customers), *self.consents.revision())
        at = self.clock.now()
        with self._lock:
            known = self._answers.get(request)
        if known is not None and known.revision == revision and known.since <= at < known.until:
            return known.eligible
        everybody = self._everybody()
        states = [
            self.consents.standing(everybody.digests, name, at)
            for name in (purpose, purpose + SENSITIVE_SUFFIX, OBJECTION_PURPOSE)
        ]
        consents, sensitive, objections = states
        decisions = Decisions(
            lambda row: self.policy.decide(
                Facts(
                    purpose=purpose,
                    data_category=data_category,
                    origin=self.party,
                    recipient=recipient,
                    at=at,
                    channel=channel,
                    subject_region=everybody.region_of(row),
                    consent=consents.fact(row),
                    fields=fields,
                    sensitive_consent=sensitive.fact(row),
                    objected=refuses(objections.fact(row)),
                )
            )
        )

        def permitted_of(part: slice) -> Places:
            return decisions.permitted(part.start, [everybody.region[part], *(state.classes(part) for state in states)])

        rows = self._store.joined(map(permitted_of, parts(len(everybody.ids))))
        found = Eligible(everybody.ids, rows, dict(decisions.refused), decisions.reasons)
        changes = [state.next_change for state in states]
        until = min([_midnight_after(at), *(change for change in changes if change is not None)])
        with self._lock:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.pop(next(iter(self._answers)))
            self._answers[request] = _Answer(revision, at, until, found)
        return found

    def stamps(self) -> tuple[FileStamp, FileStamp]:
        """What tells whether the files of customers and consents changed. Raises DataError."""
        return stamp(self.config.customers), stamp(self.config.consents)

    def regions(self, ids: Sequence[CustomerId]) -> dict[CustomerId, str | None]:
        """The country of residence of each, None where it is unknown; whoever is not in the file is left out.

        Raises DataError.
        """
        everybody, wanted = self._everybody(), list(dict.fromkeys(ids))
        rows = everybody.by_digest.find(IN_PROCESS.of(pa.array(wanted, pa.string()))).tolist()
        return {who: everybody.region_of(row) for who, row in zip(wanted, rows, strict=True) if row >= 0}

    def recorded(self, purpose: str) -> list[CustomerId]:
        """Customers of whom a consent or objection that counts for a purpose was recorded apart from the files."""
        return self.consents.recorded({purpose, purpose + SENSITIVE_SUFFIX, OBJECTION_PURPOSE})

    def _everybody(self) -> Everybody:
        return self._cached(self.config.customers, "everybody", self._customers.read)

    def _cached(self, path: Path, what: str, read: Callable[[], T]) -> T:
        with self._lock:
            now = stamp(path)
            known = self._tables.get((path, what))
            if known is None or known[0] != now:
                known = self._tables[path, what] = (now, read())
            return cast(T, known[1])


def _midnight_after(at: datetime) -> datetime:
    return datetime.combine(at.astimezone(UTC).date() + timedelta(days=1), time(), UTC)
