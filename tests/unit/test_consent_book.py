"""The partner's consent book: file and local changes, the newest and then the stricter first."""

from datetime import timedelta
from pathlib import Path

import pytest

from federation.core.clock import FixedClock, to_text
from federation.core.errors import DataError, OfferError, Reason
from federation.policy.facts import ConsentFact
from tests.conftest import NOW
from tests.kits.offers import BANK, FakePolicy, Partner, customer, given

PURPOSE = "offer_sharing"
HEADER = (
    "record_id,customer_id,purpose,status,recipients,given_at,expires_at,separate_consent,cross_border_consent,"
    "jurisdiction"
)


@pytest.fixture
def partner(tmp_path: Path) -> Partner:
    partner = Partner(tmp_path, BANK, FixedClock(NOW), FakePolicy())
    partner.write([1, 2])
    return partner


def status(partner: Partner, person: int = 1) -> str | None:
    fact = partner.book.lookup(customer(person), PURPOSE)
    return None if fact is None else fact.status


def row(status: str, given_at: str, more: str = "insurer,2027-01-01T00:00:00+00:00,1,0,GDPR", person: int = 1) -> str:
    recipients, rest = more.split(",", 1)
    return f"r,C{person},{PURPOSE},{status},{recipients},{given_at},{rest}"


def test_reads_a_row(partner: Partner) -> None:
    partner.lines("consents", HEADER, row("given", "2026-10-01T02:00:00+02:00"))
    assert partner.book.lookup(customer(1), PURPOSE) == ConsentFact(
        status="given",
        recipients=frozenset({"insurer"}),
        given_at=NOW.replace(month=10),
        expires_at=NOW.replace(year=2027, month=1),
        separate=True,
        cross_border=False,
        jurisdiction="GDPR",
    )
    assert partner.book.lookup(customer(1), "model_training") is None


def test_what_cannot_be_read_is_missing(partner: Partner) -> None:
    partner.lines("consents", HEADER, row("GIVEN", "yesterday", ",2027-01-01,yes,,"))
    fact = partner.book.lookup(customer(1), PURPOSE)
    assert fact == ConsentFact(status=None, recipients=frozenset())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("given", "2026-10-01T00:00:00Z"), ("withdrawn", "2026-10-02T00:00:00Z")], "withdrawn"),
        ([("withdrawn", "2026-10-02T00:00:00Z"), ("given", "2026-10-01T00:00:00Z")], "withdrawn"),
        ([("withdrawn", "2026-10-01T00:00:00Z"), ("given", "2026-10-02T00:00:00Z")], "given"),
        ([("given", "2026-10-01T00:00:00Z"), ("refused", "2026-10-01T00:00:00Z")], "refused"),
        ([("refused", "2026-10-01T00:00:00Z"), ("given", "2026-10-01T00:00:00Z")], "refused"),
        ([("withdrawn", "no date"), ("given", "2026-10-02T00:00:00Z")], "withdrawn"),
        ([("given", "no date"), ("withdrawn", "2020-10-02T00:00:00Z")], "withdrawn"),
    ],
)
def test_of_two_rows_the_newer_and_then_the_stricter_stands(
    partner: Partner, rows: list[tuple[str, str]], expected: str
) -> None:
    partner.lines("consents", HEADER, *(row(*values) for values in rows))
    assert status(partner) == expected


def test_a_withdrawal_holds_at_once_everywhere_and_after_a_restart(partner: Partner) -> None:
    other_process = Partner(partner.folder, BANK, partner.clock, partner.policy)
    assert status(other_process) == "given"
    at = partner.book.withdraw(customer(1), PURPOSE)
    assert (at, status(partner), status(other_process)) == (NOW, "withdrawn", "withdrawn")
    assert other_process.data.eligible(PURPOSE, "offer_proposal", "insurer").ids == ["C2"]
    partner.engine.dispose()
    partner.reopen()
    assert status(partner) == "withdrawn"


def test_a_rewritten_file_does_not_undo_a_withdrawal_but_a_newer_statement_does(partner: Partner) -> None:
    partner.book.withdraw(customer(1), PURPOSE)
    partner.write([1, 2, 3])
    assert status(partner) == "withdrawn"
    tomorrow = to_text(NOW + timedelta(days=1))
    partner.lines("consents", HEADER, row("given", tomorrow))
    assert status(partner) == "withdrawn"  # a statement of tomorrow did not follow
    partner.clock.at = NOW + timedelta(days=2)
    assert status(partner) == "given"


def test_a_withdrawal_ends_even_a_statement_dated_in_the_future(partner: Partner) -> None:
    later = NOW + timedelta(days=5)
    partner.lines("consents", HEADER, row("given", to_text(later)))
    assert partner.book.withdraw(customer(1), PURPOSE) == later
    partner.clock.at = NOW + timedelta(days=9)
    assert status(partner) == "withdrawn"


def test_a_person_may_agree_again(partner: Partner) -> None:
    partner.book.withdraw(customer(1), PURPOSE)
    partner.clock.at = NOW + timedelta(hours=1)
    stated = partner.book.record(customer(1), PURPOSE, given())
    assert stated.given_at == partner.clock.at
    assert partner.book.lookup(customer(1), PURPOSE) == stated
    assert partner.book.purposes_of(customer(1)) == {PURPOSE: stated}
    with pytest.raises(OfferError) as caught:
        partner.book.record(customer(1), PURPOSE, given(status="maybe"))
    assert caught.value.reason is Reason.BAD_FIELD


@pytest.mark.parametrize("at", [to_text(NOW + timedelta(days=3650)), ""])
def test_nothing_is_recorded_that_an_end_of_the_register_would_undo(partner: Partner, at: str) -> None:
    partner.lines("consents", HEADER, row("withdrawn", at))
    with pytest.raises(OfferError) as caught:
        partner.book.record(customer(1), PURPOSE, given())
    assert caught.value.reason is Reason.BAD_FIELD
    assert "register" in caught.value.fix
    partner.lines("consents", HEADER, row("withdrawn", to_text(NOW - timedelta(days=1))))
    assert status(partner) == "withdrawn"  # nothing was kept that comes to life when the date is mended
    partner.book.record(customer(1), PURPOSE, given())
    assert status(partner) == "given"


def test_states_do_not_follow_later_changes(partner: Partner) -> None:
    before = partner.book.for_purpose(PURPOSE)
    partner.book.withdraw(customer(1), PURPOSE)
    assert before.get("C1").status == "given"
    after = partner.book.for_purpose(PURPOSE)
    assert after.get("C1").status == "withdrawn"
    assert [name for name in ("C0", "C1", "C2", "C3", "") if after.get(name) is not None] == ["C1", "C2"]


def test_a_file_that_was_refused_hides_no_second_statement_afterwards(partner: Partner) -> None:
    """What came with the refused file is looked at when its times are in order again."""
    others = [row("given", "2026-10-01T00:00:00Z", person=person) for person in range(2, 60)]
    agreed, ended = row("given", "2026-10-01T00:00:00Z"), row("withdrawn", "2026-10-02T00:00:00Z")
    broken = [row("given", "no date", person=person) for person in range(60, 90)]
    partner.lines("consents", HEADER, agreed, *others)
    assert status(partner) == "given"
    partner.lines("consents", HEADER, agreed, *others, ended, *broken)
    with pytest.raises(DataError):
        status(partner)
    partner.lines("consents", HEADER, agreed, *others, ended)
    assert status(partner) == "withdrawn"
