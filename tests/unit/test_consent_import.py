"""Importing registers: strict, resumable, idempotent, and never to the advantage of an older consent."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, select

from federation.client.consent.book import ConsentBook
from federation.client.consent.imported import ImportedConsents, imported
from federation.client.consent.importing import ConsentImport, Imported
from federation.client.files.columns import ColumnStore
from federation.consent.statements import FIELDS, MAX_AHEAD
from federation.core.clock import FixedClock, to_text
from federation.core.database import open_database
from federation.core.errors import DataError, Reason
from federation.policy.facts import ConsentFact
from tests.conftest import NOW
from tests.kits.columns import as_if_long
from tests.kits.offers import BANK, FakePolicy, Partner, customer

PURPOSE = "offer_sharing"
HEADER = "record_id," + ",".join(FIELDS)


def line(person: int, status: str = "given", at: str = "2026-10-01T00:00:00Z", purpose: str = PURPOSE) -> str:
    return f"r{person},C{person},{purpose},{status},insurer airline,{at},2027-10-01T00:00:00Z,1,0,GDPR"


class Desk:
    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.aside = folder, folder / "register.csv", folder / "aside.jsonl"
        self.engine = open_database(folder / "partner.db")

    def write(self, *lines: str, end: str = "\n") -> None:
        self.file.write_text("\n".join((HEADER, *lines)) + end)

    def run(self, aside: bool = False, batch_rows: int = 2, file: Path | None = None) -> Imported:
        importer = ConsentImport(self.engine, FixedClock(NOW), batch_rows)
        return importer.run(file or self.file, self.aside if aside else None)

    def facts(self) -> dict[str, ConsentFact]:
        with self.engine.begin() as connection:
            customers = connection.execute(select(imported.c.customer_id)).scalars().all()
        return ImportedConsents(self.engine).find(customers, PURPOSE)

    def statuses(self) -> dict[str, str | None]:
        return {who: fact.status for who, fact in sorted(self.facts().items())}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.engine.dispose()


def test_a_register_comes_in_and_the_same_again_changes_nothing(desk: Desk) -> None:
    desk.write(*(line(n) for n in range(5)), line(9, purpose="model_training"))
    done = desk.run()
    assert (done.rows, done.stored, done.broken, done.resumed_row) == (6, 6, 0, 0)
    assert desk.facts()["C3"] == ConsentFact(
        "given", frozenset({"insurer", "airline"}), NOW.replace(month=10), NOW.replace(2027, 10), True, False, "GDPR"
    )
    again = desk.run()
    assert (again.rows, again.stored, again.resumed_row) == (0, 0, 7)


def test_json_lines_say_the_same(desk: Desk) -> None:
    values = line(1).split(",")[1:]
    row = dict(zip(FIELDS, values, strict=True)) | {"recipients": ["insurer", "airline"], "separate_consent": True}
    file = desk.folder / "register.jsonl"
    file.write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"customer_id": "C2", "status": "refused"}) + "\n")
    done = desk.run(file=file)
    assert (done.rows, done.stored) == (2, 2)  # not the blank line
    desk.write(line(1))
    assert desk.run().stored == 0  # the very same
    assert desk.statuses() == {"C1": "given", "C2": "refused"}


def test_a_file_that_grows_costs_only_what_is_new(desk: Desk) -> None:
    desk.write(line(1), line(2), end="")  # the last line is not finished
    assert (desk.run().rows, len(desk.facts())) == (2, 2)
    desk.write(line(1), line(2), line(3))
    more = desk.run()
    assert (more.rows, more.stored, more.resumed_row) == (2, 1, 2)


def test_a_file_that_was_rewritten_is_read_from_the_top(desk: Desk) -> None:
    desk.write(line(1), line(2))
    desk.run()
    desk.write(line(3), line(2), line(4))
    done = desk.run()
    assert (done.resumed_row, done.stored, len(desk.facts())) == (0, 2, 4)


def test_the_newest_statement_stands_and_of_equals_the_end(desk: Desk) -> None:
    desk.write(
        line(1, "withdrawn", "2026-10-02T00:00:00Z"),
        line(1, "given", "2026-10-01T00:00:00Z"),
        line(2, "withdrawn"),
        line(2, "given"),
        line(3, "given"),
        line(3, "refused"),
        line(4, "withdrawn", "2026-10-01T00:00:00Z"),
        line(4, "given", "2026-10-01T02:00:01+02:00"),
    )
    desk.run(batch_rows=3)
    assert desk.statuses() == {"C1": "withdrawn", "C2": "withdrawn", "C3": "refused", "C4": "given"}


def test_an_end_without_a_readable_time_counts_from_now(desk: Desk) -> None:
    desk.write(line(1), line(1, "withdrawn", "last tuesday"), "r2,C2,offer_sharing,refused,?!,,,,,")
    desk.run()
    assert desk.statuses() == {"C1": "withdrawn", "C2": "refused"}
    assert desk.facts()["C1"].given_at == NOW


def test_an_end_of_a_time_to_come_ends_what_was_said_and_what_comes_later_follows_it(desk: Desk) -> None:
    ahead = to_text(NOW + MAX_AHEAD)  # the latest that a consent may be said, by a clock that is ahead
    desk.write(line(1, "withdrawn", at="2036-10-01T00:00:00Z"), line(1), line(1, at=ahead))
    desk.run()
    fact = desk.facts()["C1"]
    assert (fact.status, fact.given_at) == ("withdrawn", NOW + MAX_AHEAD)


BROKEN = {
    "r,,offer_sharing,given,insurer,2026-10-01T00:00:00Z,2027-10-01T00:00:00Z,1,0,GDPR": "customer_id",
    line(7).replace(",C7", ", C7"): "spaces around it",  # else it would be nobody's
    line(7, "GIVEN"): "status",
    line(7, purpose="Offers!"): "purpose",
    line(7, at="2026-10-01"): "given_at",
    line(7, at="2028-10-01T00:00:00Z"): "expires_at",
    line(7, at="2027-06-01T00:00:00Z"): "given_at is in the future",
    line(7).replace(",1,0,", ",maybe,0,"): "separate_consent",
    line(7).replace("GDPR", ""): "jurisdiction",
    line(7).replace("insurer airline", "insurer; airline"): "recipients",
    line(7) + ",more": "11 fields, expected 10",
    line(7).replace("insurer airline", '"insurer" airline'): "expected after",
    line(7).replace("C7", "C\udcff7"): "customer_id",
}


@pytest.mark.parametrize("broken", list(BROKEN))
def test_a_broken_row_is_named_and_stops_or_is_set_aside(desk: Desk, broken: str) -> None:
    text = "\n".join((HEADER, line(1), line(2), line(3), broken, line(4))) + "\n"
    desk.file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        desk.run()
    assert caught.value.reason is Reason.BROKEN_ROW
    assert caught.value.item.startswith("register.csv, row 5: ")
    assert BROKEN[broken] in caught.value.item
    assert "C7" not in caught.value.item
    assert len(desk.facts()) == 3  # what stood before it is in
    done = desk.run(aside=True)
    assert (done.rows, done.broken, done.resumed_row, len(desk.facts())) == (2, 1, 4, 4)
    [entry] = [json.loads(text) for text in desk.aside.read_text().splitlines()]
    assert entry["row"] == 5
    assert BROKEN[broken] in entry["why"]
    assert desk.aside.stat().st_mode & 0o077 == 0


def test_after_mending_it_goes_on_at_the_row(desk: Desk) -> None:
    desk.write(line(1), line(2), line(3, "oops"), line(4))
    with pytest.raises(DataError):
        desk.run()
    desk.write(line(1), line(2), line(3), line(4))
    done = desk.run()
    assert (done.resumed_row, done.rows, len(desk.facts())) == (3, 2, 4)


@pytest.mark.parametrize(
    "broken",
    [
        "not json",
        '{"status": "withdrawn", "status": "given"}',
        "[1]",
        '{"customer_id": 7}',
        '{"customer_id": ["C1"], "purpose": {}}',
    ],
)
def test_a_broken_line_of_json(desk: Desk, broken: str) -> None:
    file = desk.folder / "register.jsonl"
    file.write_text(broken + "\n")
    with pytest.raises(DataError) as caught:
        desk.run(file=file)
    assert caught.value.item.startswith("register.jsonl, row 1: ")
    assert ("stands twice" in caught.value.item) == (broken[:1] != "[" and "customer_id" not in broken)


def test_a_missing_column_or_file(desk: Desk) -> None:
    desk.file.write_text("customer_id,purpose\nC1,offer_sharing\n")
    with pytest.raises(DataError) as caught:
        desk.run()
    assert caught.value.reason is Reason.MISSING_COLUMN
    with pytest.raises(DataError) as caught:
        desk.run(file=desk.folder / "nothing.csv")
    assert caught.value.reason is Reason.MISSING_FILE


def test_an_unclosed_quote_does_not_swallow_the_rest(desk: Desk) -> None:
    many = [line(n) for n in range(3_000)]
    desk.write(line(9_001), line(9_002).replace("insurer airline", '"insurer airline'), *many)
    done = desk.run(aside=True, batch_rows=500)
    assert done.broken >= 1
    assert desk.statuses()["C2999"] == "given"
    assert done.broken + len(desk.facts()) == done.rows


@pytest.mark.parametrize("batches_until_death", [0, 1, 3])
def test_killed_it_goes_on_where_it_was(desk: Desk, batches_until_death: int) -> None:
    rows = [line(n) if n % 7 else line(n, "??") for n in range(40)]
    desk.write(*rows)
    child = os.fork()
    if child == 0:
        _die_after(desk, batches_until_death)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    done = desk.run(aside=True, batch_rows=5)
    assert done.resumed_row == 5 * batches_until_death
    assert len(desk.facts()) == 34
    entries = [json.loads(text)["row"] for text in desk.aside.read_text().splitlines()]
    assert entries == [n + 2 for n in range(0, 40, 7)]  # each once


def _die_after(desk: Desk, batches: int) -> None:
    """Runs in a child and never returns."""
    seen = 0

    def on_commit(_connection: object) -> None:
        nonlocal seen
        seen += 1
        if seen > batches + 1:  # the first transaction looks where to begin
            os.kill(os.getpid(), signal.SIGKILL)

    desk.engine = open_database(desk.folder / "partner.db")
    importer = ConsentImport(desk.engine, FixedClock(NOW), 5)
    _listen(desk.engine, on_commit)
    importer.run(desk.file, desk.aside)
    os._exit(1)


def _listen(engine: Engine, on_commit: object) -> None:
    event.listen(engine, "commit", on_commit)


def test_the_book_puts_file_imports_and_local_changes_in_order(tmp_path: Path) -> None:
    partner = Partner(tmp_path, BANK, FixedClock(NOW), FakePolicy())
    partner.write([1, 2, 3])  # given on October 22
    register = tmp_path / "register.csv"
    newer, older = "2026-10-30T00:00:00Z", "2026-10-01T00:00:00Z"
    partner.book.withdraw(customer(3), PURPOSE)
    rows = [line(1, "withdrawn", newer), line(2, "withdrawn", older), line(3, "given", newer), line(4, "given", older)]
    register.write_text("\n".join((HEADER, *rows)) + "\n")
    before = partner.book.for_purpose(PURPOSE)
    ConsentImport(partner.engine, partner.clock).run(register)
    after, expected = partner.book.for_purpose(PURPOSE), ["withdrawn", "given", "withdrawn", "given"]
    assert [after.get(customer(n)).status for n in range(1, 5)] == expected
    found = partner.book.states_of([customer(n) for n in range(1, 6)], PURPOSE)
    assert [found[customer(n)].status for n in range(1, 5)] == expected
    known = [[n for n in range(8) if states.get(customer(n)) is not None] for states in (before, after)]
    assert known == [[1, 2, 3], [1, 2, 3, 4]]
    assert (len(found), before.get("C1").status) == (4, "given")
    said, record_id = partner.book.history_of(customer(3), PURPOSE)
    assert ([fact.status for fact in said], record_id) == (["given", "given", "withdrawn"], "r3")


def test_what_is_imported_is_kept_where_the_file_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a purpose that the file does not know: not in the system's folder, which may be small or memory."""
    desk.write(*(line(person) for person in range(30)))
    desk.run()
    partner = Partner(desk.folder, BANK, FixedClock(NOW), FakePolicy())
    partner.write([])
    monkeypatch.setattr(tempfile, "tempdir", str(desk.folder / "nowhere"))
    book = ConsentBook(desk.folder / "consents.csv", desk.engine, partner.clock, store=ColumnStore(desk.folder))
    with as_if_long():
        assert book.for_purpose(PURPOSE).get("C7") == book.lookup(customer(7), PURPOSE)
    partner.engine.dispose()


def test_two_ends_that_differ_in_what_one_leaves_out(desk: Desk) -> None:
    """Of statements as new and as strict the first stands."""
    end = line(1, "withdrawn")
    desk.write(end, end.replace("2027-10-01T00:00:00Z", ""), end.replace("2027", "2028"))
    desk.run(batch_rows=5)
    until = desk.facts()["C1"].expires_at
    assert until is not None
    assert until.year == 2027
