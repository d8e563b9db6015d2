"""The error catalog is total, and nothing private goes into what a peer sees."""

import grpc
import pytest
from google.rpc import error_details_pb2

from federation.core.errors import CATALOG, EntenteError, Reason
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


def test_only_retryable_reasons_say_when_to_retry() -> None:
    def retries(reason: Reason) -> bool:
        boxes = to_status(EntenteError(reason)).details
        return any(box.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for box in boxes)

    assert {reason for reason in Reason if retries(reason)} == {r for r in Reason if CATALOG[r].retryable}
