"""Enrolment over gRPC: thin, the registry decides.

Requests have threads of their own, one for all strangers together: whoever can reach the port may send any number.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from federation.core.clock import to_text
from federation.core.errors import DataError, IdentityError, Reason
from federation.core.ids import PartyId
from federation.v1 import enrolment_pb2 as pb
from federation.v1 import enrolment_pb2_grpc
from gateway.identity.caller import Caller, current_caller
from gateway.identity.registry import PAGE, Registry
from gateway.rpc.threads import PartyThreads

MAX_PEM_CHARS = 16_384
Context = grpc.aio.ServicerContext[Any, Any]


def _caller_if_any() -> Caller | None:
    try:
        return current_caller()
    except IdentityError:
        return None


class EnrolmentServicer(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """Serves both ports: on the enrolment port there is no caller, and only RequestCertificate gets through."""

    def __init__(self, registry: Registry, alliance: str, connected: Callable[[], list[PartyId]]) -> None:
        self._registry, self._alliance, self._connected = registry, alliance, connected
        self._threads = PartyThreads(1, "enrolment")

    async def RequestCertificate(
        self, request: pb.RequestCertificateRequest, _context: Context
    ) -> pb.RequestCertificateResponse:
        """First request (with an invitation) or renewal (with a certificate)."""
        _limit("csr_pem", request.csr_pem)
        _limit("invitation", request.invitation, 128)
        caller, ask = _caller_if_any(), self._registry.request
        party = None if caller is None else caller.party
        request_id, pem = await self._threads.run(party, ask, request.csr_pem, request.invitation, caller)
        return pb.RequestCertificateResponse(request_id=request_id, certificate_pem=pem)

    async def ListCertificateRequests(
        self, request: pb.ListCertificateRequestsRequest, _context: Context
    ) -> pb.ListCertificateRequestsResponse:
        """A page of what waits for the operator."""
        _limit("after", request.after, 128)
        pending = await asyncio.to_thread(self._registry.pending, request.after)
        rows = [
            pb.CertificateRequest(
                request_id=p.request_id, party=p.party, role=p.role, csr_pem=p.csr_pem, requested_at=p.requested_at
            )
            for p in pending
        ]
        following = pending[-1].place if len(pending) == PAGE else ""
        return pb.ListCertificateRequestsResponse(requests=rows, next=following)

    async def IssueCertificate(
        self, request: pb.IssueCertificateRequest, _context: Context
    ) -> pb.IssueCertificateResponse:
        """The operator brings a certificate."""
        _limit("certificate_pem", request.certificate_pem)
        await asyncio.to_thread(self._registry.issue, request.request_id, request.certificate_pem)
        return pb.IssueCertificateResponse()

    async def RevokeCertificate(
        self, request: pb.RevokeCertificateRequest, _context: Context
    ) -> pb.RevokeCertificateResponse:
        """In force before the answer."""
        _limit("serial", request.serial, 128)
        _limit("party", request.party, 32)
        revoke = self._registry.revoke
        gone = await asyncio.to_thread(revoke, request.serial, request.party, request.reason)
        return pb.RevokeCertificateResponse(
            revoked=len(gone.serials),
            party=gone.party,
            serials=gone.serials,
            requests=gone.requests,
            invitations=gone.invitations,
        )

    async def WhoAmI(self, _request: pb.WhoAmIRequest, _context: Context) -> pb.WhoAmIResponse:
        """The caller as the gateway sees it."""
        caller = current_caller()
        return pb.WhoAmIResponse(
            party=caller.party,
            role=caller.role,
            alliance=self._alliance,
            certificate_expires_at=to_text(caller.expires_at),
            connected_partners=sorted(self._connected()),
        )


def _limit(field: str, value: str, most: int = MAX_PEM_CHARS) -> None:
    if len(value) > most:
        raise DataError(Reason.TOO_LARGE, item=f"field {field}")
