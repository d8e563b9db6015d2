"""Reads what customers said from a register's rows, strictly and fast.

A row is broken if it does not say whose consent it is, for what, and which of the known states; a "given" must also be
complete, because half a consent proves nothing, and of a time that has come: a wrong year would make it newer than
every end until then. An *end* (withdrawn, refused) needs no more than that: one without a readable time counts from the
moment it is read, and one of a time to come no later than a "given" may be, so no slip in a file keeps a consent alive
that somebody ended, and none keeps the person from agreeing again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from federation.core.clock import from_text
from federation.core.errors import DataError, Reason
from federation.core.identity import PARTY_PATTERN
from federation.policy.facts import ConsentFact

T = TypeVar("T")
STATUSES = frozenset({"given", "withdrawn", "refused"})
FIELDS = (
    "customer_id",
    "purpose",
    "status",
    "recipients",
    "given_at",
    "expires_at",
    "separate_consent",
    "cross_border_consent",
    "jurisdiction",
)
RECORD_ID = "record_id"
"""Of a row, where the register has it."""
FLAGS = {"1": True, "0": False, "true": True, "false": False}
MAX_AHEAD = timedelta(minutes=5)
"""A register's clock may be so much ahead of ours."""
MAX_ID_CHARS = 128
MAX_RECIPIENTS = 32
_CACHED = 50_000
PURPOSE = re.compile(r"[a-z][a-z0-9_-]{0,47}")
LAW = re.compile(r"[A-Z]{2,8}")
REGION = re.compile(r"[A-Z]{2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a customer said."""

    customer_id: str
    purpose: str
    fact: ConsentFact  # given_at is when it was said
    record_id: str


def microseconds(at: datetime) -> int:
    """Since 1970; sorts and compares as the time does."""
    return (at - _EPOCH) // _MICROSECOND


class StatementReader:
    """Turns rows into statements. Remembers texts that repeat, up to a bound; not for several threads.

    Args:
        now: Time of reading, for ends that have no time and for what cannot have been said yet.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._times: dict[str, datetime | None] = {}
        self._names: dict[str, frozenset[str] | None] = {}

    def read_values(self, values: list[str], record_id: str = "") -> Statement:
        """Reads the values of ``FIELDS``, in that order.

        Raises:
            DataError: BROKEN_ROW, with what is wrong, without any value of the row.
        """
        customer, purpose, status, recipients, given_at, expires_at, separate, abroad, law = values
        if not 0 < len(customer) <= MAX_ID_CHARS or not customer.isprintable():
            raise _broken("customer_id is empty or not readable")
        if customer != customer.strip():
            raise _broken("customer_id has spaces around it")
        if len(record_id) > MAX_ID_CHARS or not record_id.isprintable():
            raise _broken("record_id is not readable")
        if not PURPOSE.fullmatch(purpose):
            raise _broken("purpose is not readable")
        if status not in STATUSES:
            raise _broken("status is none of given, withdrawn, refused")
        names = self._recipients(recipients)
        start, end = self._time(given_at), self._time(expires_at)
        fact = ConsentFact(
            status=status,
            recipients=names,
            given_at=start,
            expires_at=end,
            separate=FLAGS.get(separate.strip().lower()),
            cross_border=FLAGS.get(abroad.strip().lower()),
            jurisdiction=law if LAW.fullmatch(law) else None,
        )
        if status == "given":
            _check_given(fact, self._now)
        else:
            fact = replace(fact, given_at=min(start or self._now, self._now + MAX_AHEAD))
        return Statement(customer, purpose, fact, record_id)

    def _time(self, text: str) -> datetime | None:
        try:
            return self._times[text]
        except KeyError:
            return self._remember(self._times, text, _read_time)

    def _recipients(self, text: str) -> frozenset[str] | None:
        try:
            return self._names[text]
        except KeyError:
            return self._remember(self._names, text, _read_names)

    @staticmethod
    def _remember(cache: dict[str, T], text: str, read: Callable[[str], T]) -> T:
        if len(cache) >= _CACHED:
            cache.clear()
        value = cache[text] = read(text)
        return value


def _broken(what: str) -> DataError:
    return DataError(Reason.BROKEN_ROW, item=what)


def _check_given(fact: ConsentFact, now: datetime) -> None:
    needs = {
        "recipients": fact.recipients,
        "given_at": fact.given_at,
        "expires_at": fact.expires_at,
        "separate_consent": fact.separate,
        "cross_border_consent": fact.cross_border,
        "jurisdiction": fact.jurisdiction,
    }
    for name, value in needs.items():
        if value is None:
            raise _broken(f"{name} is missing or not readable")
    if fact.given_at is not None and fact.expires_at is not None and fact.expires_at <= fact.given_at:
        raise _broken("expires_at is not after given_at")
    if fact.given_at is not None and fact.given_at > now + MAX_AHEAD:
        raise _broken("given_at is in the future")


def _read_names(text: str) -> frozenset[str] | None:
    names = frozenset(text.split())
    usable = len(names) <= MAX_RECIPIENTS and all(PARTY_PATTERN.fullmatch(name) for name in names)
    return names if usable else None


def _read_time(text: str) -> datetime | None:
    try:
        return from_text(text)
    except DataError:
        return None


def cell(value: Any) -> str:
    """A JSON value as a register's cell; what is no cell is not readable."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return " ".join(value)
    return "" if value is None else str(value) if isinstance(value, int) else "\0"
