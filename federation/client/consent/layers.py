"""Which of several statements about one consent stands: the partner's file, imports and local changes, in layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from federation.policy.facts import ConsentFact

EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class States(Protocol):
    """The states of consents for one purpose."""

    def get(self, customer: str) -> ConsentFact | None:
        """One customer's, None where nothing is on file."""
        ...

    def of(self, customers: Sequence[str]) -> dict[str, ConsentFact]:
        """Those of some customers; whoever has none is left out."""
        ...


class Overlaid:
    """Registers and local changes as one, without copying any."""

    def __init__(
        self,
        registers: States,
        local: Mapping[str, ConsentFact],
        now: datetime,
        judge: Callable[[ConsentFact], ConsentFact],
    ) -> None:
        self._registers, self.local, self._now, self._judge = registers, local, now, judge

    def get(self, customer: str) -> ConsentFact | None:
        """See States."""
        return self.of([customer]).get(customer)

    def of(self, customers: Sequence[str]) -> dict[str, ConsentFact]:
        """See States."""
        registers = self._registers.of(customers)
        facts = ((one, standing(registers.get(one), self.local.get(one), self._now)) for one in customers)
        return {one: self._judge(fact) for one, fact in facts if fact is not None}

    def times(self) -> Iterator[datetime | None]:
        """All times in local changes."""
        for fact in set(self.local.values()):
            yield from (fact.given_at, fact.expires_at)


def stated(fact: ConsentFact) -> datetime:
    """When it was stated; an unreadable time counts against consent."""
    return fact.given_at or (EARLIEST if fact.status == "given" else _LATEST)


def newer(known: ConsentFact | None, other: ConsentFact) -> bool:
    """Whether ``known`` stands against ``other``: newer, or as old and stricter."""
    if known is None:
        return False
    return (stated(known), known.status != "given") > (stated(other), other.status != "given")


def newest(row: ConsentFact | None, imported: ConsentFact | None) -> ConsentFact | None:
    """Which statement of the registers stands: of two that are as old and as strict the imported one."""
    return imported if imported is not None and not newer(row, imported) else row


def standing(base: ConsentFact | None, local: ConsentFact | None, now: datetime) -> ConsentFact | None:
    """Which statement stands: that of the registers, unless a local change stands against it."""
    return base if local is None or _undoes(base, local, now) else local


def _undoes(row: ConsentFact | None, local: ConsentFact, now: datetime) -> bool:
    """Whether a row of the file stands against a local change. A "given" dated in the future undoes nothing."""
    if row is None or (row.status == "given" and row.given_at is not None and row.given_at > now):
        return False
    return newer(row, local)
