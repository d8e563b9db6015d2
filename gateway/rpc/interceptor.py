"""The one place where a caller gets its identity and an error its form on the wire.

Every method of ``federation.v1`` passes here: the certificate of the TLS connection is authenticated against the
registry, the role is checked, and the caller is set for the servicer. Streams are checked again at every message, so
that a revoked certificate stops working in mid-stream. Any ``EntenteError`` becomes ``google.rpc.Status`` with
``ErrorInfo`` (and ``BadRequest``, ``QuotaFailure`` or ``RetryInfo`` where it fits); anything else becomes INTERNAL with
an incident id, and its text stays in the gateway's log.

Health and reflection pass: TLS already asked for an alliance certificate, and they tell nothing about anybody.
"""

import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from federation.core.database import is_busy
from federation.core.errors import CATALOG, BudgetError, EntenteError, IdentityError, Reason
from gateway.identity.caller import Caller, set_caller
from gateway.identity.registry import Registry
from gateway.identity.roles import check_role

DOMAIN = "entente"
PACKAGE = "/federation.v1."
RETRY_AFTER_S = 2
_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]


def to_status(error: EntenteError, incident: str = "") -> status_pb2.Status:
    """The wire form of an error: catalog sentence, item, and details a machine can use."""
    entry = CATALOG[error.reason]
    metadata = {"item": error.item} if error.item else {}
    if incident:
        metadata["incident"] = incident
    if isinstance(error, BudgetError) and error.fix:  # of other errors it may name what is on this machine
        metadata["fix"] = error.fix
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=str(error.reason), domain=DOMAIN, metadata=metadata)]
    if entry.status == "INVALID_ARGUMENT":
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.item, description=entry.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.reason in (Reason.BUDGET_EXHAUSTED, Reason.QUOTA_EXCEEDED):
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.item, description=entry.message)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    if entry.retryable:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=RETRY_AFTER_S)))
    packed = []
    for detail in details:
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    code = grpc.StatusCode[entry.status].value[0]
    return status_pb2.Status(code=code, message=error.public, details=packed)


async def abort(context: Context, exc: Exception, method: str) -> NoReturn:
    """Ends an RPC with the public form of an error and logs the private one."""
    incident = ""
    if isinstance(exc, EntenteError):
        error = exc
        _log.info("refused", method=method, reason=str(exc.reason), item=exc.item, detail=exc.detail)
    elif is_busy(exc):
        error = EntenteError(Reason.UNAVAILABLE, item="much to write at once")
        _log.warning("database_busy", method=method)
    else:
        incident = secrets.token_hex(8)
        error = EntenteError(Reason.INTERNAL)
        _log.error("incident", method=method, incident=incident, exc_info=exc)
    status = to_status(error, incident)
    code = grpc.StatusCode[CATALOG[error.reason].status]
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, status.message, trailing)
    raise AssertionError("abort returned")  # for the type checker: abort always raises


class Gatekeeper(grpc.aio.ServerInterceptor):
    """Authenticates, checks the role, and translates errors.

    Args:
        registry: Knows live certificates; None on the enrolment port, where nobody has one yet.
        open_methods: Full names of the only methods that may be called without a certificate.
    """

    def __init__(self, registry: Registry | None, open_methods: frozenset[str] = frozenset()) -> None:
        self._registry, self._open = registry, open_methods

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler of one of our methods; unknown methods stay UNIMPLEMENTED."""
        handler = await continuation(details)
        method = details.method
        if handler is None or not method.startswith(PACKAGE):
            return handler
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        wrapped = self._stream(inner, method) if handler.response_streaming else self._unary(inner, method)
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _enter(self, context: Context, method: str) -> Caller | None:
        """Who calls, set for the servicer. Raises IdentityError."""
        if self._registry is None:
            if method not in self._open:
                raise IdentityError(Reason.NO_CERTIFICATE)
            set_caller(None)
            return None
        pem = list((context.auth_context() or {}).get("x509_pem_cert", []))
        if len(pem) != 1:
            raise IdentityError(Reason.NO_CERTIFICATE)
        caller = self._registry.authenticate(pem[0])
        check_role(method, caller.role)
        set_caller(caller)
        return caller

    def _unary(self, inner: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
        async def serve(request: Any, context: Context) -> Any:
            try:
                caller = self._enter(context, method)
                return await inner(self._checked(request, caller), context)
            except Exception as exc:
                await abort(context, exc, method)

        return serve

    def _stream(self, inner: Callable[..., AsyncIterator[Any]], method: str) -> Callable[..., AsyncIterator[Any]]:
        async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                caller = self._enter(context, method)
                async for message in inner(self._checked(request, caller), context):
                    self._check_live(caller)
                    yield message
            except Exception as exc:
                await abort(context, exc, method)

        return serve

    def _check_live(self, caller: Caller | None) -> None:
        if caller is not None and self._registry is not None:
            self._registry.check_live(caller)

    def _checked(self, request: Any, caller: Caller | None) -> Any:
        """The request itself, or a request stream whose every message is checked."""
        if not inspect.isasyncgen(request) and not hasattr(request, "__aiter__"):
            return request

        async def messages() -> AsyncIterator[Any]:
            async for message in request:
                self._check_live(caller)
                yield message

        return messages()
