"""Handles are made once, kept, and say nothing."""

from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from federation.client.handles import HandleBook
from federation.core.database import open_database
from federation.core.ids import CustomerId, Handle

IDS = [CustomerId(f"C{n}") for n in range(1200)]


def test_made_once_and_kept(tmp_path: Path) -> None:
    book = HandleBook(open_database(tmp_path / "state.db"))
    first = book.handles_for(IDS[:700])
    assert {len(handle) for handle in first} == {16}
    assert len(set(first)) == 700
    reopened = HandleBook(open_database(tmp_path / "state.db"))
    assert reopened.handles_for(IDS)[:700] == first
    assert reopened.handles_for([IDS[3], IDS[1], IDS[3]]) == [first[3], first[1], first[3]]
    assert reopened.handles_for([]) == []


def test_both_ways() -> None:
    book = HandleBook(open_database(None))
    assert book.existing(IDS[0]) is None
    [handle] = book.handles_for(IDS[:1])
    assert (book.existing(IDS[0]), book.customer_of(handle)) == (handle, IDS[0])
    assert book.customer_of(Handle(bytes(16))) is None
    more = book.handles_for(IDS)
    assert sorted(book.named([Handle(bytes(16)), *more[:700]])) == sorted(zip(IDS[:700], more, strict=False))
    assert sorted(book.named(more)) == sorted(zip(IDS, more, strict=True))
    assert book.named([]) == []


def test_all_or_none() -> None:
    draws = iter([b"a" * 16, b"a" * 16])
    book = HandleBook(open_database(None), lambda _: next(draws))
    with pytest.raises(IntegrityError):
        book.handles_for(IDS[:2])
    assert book.existing(IDS[0]) is None


def test_known_and_pages_make_no_handles(tmp_path: Path) -> None:
    book = HandleBook(open_database(tmp_path / "state.db"))
    ids = [CustomerId(f"C{n:04d}") for n in range(1_200)]
    made = dict(zip(ids[:1_100], book.handles_for(ids[:1_100]), strict=True))
    assert book.known(ids) == made
    pages = list(book.pages(500))
    assert [len(page) for page in pages] == [500, 500, 100]
    assert dict(pair for page in pages for pair in page) == made
    assert book.existing(ids[-1]) is None
