"""What stands of file, imports and local changes is what their statements say one by one, after any changes to them."""

import csv
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from federation.client.consent import register
from federation.client.consent.book import ConsentBook
from federation.client.consent.imported import imports, store
from federation.client.consent.layers import newer, newest, standing
from federation.client.digests import IN_PROCESS
from federation.client.files.columns import ColumnStore
from federation.consent.statements import FIELDS, Statement
from federation.core.clock import FixedClock, from_text, to_text
from federation.core.database import open_database
from federation.core.errors import DataError
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact
from tests.conftest import NOW
from tests.kits.columns import as_if_long
from tests.kits.native import taking

CUSTOMERS = [CustomerId(f"C{number}") for number in range(7)]
PURPOSES = ("offer_sharing", "overlap_statistics")
TIMES = [to_text(NOW + timedelta(days=days)) for days in (-2, -1, 0, 2)]
SAID = st.tuples(
    st.sampled_from(CUSTOMERS),
    st.sampled_from(PURPOSES),
    st.sampled_from(["given", "given", "withdrawn", "refused"]),
    st.sampled_from(["GDPR", "PIPL"]),
    st.sampled_from([*TIMES, *TIMES, "soon"]),
    st.sampled_from([*TIMES, ""]),
)
Row = tuple[CustomerId, str, str, str, str, str]
STEP = st.one_of(
    st.tuples(st.just("add"), st.lists(SAID, max_size=12)),
    st.tuples(st.sampled_from(["drop", "move"]), st.integers(0, 30)),
    st.tuples(st.just("import"), st.lists(SAID.filter(lambda row: row[4] != "soon"), min_size=1, max_size=5)),
    st.tuples(st.just("withdraw"), SAID),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)
Step = tuple[str, list[Row] | Row | int]


def a_fact(row: Row) -> ConsentFact:
    _, _, status, law, given_at, expires_at = row
    given, until = (None if text in {"", "soon"} else from_text(text) for text in (given_at, expires_at))
    return ConsentFact(status, frozenset({"insurer"}), given, until, True, True, law)


def last_of(rows: Sequence[Row], customer: str, purpose: str) -> ConsentFact | None:
    stands = None
    for row in rows:
        if row[:2] == (customer, purpose) and not newer(stands, a_fact(row)):
            stands = a_fact(row)
    return stands


def last_imported(rows: Sequence[Row], customer: str, purpose: str) -> ConsentFact | None:
    """Of those as new and as strict the first."""
    return last_of(rows[::-1], customer, purpose)


def short(fact: ConsentFact | None) -> object:
    """What of a fact was drawn; a withdrawal here keeps the rest of what it ends."""
    if fact is None:
        return None
    return (fact.status, fact.given_at) if fact.status == "withdrawn" else fact


@pytest.mark.timeout(300)
@settings(max_examples=60, deadline=None)
@draw(st.lists(STEP, min_size=1, max_size=8), st.booleans(), st.sampled_from(["native", "portable"]))
def test_what_stands_is_what_statements_say_one_by_one(steps: list[Step], long: bool, path: str) -> None:
    clock, engine, rows, brought = FixedClock(NOW), open_database(None), list[Row](), list[Row]()
    local: dict[tuple[str, str], ConsentFact] = {}
    ids = pa.array(CUSTOMERS, pa.string())
    with taking(path), as_if_long(long), tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "FEW_UNREADABLE", 3)
        file = Path(folder) / "consents.csv"
        book = ConsentBook(file, engine, clock, store=ColumnStore(Path(folder)))

        def is_refused() -> bool:
            return sum(row[4] == "soon" for row in rows) > 3

        def write() -> None:
            with file.open("w", newline="") as out:
                full = ((c, p, s, "insurer", g, e, "1", "1", law) for c, p, s, law, g, e in rows)
                csv.writer(out, lineterminator="\n").writerows([FIELDS, *full])

        write()
        for number, (what, about) in enumerate(steps):
            if isinstance(about, int):
                if what == "wait":
                    clock.at += timedelta(hours=about)
                elif rows:
                    row = rows.pop(about % len(rows))
                    rows[:0] = [row] if what == "move" else []
            elif isinstance(about, tuple):
                if is_refused():
                    continue
                at = book.withdraw(about[0], about[1])
                local[about[:2]] = ConsentFact("withdrawn", given_at=at)
            elif what == "add":
                rows += about
            else:
                brought += about
                with engine.begin() as connection:
                    store(connection, [Statement(row[0], row[1], a_fact(row), "") for row in about])
                    entry = dict.fromkeys(["offset", "rows", "aside_bytes", "uploaded"], 0)
                    connection.execute(imports.insert().values(path=str(number), digest="", batches=1, **entry))
            write()
            for purpose in PURPOSES:
                if is_refused():
                    with pytest.raises(DataError):
                        book.states_of(CUSTOMERS, purpose)
                    continue
                found, all_of = book.states_of(CUSTOMERS, purpose), book.for_purpose(purpose)
                stand = book.standing(IN_PROCESS.of(ids), purpose, clock.at)
                for place, customer in enumerate(CUSTOMERS):
                    here = standing(
                        newest(last_of(rows, customer, purpose), last_imported(brought, customer, purpose)),
                        local.get((customer, purpose)),
                        clock.at,
                    )
                    several = (found.get(customer), all_of.get(customer), stand.fact(place))
                    assert [short(fact) for fact in several] == [short(here)] * 3
    engine.dispose()
