"""Decisions by class are decisions row by row, whatever is in the files, the imports and the local changes."""

import csv
import tempfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from federation.client.config import DataConfig
from federation.client.consent.book import ConsentBook
from federation.client.consent.imported import store
from federation.client.consent.layers import newer
from federation.client.data import PartnerData
from federation.client.eligible import refuses
from federation.consent.statements import FIELDS, FLAGS, STATUSES, Statement
from federation.core.clock import FixedClock, from_text, to_text
from federation.core.database import open_database
from federation.core.errors import DataError, OfferError
from federation.core.ids import CustomerId
from federation.policy.facts import ConsentFact, Facts, Given
from federation.policy.load import load_policy
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX
from tests.conftest import NOW
from tests.kits.columns import as_if_long
from tests.kits.offers import given

POLICY = load_policy(Path(__file__).parents[2] / "policies")
PURPOSE, CATEGORY, RECIPIENT = "offer_sharing", "blinded_identifier", "gateway"
CUSTOMERS = [f"C{number}" for number in range(6)]
TIMES = [
    *(to_text(NOW + timedelta(days=days)) for days in (-400, -2, 0, 2, 400)),
    *((NOW - timedelta(days=5)).strftime("%Y-%m-%dT%H:%M:%SZ"), (NOW + timedelta(hours=3)).isoformat(" ")),
    *(
        "",
        "soon",
        "2026-02-30T00:00:00+00:00",
        "2026-10-01",
        "2026-10-01T12:00:00.5+02:00",
        "0001-01-01T00:00:00+05:00",
    ),
]
GOOD = ("given", "bank insurer airline gateway", TIMES[0], TIMES[4], "1", "1", "GDPR")
ROW = st.tuples(
    st.sampled_from([*CUSTOMERS, "stranger", ""]),
    st.sampled_from([PURPOSE, PURPOSE, PURPOSE + SENSITIVE_SUFFIX, OBJECTION_PURPOSE, "else"]),
    st.sampled_from(["given", "given", "given", "withdrawn", "refused", "?"]),
    st.sampled_from(["bank insurer airline gateway", "gateway  insurer", "airline", ""]),
    st.sampled_from(TIMES),
    st.sampled_from(TIMES[::-1]),
    st.sampled_from(["1", "0", " true", "yes"]),
    st.sampled_from(["1", "FALSE", ""]),
    st.sampled_from(["GDPR", " PIPL", "", "PDPA"]),
)
GOOD_ROW = st.sampled_from(CUSTOMERS).map(lambda customer: (customer, PURPOSE, *GOOD))
ROWS = st.lists(st.one_of(GOOD_ROW, ROW), max_size=30)
REGIONS = st.lists(st.sampled_from(["PT", "CN", "SG", "", "XX"]), min_size=len(CUSTOMERS), max_size=len(CUSTOMERS))
CHANGES = st.lists(st.tuples(st.sampled_from(CUSTOMERS), st.booleans()), max_size=3)


def a_time(text: str) -> datetime | None:
    try:
        return from_text(text)
    except DataError:
        return None


def a_fact(values: tuple[str, ...]) -> ConsentFact:
    status, recipients, given_at, expires_at, separate, cross_border, law = values
    return ConsentFact(
        status=status if status in STATUSES else None,
        recipients=frozenset(recipients.split()),
        given_at=a_time(given_at),
        expires_at=a_time(expires_at),
        separate=FLAGS.get(separate.strip().lower()),
        cross_border=FLAGS.get(cross_border.strip().lower()),
        jurisdiction=law.strip() or None,
    )


def open_data(folder: Path, engine: Engine, clock: FixedClock) -> PartnerData:
    config = DataConfig(customers=folder / "customers.csv", consents=folder / "consents.csv")
    return PartnerData(config, "bank", POLICY, ConsentBook(config.consents, engine, clock), clock)


def write_files(folder: Path, rows: list[tuple[str, ...]], regions: list[str]) -> None:
    with (folder / "consents.csv").open("w", newline="") as file:
        csv.writer(file).writerows([FIELDS, *rows])
    with (folder / "customers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("customer_id", "region"), *zip(CUSTOMERS, regions, strict=True)])


def row_by_row(data: PartnerData, regions: list[str]) -> tuple[list[str], dict[str, int], dict[str, Given]]:
    """What the policy says of each customer alone."""
    at, book = data.clock.now(), data.consents
    ids, refused, reasons = [], Counter[str](), dict[str, Given]()
    for customer, region in zip(CUSTOMERS, regions, strict=True):
        facts = Facts(
            purpose=PURPOSE,
            data_category=CATEGORY,
            origin="bank",
            recipient=RECIPIENT,
            at=at,
            subject_region=region or None,
            consent=book.lookup(customer, PURPOSE),  # type: ignore[arg-type]
            sensitive_consent=book.lookup(customer, PURPOSE + SENSITIVE_SUFFIX),  # type: ignore[arg-type]
            objected=refuses(book.lookup(customer, OBJECTION_PURPOSE)),  # type: ignore[arg-type]
        )
        decision = POLICY.decide(facts)
        if decision.permitted:
            ids.append(customer)
        else:
            refused[decision.reasons[0].code] += 1
            reasons.setdefault(decision.reasons[0].code, decision.reasons[0])
    return ids, refused, reasons


def check(data: PartnerData, regions: list[str]) -> None:
    found = data.eligible(PURPOSE, CATEGORY, RECIPIENT)
    assert (found.ids, found.refused, found.reasons) == row_by_row(data, regions)


@pytest.mark.timeout(400)  # some fifty seconds on an idle machine
@settings(max_examples=150, deadline=None)
@draw(ROWS, REGIONS, CHANGES, CHANGES, st.booleans())
def test_decisions_by_class_are_decisions_by_row(
    rows: list[tuple[str, ...]],
    regions: list[str],
    imports: list[tuple[str, bool]],
    local: list[tuple[str, bool]],
    long: bool,
) -> None:
    clock, engine = FixedClock(NOW), open_database(None)
    with as_if_long(long), tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), rows, regions)
        data = open_data(Path(folder), engine, clock)
        check(data, regions)
        with engine.begin() as connection:
            ends = {False: "withdrawn", True: "given"}
            said = [given(status=ends[yes], given_at=NOW + timedelta(days=1 - 2 * yes)) for _, yes in imports]
            people = [customer for customer, _ in imports]
            store(connection, [Statement(*item, "") for item in zip(people, [PURPOSE] * len(said), said, strict=True)])
        data = open_data(Path(folder), engine, clock)
        check(data, regions)
        for customer, yes in local:  # each holds at once, though the answer before is kept
            say(data.consents, CustomerId(customer), yes=yes)
            check(data, regions)
        for hours in (1, 2, 24, 48, 24 * 300, 24 * 200, -24 * 900):  # time alone, forth and back
            clock.at += timedelta(hours=hours)
            check(data, regions)


def say(book: ConsentBook, customer: CustomerId, *, yes: bool) -> None:
    """Agrees, unless an end that is not older stands against it, or withdraws."""
    if not yes:
        book.withdraw(customer, PURPOSE)
        return
    try:
        book.record(customer, PURPOSE, given())
    except OfferError:
        stands = book.lookup(customer, PURPOSE)
        assert stands is not None
        assert stands.status != "given"


@draw(ROWS, st.booleans())
def test_the_file_says_what_its_rows_say_one_after_another(rows: list[tuple[str, ...]], long: bool) -> None:
    expected: dict[str, dict[str, ConsentFact]] = {}
    for customer, purpose, *values in rows:
        bucket, fact = expected.setdefault(purpose, {}), a_fact(tuple(values))
        if not newer(bucket.get(customer), fact):
            bucket[customer] = fact
    with as_if_long(long), tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), rows, [""] * len(CUSTOMERS))
        book = open_data(Path(folder), open_database(None), FixedClock(NOW)).consents
        for purpose, facts in expected.items():
            found = book.for_purpose(purpose)
            everybody = {*CUSTOMERS, "stranger", "", "nobody"}
            said = {customer: found.get(customer) for customer in everybody}
            assert {customer: fact for customer, fact in said.items() if fact is not None} == facts
            assert len(found) == len(facts)
        assert len(book.for_purpose("nothing")) == 0
