"""``entente offers decisions`` says how many there are, and where a list that was cut goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.cli import offers
from federation.core.errors import DataError
from federation.policy.load import load_policy
from federation.v1 import offers_pb2 as pb
from gateway.alliance import shipped_policies
from tests.kits.command import entente

DECIDED = [pb.Decision(audit_index=10 + number, permitted=number > 0) for number in range(3)]


@pytest.fixture(autouse=True)
def gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: pb.ListDecisionsRequest, timeout: float) -> pb.ListDecisionsResponse:
        return pb.ListDecisionsResponse(decisions=DECIDED[: request.max_decisions])

    @contextmanager
    def connect(_: Path) -> Iterator[Any]:
        yield SimpleNamespace(offers=SimpleNamespace(ListDecisions=answer))

    monkeypatch.setattr(offers, "connect", connect)


@pytest.mark.parametrize(
    ("limit", "last"),
    [(2, "2 decisions, 1 permitted; there may be more: --after 11"), (9, "3 decisions, 2 permitted")],
)
def test_a_list_that_was_cut_says_where_it_goes_on(limit: int, last: str, capsys: pytest.CaptureFixture[str]) -> None:
    offers.decisions(Path(), after=0, limit=limit)
    assert capsys.readouterr().out.splitlines()[-1] == last


@pytest.mark.parametrize("words", [("offers", "decisions", "--after"), ("policy", "explain", "--index")])
@pytest.mark.parametrize("index", ["-5", "99999999999999999999"])
def test_an_index_that_no_log_has_is_wrong_usage(words: tuple[str, ...], index: str) -> None:
    done = entente(*words, index, "--config", "anywhere")
    assert done.returncode == 2
    assert words[-1] in done.stderr


@pytest.mark.parametrize("benefit", ["", "  ", "two\nlines", "x" * 201])
def test_a_benefit_that_no_offer_may_state_is_refused_before_anything_is_scored(
    benefit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def workplace(_: Path) -> Iterator[Any]:
        yield SimpleNamespace(policy=load_policy(shipped_policies()))

    monkeypatch.setattr(offers, "workplace", workplace)
    with pytest.raises(DataError, match="benefit") as caught:
        offers.propose(Path(), product="home", recipient="insurer", benefit=benefit)
    assert "benefit" in caught.value.fix
