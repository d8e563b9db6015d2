"""Whatever a register says, in whatever order and pieces it is imported: an end yields only to a newer consent."""

import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from federation.client.consent.imported import ImportedConsents
from federation.client.consent.importing import ConsentImport
from federation.consent.statements import FIELDS, StatementReader
from federation.core.clock import FixedClock, to_text
from federation.core.database import open_database
from federation.core.errors import DataError
from tests.conftest import NOW
from tests.kits.offers import BANK, FakePolicy, Partner, customer

PURPOSE = "offer_sharing"
said = st.tuples(st.sampled_from(["given", "withdrawn", "refused"]), st.integers(-5, -1))


def line(status: str, day: int) -> str:
    times = f"{to_text(NOW + timedelta(days=day))},{to_text(NOW + timedelta(days=99))}"
    return f"C1,{PURPOSE},{status},insurer,{times},1,1,GDPR"


def standing(rows: list[tuple[str, int]]) -> str:
    newest = max(day for _, day in rows)
    return "given" if all(status == "given" for status, day in rows if day == newest) else "ended"


@settings(max_examples=40, deadline=None)
@draw(st.lists(said, min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 12))
def test_the_newest_stands_however_it_comes_in(rows: list[tuple[str, int]], batch: int, first: int) -> None:
    engine = open_database(None)
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate((rows[:first], rows[first:], rows[:first])):
            file = Path(folder) / f"{number}.csv"
            file.write_text("\n".join((",".join(FIELDS), *(line(*row) for row in part))) + "\n")
            ConsentImport(engine, FixedClock(NOW), batch).run(file)
    found = ImportedConsents(engine).find(["C1"], PURPOSE)["C1"].status
    assert ("given" if found == "given" else "ended") == standing(rows)


@settings(max_examples=30, deadline=None)
@draw(st.lists(st.one_of(st.just("withdraw"), said), min_size=1, max_size=6))
def test_no_import_brings_back_what_was_withdrawn_here(steps: list[str | tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        partner = Partner(Path(folder), BANK, FixedClock(NOW), FakePolicy())
        partner.write([1])
        ended = False
        for number, step in enumerate(steps):
            if isinstance(step, str):
                partner.book.withdraw(customer(1), PURPOSE)
                ended = True
            else:
                file = Path(folder) / f"{number}.csv"
                file.write_text(",".join(FIELDS) + "\n" + line(*step) + "\n")
                ConsentImport(partner.engine, partner.clock).run(file)
            fact = partner.book.lookup(customer(1), PURPOSE)
            assert fact is not None
            assert not (ended and fact.status == "given")
            assert partner.book.for_purpose(PURPOSE).get("C1") == fact
        partner.engine.dispose()


@draw(st.lists(st.text(max_size=40), min_size=len(FIELDS), max_size=len(FIELDS)), st.text(max_size=200))
def test_any_text_is_a_statement_or_a_broken_row(values: list[str], record_id: str) -> None:
    try:
        statement = StatementReader(NOW).read_values(values, record_id)
    except DataError:
        return
    assert statement.fact.given_at is not None


@settings(max_examples=150, deadline=None)
@draw(st.binary(max_size=2_000))
def test_any_bytes_come_in_or_are_set_aside(content: bytes) -> None:
    engine = open_database(None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.csv"
        file.write_bytes(",".join(FIELDS).encode() + b"\n" + content)
        done = ConsentImport(engine, FixedClock(NOW), 3).run(file, Path(folder) / "aside")
        assert done.done_bytes == file.stat().st_size
        jsonl = Path(folder) / "x.jsonl"
        jsonl.write_bytes(content)
        ConsentImport(engine, FixedClock(NOW), 3).run(jsonl, Path(folder) / "aside2")
