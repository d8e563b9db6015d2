"""Which of several statements about one consent stands: the partner's file, imports and local changes, in layers."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol

from federation.policy.facts import ConsentFact

EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class States(Protocol):
    """The states of consents for one purpose."""

    def get(self, customer: str) -> ConsentFact | None:
        """One customer's, None where nothing is on file."""
        ...


class Overlaid:
    """File, imports and local changes as one, without copying any."""

    def __init__(
        self,
        layers: tuple[States, Mapping[str, ConsentFact], Mapping[str, ConsentFact]],
        now: datetime,
        judge: Callable[[ConsentFact], ConsentFact],
    ) -> None:
        self._file, self._others, self._now, self._judge = layers[0], layers[1:], now, judge

    def get(self, customer: str) -> ConsentFact | None:
        """See States."""
        imported, local = self._others
        fact = standing(self._file.get(customer), imported.get(customer), local.get(customer), self._now)
        return None if fact is None else self._judge(fact)

    def changed(self) -> list[str]:
        """Customers of whom not only the file says something."""
        imported, local = self._others
        return list({*imported, *local})

    def times(self) -> Iterator[datetime | None]:
        """All times in what not only the file says."""
        for layer in self._others:
            for fact in set(layer.values()):
                yield from (fact.given_at, fact.expires_at)


def stated(fact: ConsentFact) -> datetime:
    """When it was stated; an unreadable time counts against consent."""
    return fact.given_at or (EARLIEST if fact.status == "given" else _LATEST)


def newer(known: ConsentFact | None, other: ConsentFact) -> bool:
    """Whether ``known`` stands against ``other``: newer, or as old and stricter."""
    if known is None:
        return False
    return (stated(known), known.status != "given") > (stated(other), other.status != "given")


def standing(
    row: ConsentFact | None, imported: ConsentFact | None, local: ConsentFact | None, now: datetime
) -> ConsentFact | None:
    """Which of three statements stands: the newest of the registers, unless a local change stands against it."""
    base = imported if imported is not None and not newer(row, imported) else row
    return base if local is None or _undoes(base, local, now) else local


def _undoes(row: ConsentFact | None, local: ConsentFact, now: datetime) -> bool:
    """Whether a row of the file stands against a local change. A "given" dated in the future undoes nothing."""
    if row is None or (row.status == "given" and row.given_at is not None and row.given_at > now):
        return False
    return newer(row, local)
