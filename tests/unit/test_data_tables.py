"""The partner's files: what is broken is named, and nothing personal is in the message."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from federation.client.data import PartnerData
from federation.client.digests import KEY_BYTES, Digests
from federation.client.files.tables import read_columns, read_rows, read_table, stamp
from federation.client.overlap.people import CustomerReader, Customers
from federation.core.clock import FixedClock
from federation.core.errors import DataError, Reason
from federation.core.ids import CustomerId
from federation.policy.specs import PartySpec
from tests.conftest import NOW
from tests.kits.offers import BANK, FakePolicy, Partner

HEADER = "customer_id,email,phone,region"
Write = Callable[..., PartnerData]


@pytest.fixture
def partner(tmp_path: Path) -> Partner:
    partner = Partner(tmp_path, BANK, FixedClock(NOW), FakePolicy())
    partner.write(range(1, 6))
    return partner


def test_reads_identifiers_as_text_and_numbers_as_numbers(partner: Partner) -> None:
    partner.lines("customers", f"{HEADER},age,tier", "007,,0012,PT,41,NA", "8,a@example.org,,,42,x")
    table = partner.data.customers()
    assert list(table.index) == ["007", "8"]
    assert table["phone"].tolist() == ["0012", ""]
    assert table["email"].tolist() == ["", "a@example.org"]
    assert table["age"].sum() == 83
    assert table["tier"].tolist() == ["NA", "x"]  # "NA" is a word here, not a missing value
    ids = [CustomerId(name) for name in ("8", "nobody", "007")]
    assert partner.data.regions(ids) == {"8": None, "007": "PT"}
    assert partner.data.regions([]) == {}


@pytest.mark.parametrize(
    ("lines", "reason", "item"),
    [
        ([HEADER, "1,secret@x,1,PT", "2,secret@x,PT"], Reason.BROKEN_ROW, "row 3: 3 fields"),
        ([HEADER, "1,secret@x,1,PT,more"], Reason.BROKEN_ROW, "row 2: 5 fields"),
        ([HEADER, '1,"secret@x,1,PT'], Reason.BROKEN_ROW, "row 2"),
        ([HEADER, '1,"secret"@x,1,PT'], Reason.BROKEN_ROW, "row 2"),
        ([HEADER, "1,secret@x,1,PT", "", "2,secret@x,1,PT"], Reason.BROKEN_ROW, "row 3: 0 fields"),
        (
            [HEADER, "1,secret@x,1,PT", "1,secret@x,2,PT"],
            Reason.BROKEN_ROW,
            "row 3: customer_id is the same as in row 2",
        ),
        ([HEADER, "1,secret@x,1,PT", " ,secret@x,2,PT"], Reason.BROKEN_ROW, "row 3: customer_id is empty"),
        ([HEADER, "1,se\0cret@x,1,PT"], Reason.BROKEN_ROW, "row 2: a zero byte"),
        (["customer_id,email,email,region", "1,a,b,PT"], Reason.BROKEN_ROW, "row 1"),
        ([], Reason.BROKEN_ROW, "row 1"),
        (["id,email,phone,region", "1,secret@x,1,PT"], Reason.MISSING_COLUMN, "column customer_id"),
        (["customer_id,email,phone", "1,secret@x,1"], Reason.MISSING_COLUMN, "column region"),
    ],
)
def test_a_broken_file_is_named_without_its_content(
    partner: Partner, lines: list[str], reason: Reason, item: str
) -> None:
    partner.lines("customers", *lines)
    with pytest.raises(DataError) as caught:
        partner.data.customers()
    assert caught.value.reason is reason
    assert item in caught.value.item
    assert "customers.csv" in caught.value.item
    assert "secret" not in str(caught.value)


def test_text_that_is_not_utf8_is_named_by_row(partner: Partner) -> None:
    (partner.folder / "customers.csv").write_bytes(f"{HEADER}\n1,a,1,PT\n2,\xff,1,PT\n".encode("latin-1"))
    with pytest.raises(DataError, match="row 3: not UTF-8"):
        partner.data.customers()


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (HEADER.replace(",", ";") + "\n1;a@x.org;1;PT\n", "with commas"),
        (HEADER.replace(",", "\t") + "\n1\ta@x.org\t1\tPT\n", "with commas"),
        ("customer\n1\n", ""),
        (HEADER + "\n1,\xff,1,PT\n", "as UTF-8"),
    ],
)
def test_what_a_spreadsheet_exports_otherwise_is_told_with_what_to_choose(
    partner: Partner, content: str, advice: str
) -> None:
    (partner.folder / "customers.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        partner.data.customers()
    assert advice in caught.value.fix
    assert bool(advice) == bool(caught.value.fix)


def test_a_missing_file_is_named(partner: Partner) -> None:
    (partner.folder / "holdings.csv").unlink()
    with pytest.raises(DataError) as caught:
        partner.data.holdings()
    assert (caught.value.reason, caught.value.item) == (Reason.MISSING_FILE, "holdings.csv")


def test_an_identifier_column_must_be_there_and_mostly_filled(partner: Partner) -> None:
    partner.lines("customers", HEADER, "1,a@example.org,,PT", "2, ,,PT", "3,,5,PT", "4,B@example.org,6,PT")
    found = read_email(partner)
    assert found.people_of(np.arange(4)).columns[0].to_pylist() == ["a@example.org", None, None, "b@example.org"]
    assert (found.given.tolist(), found.usable.tolist()) == ([True, False, False, True], [True, False, False, True])
    partner.lines("customers", HEADER, "1,a@example.org,,PT", "2, ,,PT", "3,,5,PT")
    with pytest.raises(DataError) as caught:
        read_email(partner)
    assert caught.value.reason is Reason.HALF_EMPTY_COLUMN
    assert "column email: 67% empty" in caught.value.item
    partner.lines("customers", "customer_id,phone,region", "1,2,PT")
    with pytest.raises(DataError) as caught:
        read_email(partner)
    assert caught.value.reason is Reason.MISSING_COLUMN


def read_email(partner: Partner) -> Customers:
    party = PartySpec(id="bank", role="partner", display_name="Bank", country="DE")
    digests = Digests(bytes(KEY_BYTES))
    return CustomerReader(partner.data.derived, partner.data.config, ["email"], party, digests).read()


def test_people_are_each_there_once(partner: Partner) -> None:
    """Also where the file changed after the policy was asked about everybody in it."""
    partner.lines("customers", HEADER, "1,a@x.org,1,PT", "2,b@x.org,1,PT", "1,c@x.org,1,PT")
    with pytest.raises(DataError) as caught:
        read_email(partner)
    assert caught.value.reason is Reason.BROKEN_ROW
    assert "row 4: customer_id is the same as in row 2" in caught.value.item


def test_a_file_is_read_once_until_it_changes(partner: Partner) -> None:
    first = partner.data.customers()
    assert partner.data.customers() is first
    partner.lines("customers", HEADER, "1,a@x,1,PT")
    assert len(partner.data.customers()) == 1


def test_eligible_asks_the_own_policy_about_each_row(partner: Partner) -> None:
    consents = (partner.folder / "consents.csv").read_text().splitlines()
    consents[2] = consents[2].replace("given", "withdrawn", 1)
    consents[3] = consents[3].replace("2027-02-09", "2026-10-31")
    del consents[4]
    partner.lines("consents", *consents)
    found = partner.data.eligible("offer_sharing", "offer_proposal", "insurer")
    assert found.ids == ["C1", "C5"]
    assert found.refused == {"consent_withdrawn": 1, "consent_expired": 1, "consent_missing": 1}


@pytest.mark.parametrize(
    ("content", "item"),
    [
        (b"a,b\n1,2\n3\n", "row 3: 1 fields, expected 2"),
        (b'a,b\n1,"2\n', "row 2: unexpected end of data"),
        (b"a,b\n1,\xff\n", "row 2: not UTF-8"),
        (b"a,b\n1,2\n\0,4\n", "row 3: a zero byte"),
        (b"a,a\n1,2\n", "row 1: the header is empty or names a column twice"),
        (b"", "row 1: the header is empty or names a column twice"),
    ],
)
def test_rows_read_one_at_a_time_are_refused_as_a_table_is(tmp_path: Path, content: bytes, item: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    for read in (lambda: list(read_rows(file, required=())), lambda: read_table(file, required=(), text={"*"})):
        with pytest.raises(DataError) as caught:
            read()
        assert caught.value.reason is Reason.BROKEN_ROW
        assert caught.value.item == f"rows.csv, {item}"


def test_rows_come_with_the_columns_asked_for_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('\ufeffa,b,c\n1,"x\ny",\n,NA,3\n')
    assert list(read_rows(file, required=("c", "b"))) == [["", "x\ny"], ["3", "NA"]]
    with pytest.raises(DataError) as caught:
        list(read_rows(file, required=("d",)))
    assert caught.value.reason is Reason.MISSING_COLUMN


def test_a_field_that_is_too_long_is_refused_however_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("a,b\n1," + "x" * 131_073 + "\n2,y\n")
    with pytest.raises(DataError) as quickly:
        read_columns(path, required=("a", "b"))
    with pytest.raises(DataError) as strictly:
        list(read_rows(path, required=("a", "b")))
    assert quickly.value.item == strictly.value.item
    path.write_text("a,b\n1," + "x" * 131_072 + "\n2,y\n")
    assert read_columns(path, required=("a", "b"))["b"].to_pylist()[1] == "y"


def test_a_file_of_the_same_size_and_time_is_another_file(tmp_path: Path) -> None:
    """A withdrawal that was written by a tool which sets times, as archives and copies do."""
    path = tmp_path / "file.csv"
    path.write_text("a,b\n1,given\n")
    os.utime(path, ns=(0, 0))
    before = stamp(path)
    assert stamp(path) == before
    path.write_text("a,b\n1,ended\n")
    os.utime(path, ns=(0, 0))
    assert stamp(path) != before
    before = stamp(path)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,given\n")
    os.utime(other, ns=(0, 0))
    other.replace(path)
    assert stamp(path) != before
