"""The connection of a party to the gateway: mutual TLS, typed stubs, errors turned back into ours.

Trusts the alliance CA for the gateway's certificate, and nothing else. The gateway can be impersonated only by whoever
holds the CA's key.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from federation.client.channel import Record, RecordedChannel
from federation.core.clock import SystemClock, to_text
from federation.core.errors import EntenteError, IdentityError, Reason, TransportError
from federation.core.identity import Identity
from federation.v1.audit_pb2_grpc import AuditServiceStub
from federation.v1.budget_pb2_grpc import BudgetServiceStub
from federation.v1.consent_pb2_grpc import ConsentServiceStub
from federation.v1.enrolment_pb2_grpc import EnrolmentServiceStub
from federation.v1.models_pb2_grpc import ModelServiceStub
from federation.v1.offers_pb2_grpc import OfferServiceStub
from federation.v1.overlap_pb2_grpc import OverlapServiceStub
from federation.v1.policy_pb2_grpc import PolicyServiceStub
from federation.v1.training_pb2_grpc import TrainingServiceStub

MAX_MESSAGE_BYTES = 16 << 20
CLOSE_S = 1.0
"""An interrupted command waits no longer for its channel to close."""
NOT_SERIALIZED = "Exception serializing request!"
"""What grpc says, on this side, where a message did not become bytes. Ours do; but ``record`` may fail to keep them."""
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
]


class Connection:
    """One channel and a stub for each service.

    Args:
        target: ``host:port`` of the gateway.
        identity: The caller's key and certificate; None for the enrolment port, where only ``ca_pem`` is used.
        ca_pem: The alliance CA, where there is no identity yet.
        record: Keeps what leaves, before it leaves; every partner's egress ledger does.
    """

    def __init__(
        self, target: str, identity: Identity | None, *, ca_pem: bytes = b"", record: Record | None = None
    ) -> None:
        if identity is not None:
            credentials = grpc.ssl_channel_credentials(identity.ca_pem, identity.key_pem, identity.certificate_pem)
        else:
            credentials = grpc.ssl_channel_credentials(ca_pem)
        self._valid_until = None if identity is None else identity.valid_until
        channel = grpc.secure_channel(target, credentials, options=OPTIONS)
        self.target = target
        self.channel: grpc.Channel = RecordedChannel(channel, record) if record is not None else channel
        self.enrolment = EnrolmentServiceStub(self.channel)
        self.overlap = OverlapServiceStub(self.channel)
        self.training = TrainingServiceStub(self.channel)
        self.models = ModelServiceStub(self.channel)
        self.consent = ConsentServiceStub(self.channel)
        self.policy = PolicyServiceStub(self.channel)
        self.budget = BudgetServiceStub(self.channel)
        self.offers = OfferServiceStub(self.channel)
        self.audit = AuditServiceStub(self.channel)

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until the gateway answers.

        Raises:
            IdentityError: CERTIFICATE_EXPIRED, at once: the gateway would not answer, however long one waits.
            TransportError: UNAVAILABLE.
        """
        if self._valid_until is not None and SystemClock().now() > self._valid_until:
            fix = "The operator invites this party again (entente operator invite), then: entente partner enrol."
            raise IdentityError(Reason.CERTIFICATE_EXPIRED, item=f"valid until {to_text(self._valid_until)}", fix=fix)
        try:
            grpc.channel_ready_future(self.channel).result(timeout=timeout_s)
        except grpc.FutureTimeoutError as exc:
            fix = "Is the gateway running at this address, and is this certificate of its alliance?"
            raise TransportError(Reason.UNAVAILABLE, item=f"gateway {self.target}", fix=fix) from exc

    def close(self) -> None:
        """Ends every call and closes the channel."""
        self.channel.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_args: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.close()
            return
        # Interrupted: grpc never hears the end of a call that was cut off while it waited, and closing waits for that.
        closing = threading.Thread(target=self.close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def raise_translated(exc: grpc.RpcError) -> NoReturn:
    """Raises what a gateway's error means as an EntenteError with its reason and item, or that the call never left."""
    status = rpc_status.from_call(exc) if isinstance(exc, grpc.Call) else None
    details: list[Any] = list(status.details) if status is not None else []
    for detail in details:
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.reason in set(Reason):
            incident = info.metadata.get("incident", "")
            detail_text = f"incident {incident}" if incident else ""
            item, fix = info.metadata.get("item", ""), info.metadata.get("fix", "")
            raise EntenteError(Reason(info.reason), item=item, detail=detail_text, fix=fix) from exc
    code = exc.code() if isinstance(exc, grpc.Call) else None
    text = (exc.details() if isinstance(exc, grpc.Call) else "") or ""
    if code is grpc.StatusCode.INTERNAL and text == NOT_SERIALIZED:
        item, fix = "the record of what leaves", "Make room on the disk of the state folder; nothing is lost."
        raise TransportError(Reason.STATE_UNWRITABLE, item=item, detail=text, fix=fix) from exc
    fix = "Check the address, that the gateway runs, and that this certificate is the alliance's and still valid."
    raise TransportError(
        Reason.UNAVAILABLE, item=f"gateway: {code.name if code else 'no answer'}", detail=text[:300], fix=fix
    ) from exc


@contextmanager
def translated() -> Iterator[None]:
    """Calls within raise EntenteError instead of grpc.RpcError."""
    try:
        yield
    except grpc.RpcError as exc:
        raise_translated(exc)
