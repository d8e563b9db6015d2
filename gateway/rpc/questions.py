"""The questions of the overlap service: thin, over ``gateway.overlap``."""

import asyncio
from typing import Any

import grpc

from federation.v1 import overlap_pb2 as pb
from federation.v1.overlap_pb2_grpc import OverlapServiceServicer
from gateway.identity.caller import current_caller
from gateway.overlap.adhoc import AdHocRelease
from gateway.overlap.cubes import CubeRelease
from gateway.overlap.links import LinkRelease

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

    async def QueryCube(self, request: pb.QueryCubeRequest, _context: Context) -> pb.QueryCubeResponse:
        """A declared table with noise."""
        return await asyncio.to_thread(self._cubes.query, current_caller(), request.cube, request.epoch)

    async def QueryTable(self, request: pb.QueryTableRequest, _context: Context) -> pb.QueryTableResponse:
        """An ad hoc table with noise."""
        table = await asyncio.to_thread(self._questions.query, current_caller(), request.question)
        return pb.QueryTableResponse(table=table)

    async def PreviewTable(self, request: pb.PreviewTableRequest, _context: Context) -> pb.PreviewTableResponse:
        """What an ad hoc table would cost."""
        current_caller()
        return await asyncio.to_thread(self._questions.preview, request.question)

    async def QueryLinks(self, request: pb.QueryLinksRequest, _context: Context) -> pb.QueryLinksResponse:
        """Products that go together."""
        return await asyncio.to_thread(self._links.query, current_caller(), request)

    async def ListCubes(self, _request: pb.ListCubesRequest, _context: Context) -> pb.ListCubesResponse:
        """Declared tables."""
        return await asyncio.to_thread(self._cubes.list_cubes)
