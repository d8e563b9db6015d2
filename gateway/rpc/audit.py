"""AuditService: hands out the log, so that anybody whom the roles admit can check it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from federation.core.errors import DataError, Reason
from federation.v1 import audit_pb2, audit_pb2_grpc
from gateway.audit.log import SqlAuditLog
from gateway.identity.caller import current_caller

PAGE_ENTRIES = 256
PAGE_BYTES = 1 << 20


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Reads only. The interceptor checked the caller's role."""

    def __init__(self, log: SqlAuditLog) -> None:
        self._log = log

    async def GetCheckpoint(
        self, request: audit_pb2.GetCheckpointRequest, context: Any
    ) -> audit_pb2.GetCheckpointResponse:
        """The signed tree head of this moment."""
        current_caller()
        return audit_pb2.GetCheckpointResponse(checkpoint=await asyncio.to_thread(self._log.checkpoint))

    async def ListEntries(
        self, request: audit_pb2.ListEntriesRequest, context: Any
    ) -> AsyncIterator[audit_pb2.ListEntriesResponse]:
        """Leaf data from start to end (0: the end that there is now), in pages."""
        current_caller()
        size = await asyncio.to_thread(self._log.size)
        end = request.end or size
        if not request.start <= end <= size:
            raise DataError(Reason.BAD_FIELD, item="start or end")
        for page in range(request.start, end, PAGE_ENTRIES):
            entries = await asyncio.to_thread(self._log.entries, page, min(page + PAGE_ENTRIES, end))
            for start, part in _messages(page, entries):
                yield audit_pb2.ListEntriesResponse(start=start, entries=part)

    async def GetInclusionProof(
        self, request: audit_pb2.GetInclusionProofRequest, context: Any
    ) -> audit_pb2.GetInclusionProofResponse:
        """Proof that an entry is in the tree of that size."""
        current_caller()
        hashes = await asyncio.to_thread(self._log.inclusion_proof, request.index, request.tree_size)
        return audit_pb2.GetInclusionProofResponse(hashes=hashes)

    async def GetConsistencyProof(
        self, request: audit_pb2.GetConsistencyProofRequest, context: Any
    ) -> audit_pb2.GetConsistencyProofResponse:
        """Proof that the older tree is a prefix of the newer."""
        current_caller()
        hashes = await asyncio.to_thread(self._log.consistency_proof, request.old_size, request.new_size)
        return audit_pb2.GetConsistencyProofResponse(hashes=hashes)


def _messages(start: int, entries: list[bytes]) -> list[tuple[int, list[bytes]]]:
    """Cuts a page into messages of about PAGE_BYTES at most."""
    messages: list[tuple[int, list[bytes]]] = []
    room = 0
    for index, entry in enumerate(entries, start):
        if not messages or len(entry) > room:
            messages.append((index, []))
            room = PAGE_BYTES
        messages[-1][1].append(entry)
        room -= len(entry)
    return messages
