"""``entente audit list``: entries as lines for people."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.cli import audit
from federation.client.audit.listing import Line, line_of
from federation.core.errors import DataError, Reason
from federation.v1 import audit_pb2

AT = "2026-11-01T00:00:00.123456+00:00"
OFFER = {"what": "offer", "from": "bank", "product": "home", "recipient": "insurer"}
CODES = [{"code": "no_consent", "text": "x"}, {"code": "no_consent"}, {"code": "too_old"}]
BODIES: dict[str, tuple[str, dict[str, Any], tuple[str, str, str, str]]] = {
    "a refused offer": (
        "refused",
        {"what": "offer", "caller": "bank", "subject": OFFER, "reasons": CODES},
        ("refused: offer", "bank", "from bank, product home, to insurer", "no_consent, too_old"),
    ),
    "an offer that ended in between": (
        "outcome",
        {"intent": 7, "result": {"what": "nothing", "reasons": CODES}},
        ("outcome", "", "of entry 7", "no_consent, too_old"),
    ),
    "a question beyond the policy": (
        "refused",
        {"what": "table", "caller": "m", "subject": {"table": "t", "epoch": "e1"}, "reason": "DENIED", "item": "dear"},
        ("refused: table", "m", "table t, epoch e1", "DENIED: dear"),
    ),
    "a step of the policy": (
        "policy_step",
        {"what": "in_force", "by": "gateway", "version": "0123456789" * 6, "proposal": ""},
        ("policy_step: in_force", "gateway", "version 01234567890123456789", ""),
    ),
    "a partner's no": (
        "training_decision",
        {"caller": "bank", "run": "run-1", "approved": False},
        ("training_decision", "bank", "run run-1, approved False", ""),
    ),
}


def entry(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"at": AT, "kind": kind, "index": 0, "body": body}).encode()


LOG = [entry(kind, body) for kind, body, _ in BODIES.values()]


@pytest.mark.parametrize("name", BODIES)
def test_an_entry_says_what_by_whom_about_what_and_why(name: str) -> None:
    kind, body, told = BODIES[name]
    assert line_of(3, entry(kind, body)) == Line(3, AT, *told)


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"kind": "refused"}', b'{"at": "x", "kind": "refused", "body": []}'])
def test_what_is_no_entry_is_named(raw: bytes) -> None:
    with pytest.raises(DataError, match="entry 9 of the log") as caught:
        line_of(9, raw)
    assert caught.value.reason is Reason.BAD_FIELD


@pytest.fixture(autouse=True)
def gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: audit_pb2.ListEntriesRequest, timeout: float) -> Iterator[audit_pb2.ListEntriesResponse]:
        for start in range(request.start, len(LOG), 2):
            yield audit_pb2.ListEntriesResponse(start=start, entries=LOG[start : start + 2])

    @contextmanager
    def connect(_: Path) -> Iterator[Any]:
        yield SimpleNamespace(audit=SimpleNamespace(ListEntries=answer))

    monkeypatch.setattr(audit, "connect", connect)


@pytest.mark.parametrize(
    ("options", "indices", "fit"),
    [
        ({}, [0, 1, 2, 3, 4], 5),
        ({"limit": 2}, [3, 4], 5),
        ({"start": 3}, [3, 4], 2),
        ({"kind": ["refused"]}, [0, 2], 2),
        ({"kind": ["refused: table", "policy_step"]}, [2, 3], 2),
        ({"kind": ["refused"], "limit": 1}, [2], 2),
        ({"kind": ["nothing of ours"]}, [], 0),
    ],
)
def test_entries_are_chosen(
    options: dict[str, Any], indices: list[int], fit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.list_entries(Path(), **{"kind": None, "start": 0, "limit": 100, **options}, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [line["index"] for line in told["entries"]] == indices
    assert told["fit"] == fit


def test_text_says_that_there_are_more(capsys: pytest.CaptureFixture[str]) -> None:
    audit.list_entries(Path(), kind=["refused"], start=0, limit=1)
    *rows, last = capsys.readouterr().out.splitlines()
    assert last == "1 entries, the newest of 2; see --limit and --start"
    assert "2026-11-01T00:00:00+00:00" in "".join(rows)
    assert "DENIED: dear" in "".join(rows)
