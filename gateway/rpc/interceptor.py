"""The one place where a caller gets its identity and an error its form on the wire.

Every method of ``federation.v1`` passes here: the certificate of the TLS connection is authenticated against the
registry, the role is checked, and the caller is set for the servicer. Streams are checked again at every message, so
that a revoked certificate stops working in mid-stream. Any ``EntenteError`` becomes ``google.rpc.Status`` with
``ErrorInfo`` (and ``BadRequest``, ``QuotaFailure`` or ``RetryInfo`` where it fits); anything else becomes INTERNAL with
an incident id, and its text stays in the gateway's log.

Health and reflection are for every role, and health for strangers too: they tell nothing about anybody.
"""

import asyncio
import inspect
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from federation.core.database import is_busy
from federation.core.errors import CATALOG, BudgetError, DataError, EntenteError, IdentityError, Reason
from federation.core.ids import PartyId
from gateway.identity.caller import Caller, set_caller
from gateway.identity.registry import Registry
from gateway.identity.roles import check_role

DOMAIN = "entente"
PACKAGE = "/federation.v1."
RETRY_AFTER_S = 2
MAX_CALLS = 64
"""Calls of one party that are under way at a time, over all its connections. Each may hold one message in memory."""
REQUEST_S, STRANGER_REQUEST_S = 60.0, 5.0
"""How long a request may take to come; else who sends it byte by byte would keep others' places."""
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
        self._calls: Counter[PartyId] = Counter()  # under way
        self._patience_s = STRANGER_REQUEST_S if registry is None else REQUEST_S

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler of a method; unknown methods stay UNIMPLEMENTED, and so do for strangers those that go on.

        To grpc each takes a stream, of which it reads nothing unasked: a request would be read whole before anybody
        knows whose it is.
        """
        handler = await continuation(details)
        method = details.method
        if handler is None or (self._registry is None and handler.response_streaming):
            return None
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        streams = handler.request_streaming
        if handler.response_streaming:
            make, wrapped = grpc.stream_stream_rpc_method_handler, self._stream(inner, method, streams=streams)
        else:
            make, wrapped = grpc.stream_unary_rpc_method_handler, self._unary(inner, method, streams=streams)
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _authenticated(self, context: Context, method: str) -> Caller | None:
        """Who calls, and may; None for a stranger where strangers may. Raises IdentityError."""
        if self._registry is None:
            if method.startswith(PACKAGE) and method not in self._open:
                raise IdentityError(Reason.NO_CERTIFICATE)
            return None
        pem = list((context.auth_context() or {}).get("x509_pem_cert", []))
        if len(pem) != 1:
            raise IdentityError(Reason.NO_CERTIFICATE)
        caller = self._registry.authenticate(pem[0])
        if method.startswith(PACKAGE):
            check_role(method, caller.role)
        return caller

    @contextmanager
    def _entered(self, context: Context, method: str) -> Iterator[Caller | None]:
        """Who calls, set for the servicer and counted until the call ends. Raises IdentityError, EntenteError."""
        caller = self._authenticated(context, method)
        set_caller(caller)
        if caller is None:
            yield None
            return
        if self._calls[caller.party] >= MAX_CALLS:
            raise EntenteError(Reason.UNAVAILABLE, item=f"more than {MAX_CALLS} calls of {caller.party} at a time")
        self._calls[caller.party] += 1
        try:
            yield caller
        finally:
            self._calls[caller.party] -= 1

    def _unary(self, inner: Callable[..., Awaitable[Any]], method: str, *, streams: bool) -> Callable[..., Any]:
        async def serve(requests: AsyncIterator[Any], context: Context) -> Any:
            try:
                with self._entered(context, method) as caller:
                    return await inner(
                        self._checked(requests, caller) if streams else await self._only(requests), context
                    )
            except Exception as exc:
                await abort(context, exc, method)

        return serve

    def _stream(self, inner: Callable[..., Any], method: str, *, streams: bool) -> Callable[..., Any]:
        async def serve(requests: AsyncIterator[Any], context: Context) -> None:
            try:
                with self._entered(context, method) as caller:
                    answers = inner(self._checked(requests, caller) if streams else await self._only(requests), context)
                    if inspect.isawaitable(answers):  # as that of health, which writes its answers itself
                        await answers
                        return
                    async with aclosing(answers):
                        async for message in answers:
                            self._check_live(caller)
                            await context.write(message)
            except Exception as exc:
                await abort(context, exc, method)

        return serve

    def _check_live(self, caller: Caller | None) -> None:
        if caller is not None and self._registry is not None:
            self._registry.check_live(caller)

    async def _checked(self, requests: AsyncIterator[Any], caller: Caller | None) -> AsyncIterator[Any]:
        """The same requests, at each of which the caller is checked again."""
        async for message in _readable(requests):
            self._check_live(caller)
            yield message

    async def _only(self, requests: AsyncIterator[Any]) -> Any:
        """The request of a call that has one. Raises DataError (BAD_FIELD, TRUNCATED_STREAM)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s), aclosing(_readable(requests)) as readable:
                async for request in readable:
                    return request
        raise DataError(Reason.TRUNCATED_STREAM, item="request")


async def _readable(requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    """The same requests. Raises DataError (BAD_FIELD) for bytes that are none."""
    try:
        async for request in requests:
            yield request
    except DecodeError as exc:
        raise DataError(Reason.BAD_FIELD, item="request") from exc
