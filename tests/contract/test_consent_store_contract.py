"""What every consent store promises."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import OfferError, Reason
from federation.core.ids import Handle, PartyId
from gateway.consent.sql import SqlConsentStore
from gateway.consent.store import ConsentRecord, ConsentStore
from tests.conftest import NOW
from tests.kits.offers import BANK, INSURER, given, handle, record

PURPOSE = "offer_sharing"
MAX_STATES = 2_000


class BrokenError(Exception):
    """Raised inside a transaction."""


class Opened:
    """A store on some driver, and what it was told to end."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.clock, self.ended = path, FixedClock(NOW), list[tuple[PartyId, Handle, str]]()
        self.fail = False
        self.store: ConsentStore = self.open()

    def open(self) -> SqlConsentStore:
        self.engine = open_database(self.path)
        return SqlConsentStore(self.engine, self.clock, self._end, MAX_STATES)

    def _end(self, _connection: Connection, party: PartyId, ended: Sequence[tuple[Handle, str]]) -> int:
        self.ended += [(party, handle_, purpose) for handle_, purpose in ended]
        if self.fail:
            raise BrokenError
        return 3


@pytest.fixture(params=["memory", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(None if request.param == "memory" else tmp_path / "gateway.db")
    yield opened
    opened.engine.dispose()


def status(opened: Opened, person: int = 1, party: PartyId = BANK) -> str | None:
    found = opened.store.get(party, handle(party, person), PURPOSE)
    return found.fact.status if found else None


def stated(text: str, at: datetime, person: int = 1) -> ConsentRecord:
    return record(BANK, person, given(status=text, given_at=at))


def test_returns_what_was_recorded(opened: Opened) -> None:
    records = [record(BANK, n) for n in range(1000)]
    assert opened.store.record(BANK, records) == 1000
    assert opened.store.get(BANK, handle(BANK, 999), PURPOSE) == records[999]
    assert opened.store.get(INSURER, handle(BANK, 999), PURPOSE) is None
    assert opened.store.get(BANK, handle(BANK, 999), "model_training") is None
    other = replace(records[5], purpose="model_training")
    opened.store.record(BANK, [other])
    assert opened.store.all_of(BANK, handle(BANK, 5)) == [other, records[5]]
    assert opened.store.record(BANK, []) == 0


def test_a_party_has_so_many_states_kept_and_no_more(opened: Opened) -> None:
    """Handles are opaque: without a limit a partner could have the gateway keep invented ones for ever."""
    assert opened.store.record(BANK, [record(BANK, n) for n in range(MAX_STATES - 1)]) == MAX_STATES - 1
    for new in ([record(BANK, MAX_STATES), record(BANK, MAX_STATES + 1)], [record(BANK, n) for n in range(3_000)]):
        with pytest.raises(OfferError) as caught:
            opened.store.record(BANK, new)
        assert (caught.value.reason, caught.value.item) == (Reason.TOO_MANY_CONSENTS, "bank has 1,999 of 2,000")
    assert opened.store.get(BANK, handle(BANK, MAX_STATES), PURPOSE) is None  # all or none
    opened.store = opened.open() if opened.path else opened.store
    later = [stated("given", NOW - timedelta(days=1), n) for n in range(MAX_STATES - 1)]
    assert opened.store.record(BANK, later) == MAX_STATES - 1  # what is known may change
    assert opened.store.record(BANK, [record(BANK, MAX_STATES)]) == 1
    assert opened.store.record(INSURER, [record(INSURER, 1)]) == 1


def test_a_withdrawal_finds_room_where_a_consent_does_not(opened: Opened) -> None:
    opened.store.record(BANK, [record(BANK, n) for n in range(MAX_STATES)])
    opened.store.withdraw(BANK, handle(BANK, 0), PURPOSE)
    opened.store.withdraw(BANK, handle(BANK, 0), "automated_marketing")  # not known before
    assert opened.store.record(BANK, [stated("refused", NOW, MAX_STATES + 1)]) == 1
    with pytest.raises(OfferError, match="TOO_MANY_CONSENTS"):
        opened.store.record(BANK, [record(BANK, MAX_STATES + 2)])
    opened.store.record(BANK, [stated("refused", NOW, n) for n in range(MAX_STATES + 2, 2 * MAX_STATES)])
    with pytest.raises(OfferError, match="TOO_MANY_CONSENTS"):
        opened.store.withdraw(BANK, handle(BANK, 9_999), PURPOSE)
    assert opened.ended[-1] != (BANK, handle(BANK, 9_999), PURPOSE)
    opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE)
    assert status(opened) == "withdrawn"


def test_states_of_many_people_are_found_together(opened: Opened) -> None:
    mine, other = record(BANK, 1), replace(record(BANK, 1), purpose="model_training")
    theirs = record(INSURER, 1)
    opened.store.record(BANK, [mine, other, record(BANK, 2)])
    opened.store.record(INSURER, [theirs])
    people = [
        (BANK, handle(BANK, 1)),
        (INSURER, handle(INSURER, 1)),
        (INSURER, handle(BANK, 2)),
        (BANK, handle(BANK, 9)),
    ]
    assert opened.store.find(people, (PURPOSE, "unheard_of")) == {
        (*people[0], PURPOSE): mine,
        (*people[1], PURPOSE): theirs,
    }
    assert opened.store.find(people[:1], (PURPOSE, "model_training")) == {
        (*people[0], PURPOSE): mine,
        (*people[0], "model_training"): other,
    }
    assert opened.store.find([], (PURPOSE,)) == opened.store.find(people, ()) == {}
    many = [(BANK, handle(BANK, number)) for number in range(2000)]
    assert len(opened.store.find(many, (PURPOSE,))) == 2


def test_the_newest_statement_stands_in_any_order(opened: Opened) -> None:
    old, new = NOW - timedelta(days=9), NOW - timedelta(days=1)
    assert opened.store.record(BANK, [stated("withdrawn", new), stated("given", old)]) == 1
    assert opened.store.record(BANK, [stated("given", old)]) == 0
    assert status(opened) == "withdrawn"
    assert opened.store.record(BANK, [stated("given", NOW)]) == 1
    assert status(opened) == "given"
    assert opened.store.record(BANK, [stated("refused", NOW)]) == 1
    assert opened.store.record(BANK, [stated("given", NOW)]) == 0
    assert status(opened) == "refused"


def test_a_withdrawal_outlives_older_and_repeated_statements(opened: Opened) -> None:
    opened.store.record(BANK, [record(BANK, 1)])
    ended = opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE)
    assert (ended.at, ended.offers_removed, status(opened)) == (NOW, 3, "withdrawn")
    assert opened.store.record(BANK, [record(BANK, 1)]) == 0
    assert status(opened) == "withdrawn"
    found = opened.store.get(BANK, handle(BANK, 1), PURPOSE)
    assert found is not None
    assert (found.region, found.fact.jurisdiction) == ("PT", "GDPR")


def test_a_withdrawal_of_an_unknown_consent_counts_against_a_late_upload(opened: Opened) -> None:
    opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE)
    assert opened.store.record(BANK, [record(BANK, 1)]) == 0
    assert status(opened) == "withdrawn"


def test_a_withdrawal_ends_even_what_is_dated_in_the_future(opened: Opened) -> None:
    later = NOW + timedelta(days=3)
    opened.store.record(BANK, [stated("given", later)])
    assert opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE).at == later
    assert opened.store.record(BANK, [stated("given", later)]) == 0
    assert status(opened) == "withdrawn"


def test_a_late_withdrawal_ends_the_queue_and_not_what_was_agreed_since(opened: Opened) -> None:
    said = NOW - timedelta(hours=2)
    opened.store.record(BANK, [stated("given", NOW - timedelta(hours=1))])
    assert opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE, said).offers_removed == 3
    assert status(opened) == "given"
    assert opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE, NOW + timedelta(days=1)).at == NOW
    assert status(opened) == "withdrawn"


def test_a_late_withdrawal_ends_what_came_before_it(opened: Opened) -> None:
    said = NOW - timedelta(hours=2)
    opened.store.record(BANK, [stated("given", NOW - timedelta(hours=3))])
    assert opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE, said).at == said
    assert status(opened) == "withdrawn"
    assert opened.store.record(BANK, [stated("given", NOW - timedelta(hours=1))]) == 1


def test_all_or_none(opened: Opened) -> None:
    opened.fail = True
    with pytest.raises(BrokenError):
        opened.store.record(BANK, [record(BANK, 1), stated("refused", NOW, 2), record(BANK, 3)])
    assert [status(opened, n) for n in (1, 2, 3)] == [None, None, None]
    with pytest.raises(BrokenError):
        opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE)
    assert status(opened) is None


def test_what_ends_is_told_in_the_same_transaction(opened: Opened) -> None:
    opened.store.record(BANK, [record(BANK, 1), stated("refused", NOW, 2), record(BANK, 3)])
    assert opened.ended == [(BANK, handle(BANK, 2), PURPOSE)]


def test_survives_reopening(opened: Opened) -> None:
    if opened.path is None:
        pytest.skip("memory does not outlive the process")
    opened.store.record(BANK, [record(BANK, 1), record(BANK, 2)])
    opened.store.withdraw(BANK, handle(BANK, 1), PURPOSE)
    opened.engine.dispose()
    opened.store = opened.open()
    assert [status(opened, n) for n in (1, 2)] == ["withdrawn", "given"]
