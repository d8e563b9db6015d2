"""The questions of the overlap service: thin, over ``gateway.overlap``.

A question that needs a fresh answer waits for partners to confirm that no withdrawal is outstanding. Their answers come
in through this same process; so questions wait in threads of who asks and never in those that the rest is done by.
"""

import asyncio
from typing import Any

import grpc

from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceServicer
from gateway.identity.caller import current_caller
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.links import LinkRelease
from gateway.rpc.threads import PartyThreads

MAX_AT_ONCE = 32
"""Questions of one party that are worked on at a time; further ones wait for one of them."""
Context = grpc.aio.ServicerContext[Any, Any]


class QuestionServicer(OverlapServiceServicer):
    """The part of ``federation.v1.OverlapService`` that marketing asks.

    Args:
        cubes: Releases declared tables.
        questions: Answers ad hoc questions.
        links: Finds products that go together.
    """

    def __init__(self, cubes: CubeRelease, questions: AdHocRelease, links: LinkRelease) -> None:
        self._cubes, self._questions, self._links = cubes, questions, links
        self._threads = PartyThreads(MAX_AT_ONCE, "question")

    async def QueryCube(self, request: pb.QueryCubeRequest, _context: Context) -> pb.QueryCubeResponse:
        """A declared table with noise."""
        caller = current_caller()
        return await self._threads.run(caller.party, self._cubes.query, caller, request.cube, request.epoch)

    async def QueryTable(self, request: pb.QueryTableRequest, _context: Context) -> pb.QueryTableResponse:
        """An ad hoc table with noise."""
        caller = current_caller()
        table = await self._threads.run(caller.party, self._questions.query, caller, request.question)
        return pb.QueryTableResponse(table=table)

    async def PreviewTable(self, request: pb.PreviewTableRequest, _context: Context) -> pb.PreviewTableResponse:
        """What an ad hoc table would cost."""
        caller = current_caller()
        return await self._threads.run(caller.party, self._questions.preview, caller, request.question)

    async def QueryLinks(self, request: pb.QueryLinksRequest, _context: Context) -> pb.QueryLinksResponse:
        """Products that go together."""
        caller = current_caller()
        return await self._threads.run(caller.party, self._links.query, caller, request)

    async def ListCubes(self, _request: pb.ListCubesRequest, _context: Context) -> pb.ListCubesResponse:
        """Declared tables."""
        return await asyncio.to_thread(self._cubes.list_cubes)
