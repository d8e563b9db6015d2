"""The error catalog is total, and nothing private goes into what a peer sees."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from federation.client.connection import raise_translated
from federation.core.errors import CATALOG, BudgetError, ConfigError, EntenteError, Reason
from federation.core.ids import EpochId, PartyId
from federation.v1 import overlap_pb2 as pb
from gateway.overlap.deltas import Ask, Deltas
from gateway.overlap.epochs import Counts, Task
from gateway.rpc.builds import Builds
from gateway.rpc.interceptor import to_status


def test_every_reason_has_an_entry_and_a_real_status() -> None:
    assert set(CATALOG) == set(Reason)
    for entry in CATALOG.values():
        assert hasattr(grpc.StatusCode, entry.status)
        assert entry.message.endswith(".")


@pytest.mark.parametrize("reason", list(Reason))
def test_wire_form_names_reason_and_item_but_never_the_detail(reason: Reason) -> None:
    status = to_status(EntenteError(reason, item="row 17", detail="secret detail"))
    assert b"secret detail" not in status.SerializeToString()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.metadata["item"]) == (str(reason), "row 17")


class Ended(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """A call that ended with an error."""

    def __init__(self, error: EntenteError) -> None:
        self._status = to_status(error)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return (("grpc-status-details-bin", self._status.SerializeToString()),)

    def code(self) -> grpc.StatusCode:
        return next(code for code in grpc.StatusCode if code.value[0] == self._status.code)

    def details(self) -> str:
        return str(self._status.message)


def test_what_to_do_about_a_budget_reaches_who_asked_and_no_other_error_tells_of_files() -> None:
    for kind, told in ((BudgetError, "Ask what is stored."), (ConfigError, "")):
        with pytest.raises(EntenteError) as caught:
            raise_translated(Ended(kind(Reason.BUDGET_EXHAUSTED, item="alliance", fix="Ask what is stored.")))
        assert (caught.value.item, caught.value.fix) == ("alliance", told)


def test_a_gateway_without_room_blames_no_partner() -> None:
    text = "1000 rows, for which 1024 MiB must be free on the gateway's disk"
    task = Task("t", EpochId("e1"), PartyId("bank"), "submit", "b", "failed", "NO_ROOM", text, 1)
    ask = Ask("t", pb.EpochPlan(), PartyId("bank"), withdrawals_only=False, known=0, reason="NO_ROOM", text=text)
    nobody: Any = None  # neither looks at more than it is given
    for told in (
        lambda: Builds._check_alive(nobody, Counts(0, 1, 0, 0, (task,)), 0.0),
        lambda: Deltas.is_done(nobody, ask),
    ):
        with pytest.raises(EntenteError) as caught:
            told()
        assert (caught.value.reason, caught.value.item) == (Reason.NO_ROOM, text)


def test_only_retryable_reasons_say_when_to_retry() -> None:
    def retries(reason: Reason) -> bool:
        boxes = to_status(EntenteError(reason)).details
        return any(box.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for box in boxes)

    assert {reason for reason in Reason if retries(reason)} == {r for r in Reason if CATALOG[r].retryable}
